/** `createDurablyClient`: the client of a server, with the hooks of each of its jobs. */

import { DurablyClient, type JobMap, type JobOf } from "./core/client.js";
import type { Run } from "./core/protocol.js";
import { type HttpOptions, HttpTransport } from "./core/transport.js";
import type { RunCallbacks, RunResult } from "./hooks/run.js";
import { type UseJobOptions, type UseJobResult, useJob } from "./hooks/use-job.js";
import { type UseJobLogsOptions, type UseJobLogsResult, useJobLogs } from "./hooks/use-job-logs.js";
import { useJobRun } from "./hooks/use-job-run.js";
import { type UseRunActionsResult, useRunActions } from "./hooks/use-run-actions.js";
import { type UseRunsOptions, type UseRunsResult, useRuns } from "./hooks/use-runs.js";
import type { JobDefinition, TypedRun, TypesOf } from "./jobs.js";

type OwnOptions<Options> = Omit<Options, "api" | "client">;

/** The hooks of a job, with its types. */
export interface JobHooks<Input = unknown, Output = unknown> {
  useJob(options?: OwnOptions<UseJobOptions>): UseJobResult<Input, Output>;
  /** Follows a run of the job. */
  useRun(runId: string | null, callbacks?: RunCallbacks): RunResult<Output>;
  /** Follows the log lines of a run. */
  useLogs(
    runId: string | null,
    options?: Omit<OwnOptions<UseJobLogsOptions>, "runId">,
  ): UseJobLogsResult;
}

/** The hooks that are of no job. A job of one of these names has its hooks by `jobs: {…}`. */
export interface ClientHooks {
  /** Lists runs. */
  // biome-ignore lint/suspicious/noExplicitAny: a run of any types
  useRuns<R extends TypedRun<any, any> = Run>(
    options?: OwnOptions<UseRunsOptions>,
  ): UseRunsResult<R>;
  /** Lists the runs of a job. */
  useRuns<Input, Output, Name extends string>(
    job: JobDefinition<Input, Output, Name>,
    options?: Omit<OwnOptions<UseRunsOptions>, "jobName">,
  ): UseRunsResult<TypedRun<Input, Output, Name>>;
  /** What can be done with runs. */
  useRunActions(): UseRunActionsResult;
}

/** Jobs by the names that the page calls them. */
export type Definitions = {
  readonly [property: string]: JobDefinition<never, unknown> | { name: string };
};

/** A client with the hooks of its jobs: `client["import-csv"].useJob()`. */
export type ClientWithHooks<Jobs> = DurablyClient<Jobs> &
  ClientHooks & {
    readonly [Name in Exclude<keyof Jobs, keyof DurablyClient | keyof ClientHooks>]: JobHooks<
      JobOf<Jobs, Name>["input"],
      JobOf<Jobs, Name>["output"]
    >;
  };

export interface ClientOptions extends HttpOptions {
  /**
   * How many runs may have a stream of their own; the others share the lists'. 1 unless said: browsers
   * keep six connections to a host, over all tabs, while HTTP/1.1 is spoken.
   */
  runStreams?: number | undefined;
}

/** Jobs under other names than the server's: `jobs: { importCsv: defineJob<…>({ name: "import-csv" }) }`. */
export type ClientWithDefinitions<D extends Definitions> = DurablyClient<{
  [Key in keyof D as D[Key]["name"]]: TypesOf<D[Key]>;
}> &
  ClientHooks & {
    readonly [Key in Exclude<keyof D, keyof ClientHooks>]: JobHooks<
      TypesOf<D[Key]>["input"],
      TypesOf<D[Key]>["output"]
    >;
  };

/** The client of a server whose jobs are `Jobs`, each under its own name. */
export function createDurablyClient<Jobs = JobMap>(options: ClientOptions): ClientWithHooks<Jobs>;
/** The client of a server whose jobs have names of their own here. */
export function createDurablyClient<const D extends Definitions>(
  options: ClientOptions & { jobs: D },
): ClientWithDefinitions<D>;
export function createDurablyClient(options: ClientOptions & { jobs?: Definitions }): unknown {
  const { jobs, runStreams, ...http } = options;
  return withHooks(new DurablyClient(new HttpTransport(http), runStreams), jobs);
}

/** A client over any way to the server, with the hooks of its jobs. */
export function withHooks(client: DurablyClient, jobs?: Definitions): unknown {
  const made = new Map<string, unknown>([
    ["useRuns", runsOf(client)],
    ["useRunActions", () => useRunActions({ client })],
  ]);
  return new Proxy(client, {
    get(target, key) {
      if (typeof key === "symbol" || key in target || NO_JOBS.has(key)) {
        const found: unknown = Reflect.get(target, key, target);
        return typeof found === "function" ? found.bind(target) : found;
      }
      let hooks = made.get(key);
      if (hooks === undefined) {
        hooks = hooksOf(target, jobs?.[key]?.name ?? key);
        made.set(key, hooks);
      }
      return hooks;
    },
  });
}

/** What others ask any object for: `await`, JSON, React. */
const NO_JOBS = new Set(["then", "toJSON", "$$typeof"]);

function runsOf(client: DurablyClient): ClientHooks["useRuns"] {
  return (
    job: JobDefinition | OwnOptions<UseRunsOptions> = {},
    more?: Omit<OwnOptions<UseRunsOptions>, "jobName">,
  ) => useRuns({ ...("name" in job ? { ...more, jobName: job.name } : job), client }) as never;
}

function hooksOf(client: DurablyClient, jobName: string): JobHooks {
  return {
    useJob: (options) => useJob({ ...options, jobName, client }),
    useRun: (runId, callbacks) => useJobRun({ ...callbacks, runId, client }),
    useLogs: (runId, options) => useJobLogs({ ...options, runId, client }),
  };
}
