import type { LogEntry, Step } from "durably-react";
import { useJobRun } from "durably-react";
import { useEffect, useLayoutEffect, useRef } from "react";
import { JOB_TITLES, nameOf } from "./durably";
import { Badge, Bar, Moment } from "./parts";
import { useRun, useSteps } from "./use-run";

const leave = () => {
  location.hash = "";
};

const CLOCK = new Intl.DateTimeFormat("en", { timeStyle: "medium", hourCycle: "h23" });

/** One run: its log as it is written, its steps, what it gave. */
export function RunDetails({ runId }: { runId: string }) {
  const run = useRun(runId);
  const { status, progress, output, error, logs } = useJobRun({ runId });
  const steps = useSteps(runId, [progress?.current, status]);
  const title = useRef<HTMLHeadingElement>(null);
  // biome-ignore lint/correctness/useExhaustiveDependencies: whoever chose another run wants to read it
  useEffect(() => title.current?.focus(), [runId]);
  const name = run ? nameOf(run) : run === null ? "There is no such run" : "…";
  return (
    <section className="card details" aria-labelledby="details-title">
      <div className="bar">
        <h2 id="details-title" ref={title} tabIndex={-1} className="name">
          {name}
        </h2>
        <button type="button" className="close" aria-label="Close" onClick={leave}>
          ×
        </button>
      </div>
      {run && status && (
        <>
          <p className="line">
            <Badge status={status} />
            <span className="hint">
              {JOB_TITLES[run.jobName]}, <Moment at={run.createdAt} />
            </span>
          </p>
          <Bar of={name} status={status} progress={progress} />
          {error && <p className="problem">{error}</p>}
          <Log lines={logs} />
          <Steps steps={steps} />
          {output !== null && <Output value={output} />}
        </>
      )}
    </section>
  );
}

function Log({ lines }: { lines: readonly LogEntry[] }) {
  const box = useRef<HTMLElement>(null);
  const atEnd = useRef(true);
  // biome-ignore lint/correctness/useExhaustiveDependencies: with each line, unless one reads further up
  useLayoutEffect(() => {
    if (atEnd.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  if (lines.length === 0) return null;
  const scrolled = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current as HTMLElement;
    atEnd.current = scrollHeight - scrollTop - clientHeight < 40;
  };
  return (
    <>
      <h3 id="log-title">Log</h3>
      <section
        className="well log"
        ref={box}
        onScroll={scrolled}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is reached by the keyboard
        tabIndex={0}
        aria-labelledby="log-title"
      >
        <ol>
          {lines.map(({ id, timestamp, level, message, data }) => (
            <li key={id} className={level}>
              <time dateTime={timestamp}>{CLOCK.format(new Date(timestamp))}</time>
              <span>
                {level === "info" ? "" : `${level}: `}
                {message}
                {details(data)}
              </span>
            </li>
          ))}
        </ol>
      </section>
    </>
  );
}

function details(data: unknown): string {
  const pairs = Object.entries(data ?? {}).map(([name, value]) => `${name} ${value}`);
  return pairs.length > 0 ? `: ${pairs.join(", ")}` : "";
}

function Steps({ steps }: { steps: Step[] }) {
  if (steps.length === 0) return null;
  return (
    <details className="steps">
      <summary>{steps.length === 1 ? "1 step" : `${steps.length} steps`}</summary>
      <ol>
        {steps.map((step) => (
          <li key={step.id}>
            <span>{step.name}</span>
            <span className="hint figures">
              {step.status === "failed" ? step.error : lasting(step)}
              {step.attempt > 1 && `, attempt ${step.attempt}`}
            </span>
          </li>
        ))}
      </ol>
    </details>
  );
}

function lasting({ startedAt, completedAt }: Step): string {
  if (!startedAt || !completedAt) return "";
  return `${Date.parse(completedAt) - Date.parse(startedAt)} ms`;
}

function Output({ value }: { value: unknown }) {
  return (
    <details className="steps">
      <summary>Output</summary>
      <pre
        className="well"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is reached by the keyboard
        tabIndex={0}
      >
        {JSON.stringify(value, null, 2)}
      </pre>
    </details>
  );
}
