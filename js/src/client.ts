"use client";
/** `durably-react/client`: a server's client, and the hooks that are told where the server is. */

export type { Options, Page, RunFilter, TriggerOptions } from "./core/api.js";
export { DurablyClient, type Finished, type JobMap, type JobTypes } from "./core/client.js";
export { DurablyError } from "./core/errors.js";
export type * from "./core/protocol.js";
export type { RunState } from "./core/run-source.js";
export type { RunsState } from "./core/runs-source.js";
export type { Store } from "./core/source.js";
export type { Frame } from "./core/sse.js";
export type { Answer, Ask, StreamListener, Transport } from "./core/transport.js";
export {
  type ClientHooks,
  type ClientOptions,
  type ClientWithDefinitions,
  type ClientWithHooks,
  createDurablyClient,
  type JobHooks,
} from "./create-client.js";
export type { RunCallbacks, RunResult } from "./hooks/run.js";
export {
  type UseJobClientOptions,
  type UseJobOptions,
  type UseJobResult,
  useJob,
} from "./hooks/use-job.js";
export { type UseJobLogsOptions, type UseJobLogsResult, useJobLogs } from "./hooks/use-job-logs.js";
export { type UseJobRunOptions, type UseJobRunResult, useJobRun } from "./hooks/use-job-run.js";
export { type UseRunActionsResult, useRunActions } from "./hooks/use-run-actions.js";
export { type UseRunsOptions, type UseRunsResult, useRuns } from "./hooks/use-runs.js";
export { defineJob, type JobDefinition, type TypedClientRun, type TypedRun } from "./jobs.js";
