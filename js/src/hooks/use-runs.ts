import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import type { RunFilter } from "../core/api.js";
import type { Run, RunStatus } from "../core/protocol.js";
import { type RunsState, UNREAD } from "../core/runs-source.js";
import type { JobDefinition, TypedRun } from "../jobs.js";
import { type AnyClient, type Server, useClient } from "./source.js";

export interface UseRunsOptions extends Server {
  /** Of this job; of any of several. */
  jobName?: string | readonly string[] | undefined;
  /** In this status; in any of several. */
  status?: RunStatus | readonly RunStatus[] | undefined;
  /** With all of these labels. */
  labels?: Record<string, string> | undefined;
  /** Rows of a page: 10 unless said, 200 at most. */
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
  const filter = useFilter(options);
  const { page, ...paging } = usePage(client, filter);
  const { state, read } = useRunsState(client, filter, page, options.realtime ?? true);
  return { ...state, runs: state.runs as Run[], page, ...paging, refresh: read };
}

/** The filter, the same object while it says the same: callers write it anew each time. */
function useFilter({ jobName, status, labels, pageSize = 10 }: UseRunsOptions): RunFilter {
  const text = JSON.stringify({ jobName, status, labels, limit: pageSize });
  return useMemo(() => JSON.parse(text), [text]);
}

/** The page. Another list begins with its first. */
function usePage(client: AnyClient, filter: RunFilter) {
  const [at, setAt] = useState({ client, filter, page: 0 });
  const page = at.client === client && at.filter === filter ? at.page : 0;
  return useMemo(() => {
    const goToPage = (wanted: number) =>
      setAt({ client, filter, page: Math.max(0, Math.trunc(wanted)) });
    return {
      page,
      goToPage,
      nextPage: () => goToPage(page + 1),
      prevPage: () => goToPage(page - 1),
    };
  }, [client, filter, page]);
}

const unread = () => UNREAD;

function useRunsState(client: AnyClient, filter: RunFilter, page: number, isLive: boolean) {
  const store = useMemo(
    () => client.watchRuns({ ...filter, offset: page * (filter.limit ?? 0) }, isLive),
    [client, filter, page, isLive],
  );
  const state = useSyncExternalStore(store.subscribe, store.getSnapshot, unread);
  const last = useRef({ filter, state });
  useEffect(() => {
    if (!state.isLoading) last.current = { filter, state };
  });
  // The rows of the page before stay until the next ones are there.
  const { current } = last;
  const isTurning = state.isLoading && current.filter === filter;
  const shown: RunsState = isTurning ? { ...current.state, isLoading: true } : state;
  return { state: shown, read: store.read };
}
