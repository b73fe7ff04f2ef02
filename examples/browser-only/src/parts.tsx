/** The small parts that others are made of. */

import type { Progress, RunStatus } from "durably-react";
import type { ReactNode } from "react";

const NUMBER = new Intl.NumberFormat("en");
const MOMENT = new Intl.DateTimeFormat("en", {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
});

export function Header({ state, told }: { state: string; told: string }) {
  return (
    <header data-state={state}>
      <svg viewBox="0 0 32 32" aria-hidden="true" className="mark">
        <rect width="32" height="32" rx="9" />
        <path d="M9 10h14M9 16h9M9 22h5" />
        <circle cx="22" cy="21" r="3.2" />
      </svg>
      <div>
        <h1>Durably, in your browser</h1>
        <p className="hint">Python, its jobs and its database are in this page. No server.</p>
      </div>
      <p role="status" id="situation">
        {told}
      </p>
    </header>
  );
}

export const figure = (value: number) => NUMBER.format(value);

export function isActive(status: RunStatus | null): boolean {
  return status === "pending" || status === "running" || status === "waiting";
}

export function Badge({ status }: { status: RunStatus }) {
  return (
    <span className="badge" data-status={status}>
      {status}
    </span>
  );
}

/** How far a run is. It is full once the run is completed. */
export function Bar({
  of,
  status,
  progress,
}: {
  of: string;
  status: RunStatus;
  progress: Progress | null;
}) {
  const { current = 0, total = 1 } = progress ?? {};
  const value = status === "completed" ? total : current;
  return (
    <progress aria-label={`Progress of ${of}`} data-status={status} max={total} value={value} />
  );
}

export function Moment({ at }: { at: string }) {
  return <time dateTime={at}>{MOMENT.format(new Date(at))}</time>;
}

/** A place for files: to drop them on, or to choose them. */
export function Drop(props: {
  label: ReactNode;
  accept: string;
  multiple?: boolean;
  onFiles: (files: File[]) => void;
}) {
  const { label, accept, multiple = false, onFiles } = props;
  return (
    <label className="drop">
      <input
        type="file"
        accept={accept}
        multiple={multiple}
        onChange={({ target }) => {
          const files = [...(target.files ?? [])];
          target.value = "";
          if (files.length > 0) onFiles(files);
        }}
      />
      {label}
    </label>
  );
}
