/** The client: everything that the server offers, typed by its jobs, without a framework. */

import { Api, type Options, type RunFilter, several, type TriggerOptions } from "./api.js";
import { DurablyError } from "./errors.js";
import { ListFeed } from "./list-feed.js";
import {
  isFinalEvent,
  type ListEvent,
  type Resync,
  type Run,
  type RunEvent,
  type Triggered,
} from "./protocol.js";
import { Queue } from "./queue.js";
import {
  type Beginning,
  initialOf,
  RunSource,
  type RunState,
  type Surroundings,
} from "./run-source.js";
import { RunsSource, type RunsState, UNREAD } from "./runs-source.js";
import { Sources, type Store } from "./source.js";
import { Stream } from "./stream.js";
import type { Transport } from "./transport.js";

/** What a job takes and gives. */
export interface JobTypes {
  input: unknown;
  output: unknown;
}

/** The jobs of a server by name, as `createDurablyClient<Jobs>()` wants them. */
export type JobMap = { [name: string]: JobTypes };

/** The types of a job by its name; unknown jobs take and give anything. */
export type JobOf<Jobs, Name> = Name extends keyof Jobs
  ? Jobs[Name] extends JobTypes
    ? Jobs[Name]
    : JobTypes
  : JobTypes;

/** The arguments of a trigger: a job without input may be triggered without one. */
export type TriggerArgs<Input> = unknown extends Input
  ? [input?: unknown, options?: TriggerOptions]
  : Record<string, never> extends Input
    ? [input?: Input, options?: TriggerOptions]
    : undefined extends Input
      ? [input?: Input, options?: TriggerOptions]
      : [input: Input, options?: TriggerOptions];

/** A run that is over, and what it gave. */
export interface Finished<Output = unknown> {
  runId: string;
  output: Output;
}

/** A job's name as a caller may say it: with types, any of theirs; without, any string. */
export type JobName<Jobs> = Extract<keyof Jobs, string>;

const RUN_STREAMS = 1;
const MAX_BEGINNINGS = 100;

export class DurablyClient<Jobs = JobMap> extends Api {
  readonly #around: Surroundings;
  readonly #runs = new Sources<RunState, RunSource>();
  readonly #lists = new Sources<RunsState, RunsSource>();
  /** How runs that were triggered here began, until somebody follows them. */
  readonly #beginnings = new Map<string, Beginning>();

  /** `runStreams`: how many runs may have a stream of their own; more than these share the lists'. */
  constructor(transport: Transport, runStreams: number = RUN_STREAMS) {
    super(transport);
    this.#around = {
      api: this,
      lists: new ListFeed(transport, (event) => this.#overhear(event)),
      seats: runStreams,
    };
  }

  // -- runs are made

  /** Creates a run, and does not wait for it. */
  async trigger<Name extends JobName<Jobs>>(
    jobName: Name,
    ...[input, options]: TriggerArgs<JobOf<Jobs, Name>["input"]>
  ): Promise<Triggered> {
    const triggered = await this.create(jobName, input, options);
    this.#began(triggered.runId, { jobName, isNew: triggered.disposition === "created" });
    return triggered;
  }

  /** Creates a run and waits for its end; rejects when it fails or is cancelled. */
  async triggerAndWait<Name extends JobName<Jobs>>(
    jobName: Name,
    ...args: TriggerArgs<JobOf<Jobs, Name>["input"]>
  ): Promise<Finished<JobOf<Jobs, Name>["output"]>> {
    const { runId } = await this.trigger(jobName, ...args);
    return this.wait(runId, { signal: args[1]?.signal });
  }

  /** Waits for a run's end; rejects when it fails, is cancelled or is not there. */
  wait<Output = unknown>(runId: string, { signal }: Options = {}): Promise<Finished<Output>> {
    const store = this.watchRun(runId);
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => {
        leave();
        signal?.removeEventListener("abort", abort);
        act();
      };
      const look = () => {
        const { run, problem } = store.getSnapshot();
        const failure = problem ?? failureOf(run);
        if (failure) settle(() => reject(failure));
        else if (run.status === "completed") {
          settle(() => resolve({ runId, output: run.output as Output }));
        }
      };
      const abort = () => settle(() => reject(signal?.reason));
      const leave = store.subscribe(look);
      signal?.addEventListener("abort", abort);
      if (signal?.aborted) abort();
      else look();
    });
  }

  override async retry(runId: string, options?: Options): Promise<void> {
    await super.retry(runId, options);
    this.#runs.find(runId)?.resume();
  }

  override async retrigger(runId: string, options?: Options): Promise<{ runId: string }> {
    const made = await super.retrigger(runId, options);
    this.#began(made.runId, { isNew: true });
    return made;
  }

  // -- runs are followed

  /**
   * The events of a run, until it is over: its present state and what follows, or with `after` its
   * journal after that number. Lost connections are mended.
   */
  subscribe(runId: string, options: Options & { after?: number } = {}): AsyncIterable<RunEvent> {
    const query = new URLSearchParams({ runId });
    return new Queue<RunEvent>(options.signal, (queue) => {
      const stream = new Stream(
        this.transport,
        { method: "GET", path: "/subscribe", query },
        {
          opened: () => {},
          heard: (values) => queue.push(values as RunEvent[], isFinalEvent),
          refused: (error) => queue.fail(error),
          over: () => queue.end(),
        },
        options.after,
      );
      return () => stream.close();
    });
  }

  /**
   * The events of all runs of some jobs, reduced, without end. `runs:resync` says that something may
   * have been missed: it comes first, and after every lost connection.
   */
  subscribeRuns(
    filter: Pick<RunFilter, "jobName" | "labels"> = {},
    options: Options = {},
  ): AsyncIterable<ListEvent | Resync> {
    return new Queue<ListEvent | Resync>(options.signal, (queue) =>
      this.follow(
        { jobNames: several(filter.jobName), labels: filter.labels },
        {
          resync: () => queue.push([{ type: "runs:resync" }]),
          heard: (events) => queue.push(events),
          refused: (error) => queue.fail(error),
        },
      ),
    );
  }

  /** What is known of a run, kept up to date while somebody watches. All who watch share one stream. */
  watchRun(runId: string): Store<RunState> {
    const beginning = this.#beginnings.get(runId);
    const initial = initialOf(beginning);
    return this.#runs.store(runId, initial, () => {
      this.#beginnings.delete(runId);
      return new RunSource(this.#around, runId, beginning);
    });
  }

  /** A page of a list, kept up to date while somebody watches, and how to read it again. */
  watchRuns(filter: RunFilter = {}, isLive = true): Store<RunsState> & { read(): Promise<void> } {
    const name = JSON.stringify([filter, isLive]);
    const store = this.#lists.store(
      name,
      UNREAD,
      () => new RunsSource(this.#around, filter, isLive),
    );
    return { ...store, read: async () => this.#lists.find(name)?.read() };
  }

  /** Hear of runs as lists do, on the stream that they share. For the hooks. */
  readonly follow: ListFeed["join"] = (scope, listener) => this.#around.lists.join(scope, listener);

  /** Somebody just made this run: its journal, from its beginning, tells everything. */
  announce(runId: string, jobName: string): void {
    if (!this.#runs.find(runId)) this.#began(runId, { jobName, isNew: true });
  }

  /** A run that is shown as over may be retried by somebody else. */
  #overhear({ type, runId, sequence }: ListEvent): void {
    if (type === "run:retry") this.#runs.find(runId)?.resume(sequence);
  }

  #began(runId: string, beginning: Beginning): void {
    this.#beginnings.set(runId, beginning);
    // Most are followed at once, or never here.
    const [oldest = runId] = this.#beginnings.keys();
    if (this.#beginnings.size > MAX_BEGINNINGS) this.#beginnings.delete(oldest);
  }
}

function failureOf(run: Partial<Run>): DurablyError | undefined {
  if (run.status === "failed")
    return new DurablyError(run.error ?? "the run failed", 0, "run_failed");
  if (run.status === "cancelled")
    return new DurablyError("the run was cancelled", 0, "run_cancelled");
  return undefined;
}
