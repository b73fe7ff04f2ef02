import { type RunCallbacks, type RunResult, useRunResult } from "./run.js";
import { type Server, useClient } from "./source.js";

export interface UseJobRunOptions extends Server, RunCallbacks {
  /** The run to follow; null: none. */
  runId: string | null;
}

export type UseJobRunResult<Output = unknown> = RunResult<Output>;

/** Follows a run, by its id. */
export function useJobRun<Output = unknown>(options: UseJobRunOptions): UseJobRunResult<Output> {
  return useRunResult<Output>(useClient(options), options.runId, options);
}
