import { afterAll, beforeAll, expect, test } from "vitest";
import { createDurablyClient, DurablyError } from "../../src/client.js";
import { Server } from "../server/server.js";

type Import = { name?: string; rows?: number; hold?: number[]; pause?: number };
type Jobs = {
  "import-csv": { input: Import; output: { count: number } };
  broken: { input: Import; output: { count: number } };
  echo: { input: unknown; output: unknown };
};

let server: Server;
const connect = () => createDurablyClient<Jobs>({ api: server.api });

beforeAll(async () => {
  server = await Server.start();
});
afterAll(() => server.end());

test("a run is triggered, waited for, and read", async () => {
  const client = connect();
  const { runId, output } = await client.triggerAndWait("import-csv", { rows: 2 });
  expect(output).toEqual({ count: 2 });
  const run = await client.run(runId);
  expect(run).toMatchObject({ status: "completed", output: { count: 2 }, completedStepCount: 2 });
  const steps = await client.steps(runId);
  expect(steps.map((step) => step.name)).toEqual(["row-0", "row-1"]);
  const logs = await client.logs(runId);
  expect(logs.map((line) => [line.stepName, line.message])).toEqual([
    ["row-0", "saved"],
    ["row-1", "saved"],
    [null, "no more rows"],
  ]);
});

test.each([[null], [0], [false], [""], [[]], [{}]])("the output %j is an output", async (value) => {
  const { output } = await connect().triggerAndWait("echo", value);
  expect(output).toEqual(value);
});

test("a failed run rejects, and is retried", async () => {
  const client = connect();
  const { runId } = await client.trigger("broken", {});
  const failure = await client.wait(runId).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(DurablyError);
  expect(failure).toMatchObject({ code: "run_failed", message: "row 3 is no number" });
  await server.open("mended");
  await client.retry(runId);
  expect((await client.wait(runId)).output).toEqual({ count: 3 });
});
