import { useEffect, useState } from "react";
import { durably } from "./durably";
import { FollowedRun, JobCard, useStart } from "./job-card";
import { Drop, figure } from "./parts";
import { sampleContacts } from "./samples";
import { patiently, upload } from "./upload";

/** Contacts from a CSV file. After a reload, or started in another tab: the card shows the latest import. */
export function ImportCard() {
  const { trigger, currentRunId, ...result } = durably["import-csv"].useJob();
  const { begin, ...starting } = useStart(async (file: File) => {
    const input = await upload(file);
    const idempotencyKey = crypto.randomUUID();
    await patiently(() => trigger(input, { idempotencyKey }));
  });
  const count = useContacts();
  return (
    <JobCard
      title="Contacts"
      hint={
        count === null ? (
          " "
        ) : (
          <>
            <b id="contacts">{figure(count)}</b> in the table
          </>
        )
      }
      {...starting}
      starter={
        <>
          <Drop
            label={
              <span>
                <b>Choose a CSV file</b> or drop it here
                <br />
                <small>columns email, name, company</small>
              </span>
            }
            accept=".csv,text/csv"
            onFiles={([file]) => file && begin(file)}
          />
          <button type="button" onClick={() => begin(sampleContacts())}>
            Import 5,000 made-up rows
          </button>
        </>
      }
      run={
        currentRunId && (
          <FollowedRun runId={currentRunId} result={result} unit="rows">
            {result.output && (
              <p className="outcome">
                <b>{figure(result.output.saved)}</b> saved, <b>{figure(result.output.left_out)}</b>{" "}
                left out
              </p>
            )}
          </FollowedRun>
        )
      }
    />
  );
}

const COUNT_EACH = 200; // milliseconds

/** How many contacts there are: counted at first, after each batch, and when the server was away. */
function useContacts(): number | null {
  const [count, setCount] = useState<number | null>(null);
  useEffect(() => {
    const leaving = new AbortController();
    const { signal } = leaving;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const recount = async () => {
      timer = undefined;
      const response = await fetch("/api/contacts", { signal });
      setCount((await response.json()).count);
    };
    const listen = async () => {
      for await (const { type } of durably.subscribeRuns({ jobName: "import-csv" }, { signal })) {
        if (type !== "runs:resync" && type !== "step:complete") continue;
        timer ??= setTimeout(() => recount().catch(() => {}), COUNT_EACH);
      }
    };
    listen().catch(() => {}); // the page was left
    return () => {
      leaving.abort();
      clearTimeout(timer);
    };
  }, []);
  return count;
}
