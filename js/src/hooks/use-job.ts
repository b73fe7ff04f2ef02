import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { Choice } from "../core/choice.js";
import type { Finished, TriggerArgs } from "../core/client.js";
import { isFinal, type ListEvent, type Triggered } from "../core/protocol.js";
import type { JobDefinition } from "../jobs.js";
import { type RunCallbacks, type RunResult, useRunResult } from "./run.js";
import { type AnyClient, type Server, useClient } from "./source.js";

export interface UseJobOptions extends Server, RunCallbacks {
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
  const choice = useChoice(client, options);
  const runId = useSyncExternalStore(choice.subscribe, choice.getSnapshot, choice.getSnapshot);
  const result = useRunResult(client, runId, options);
  const { jobName } = options;
  const actions = useMemo(() => {
    const trigger = async (...args: TriggerArgs<unknown>) => {
      const choose = choice.follow();
      const triggered = await client.trigger(jobName, ...args);
      choose(triggered.runId);
      return triggered;
    };
    const triggerAndWait = async (...args: TriggerArgs<unknown>) => {
      const { runId } = await trigger(...args);
      return client.wait(runId, { signal: args[1]?.signal });
    };
    return { trigger, triggerAndWait, reset: () => choice.reset() };
  }, [client, jobName, choice]);
  useAutoResume(client, options, choice);
  useFollowLatest(client, options, choice, runId === null || isFinal(result.status));
  return { ...result, ...actions, currentRunId: runId };
}

/** The choice of a run; another for another job, client or first run. */
function useChoice(client: AnyClient, options: UseJobClientOptions): Choice {
  const { jobName, initialRunId = null } = options;
  const make = () => ({ client, jobName, initialRunId, choice: new Choice(initialRunId) });
  const [held, hold] = useState(make);
  if (held.client === client && held.jobName === jobName && held.initialRunId === initialRunId) {
    return held.choice;
  }
  const other = make();
  hold(other);
  return other.choice;
}

/** After a reload the page shows the run that is under way. */
function useAutoResume(client: AnyClient, options: UseJobClientOptions, choice: Choice): void {
  const { jobName, autoResume = true } = options;
  useEffect(() => {
    if (!autoResume || choice.getSnapshot() !== null) return;
    const leaving = new AbortController();
    const choose = choice.follow();
    activeRun(client, jobName, leaving.signal).then(
      (runId) => runId && !leaving.signal.aborted && choose(runId),
      () => {}, // whoever triggers hears why the server does not answer
    );
    return () => leaving.abort();
  }, [client, jobName, autoResume, choice]);
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
  choice: Choice,
  isIdle: boolean,
): void {
  const idle = useRef(isIdle);
  useEffect(() => {
    idle.current = isIdle;
  });
  useEffect(() => {
    if (!followLatest) return;
    const heard = (events: ListEvent[]) => {
      for (const event of events) {
        if (choice.isPutAway(event.runId) || !isNews(event, idle.current)) continue;
        if (event.type === "run:trigger") client.announce(event.runId, jobName);
        choice.follow()(event.runId);
      }
    };
    return client.follow({ jobNames: [jobName] }, { resync: () => {}, heard });
  }, [client, jobName, followLatest, choice]);
}

/** A new run; or an older one that begins while nothing else is under way. */
function isNews({ type }: ListEvent, isIdle: boolean): boolean {
  return type === "run:trigger" || (isIdle && (type === "run:start" || type === "run:retry"));
}
