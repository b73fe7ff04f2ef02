import { useJob } from "durably-react";
import { useState } from "react";
import { cleanCsv } from "./durably";
import { Badge, Bar, Drop, figure } from "./parts";
import { sample } from "./samples";
import { keep } from "./upload";

/** Takes a file. After a reload, or begun in another tab: the card shows the run that goes on. */
export function CleanCard() {
  const { trigger, currentRunId, status, progress, output, error } = useJob(cleanCsv);
  const [isSlow, setSlow] = useState(true);
  const { begin, taken, problem } = useStart(async (file, told) => {
    const input = { name: file.name, file: await keep(file, told), pause: isSlow ? 0.3 : 0 };
    await trigger(input);
    location.hash = "";
  });
  return (
    <section className="card job">
      <h2>Clean a table</h2>
      <p className="hint">
        Dates, numbers and addresses are written in one way, and nobody is in it twice.
      </p>
      <div className="starter">
        <Drop
          label={
            <span>
              <b>Choose a CSV file</b> or drop it here
              <br />
              <small>it stays in this browser</small>
            </span>
          }
          accept=".csv,.tsv,.txt,text/csv"
          onFiles={([file]) => file && begin(file)}
        />
        <button type="button" onClick={() => begin(sample())}>
          Take 10,000 made-up rows
        </button>
        <label className="check">
          <input
            type="checkbox"
            checked={isSlow}
            onChange={({ target }) => setSlow(target.checked)}
          />
          Slowly, so that there is time to close the tab in the middle
        </label>
      </div>
      <p role="status" className="hint">
        {taken !== null && `Taking the file… ${Math.round(taken * 100)} %`}
      </p>
      {problem && (
        <p role="alert" className="problem">
          {problem}
        </p>
      )}
      {currentRunId && status && (
        <div className="followed" data-status={status}>
          <p className="line">
            <b>The latest run</b>
            <Badge status={status} />
          </p>
          <Bar of="the latest run" status={status} progress={progress} />
          <p className="hint figures" id="rows">
            {progress
              ? `${figure(progress.current)} of ${figure(progress.total ?? 0)} rows`
              : status === "pending" && "waiting for its turn"}
          </p>
          {error && <p className="problem">{error}</p>}
          {output && (
            <p className="outcome">
              <b>{figure(output.counts.rows)}</b> rows, <b>{figure(output.counts.mended)}</b> cells
              mended, <b>{figure(output.counts.duplicates)}</b>{" "}
              {output.counts.duplicates === 1 ? "duplicate" : "duplicates"} left out
            </p>
          )}
        </div>
      )}
    </section>
  );
}

/** Starts with a file; tells how much of it is taken, and what hinders it. */
function useStart(start: (file: File, told: (share: number) => void) => Promise<void>) {
  const [taken, setTaken] = useState<number | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const begin = async (file: File) => {
    setTaken(0);
    setProblem(null);
    try {
      await start(file, setTaken);
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    } finally {
      setTaken(null);
    }
  };
  return { begin, taken, problem };
}
