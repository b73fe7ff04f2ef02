import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import type { Finished, TriggerArgs } from "../core/client.js";
import { isFinal, type ListEvent, type Triggered } from "../core/protocol.js";
import type { JobDefinition } from "../jobs.js";
import { type RunResult, useRunResult } from "./run.js";
import { type AnyClient, type Server, useClient } from "./source.js";

export interface UseJobOptions extends Server {
  /** The run to follow at first. */
  initialRunId?: string | undefined;
  /** Follow a run of the job that is pending or running when the page opens; true unless said. */
  autoResume?: boolean | undefined;
  /** Follow the job's next run, whoever triggers it; true unless said. */
  followLatest?: boolean | undefined;
}

export interface UseJobClientOptions extends UseJobOptions {
  /** The job's name on the server. */
  jobName: string;
}

export interface UseJobResult<Input = unknown, Output = unknown> extends RunResult<Output> {
  /** Creates a run and follows it. */
  trigger: (...args: TriggerArgs<Input>) => Promise<Triggered>;
  /** The same, and waits for its end; rejects when it fails or is cancelled. */
  triggerAndWait: (...args: TriggerArgs<Input>) => Promise<Finished<Output>>;
  /** The run that is followed. */
  currentRunId: string | null;
  /** Follow no run. */
  reset: () => void;
}

/** Triggers a job, and follows its runs. */
export function useJob<Input, Output>(
  job: JobDefinition<Input, Output>,
  options?: UseJobOptions,
): UseJobResult<Input, Output>;
export function useJob<Input = unknown, Output = unknown>(
  options: UseJobClientOptions,
): UseJobResult<Input, Output>;
export function useJob(
  job: JobDefinition | UseJobClientOptions,
  more?: UseJobOptions,
): UseJobResult {
  const options: UseJobClientOptions = "jobName" in job ? job : { ...more, jobName: job.name };
  const client = useClient(options);
  const chosen = useChosenRun(client, options);
  const result = useRunResult(client, chosen.runId);
  const { follow, reset } = chosen;
  const { jobName } = options;
  const actions = useMemo(() => {
    const trigger = async (...args: TriggerArgs<unknown>) => {
      const choose = follow();
      const triggered = await client.trigger(jobName, ...args);
      choose(triggered.runId);
      return triggered;
    };
    const triggerAndWait = async (...args: TriggerArgs<unknown>) => {
      const { runId } = await trigger(...args);
      return client.wait(runId, { signal: args[1]?.signal });
    };
    return { trigger, triggerAndWait };
  }, [client, jobName, follow]);
  useAutoResume(client, options, chosen);
  useFollowLatest(client, options, chosen, isFinal(result.status));
  return { ...result, ...actions, currentRunId: chosen.runId, reset };
}

interface Chosen {
  runId: string | null;
  /** Begin to look for a run: the function that is returned chooses it, unless that is outdated. */
  follow: () => (runId: string) => void;
  reset: () => void;
  /** Whether this run was just put away. */
  isPutAway: (runId: string) => boolean;
}

/** Which run is followed. Answers may come in any order: who asked last, decides. */
function useChosenRun(client: AnyClient, options: UseJobClientOptions): Chosen {
  const { jobName } = options;
  const initialRunId = options.initialRunId ?? null;
  const [runId, setRunId] = useState(initialRunId);
  const asked = useRef(0);
  const decided = useRef(0);
  const putAway = useRef<string | null>(null);
  const follow = useCallback(() => {
    const mine = ++asked.current;
    return (chosen: string) => {
      if (mine < decided.current) return;
      decided.current = mine;
      setRunId(chosen);
    };
  }, []);
  const reset = useCallback(() => {
    decided.current = ++asked.current;
    setRunId((now) => {
      putAway.current = now;
      return null;
    });
  }, []);
  const subject = useRef({ client, jobName, initialRunId });
  useEffect(() => {
    const before = subject.current;
    if (
      before.client === client &&
      before.jobName === jobName &&
      before.initialRunId === initialRunId
    ) {
      return;
    }
    subject.current = { client, jobName, initialRunId };
    decided.current = ++asked.current;
    setRunId(initialRunId);
  }, [client, jobName, initialRunId]);
  const isPutAway = useCallback((id: string) => putAway.current === id, []);
  return useMemo(() => ({ runId, follow, reset, isPutAway }), [runId, follow, reset, isPutAway]);
}

/** After a reload the page shows the run that is under way. */
function useAutoResume(client: AnyClient, options: UseJobClientOptions, { follow }: Chosen): void {
  const { jobName, initialRunId, autoResume = true } = options;
  useEffect(() => {
    if (!autoResume || initialRunId) return;
    const leaving = new AbortController();
    const choose = follow();
    activeRun(client, jobName, leaving.signal).then(
      (runId) => runId && !leaving.signal.aborted && choose(runId),
      () => {}, // whoever triggers hears why the server does not answer
    );
    return () => leaving.abort();
  }, [client, jobName, initialRunId, autoResume, follow]);
}

/** The newest run that runs; else the newest that waits to. */
async function activeRun(client: AnyClient, jobName: string, signal: AbortSignal) {
  const newest = async (...status: ("running" | "waiting" | "pending")[]) =>
    (await client.runs({ jobName, status, limit: 1 }, { signal }))[0]?.id;
  const [running, pending] = await Promise.all([newest("running", "waiting"), newest("pending")]);
  return running ?? pending;
}

/** The page shows the job's newest run, also when it was triggered elsewhere. */
function useFollowLatest(
  client: AnyClient,
  { jobName, followLatest = true }: UseJobClientOptions,
  chosen: Chosen,
  isOver: boolean,
): void {
  const now = useRef({ chosen, isOver });
  useEffect(() => {
    now.current = { chosen, isOver };
  });
  useEffect(() => {
    if (!followLatest) return;
    const heard = (events: ListEvent[]) => {
      for (const event of events) {
        if (isWorthFollowing(event, now.current)) now.current.chosen.follow()(event.runId);
      }
    };
    return client.follow({ jobNames: [jobName] }, { resync: () => {}, heard });
  }, [client, jobName, followLatest]);
}

/** A new run; or an older one that starts while nothing else is under way. */
function isWorthFollowing(event: ListEvent, now: { chosen: Chosen; isOver: boolean }): boolean {
  if (event.type === "run:trigger") return true;
  if (event.type !== "run:start" && event.type !== "run:retry") return false;
  const isIdle = now.chosen.runId === null || now.isOver;
  return isIdle && event.runId !== now.chosen.runId && !now.chosen.isPutAway(event.runId);
}
