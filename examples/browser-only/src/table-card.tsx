import { type LogEntry, useDurably, useJobLogs, useJobRun } from "durably-react";
import { useEffect, useState } from "react";
import { ask, type CleanRun } from "./durably";
import type { Cleaned, Counts, Row, Rows } from "./jobs";
import { Badge, Bar, figure } from "./parts";

const LIMIT = 15;
const SHOWN = { all: "All rows", mended: "Mended", doubtful: "Doubtful" } as const;
type Show = keyof typeof SHOWN;

/** One table: how it was made, and what came out. */
export function TableCard({ runId }: { runId: string }) {
  const run = useRun(runId);
  const { status, progress, output, error } = useJobRun<Cleaned>({ runId });
  const { logs } = useJobLogs({ runId, maxLogs: 50 });
  if (run === undefined || status === null) return null;
  const name = run.input.name;
  return (
    <section className="card table" aria-labelledby="table-title">
      <div className="bar">
        <h2 id="table-title" className="name">
          {name}
        </h2>
        {output ? <Download runId={runId} name={name} /> : <Badge status={status} />}
      </div>
      {!output && <Bar of={name} status={status} progress={progress} />}
      {error && <p className="problem">{error}</p>}
      {output && <Tally counts={output.counts} />}
      {output && <Table runId={runId} output={output} />}
      <Log lines={logs} />
    </section>
  );
}

function useRun(runId: string): CleanRun | undefined {
  const { durably } = useDurably();
  const [run, setRun] = useState<CleanRun>();
  useEffect(() => {
    let isLeft = false;
    durably.run(runId).then((found) => {
      if (!isLeft && found?.jobName === "clean-csv") setRun(found as unknown as CleanRun);
    }, console.warn);
    return () => {
      isLeft = true;
    };
  }, [durably, runId]);
  return run;
}

function Tally({ counts }: { counts: Counts }) {
  const figures: [string, number][] = [
    ["rows", counts.rows],
    ["cells mended", counts.mended],
    ["cells doubtful", counts.doubtful],
    ["duplicates left out", counts.duplicates],
  ];
  return (
    <dl className="tally">
      {figures.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{figure(value)}</dd>
        </div>
      ))}
    </dl>
  );
}

function Table({ runId, output }: { runId: string; output: Cleaned }) {
  const [show, setShow] = useState<Show>("all");
  const [offset, setOffset] = useState(0);
  const page = useRows(runId, offset, show);
  const last = page ? Math.min(offset + LIMIT, page.total) : 0;
  return (
    <>
      <div className="bar">
        <Filters
          chosen={show}
          choose={(chosen) => {
            setShow(chosen);
            setOffset(0);
          }}
        />
        <nav className="pages" aria-label="Rows">
          <span className="figures" id="shown">
            {page && (page.total ? `${figure(offset + 1)}–${figure(last)} of ` : "")}
            {page && figure(page.total)}
          </span>
          <button
            type="button"
            onClick={() => setOffset(offset - LIMIT)}
            disabled={offset === 0}
            aria-label="Rows before"
          >
            ←
          </button>
          <button
            type="button"
            onClick={() => setOffset(offset + LIMIT)}
            disabled={!page || last >= page.total}
            aria-label="Rows after"
          >
            →
          </button>
        </nav>
      </div>
      <section
        className="scroll"
        aria-label="Rows of the table"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is reached by the keyboard
        tabIndex={0}
      >
        <table>
          <thead>
            <tr>
              {output.columns.map(({ name, kind }) => (
                <th key={name} scope="col">
                  {name} <span className="kind">{kind}</span>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {page?.rows.map((row) => (
              <Line key={row.line} row={row} />
            ))}
          </tbody>
        </table>
      </section>
    </>
  );
}

function Line({ row }: { row: Row }) {
  return (
    <tr>
      {row.cells.map((cell, column) => (
        <td key={column} className={row.marks[column] ?? ""}>
          {cell}
          {row.marks[column] && <span className="unseen"> ({row.marks[column]})</span>}
        </td>
      ))}
    </tr>
  );
}

/** The rows before stay until the next ones are there. */
function useRows(table: string, offset: number, show: Show): Rows | undefined {
  const [rows, setRows] = useState<Rows>();
  useEffect(() => {
    let isLeft = false;
    ask("show-rows", { table, offset, limit: LIMIT, show }).then(
      (found) => isLeft || setRows(found),
      console.warn,
    );
    return () => {
      isLeft = true;
    };
  }, [table, offset, show]);
  return rows;
}

function Filters({ chosen, choose }: { chosen: Show; choose: (show: Show) => void }) {
  return (
    <fieldset className="filters">
      <legend className="unseen">Show</legend>
      {(Object.keys(SHOWN) as Show[]).map((show) => (
        <label key={show}>
          <input type="radio" name="show" checked={show === chosen} onChange={() => choose(show)} />
          <span>{SHOWN[show]}</span>
        </label>
      ))}
    </fieldset>
  );
}

function Download({ runId, name }: { runId: string; name: string }) {
  const [isBusy, setBusy] = useState(false);
  const save = async () => {
    setBusy(true);
    try {
      const text = await ask("write-csv", { table: runId });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
      link.download = name.replace(/(\.\w+)?$/, "-clean.csv");
      link.click();
      URL.revokeObjectURL(link.href);
    } finally {
      setBusy(false);
    }
  };
  return (
    <button type="button" onClick={save} disabled={isBusy}>
      Download CSV
    </button>
  );
}

const CLOCK = new Intl.DateTimeFormat("en", { timeStyle: "medium", hourCycle: "h23" });

function Log({ lines }: { lines: readonly LogEntry[] }) {
  if (lines.length === 0) return null;
  return (
    <details className="steps">
      <summary>Log</summary>
      <ol className="well">
        {lines.map(({ id, timestamp, message, data }) => (
          <li key={id}>
            <time dateTime={timestamp}>{CLOCK.format(new Date(timestamp))}</time>
            <span>
              {message} {data ? JSON.stringify(data) : ""}
            </span>
          </li>
        ))}
      </ol>
    </details>
  );
}
