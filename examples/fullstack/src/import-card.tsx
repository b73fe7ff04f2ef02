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
  const count = useContacts(`${currentRunId} ${result.progress?.current} ${result.status}`);
  return (
    <JobCard
      title="Contacts"
      hint={count === null ? " " : <><b id="contacts">{figure(count)}</b> in the table</>}
      {...starting}
      starter={
        <>
          <Drop
            label={<span><b>Choose a CSV file</b> or drop it here</span>}
            accept=".csv,text/csv"
            onFiles={([file]) => file && begin(file)}
          />
          <button type="button" onClick={() => begin(sampleContacts())}>
            Import 5,000 made-up rows
          </button>
        </>
      }
      run={currentRunId && (
        <FollowedRun runId={currentRunId} result={result} unit="rows">
          {result.output && (
            <p className="outcome">
              <b>{figure(result.output.saved)}</b> saved, <b>{figure(result.output.left_out)}</b> left out
            </p>
          )}
        </FollowedRun>
      )}
    />
  );
}

/** How many contacts there are, counted again whenever `version` changes. */
function useContacts(version: string): number | null {
  const [count, setCount] = useState<number | null>(null);
  // biome-ignore lint/correctness/useExhaustiveDependencies: counted again for each version
  useEffect(() => {
    const leaving = new AbortController();
    fetch("/api/contacts", { signal: leaving.signal })
      .then((response) => response.json())
      .then((told) => setCount(told.count))
      .catch(() => {}); // away: the next version asks again
    return () => leaving.abort();
  }, [version]);
  return count;
}
