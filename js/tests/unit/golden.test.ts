/** The golden files of the wire, which the server's tests read too. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { RunFilter } from "../../src/core/api.js";
import { DurablyClient } from "../../src/core/client.js";
import { isFinal, type ListEvent, type Run, type RunEvent } from "../../src/core/protocol.js";
import { reduce } from "../../src/core/reduce.js";
import { FrameParser } from "../../src/core/sse.js";
import { HttpTransport } from "../../src/core/transport.js";
import { ScriptedServer } from "./scripted.js";

function golden<T>(name: string): Record<string, T> {
  const path = join(import.meta.dirname, "../../../tests/wire", `${name}.json`);
  return JSON.parse(readFileSync(path, "utf8"));
}

test("frames", () => {
  const frames = golden<string>("frames");
  const read = (name: string) => new FrameParser().push(frames[name] ?? "")[0];
  expect(read("come back")).toEqual({ data: "", id: null, retry: 1000 });
  expect(read("stay away")?.retry).toBe(86_400_000);
  expect(read("ping")).toEqual({ data: "", id: null, retry: null });
  expect(read("kept")?.id).toBe("17");
  const events = golden<RunEvent>("events");
  expect(JSON.parse(read("kept")?.data ?? "")).toEqual(events["step:complete"]);
  expect(JSON.parse(read("live")?.data ?? "")).toEqual(events["run:progress"]);
});

const AFTER: Record<string, Partial<Run>> = {
  "run:trigger": { status: "pending", isActive: true },
  "run:start": { status: "running", isActive: true },
  "run:wait": { status: "waiting", isActive: true },
  "run:release": { status: "pending" },
  "run:retry": { status: "pending", error: null, completedAt: null },
  "run:complete": { status: "completed", isTerminal: true },
  "run:fail": { status: "failed", isTerminal: true },
  "run:cancel": { status: "cancelled", isTerminal: true },
  "run:progress": { progress: { current: 1, total: 2, message: "half" } },
  "step:complete": { completedStepCount: 2, currentStepIndex: 2 },
};

test.each(["events", "list_events"])("%s change a run", (file) => {
  const runs = golden<Run>("runs");
  const before = runs.running as Run;
  for (const [name, event] of Object.entries(golden<RunEvent | ListEvent>(file))) {
    const after = reduce(before, event);
    const known = AFTER[name];
    if (known) expect(after, name).toMatchObject({ ...known, updatedAt: event.timestamp });
    else if (!name.includes(" ") && !name.includes(",")) expect(after, name).toBe(before);
  }
});

test("an end brings its output or its error, where they are told", () => {
  const before = golden<Run>("runs").running as Run;
  const events = golden<RunEvent & ListEvent>("events");
  const reduced = golden<ListEvent>("list_events");
  const completed = events["run:complete"] as Extract<RunEvent, { type: "run:complete" }>;
  const failed = events["run:fail"] as Extract<RunEvent, { type: "run:fail" }>;
  expect(reduce(before, completed).output).toEqual(completed.output);
  expect(reduce(before, failed)).toMatchObject({
    error: failed.error,
    errorType: failed.errorType,
    failedStepName: failed.failedStepName,
  });
  for (const name of ["run:complete", "run:fail"]) {
    const after = reduce({ ...before, output: "kept" }, reduced[name] as ListEvent);
    expect(after.output).toBe("kept");
  }
});

test("runs say of themselves whether they are over", () => {
  for (const run of Object.values(golden<Run>("runs")))
    expect(isFinal(run.status)).toBe(run.isTerminal);
});

test("triggers and queries are sent as the server reads them", async () => {
  const server = await ScriptedServer.start();
  server.on("/trigger", () => ({ runId: "r", disposition: "created" })).on("/runs", () => []);
  const client = new DurablyClient(new HttpTransport({ api: server.api }));
  type Body = { jobName: string; input: unknown };
  for (const body of Object.values(golden<Body>("trigger_requests"))) {
    const { jobName, input, ...options } = body;
    await client.trigger(jobName, input, options);
    expect(server.asked.at(-1)?.body).toEqual(body);
  }
  const { none, all } = golden<[string, string][]>("queries");
  await client.runs();
  expect([...(server.asked.at(-1)?.query ?? [])]).toEqual(none);
  const filter: RunFilter = {
    jobName: ["a", "b"],
    status: ["pending", "running"],
    labels: { org: "o 1", größe: "&=" },
    limit: 20,
    offset: 40,
    cursor: "c",
  };
  await client.runs(filter);
  expect([...(server.asked.at(-1)?.query ?? [])].sort()).toEqual(all?.sort());
});
