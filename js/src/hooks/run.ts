/** What the hooks tell of a run. */

import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import { isFinal, type LogEntry, type Progress, type RunStatus } from "../core/protocol.js";
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
  /** Whether it is over: completed, failed or cancelled. */
  isTerminal: boolean;
  /** Whether it is known and not over. */
  isActive: boolean;
}

/** What a component does when the run that it follows gets somewhere. Each is called once per time. */
export interface RunCallbacks {
  /** The run is under way: pending, running or waiting. Called again when it is retried. */
  onStart?: (() => void) | undefined;
  /** The run is completed, also when it was before the component was there. */
  onComplete?: (() => void) | undefined;
  /** The run has failed, also when it had before the component was there. */
  onFail?: (() => void) | undefined;
}

const NOWHERE: Store<RunState> = { getSnapshot: () => UNKNOWN, subscribe: () => () => {} };

/** The state of a run, kept up to date. */
export function useRunState(client: AnyClient, runId: string | null): RunState {
  const store = useMemo(() => (runId === null ? NOWHERE : client.watchRun(runId)), [client, runId]);
  return useSyncExternalStore(store.subscribe, store.getSnapshot, NOWHERE.getSnapshot);
}

export function useRunResult<Output>(
  client: AnyClient,
  runId: string | null,
  callbacks: RunCallbacks,
): RunResult<Output> {
  const state = useRunState(client, runId);
  const result = useMemo(() => resultOf<Output>(state), [state]);
  const { isActive, isCompleted, isFailed } = result;
  const stage =
    (isActive && "onStart") || (isCompleted && "onComplete") || (isFailed && "onFail") || null;
  const seen = useRef("");
  // After every render: callbacks are written anew each time, and called for what is new.
  useEffect(() => {
    const now = `${runId} ${stage}`;
    if (seen.current === now) return;
    seen.current = now;
    if (stage) callbacks[stage]?.();
  });
  return result;
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
    isTerminal: isFinal(status),
    isActive: status !== null && !isFinal(status),
  };
}
