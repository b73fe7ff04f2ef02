import { useCallback, useMemo, useState } from "react";
import type { LogEntry } from "../core/protocol.js";
import { useRunState } from "./run.js";
import { type Server, useClient } from "./source.js";

export interface UseJobLogsOptions extends Server {
  /** The run whose log lines to follow; null: none. */
  runId: string | null;
  /** Only the newest so many; all, unless said. */
  maxLogs?: number | undefined;
}

export interface UseJobLogsResult {
  /** Oldest first. */
  logs: readonly LogEntry[];
  /** Shows only what is written from now on. */
  clearLogs: () => void;
}

/** Follows the log lines of a run. */
export function useJobLogs(options: UseJobLogsOptions): UseJobLogsResult {
  const { logs } = useRunState(useClient(options), options.runId);
  const { maxLogs } = options;
  /** The last line that was cleared away. */
  const [cleared, setCleared] = useState<string>();
  const clearLogs = useCallback(() => setCleared(logs.at(-1)?.id), [logs]);
  const shown = useMemo(() => {
    const left = logs.slice(logs.findLastIndex((line) => line.id === cleared) + 1);
    return maxLogs === undefined ? left : left.slice(Math.max(0, left.length - maxLogs));
  }, [logs, cleared, maxLogs]);
  return { logs: shown, clearLogs };
}
