/** One run, followed: what is known of it, from its own stream or from the lists'. */

import { type Api, MAX_LOGS, numberOf } from "./api.js";
import { DurablyError } from "./errors.js";
import type { ListFeed } from "./list-feed.js";
import {
  isFinal,
  isFinalEvent,
  type ListEvent,
  type LogEntry,
  type Run,
  type RunEvent,
} from "./protocol.js";
import { NONE, reduce } from "./reduce.js";
import { Source } from "./source.js";
import { patiently, Stream } from "./stream.js";

/** What is known of a run. */
export interface RunState {
  /** As much of the run as was told yet. */
  run: Partial<Run>;
  /** Its newest log lines, oldest first. */
  logs: readonly LogEntry[];
  /** Why nothing can be known of it, such as that there is no such run. */
  problem: DurablyError | null;
}

/** Nothing is known. */
export const UNKNOWN: RunState = { run: {}, logs: [], problem: null };

/** What a retry changes at once. */
const AGAIN: Partial<Run> = { status: "pending", output: null, ...NONE, completedAt: null };

/** Milliseconds after a run's end in which its stream may still take it back: a retry came first. */
const LAST_WORDS = 1_000;

/** What the sources of one client share. */
export interface Surroundings {
  api: Api;
  lists: ListFeed;
  /** How many more runs may have a stream of their own. */
  seats: number;
}

/** How a run is begun to be followed. */
export interface Beginning {
  /** The name of its job, where it is known. */
  jobName?: string | undefined;
  /** It was just created, so that its journal tells everything. */
  isNew?: boolean;
}

const PENDING: RunState = { ...UNKNOWN, run: { status: "pending" } };

/** What is known of a run before anything is heard. */
export function initialOf(beginning: Beginning | undefined): RunState {
  return beginning?.isNew ? PENDING : UNKNOWN;
}

export class RunSource extends Source<RunState> {
  readonly #around: Surroundings;
  readonly #id: string;
  readonly #beginning: Beginning;
  #stream: Stream | undefined;
  #hasSeat = false;
  #leaveList: (() => void) | undefined;
  #reading: AbortController | undefined;
  #ending: ReturnType<typeof setTimeout> | undefined;
  /** The newest number of its journal that was heard. */
  #seen: number | undefined;
  /** What was heard since the run was asked for; an answer may be older than that. */
  #since: Partial<Run> = {};
  /** The number of the last log line that was read; those up to it are heard in vain. */
  #readTo = 0;
  #unkept = 0;

  constructor(around: Surroundings, id: string, beginning: Beginning = {}) {
    super(initialOf(beginning));
    this.#around = around;
    this.#id = id;
    this.#beginning = beginning;
    if (beginning.isNew) this.#seen = 0;
  }

  /** Follow it again: it was retried, with this number in its journal. */
  resume(sequence: number | null = null): void {
    const { run, ...rest } = this.getSnapshot();
    const isKnown = sequence !== null && sequence <= (this.#seen ?? 0);
    if (!this.#isOver || isKnown) return;
    this.update({ ...rest, run: { ...run, ...AGAIN } });
    this.#stop();
    this.open();
  }

  get #isOver(): boolean {
    return isFinal(this.getSnapshot().run.status);
  }

  protected open(): void {
    if (this.#around.seats > 0) this.#listen();
    else this.#ride();
  }

  protected close(): void {
    this.#stop();
  }

  #stop(): void {
    this.#reading?.abort();
    this.#reading = undefined;
    this.#stopListening();
  }

  #stopListening(): void {
    clearTimeout(this.#ending);
    this.#stream?.close();
    this.#leaveList?.();
    this.#stream = this.#leaveList = undefined;
    if (this.#hasSeat) this.#around.seats++;
    this.#hasSeat = false;
  }

  // -- by a stream of its own: everything, exactly once

  #listen(): void {
    this.#hasSeat = true;
    this.#around.seats--;
    const query = new URLSearchParams({ runId: this.#id });
    this.#stream = new Stream(
      this.#around.api.transport,
      { method: "GET", path: "/subscribe", query },
      {
        opened: (resumed) => resumed || void this.#read(),
        heard: (values) => this.#hear(values as RunEvent[]),
        refused: (error) => this.#refuse(error),
        over: () => this.#over(),
      },
      this.#seen,
    );
  }

  #over(): void {
    this.#stopListening();
    if (!this.#isOver) void this.#read();
  }

  // -- by the lists' stream: there are more runs on the page than streams to spare

  async #ride(): Promise<void> {
    const jobName = this.#beginning.jobName ?? (await this.#read())?.jobName;
    if (jobName === undefined || this.#isOver) return;
    this.#leaveList = this.#around.lists.join(
      { jobNames: [jobName] },
      {
        resync: () => void this.#read(),
        heard: (events) => this.#hearReduced(events),
        refused: () => this.#listen(),
      },
    );
  }

  #hearReduced(events: ListEvent[]): void {
    const mine = events.filter((event) => event.runId === this.#id);
    this.#hear(mine.filter((event) => !isFinalEvent(event)) as RunEvent[]);
    // Lists are not told outputs and errors: how it ended is asked. After all that came before it was
    // heard: the answer is newer.
    if (mine.some(isFinalEvent) && !this.#isOver) void this.#read();
  }

  // -- what is heard, and what is read

  #hear(events: RunEvent[]): void {
    const { problem, ...state } = this.getSnapshot();
    let { run } = state;
    const lines: LogEntry[] = [];
    for (const event of events) {
      if (event.runId !== this.#id || this.#isKnown(event)) continue;
      this.#since = reduce(this.#since, event);
      run = reduce(run, event);
      if (event.type === "log:write") this.#log(event, lines);
    }
    if (run === state.run && lines.length === 0) return;
    const logs = lines.length === 0 ? state.logs : [...state.logs, ...lines].slice(-MAX_LOGS);
    this.update({ run, logs, problem });
    this.#endSoon();
  }

  #isKnown({ sequence }: RunEvent): boolean {
    if (sequence == null) return false;
    const isKnown = sequence <= (this.#seen ?? 0); // they count from 1
    if (!isKnown) this.#seen = sequence;
    return isKnown;
  }

  #log(event: Extract<RunEvent, { type: "log:write" }>, lines: LogEntry[]): void {
    const { type, jobName, labels, sequence, ...line } = event;
    if (sequence !== null && sequence <= this.#readTo) return;
    lines.push({ id: `${line.runId}:${sequence ?? `live-${this.#unkept++}`}`, ...line });
  }

  /** Ask for the run and its log lines. What was heard meanwhile is newer than the answer. */
  async #read(): Promise<Run | undefined> {
    this.#reading?.abort();
    const reading = new AbortController();
    this.#reading = reading;
    this.#since = {};
    const { signal } = reading;
    const { api } = this.#around;
    try {
      const [run, logs] = await patiently(
        () => Promise.all([api.run(this.#id, { signal }), api.allLogs(this.#id, { signal })]),
        signal,
      );
      if (signal.aborted) return undefined;
      if (run === null) throw new DurablyError(`there is no run ${this.#id}`, 404, "run_not_found");
      const kept = new Set(logs.map((line) => line.id));
      const others = this.getSnapshot().logs.filter((line) => !kept.has(line.id));
      this.#readTo = numberOf(logs.at(-1));
      this.update({
        run: { ...run, ...this.#since },
        logs: [...logs, ...others].slice(-MAX_LOGS),
        problem: null,
      });
      this.#endSoon();
      return run;
    } catch (error) {
      if (!signal.aborted) this.#refuse(error as DurablyError);
      return undefined;
    }
  }

  /** Once the run is over nothing is left to follow, unless its stream takes that back at once. */
  #endSoon(): void {
    clearTimeout(this.#ending);
    if (!this.#isOver) return;
    this.#ending = setTimeout(() => this.#stopListening(), LAST_WORDS);
  }

  #refuse(problem: DurablyError): void {
    this.#stop();
    this.update({ ...this.getSnapshot(), problem });
  }
}
