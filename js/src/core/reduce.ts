/** What an event changes about a run. The only place that knows, for single runs and for lists. */

import { isFinal, type ListEvent, type Run, type RunEvent, type RunStatus } from "./protocol.js";

/** The run after the event: another object if it changed anything, else the same. */
export function reduce<T extends Partial<Run>>(run: T, event: RunEvent | ListEvent): T {
  const change = changeOf(run, event);
  return change === undefined ? run : { ...run, ...change, updatedAt: event.timestamp };
}

function changeOf(run: Partial<Run>, event: RunEvent | ListEvent): Partial<Run> | undefined {
  switch (event.type) {
    case "run:trigger":
      return { ...enter("pending"), jobName: event.jobName, labels: event.labels };
    case "run:start":
      return { ...enter("running"), startedAt: run.startedAt ?? event.timestamp };
    case "run:progress":
      return { progress: event.progress };
    case "run:wait":
      return enter("waiting");
    case "run:release":
      return enter("pending");
    case "run:retry":
      return { ...enter("pending"), ...NONE, completedAt: null };
    case "run:complete":
      return { ...end("completed", event), ...("output" in event && { output: event.output }) };
    case "run:fail":
      return { ...end("failed", event), ...("error" in event && failureOf(event)) };
    case "run:cancel":
      return end("cancelled", event);
    case "step:complete":
      return stepDone(run);
    default:
      return undefined;
  }
}

function enter(status: RunStatus): Partial<Run> {
  return { status, isTerminal: isFinal(status), isActive: !isFinal(status) };
}

function end(status: RunStatus, event: { timestamp: string }): Partial<Run> {
  return { ...enter(status), completedAt: event.timestamp };
}

type Failed = Pick<Run, "error" | "errorType" | "failedStepName">;
/** Nothing failed. */
export const NONE: Failed = { error: null, errorType: null, failedStepName: null };

function failureOf({ error, errorType, failedStepName }: Failed): Failed {
  return { error, errorType, failedStepName };
}

function stepDone({ completedStepCount: before }: Partial<Run>): Partial<Run> | undefined {
  if (before === undefined) return undefined;
  return { completedStepCount: before + 1, currentStepIndex: before + 1 };
}
