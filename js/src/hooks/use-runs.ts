import { useMemo, useState, useSyncExternalStore } from "react";
import type { RunFilter } from "../core/api.js";
import type { Run, RunStatus } from "../core/protocol.js";
import { UNREAD } from "../core/runs-source.js";
import type { JobDefinition, TypedRun } from "../jobs.js";
import { type AnyClient, type Server, useClient } from "./source.js";

export interface UseRunsOptions extends Server {
  /** Of this job; of any of several. */
  jobName?: string | readonly string[] | undefined;
  /** In this status; in any of several. */
  status?: RunStatus | readonly RunStatus[] | undefined;
  /** With all of these labels. */
  labels?: Record<string, string> | undefined;
  /** Rows of a page: 10 unless said. More than 200 are read in parts. */
  pageSize?: number | undefined;
  /** Keep the list up to date; true unless said. */
  realtime?: boolean | undefined;
}

// biome-ignore lint/suspicious/noExplicitAny: a run of any types
export interface UseRunsResult<R extends TypedRun<any, any> = Run> {
  /** The runs of this page, newest first. */
  runs: R[];
  /** Which page, from 0. */
  page: number;
  /** Whether there are further pages. */
  hasMore: boolean;
  /** Whether this page was not read yet. */
  isLoading: boolean;
  /** Why it cannot be read. */
  error: string | null;
  nextPage: () => void;
  prevPage: () => void;
  goToPage: (page: number) => void;
  /** Reads the page again. */
  refresh: () => Promise<void>;
}

/** Lists the runs of a job. */
export function useRuns<Input, Output, Name extends string>(
  job: JobDefinition<Input, Output, Name>,
  options?: Omit<UseRunsOptions, "jobName">,
): UseRunsResult<TypedRun<Input, Output, Name>>;
/** Lists runs. */
// biome-ignore lint/suspicious/noExplicitAny: a run of any types
export function useRuns<R extends TypedRun<any, any> = Run>(
  options?: UseRunsOptions,
): UseRunsResult<R>;
export function useRuns(
  job: JobDefinition | UseRunsOptions = {},
  more?: Omit<UseRunsOptions, "jobName">,
): UseRunsResult {
  const options: UseRunsOptions = "name" in job ? { ...more, jobName: job.name } : job;
  const client = useClient(options);
  const wanted = wantedBy(options);
  const [at, setAt] = useState({ client, wanted, page: 0, before: UNREAD });
  // Another list begins with its first page.
  const isSame = at.client === client && at.wanted === wanted;
  const page = isSame ? at.page : 0;
  const store = useStore(client, wanted, page, options.realtime ?? true);
  const state = useSyncExternalStore(store.subscribe, store.getSnapshot, unread);
  const turning = useMemo(() => {
    const goToPage = (to: number) => {
      const now = store.getSnapshot();
      setAt(({ before }) => ({
        client,
        wanted,
        page: Math.max(0, Math.trunc(to)),
        before: now.isLoading ? before : now,
      }));
    };
    return {
      goToPage,
      nextPage: () => goToPage(page + 1),
      prevPage: () => goToPage(page - 1),
      refresh: store.read,
    };
  }, [client, wanted, page, store]);
  // The rows of the page before stay until the next ones are there.
  const shown = state.isLoading && isSame ? { ...at.before, isLoading: true } : state;
  return { ...shown, runs: shown.runs as Run[], page, ...turning };
}

const unread = () => UNREAD;

/** The list that is asked for, as a text: callers write their options anew each time. */
function wantedBy({ jobName, status, labels, pageSize = 10 }: UseRunsOptions): string {
  return JSON.stringify({ jobName, status, labels, limit: pageSize });
}

function useStore(client: AnyClient, wanted: string, page: number, isLive: boolean) {
  return useMemo(() => {
    const filter: RunFilter & { limit: number } = JSON.parse(wanted);
    return client.watchRuns({ ...filter, offset: page * filter.limit }, isLive);
  }, [client, wanted, page, isLive]);
}
