/** A card for a job: what starts it, and the run that was started last. */

import type { RunResult } from "durably-react";
import { type ReactNode, useState } from "react";
import { nameOf } from "./durably";
import { Badge, Bar, figure } from "./parts";
import { useRun } from "./use-run";

/** Starts something that may take a while, and tells what hinders it. */
export function useStart<T>(start: (given: T) => Promise<unknown>) {
  const [open, setOpen] = useState(0);
  const [problem, setProblem] = useState<string | null>(null);
  const begin = async (given: T) => {
    setOpen((count) => count + 1);
    setProblem(null);
    try {
      await start(given);
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    } finally {
      setOpen((count) => count - 1);
    }
  };
  return { begin, isStarting: open > 0, problem };
}

export function JobCard(props: {
  title: string;
  hint: ReactNode;
  starter: ReactNode;
  isStarting: boolean;
  problem: string | null;
  run: ReactNode;
}) {
  return (
    <section className="card job">
      <h2>{props.title}</h2>
      <p className="hint">{props.hint}</p>
      <div className="starter">{props.starter}</div>
      <p role="status" className="hint">
        {props.isStarting && "Uploading…"}
      </p>
      {props.problem && (
        <p role="alert" className="problem">
          {props.problem}
        </p>
      )}
      {props.run}
    </section>
  );
}

/** The run that a card follows. */
export function FollowedRun(props: {
  runId: string;
  result: RunResult;
  unit: string;
  children?: ReactNode;
}) {
  const { runId, result, unit, children } = props;
  const run = useRun(runId);
  const { status, progress, error } = result;
  if (status === null) return null;
  const name = run ? nameOf(run) : "…";
  return (
    <div className="followed" data-status={status}>
      <p className="line">
        <a className="name" href={`#run=${runId}`}>
          {name}
        </a>
        <Badge status={status} />
      </p>
      <Bar of={name} status={status} progress={progress} />
      <p className="hint figures">
        {progress
          ? `${figure(progress.current)} of ${figure(progress.total ?? 0)} ${unit}`
          : status === "pending" && "waiting for its turn"}
      </p>
      {error && <p className="problem">{error}</p>}
      {children}
    </div>
  );
}
