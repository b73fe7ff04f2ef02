/**
 * The words of the wire, and nothing else: what a server tells of runs, steps, log lines and events.
 * Times are ISO 8601 with milliseconds and `Z`; durations are milliseconds.
 */

/** Where a run stands. `waiting` (asleep until its time comes) has its place and is not told yet. */
export type RunStatus = "pending" | "running" | "waiting" | "completed" | "failed" | "cancelled";

export type LogLevel = "debug" | "info" | "warn" | "error";

/** How far a run is, as its job says. */
export interface Progress {
  current: number;
  total?: number;
  message?: string;
}

/** Why something failed. */
interface Failure {
  /** The name of the exception's type; null when nothing failed. */
  errorType: string | null;
  /** The step that raised; null when none did. */
  failedStepName: string | null;
  /** Only where the server was told to tell it. */
  errorTraceback?: string;
}

/** A run as it was when it was told. */
export interface Run extends Failure {
  id: string;
  jobName: string;
  status: RunStatus;
  input: unknown;
  /** The same as `input`. */
  /** The same as `input`; left out where that is large. */
  payload?: unknown;
  /** What the job returned; null until the run is completed. */
  output: unknown;
  /** Why it failed; null unless it did. */
  error: string | null;
  progress: Progress | null;
  labels: Record<string, string>;
  completedStepCount: number;
  /** The same as `completedStepCount`. */
  currentStepIndex: number;
  startedAt: string | null;
  completedAt: string | null;
  createdAt: string;
  updatedAt: string;
  /** True while a worker still stops a run that is over; absent otherwise. */
  stopping?: boolean;
  isTerminal: boolean;
  isActive: boolean;
  /** How often a worker took it up. */
  attempt: number;
}

/** A step that completed or failed. */
export interface Step extends Failure {
  id: string;
  runId: string;
  name: string;
  index: number;
  status: "completed" | "failed";
  output: unknown;
  error: string | null;
  startedAt: string | null;
  completedAt: string | null;
  attempt: number;
}

/** A log line of a run. */
export interface LogEntry {
  id: string;
  runId: string;
  /** The step that it was written in; null between steps. */
  stepName: string | null;
  level: LogLevel;
  message: string;
  data: unknown;
  timestamp: string;
}

/** A job that the server runs, with the JSON Schemas of its values. */
export interface JobInfo {
  name: string;
  inputSchema: Record<string, unknown>;
  outputSchema: Record<string, unknown>;
}

/** What became of a trigger: a new run, the one that has its idempotency key, or one that waits already. */
export interface Triggered {
  runId: string;
  disposition: "created" | "idempotent" | "coalesced";
}

interface Told<Type extends string> {
  type: Type;
  runId: string;
  jobName: string;
  labels: Record<string, string>;
  timestamp: string;
  /** Its number in the run's journal; null for an event that is not kept. */
  sequence: number | null;
}

interface StepTold {
  stepName: string;
  stepIndex: number;
  attempt: number;
}

interface Failed extends Failure {
  error: string;
}

type LogTold = Pick<LogEntry, "stepName" | "level" | "message" | "data">;

interface Coalesced {
  skippedLabels: Record<string, string>;
}

interface Progressed {
  progress: Progress;
}

/** What both a run's own stream and a list's tell alike. */
type CommonEvent =
  | Told<"run:wait" | "run:release" | "run:cancel" | "run:retry" | "run:delete">
  | (Told<"run:progress"> & Progressed)
  | (Told<"step:start" | "step:cancel"> & StepTold)
  | (Told<"log:write"> & LogTold);

/** An event of one run, as `subscribe` tells it. */
export type RunEvent =
  | CommonEvent
  | (Told<"run:trigger"> & { input: unknown })
  | (Told<"run:coalesced"> & Coalesced & { skippedInput: unknown })
  | (Told<"run:start"> & { input: unknown; payload?: unknown; attempt: number })
  | (Told<"run:complete"> & { output: unknown; duration: number })
  | (Told<"run:fail"> & Failed)
  | (Told<"step:complete"> & StepTold & { output: unknown; duration: number })
  | (Told<"step:fail"> & StepTold & Failed);

/** An event of any run, as `subscribeRuns` tells it: without inputs, outputs and errors. */
export type ListEvent =
  | CommonEvent
  | (Told<"run:coalesced"> & Coalesced)
  | Told<"run:trigger" | "run:start" | "run:complete" | "run:fail">
  | (Told<"step:complete" | "step:fail"> & StepTold);

/** What a list is told that may have missed something: read it again. */
export interface Resync {
  type: "runs:resync";
}

/** Whether nothing but a retry moves a run on. */
export function isFinal(status: RunStatus | null | undefined): boolean {
  return /^(completed|failed|cancelled)$/.test(status ?? "");
}

/** Whether a run is over with this event. */
export function isFinalEvent(event: { type: string }): boolean {
  return /^run:(complete|fail|cancel|delete)$/.test(event.type);
}
