import { useCallback, useMemo, useState } from "react";
import { messageOf } from "../core/errors.js";
import type { Run, Step } from "../core/protocol.js";
import { type Server, useClient } from "./source.js";

export interface UseRunActionsResult {
  /** Resumes a failed or cancelled run; what it had finished is kept. */
  retry: (runId: string) => Promise<void>;
  /** Makes a new run with the input of this one; gives its id. */
  retrigger: (runId: string) => Promise<string>;
  /** Stops a run. */
  cancel: (runId: string) => Promise<void>;
  /** Deletes a run that is over. */
  deleteRun: (runId: string) => Promise<void>;
  /** A run; null when there is none of this id. */
  getRun: (runId: string) => Promise<Run | null>;
  /** A run's steps, in order. */
  getSteps: (runId: string) => Promise<Step[]>;
  /** Whether any of these is on its way. */
  isLoading: boolean;
  /** Why the latest of these did not succeed. */
  error: string | null;
}

/** What can be done with runs. Each also rejects when it does not succeed. */
export function useRunActions(options: Server = {}): UseRunActionsResult {
  const client = useClient(options);
  const [open, setOpen] = useState(0);
  const [error, setError] = useState<string | null>(null);
  const doing = useCallback(async <T>(action: () => Promise<T>): Promise<T> => {
    setOpen((count) => count + 1);
    setError(null);
    try {
      return await action();
    } catch (problem) {
      setError(messageOf(problem));
      throw problem;
    } finally {
      setOpen((count) => count - 1);
    }
  }, []);
  const actions = useMemo(
    () => ({
      retry: (runId: string) => doing(() => client.retry(runId)),
      retrigger: (runId: string) => doing(async () => (await client.retrigger(runId)).runId),
      cancel: (runId: string) => doing(() => client.cancel(runId)),
      deleteRun: (runId: string) => doing(() => client.deleteRun(runId)),
      getRun: (runId: string) => doing(() => client.run(runId)),
      getSteps: (runId: string) => doing(() => client.steps(runId)),
    }),
    [client, doing],
  );
  return { ...actions, isLoading: open > 0, error };
}
