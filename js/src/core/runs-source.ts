/** One page of a list of runs, followed. */

import { type RunFilter, several } from "./api.js";
import { messageOf } from "./errors.js";
import { isFinalEvent, type ListEvent, type Run } from "./protocol.js";
import { reduce } from "./reduce.js";
import type { Surroundings } from "./run-source.js";
import { Source } from "./source.js";
import { patiently, pause } from "./stream.js";

export interface RunsState {
  runs: readonly Run[];
  /** Whether there are older ones. */
  hasMore: boolean;
  /** Whether it was never read yet. */
  isLoading: boolean;
  /** Why it could not be read; it is tried again. */
  error: string | null;
}

/** Nothing is known yet. */
export const UNREAD: RunsState = { runs: [], hasMore: false, isLoading: true, error: null };

/** Milliseconds between two readings, however much happens. */
const READ_EVERY = 200;

export class RunsSource extends Source<RunsState> {
  readonly #around: Surroundings;
  readonly #filter: RunFilter;
  readonly #isLive: boolean;
  #reading = new AbortController();
  #leave: (() => void) | undefined;
  #now: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  /** Why the server refuses to keep it up to date. */
  #refusal: string | null = null;
  /** What was heard since the list was asked for. */
  #since: ListEvent[] = [];

  constructor(around: Surroundings, filter: RunFilter, isLive: boolean) {
    super(UNREAD);
    this.#around = around;
    this.#filter = filter;
    this.#isLive = isLive;
  }

  /** Reads the list again. Who asks while it is read waits for a reading that begins afterwards. */
  read(): Promise<void> {
    const { signal } = this.#reading;
    if (this.#now === undefined) {
      this.#now = this.#read(signal).finally(() => {
        if (!signal.aborted) this.#now = undefined;
      });
      return this.#now;
    }
    this.#next ??= this.#now.then(async () => {
      await pause(READ_EVERY, signal);
      if (signal.aborted) return;
      this.#next = undefined;
      await this.read();
    });
    return this.#next;
  }

  /** The server is there again: an attempt that waits out its failures need not wait. */
  #again(): Promise<void> {
    if (this.getSnapshot().error !== null) this.#abandon();
    return this.read();
  }

  #abandon(): void {
    this.#reading.abort();
    this.#reading = new AbortController();
    this.#now = this.#next = undefined;
  }

  protected open(): void {
    void this.read();
    if (!this.#isLive) return;
    this.#leave = this.#around.lists.join(
      { jobNames: several(this.#filter.jobName), labels: this.#filter.labels },
      {
        resync: () => {
          this.#refusal = null;
          void this.#again();
        },
        heard: (events) => this.#hear(events),
        refused: ({ message }) => {
          this.#refusal = message;
          this.update({ ...this.getSnapshot(), error: message });
          return true;
        },
      },
    );
  }

  protected close(): void {
    this.#leave?.();
    this.#abandon();
  }

  #hear(events: ListEvent[]): void {
    if (this.#now) this.#since.push(...events);
    const state = this.getSnapshot();
    const runs = state.runs.map((run) => patched(run, events));
    if (runs.some((run, index) => run !== state.runs[index])) this.update({ ...state, runs });
    if (events.some((event) => this.#isMore(event))) void this.read();
  }

  /** Whether it adds rows, takes rows, or brings an output: for others the rows in hand are enough. */
  #isMore(event: ListEvent): boolean {
    const { type } = event;
    if (type === "run:trigger" || type === "run:retry" || isFinalEvent(event)) return true;
    // A list of certain statuses gains and loses rows by every change.
    return this.#filter.status !== undefined && type.startsWith("run:") && type !== "run:progress";
  }

  async #read(signal: AbortSignal): Promise<void> {
    this.#since = [];
    const { api } = this.#around;
    const failed = (error: unknown) =>
      this.update({ ...this.getSnapshot(), error: messageOf(error) });
    try {
      const page = await patiently(() => api.page(this.#filter, { signal }), signal, failed);
      if (signal.aborted) return;
      // The answer may be older than what was heard since it was asked for; or newer.
      const runs = page.runs.map((run) =>
        patched(
          run,
          this.#since.filter((event) => event.timestamp > run.updatedAt),
        ),
      );
      this.update({
        runs,
        hasMore: page.nextCursor !== null,
        isLoading: false,
        error: this.#refusal,
      });
    } catch (error) {
      if (signal.aborted) return;
      this.update({ ...this.getSnapshot(), isLoading: false, error: messageOf(error) });
    }
  }
}

function patched(run: Run, events: ListEvent[]): Run {
  return events.reduce((now, event) => (event.runId === run.id ? reduce(now, event) : now), run);
}
