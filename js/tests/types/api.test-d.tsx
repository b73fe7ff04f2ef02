/** What the compiler knows; checked by `tsc`. Nothing here is executed. */

import { expectTypeOf } from "vitest";
import {
  createDurablyClient,
  DurablyProvider,
  defineJob,
  type LogEntry,
  type Progress,
  type Run,
  type RunStatus,
  type TypedClientRun,
  type TypedRun,
  useDurably,
  useJob,
  useJobLogs,
  useJobRun,
  useRunActions,
  useRuns,
} from "../../src/index.js";

interface Input {
  file: string;
}
interface Output {
  count: number;
}
type Jobs = {
  "import-csv": { input: Input; output: Output };
  nightly: { input: Record<string, never>; output: null };
};

const importCsv = defineJob<Input, Output>({ name: "import-csv" });
const api = "/api/durably";

export function useJobTypes() {
  const job = useJob<Input, Output>({ api, jobName: "import-csv", initialRunId: undefined });
  expectTypeOf(job.output).toEqualTypeOf<Output | null>();
  expectTypeOf(job.status).toEqualTypeOf<RunStatus | null>();
  expectTypeOf(job.error).toEqualTypeOf<string | null>();
  expectTypeOf(job.logs).toEqualTypeOf<readonly LogEntry[]>();
  expectTypeOf(job.progress).toEqualTypeOf<Progress | null>();
  expectTypeOf(job.currentRunId).toEqualTypeOf<string | null>();
  expectTypeOf(job.reset).toEqualTypeOf<() => void>();
  expectTypeOf(job.trigger({ file: "a" })).resolves.toHaveProperty("runId");
  expectTypeOf(job.triggerAndWait({ file: "a" }, { concurrencyKey: "k" })).resolves.toEqualTypeOf<{
    runId: string;
    output: Output;
  }>();
  // @ts-expect-error: no such field
  job.trigger({ name: "a" });
  // @ts-expect-error: it takes an input
  job.trigger();
  const provided = useJob(importCsv, { autoResume: true, followLatest: true });
  expectTypeOf(provided.output).toEqualTypeOf<Output | null>();
  const untyped = useJob({ jobName: "any" });
  expectTypeOf(untyped.output).toEqualTypeOf<unknown>();
  untyped.trigger();
  untyped.trigger({ anything: 1 });
}

export function useRunTypes() {
  expectTypeOf(useJobRun<Output>({ runId: null }).output).toEqualTypeOf<Output | null>();
  expectTypeOf(useJobLogs({ api, runId: "r", maxLogs: 100 }).clearLogs).toEqualTypeOf<() => void>();
  type Import = TypedRun<Input, Output, "import-csv">;
  type Sync = TypedClientRun<{ userId: string }, { synced: boolean }, "sync">;
  const { runs } = useRuns<Import | Sync>({ pageSize: 10 });
  for (const run of runs) {
    if (run.jobName === "import-csv") expectTypeOf(run.input).toEqualTypeOf<Input>();
    else expectTypeOf(run.output).toEqualTypeOf<{ synced: boolean } | null>();
  }
  const ofJob = useRuns(importCsv, { api, status: "completed", pageSize: 20 });
  expectTypeOf(ofJob.runs[0]?.output).toEqualTypeOf<Output | null | undefined>();
  expectTypeOf(ofJob.runs[0]?.payload).toEqualTypeOf<Input | undefined>();
  expectTypeOf(useRuns({ api, jobName: "any" }).runs[0]?.output).toEqualTypeOf<unknown>();
  // @ts-expect-error: no such status
  useRuns({ status: "leased" });
  const actions = useRunActions({ api });
  expectTypeOf(actions.retrigger("r")).resolves.toEqualTypeOf<string>();
  expectTypeOf(actions.getRun("r")).resolves.toEqualTypeOf<Run | null>();
}

export function UseClientTypes() {
  const client = createDurablyClient<Jobs>({ api, headers: async () => ({ authorization: "x" }) });
  const job = client["import-csv"].useJob({ followLatest: false });
  expectTypeOf(job.output).toEqualTypeOf<Output | null>();
  expectTypeOf(client["import-csv"].useRun("r").output).toEqualTypeOf<Output | null>();
  expectTypeOf(client.nightly.useLogs("r", { maxLogs: 5 }).logs).toEqualTypeOf<
    readonly LogEntry[]
  >();
  client["import-csv"].useRun("r", { onStart: () => {}, onComplete: undefined });
  expectTypeOf(
    client["import-csv"].useJob({ onFail: () => {} }).isTerminal,
  ).toEqualTypeOf<boolean>();
  expectTypeOf(useJobRun({ runId: null, onComplete: () => {} }).isActive).toEqualTypeOf<boolean>();
  expectTypeOf(client.useRuns({ pageSize: 5 }).runs).toEqualTypeOf<Run[]>();
  expectTypeOf(client.useRuns(importCsv).runs[0]?.output).toEqualTypeOf<
    Output | null | undefined
  >();
  expectTypeOf(client.useRunActions().retry("r")).resolves.toEqualTypeOf<void>();
  // @ts-expect-error: it has a client already
  client.useRuns({ api });
  client.nightly.useJob().trigger();
  client.trigger("nightly");
  client.trigger("import-csv", { file: "a" }, { idempotencyKey: "k", labels: { a: "b" } });
  // @ts-expect-error: no such job
  client.trigger("import");
  // @ts-expect-error: no such job
  client.imports.useJob();
  // @ts-expect-error: no such field
  client.trigger("import-csv", { name: "a" });
  expectTypeOf(client.triggerAndWait("import-csv", { file: "a" })).resolves.toHaveProperty(
    "output",
  );

  const named = createDurablyClient({ api, jobs: { importCsv } });
  expectTypeOf(named.importCsv.useJob().output).toEqualTypeOf<Output | null>();
  // @ts-expect-error: no such field
  named.importCsv.useJob().trigger({ name: "a" });

  expectTypeOf(named.useRuns().runs).toEqualTypeOf<Run[]>();

  const untyped = createDurablyClient({ api });
  expectTypeOf(untyped.useRunActions().isLoading).toEqualTypeOf<boolean>();
  expectTypeOf(untyped["import-csv"]?.useJob().output).toEqualTypeOf<unknown>();
  untyped.trigger("any", [1, 2]);
  expectTypeOf(useDurably().durably.run("r")).resolves.toEqualTypeOf<Run | null>();
  return (
    <>
      <DurablyProvider durably={client}>…</DurablyProvider>
      <DurablyProvider durably={Promise.resolve(named)} fallback="…" />
    </>
  );
}
