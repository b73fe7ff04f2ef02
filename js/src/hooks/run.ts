/** What the hooks tell of a run. */

import { useMemo, useSyncExternalStore } from "react";
import type { LogEntry, Progress, RunStatus } from "../core/protocol.js";
import { type RunState, UNKNOWN } from "../core/run-source.js";
import type { Store } from "../core/source.js";
import type { AnyClient } from "./source.js";

export interface RunResult<Output = unknown> {
  /** Where the run stands; null while nothing is known, or when there is no run. */
  status: RunStatus | null;
  /** What the job returned. */
  output: Output | null;
  /** Why it failed, or why nothing can be known of it. */
  error: string | null;
  /** Its log lines, oldest first. */
  logs: readonly LogEntry[];
  progress: Progress | null;
  isRunning: boolean;
  isPending: boolean;
  isCompleted: boolean;
  isFailed: boolean;
  isCancelled: boolean;
}

const NOWHERE: Store<RunState> = { getSnapshot: () => UNKNOWN, subscribe: () => () => {} };

/** The state of a run, kept up to date. */
export function useRunState(client: AnyClient, runId: string | null): RunState {
  const store = useMemo(() => (runId === null ? NOWHERE : client.watchRun(runId)), [client, runId]);
  return useSyncExternalStore(store.subscribe, store.getSnapshot, NOWHERE.getSnapshot);
}

export function useRunResult<Output>(client: AnyClient, runId: string | null): RunResult<Output> {
  const state = useRunState(client, runId);
  return useMemo(() => resultOf<Output>(state), [state]);
}

function resultOf<Output>({ run, logs, problem }: RunState): RunResult<Output> {
  const status = run.status ?? null;
  return {
    status,
    output: (run.output ?? null) as Output | null,
    error: problem?.message ?? run.error ?? null,
    logs,
    progress: run.progress ?? null,
    isRunning: status === "running",
    isPending: status === "pending",
    isCompleted: status === "completed",
    isFailed: status === "failed",
    isCancelled: status === "cancelled",
  };
}
