import { beforeEach, expect, test, vi } from "vitest";
import { createDurablyClient } from "../../src/client.js";
import { DurablyClient } from "../../src/core/client.js";
import type { ListEvent, Resync, RunEvent } from "../../src/core/protocol.js";
import { FrameParser } from "../../src/core/sse.js";
import type { Transport } from "../../src/core/transport.js";
import { anEvent, aRun, OpenStream, refuse, ScriptedServer } from "./scripted.js";

const NEVER = 86_400_000;

let server: ScriptedServer;
let client: DurablyClient;

beforeEach(async () => {
  server = await ScriptedServer.start();
  server.on("/logs", () => []);
  // Who comes back need not wait: chance gives no pause.
  vi.spyOn(Math, "random").mockReturnValue(0);
  client = createDurablyClient({ api: server.api });
});

/** The n-th stream, once it is open. */
async function stream(index: number) {
  await expect.poll(() => server.streams.length).toBeGreaterThan(index);
  return server.streams[index] as (typeof server.streams)[number];
}

function watched(runId: string) {
  const store = client.watchRun(runId);
  const leave = store.subscribe(() => {});
  return { now: () => store.getSnapshot(), run: () => store.getSnapshot().run, leave };
}

const log = (sequence: number | null, message: string) =>
  anEvent("log:write", "r", sequence, { stepName: "s", level: "info", message, data: null });

test("all who watch a run share one stream, which is closed when the last has left", async () => {
  server.on("/run", () => aRun("r", "running"));
  const [one, two, three] = [watched("r"), watched("r"), watched("r")];
  await expect
    .poll(() => [one, two, three].map(({ run }) => run().status))
    .toEqual(Array(3).fill("running"));
  expect(server.count("/subscribe")).toBe(1);
  one.leave();
  two.leave();
  two.leave();
  (await stream(0)).tell(anEvent("run:progress", "r", null, { progress: { current: 1 } }));
  await expect.poll(() => three.run().progress).toEqual({ current: 1 });
  expect(server.open).toHaveLength(1);
  three.leave();
  await expect.poll(() => server.open).toEqual([]);
});

test("who leaves and comes back at once keeps the stream", async () => {
  server.on("/run", () => aRun("r", "running"));
  watched("r").leave();
  const back = watched("r");
  await expect.poll(() => back.run().status).toBe("running");
  expect(server.count("/subscribe")).toBe(1);
  back.leave();
});

test("a new run is followed by its journal alone", async () => {
  server.on("/trigger", () => ({ runId: "r", disposition: "created" }));
  const waiting = client.triggerAndWait("job", {});
  const { asked, tell } = boundStream(await stream(0));
  expect(asked.headers["last-event-id"]).toBe("0");
  tell(anEvent("run:trigger", "r", 1), 1);
  tell(anEvent("run:start", "r", 2), 2);
  tell(anEvent("run:complete", "r", 3, { output: 0, duration: 1 }), 3, NEVER);
  expect(await waiting).toEqual({ runId: "r", output: 0 });
  expect(server.asked.map(({ path }) => path)).toEqual(["/trigger", "/subscribe"]);
});

function boundStream(opened: Awaited<ReturnType<typeof stream>>) {
  return { asked: opened.asked, tell: opened.tell.bind(opened) };
}

test("a run that an idempotency key already had is asked for", async () => {
  server.on("/trigger", () => ({ runId: "r", disposition: "idempotent" }));
  server.on("/run", () => aRun("r", "completed", { output: false }));
  const options = { idempotencyKey: "k", concurrencyKey: "c", labels: { a: "b" } };
  const { output } = await client.triggerAndWait("job", { x: 1 }, options);
  expect(output).toBe(false);
  expect(server.asked[0]?.body).toEqual({ jobName: "job", input: { x: 1 }, ...options });
});

test("a cut stream goes on after the last id, and nothing is told twice", async () => {
  server.on("/run", () => aRun("r", "running"));
  const { now, run, leave } = watched("r");
  const first = await stream(0);
  first.send("retry: 1\n\n");
  first.tell(anEvent("run:start", "r", 4), 4);
  first.tell(log(5, "five"), 5);
  first.tell(log(null, "live"));
  await expect.poll(() => now().logs.length).toBe(2);
  first.end("cut");
  const second = await stream(1);
  expect(second.asked.headers["last-event-id"]).toBe("5");
  second.tell(log(5, "five"), 5);
  second.tell(log(6, "six"), 6);
  second.tell(anEvent("run:complete", "r", 7, { output: 1, duration: 1 }), 7, NEVER);
  second.end();
  await expect.poll(() => run().status).toBe("completed");
  expect(now().logs.map(({ id, message }) => [id, message])).toEqual([
    ["r:5", "five"],
    ["r:live-0", "live"],
    ["r:6", "six"],
  ]);
  expect(server.count("/run")).toBe(1);
  leave();
});

test("a server that is away is asked again; one that refuses is not", async () => {
  let answers = 0;
  server.on("/subscribe", () => refuse(++answers < 4 ? 503 : 404, "away"));
  const { now, leave } = watched("r");
  await expect.poll(() => now().problem).toMatchObject({ status: 404 });
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(answers).toBe(4);
  leave();
});

test("the pause before coming back grows with failures, up to what chance says", async () => {
  const chance = vi.mocked(Math.random);
  chance.mockReturnValue(0.001);
  server.on("/run", () => aRun("r", "running"));
  const pauses = vi.spyOn(globalThis, "setTimeout");
  const first = watched("r");
  const opened = await stream(0);
  server.on("/subscribe", () => refuse(503, "away"));
  opened.send("retry: 4000\n\n");
  opened.end();
  await expect.poll(() => server.count("/subscribe")).toBeGreaterThan(3);
  const delays = pauses.mock.calls.map(([, delay]) => delay);
  for (const delay of [4, 8, 16]) expect(delays).toContain(delay);
  first.leave();
});

test("a final event closes for good, though the server leaves the stream open", async () => {
  server.on("/run", () => aRun("r", "running"));
  const { run, leave } = watched("r");
  const only = await stream(0);
  only.tell(
    anEvent("run:fail", "r", 3, { error: "no", errorType: null, failedStepName: null }),
    3,
    NEVER,
  );
  await expect.poll(() => run().error).toBe("no");
  await expect.poll(() => only.isOpen).toBe(false);
  expect(server.streams).toHaveLength(1);
  leave();
});

test("a run that was retried while nobody listened is followed on", async () => {
  server.on("/run", () => aRun("r", "running"));
  const { run, leave } = watched("r");
  const first = await stream(0);
  first.send("retry: 1\n\n");
  first.tell(anEvent("run:start", "r", 1), 1);
  await expect.poll(() => run().status).toBe("running");
  first.end("cut");
  const second = await stream(1);
  const failure = { error: "no", errorType: null, failedStepName: null };
  second.tell(anEvent("run:fail", "r", 2, failure), 2, NEVER);
  await expect.poll(() => run().status).toBe("failed");
  second.tell(anEvent("run:retry", "r", 3), 3);
  await expect.poll(() => run()).toMatchObject({ status: "pending", error: null });
  second.end("cut");
  expect((await stream(2)).asked.headers["last-event-id"]).toBe("3");
  leave();
});

test("an answer that is older than what was heard changes nothing", async () => {
  let answer: (run: unknown) => void = () => {};
  server.on("/run", () => new Promise((resolve) => (answer = resolve)));
  const { run, leave } = watched("r");
  const only = await stream(0);
  await expect.poll(() => server.count("/run")).toBe(1);
  only.tell(anEvent("run:start", "r", 2), 2);
  only.tell(anEvent("run:progress", "r", null, { progress: { current: 2 } }));
  await expect.poll(() => run().progress).toEqual({ current: 2 });
  answer(aRun("r", "pending", { labels: { a: "b" }, progress: { current: 1 } }));
  await expect.poll(() => run().labels).toEqual({ a: "b" });
  expect(run()).toMatchObject({ status: "running", progress: { current: 2 } });
  leave();
});

test.each([true, false])("kept log lines come first, each once; read first: %s", async (first) => {
  const kept = (sequence: number) => ({ id: `r:${sequence}`, runId: "r", message: `${sequence}` });
  server.on("/run", () => aRun("r", "running")).on("/logs", () => [kept(1), kept(2)]);
  const { now, leave } = watched("r");
  const only = await stream(0);
  if (first) await expect.poll(() => now().logs.length).toBe(2);
  only.tell(log(2, "2"), 2);
  only.tell(log(3, "3"), 3);
  await expect.poll(() => now().logs.map(({ id }) => id)).toEqual(["r:1", "r:2", "r:3"]);
  leave();
});

test.each(["before", "after"])(
  "log lines that open a stream, %s the start, come once",
  async (when) => {
    const line = ({ sequence, message }: { sequence: number; message: string }) => ({
      id: `r:${sequence}`,
      runId: "r",
      message,
    });
    const kept = [1, 2].map((sequence) => ({ sequence, message: `${sequence}` }));
    server.on("/run", () => aRun("r", "running")).on("/logs", () => kept.map(line));
    const { now, leave } = watched("r");
    const only = await stream(0);
    const start = anEvent("run:start", "r", 2);
    if (when === "after") only.tell(start, 2);
    for (const { sequence, message } of kept) only.tell(log(sequence, message), 2);
    if (when === "before") only.tell(start, 2);
    only.tell(log(3, "3"), 3);
    await expect.poll(() => now().logs.map(({ id }) => id)).toEqual(["r:1", "r:2", "r:3"]);
    await expect.poll(() => now().run.status).toBe("running");
    leave();
  },
);

test("what a newer server tells is passed over", async () => {
  server.on("/run", () => aRun("r", "pending")).on("/runs", () => [aRun("r", "pending")]);
  const run = watched("r");
  const list = client.watchRuns({ jobName: "job", labels: { x: "1" } });
  const leave = list.subscribe(() => {});
  await expect.poll(() => server.streams.length).toBe(2);
  await expect
    .poll(() => [run.run().status, list.getSnapshot().runs.length])
    .toEqual(["pending", 1]);
  for (const only of server.streams) {
    only.tell({ type: "worker:error", message: "?" });
    only.tell({ type: "run:nap", runId: "r" }, 3);
    only.send("data: null\n\ndata: 3\n\ndata: []\n\ndata: {}\n\ndata: no json\n\n");
    only.tell({ ...anEvent("run:nap", "r", 4), more: [1] }, 4);
    only.tell({ ...anEvent("run:start", "r", 5), labels: { x: "1" } }, 5);
    only.tell(anEvent("run:wait", "r", 2), 2); // known: the numbers are still counted
  }
  await expect.poll(() => run.run().status).toBe("running");
  await expect.poll(() => list.getSnapshot().runs[0]?.status).toBe("running");
  expect(server.streams).toHaveLength(2);
  run.leave();
  leave();
});

test.each([1, 2, 3, 4, 5])("headers that fail once, at call %i, end nothing", async (bad) => {
  server.on("/run", () => aRun("r", "running")).on("/runs", () => [aRun("r", "running")]);
  let calls = 0;
  const headers = async () => {
    if (++calls === bad) throw new Error("no token yet");
    return { authorization: "Bearer 1" };
  };
  client = createDurablyClient({ api: server.api, headers });
  const run = watched("r");
  const list = client.watchRuns();
  const leave = list.subscribe(() => {});
  await expect.poll(() => run.run().status).toBe("running");
  await expect.poll(() => list.getSnapshot()).toMatchObject({ error: null, runs: [{ id: "r" }] });
  expect(run.now().problem).toBe(null);
  run.leave();
  leave();
});

test("a list whose stream is refused once says so, and is live again", async () => {
  server.on("/runs", () => [aRun("r", "running")]);
  let answers = 0;
  let accept = () => {};
  const accepted = new Promise<void>((resolve) => {
    accept = resolve;
  });
  server.on("/runs/subscribe", async (asked, response) => {
    if (++answers === 1) return refuse(401, "not_authenticated");
    await accepted;
    server.streams.push(new OpenStream(asked, response));
    return undefined;
  });
  const list = client.watchRuns();
  const leave = list.subscribe(() => {});
  const heard: string[] = [];
  const leaveToo = client.follow({}, { resync: () => heard.push("resync"), heard: () => {} });
  await expect
    .poll(() => list.getSnapshot())
    .toMatchObject({ error: "this is not_authenticated", isLoading: false, runs: [{ id: "r" }] });
  accept();
  await expect.poll(() => list.getSnapshot().error).toBe(null);
  expect(heard).toEqual(["resync"]);
  (await stream(0)).tell(anEvent("run:progress", "r", null, { progress: { current: 1 } }));
  await expect.poll(() => list.getSnapshot().runs[0]?.progress).toEqual({ current: 1 });
  leave();
  leaveToo();
});

test.each([401, 403])(
  "a run whose stream is refused with %d is not asked for again",
  async (status) => {
    let isAllowed = true;
    server.on("/run", () => aRun("r", "running"));
    const known = watched("r");
    await expect.poll(() => known.run().status).toBe("running");
    for (const path of ["/subscribe", "/runs/subscribe"])
      server.on(path, () => (isAllowed ? undefined : refuse(status, "not_allowed")));
    isAllowed = false;
    (await stream(0)).end(); // its rights are gone: who comes back is refused
    await expect.poll(() => known.now().problem?.status).toBe(status);
    const other = watched("r2"); // without a stream from the start
    await expect.poll(() => other.now().problem?.status).toBe(status);
    const asked = server.count("/subscribe");
    isAllowed = true;
    for (let round = 0; round < 5; round++) await client.run("r"); // what would come back, had come by now
    expect(server.count("/subscribe")).toBe(asked);
    expect(known.now()).toMatchObject({ run: { status: "running" }, problem: { status } });
    known.leave();
    other.leave();
  },
);

test("a listener that throws keeps nothing from the others", async () => {
  server.on("/run", () => aRun("r", "running"));
  const thrown = new Promise((resolve) => process.once("uncaughtException", resolve));
  const others = process.listeners("uncaughtException").slice(0, -1);
  for (const other of others) process.off("uncaughtException", other);
  const store = client.watchRun("r");
  let calls = 0;
  const leave = [
    store.subscribe(() => {
      if (calls === 0) throw new Error("mine");
    }),
    store.subscribe(() => calls++),
  ];
  await expect.poll(() => calls).toBeGreaterThan(0);
  expect(await thrown).toMatchObject({ message: "mine" });
  for (const other of others) process.on("uncaughtException", other);
  for (const one of leave) one();
});

test("more runs than streams: the others are followed by the lists' stream", async () => {
  const runs = new Map(["a", "b", "c"].map((id) => [id, aRun(id, "running")]));
  server.on("/run", ({ query }) => runs.get(query.get("runId") ?? ""));
  const [a, b, c] = ["a", "b", "c"].map(watched) as [
    ReturnType<typeof watched>,
    ReturnType<typeof watched>,
    ReturnType<typeof watched>,
  ];
  await expect
    .poll(() => [a, b, c].map(({ run }) => run().status))
    .toEqual(Array(3).fill("running"));
  await expect
    .poll(() => [server.count("/subscribe"), server.count("/runs/subscribe")])
    .toEqual([1, 1]);
  const list = server.streams.find(({ asked }) => asked.path === "/runs/subscribe");
  expect(list?.asked.query.getAll("jobName")).toEqual(["job"]);
  list?.tell(anEvent("run:progress", "b", null, { progress: { current: 7 } }));
  await expect.poll(() => b.run().progress).toEqual({ current: 7 });
  runs.set("c", aRun("c", "completed", { output: "done" }));
  list?.tell(anEvent("run:complete", "c", 9));
  await expect.poll(() => c.run()).toMatchObject({ status: "completed", output: "done" });
  for (const { leave } of [a, b, c]) leave();
  await expect.poll(() => server.open).toEqual([]);
});

test("where lists are refused, every run has a stream", async () => {
  server.on("/run", ({ query }) => aRun(query.get("runId") ?? "", "running"));
  server.on("/runs/subscribe", () => refuse(403, "not_allowed"));
  const both = ["a", "b"].map(watched);
  await expect.poll(() => server.count("/subscribe")).toBe(2);
  for (const { leave } of both) leave();
});

test("lists share a stream as wide as the widest", async () => {
  server.on("/runs", () => []);
  const heard: string[][] = [];
  const leave = [{ jobNames: ["a"] }, { jobNames: ["b"], labels: { x: "1" } }].map(
    (scope, index) => {
      heard[index] = [];
      return client.follow(scope, {
        resync: () => heard[index]?.push("resync"),
        heard: (events) => heard[index]?.push(...events.map(({ runId }) => runId)),
      });
    },
  );
  const only = await stream(0);
  expect(only.asked.query.getAll("jobName")).toEqual(["a", "b"]);
  only.tell({ ...anEvent("run:trigger", "1", 1), jobName: "a" });
  only.tell({ ...anEvent("run:trigger", "2", 1), jobName: "b" });
  only.tell({ ...anEvent("run:trigger", "3", 1), jobName: "b", labels: { x: "1", y: "2" } });
  await expect
    .poll(() => heard)
    .toEqual([
      ["resync", "1"],
      ["resync", "3"],
    ]);
  const third = client.follow({}, { resync: () => {}, heard: () => {} });
  expect([...(await stream(1)).asked.query]).toEqual([]);
  await expect.poll(() => only.isOpen).toBe(false);
  await expect
    .poll(() => heard)
    .toEqual([
      ["resync", "1", "resync"],
      ["resync", "3", "resync"],
    ]);
  for (const go of [...leave, third]) go();
  await expect.poll(() => server.open).toEqual([]);
});

test("a list is patched by events, and read again when rows come or go", async () => {
  let runs = [aRun("b", "running"), aRun("a", "completed", { output: 1 })];
  server.on("/runs", () => runs);
  const store = client.watchRuns({ limit: 2 });
  const leave = store.subscribe(() => {});
  const rows = () =>
    store.getSnapshot().runs.map(({ id, status, progress }) => [id, status, progress?.current]);
  await expect.poll(rows).toEqual([
    ["b", "running", undefined],
    ["a", "completed", undefined],
  ]);
  const only = await stream(0);
  await expect.poll(() => server.count("/runs")).toBe(2); // at first, and once connected
  only.tell(anEvent("run:progress", "b", null, { progress: { current: 3 } }));
  await expect.poll(rows).toEqual([
    ["b", "running", 3],
    ["a", "completed", undefined],
  ]);
  expect(server.count("/runs")).toBe(2);
  runs = [aRun("c", "pending"), aRun("b", "running", { progress: { current: 3 } })];
  for (let n = 0; n < 50; n++) only.tell(anEvent("run:trigger", "c", 1));
  await expect.poll(rows).toEqual([
    ["c", "pending", undefined],
    ["b", "running", 3],
  ]);
  expect(server.count("/runs")).toBeLessThan(6);
  only.send('id: 0\ndata: {"type":"runs:resync"}\n\n');
  runs = [];
  await expect.poll(rows).toEqual([]);
  leave();
});

test("a list's answer that is older than what was heard takes nothing back", async () => {
  const answers: ((runs: unknown) => void)[] = [];
  server.on("/runs", () => new Promise((resolve) => void answers.push(resolve)));
  const store = client.watchRuns();
  const leave = store.subscribe(() => {});
  const status = () => store.getSnapshot().runs[0]?.status;
  const only = await stream(0);
  answers[0]?.([aRun("a", "pending")]);
  await expect.poll(status).toBe("pending");
  await expect.poll(() => answers.length).toBe(2);
  only.tell(anEvent("run:start", "a", 2));
  await expect.poll(status).toBe("running");
  answers[1]?.([aRun("a", "pending")]);
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(status()).toBe("running");
  leave();
});

test("events are iterated until the run is over", async () => {
  const events: RunEvent[] = [];
  const reading = (async () => {
    for await (const event of client.subscribe("r", { after: 1 })) events.push(event);
  })();
  const first = await stream(0);
  expect(first.asked.headers["last-event-id"]).toBe("1");
  first.send("retry: 1\n\n");
  first.tell(anEvent("run:start", "r", 2), 2);
  await expect.poll(() => events.length).toBe(1);
  first.end("cut");
  (await stream(1)).tell(anEvent("run:cancel", "r", 3), 3, NEVER);
  await reading;
  expect(events.map(({ type }) => type)).toEqual(["run:start", "run:cancel"]);
  await expect.poll(() => server.open).toEqual([]);
});

test("iterating is left by break, by a signal, and by a refusal", async () => {
  const heard: (ListEvent | Resync)["type"][] = [];
  for await (const event of client.subscribeRuns({ jobName: "job" })) {
    heard.push(event.type);
    break;
  }
  expect(heard).toEqual(["runs:resync"]);
  await expect.poll(() => server.open).toEqual([]);
  const leaving = new AbortController();
  const reading = (async () => {
    for await (const _ of client.subscribeRuns({}, { signal: leaving.signal })) leaving.abort();
  })();
  await expect(reading).rejects.toThrow(/abort/i);
  server.on("/subscribe", () => refuse(404, "run_not_found"));
  const refused = (async () => {
    for await (const _ of client.subscribe("r")) expect.unreachable();
  })();
  await expect(refused).rejects.toMatchObject({ code: "run_not_found" });
});

test("waiting ends with a signal, a failure, a cancellation, an unknown run", async () => {
  server.on("/run", () => aRun("r", "running"));
  const waiting = client.wait("r", { signal: AbortSignal.timeout(50) });
  await expect(waiting).rejects.toThrow(/timeout/i);
  await expect.poll(() => server.open).toEqual([]);
  const failing = client.wait("r");
  (await stream(1)).tell(anEvent("run:cancel", "r", 3), 3, NEVER);
  await expect(failing).rejects.toMatchObject({ code: "run_cancelled" });
  server.on("/subscribe", () => refuse(404, "run_not_found"));
  server.on("/run", () => refuse(404, "run_not_found"));
  await expect(client.wait("x")).rejects.toMatchObject({ code: "run_not_found" });
});

test("a long page is asked for in parts, each where the one before ended", async () => {
  const all = Array.from({ length: 450 }, (_, n) => aRun(`r${n}`, "completed"));
  server.on("/runs", ({ query }, response) => {
    const from = Number(query.get("cursor") ?? query.get("offset"));
    const to = from + Number(query.get("limit"));
    if (to < all.length) response.setHeader("durably-next-cursor", String(to));
    return all.slice(from, to);
  });
  const asked = () => server.asked.splice(0).map(({ query }) => query.toString());
  const page = await client.page({ jobName: "job", limit: 401, offset: 20 });
  expect(page.runs).toEqual(all.slice(20, 421));
  expect(page.nextCursor).toBe("421");
  expect(asked()).toEqual([
    "jobName=job&limit=200&offset=20",
    "jobName=job&limit=200&cursor=220",
    "jobName=job&limit=1&cursor=420",
  ]);
  expect((await client.page({ limit: 1_000 })).runs).toEqual(all);
  expect(asked()).toHaveLength(3);
  expect((await client.page({ limit: 200, cursor: "250" })).nextCursor).toBe(null);
  expect(asked()).toEqual(["limit=200&cursor=250"]);
});

test("what the server cuts because it is large is asked for until it is whole", async () => {
  const all = Array.from({ length: 9 }, (_, n) => aRun(`r${n}`, "completed"));
  server.on("/runs", ({ query }, response) => {
    const from = Number(query.get("cursor") ?? query.get("offset"));
    const limit = Number(query.get("limit"));
    const to = from + Math.min(2, limit);
    if (to < all.length) response.setHeader("durably-next-cursor", String(to));
    if (to < all.length && limit > 2) response.setHeader("durably-page", "partial");
    return all.slice(from, to);
  });
  const page = await client.page({ limit: 5, offset: 1 });
  expect(page).toEqual({ runs: all.slice(1, 6), nextCursor: "6" });
  const step = (name: string, index: number, status: string) => ({ name, index, status });
  const inPages = (path: string, ...pages: unknown[][]) =>
    server.on(path, ({ query }, response) => {
      const next = Number(query.get("after") ?? 0) + 1;
      if (next < pages.length) response.setHeader("durably-next-cursor", String(next));
      return pages[next - 1];
    });
  const [failed, first, again] = [
    step("b", 1, "failed"),
    step("a", 0, "completed"),
    step("b", 1, "completed"),
  ];
  inPages("/steps", [failed, first], [again]);
  expect(await client.steps("r")).toEqual([first, again]);
  inPages("/logs", [{ id: "r:1" }], [{ id: "r:2" }], [{ id: "r:3" }]);
  expect((await client.allLogs("r")).map((line) => line.id)).toEqual(["r:1", "r:2", "r:3"]);
});

test("a page tells where the next begins, and a missing run is null", async () => {
  server.on("/runs", (_, response) => {
    response.setHeader("durably-next-cursor", "c");
    response.end("[]");
  });
  server.on("/run", () => refuse(404, "run_not_found"));
  const filter = { jobName: ["a", "b"], status: "failed", labels: { x: "y" }, limit: 5 } as const;
  expect(await client.page(filter)).toEqual({ runs: [], nextCursor: "c" });
  expect(server.asked[0]?.query.toString()).toBe(
    "jobName=a&jobName=b&label.x=y&status=failed&limit=5",
  );
  expect(await client.run("r")).toBeNull();
});

test("a client is no promise, and stays itself", async () => {
  expect(await Promise.resolve(client)).toBe(client);
  expect(() => JSON.stringify(client)).not.toThrow();
});

test("a connection that went silent is given up, and another opened", async () => {
  server.on("/run", () => aRun("r", "running"));
  const timers = vi.spyOn(globalThis, "setTimeout");
  const { run, leave } = watched("r");
  const first = await stream(0);
  first.send("retry: 1\n\n");
  first.tell(anEvent("run:start", "r", 1), 1);
  const silences = () => timers.mock.calls.filter(([, delay]) => delay === 45_000);
  await expect.poll(() => silences().length).toBeGreaterThan(1); // anew with each sign of life
  await expect
    .poll(() => run())
    .toMatchObject({ status: "running", updatedAt: expect.stringMatching(/01.000Z/) });
  silences().at(-1)?.[0]();
  expect((await stream(1)).asked.headers["last-event-id"]).toBe("1");
  await expect.poll(() => first.isOpen).toBe(false);
  leave();
});

test("any way to a server will do: the transport is the only seam", async () => {
  const asked: string[] = [];
  const transport: Transport = {
    async request({ method, path, body }) {
      asked.push(`${method} ${path} ${JSON.stringify(body)}`);
      return { body: { runId: "r", disposition: "created" }, header: () => null };
    },
    async subscribe({ path, headers }, { opened, heard }) {
      asked.push(`${path} after ${headers?.["last-event-id"]}`);
      opened();
      const event = anEvent("run:complete", "r", 1, { output: [], duration: 1 });
      heard(new FrameParser().push(`id: 1\nretry: ${NEVER}\ndata: ${JSON.stringify(event)}\n\n`));
    },
  };
  const other = new DurablyClient(transport);
  expect(await other.triggerAndWait("job", [1])).toEqual({ runId: "r", output: [] });
  expect(asked).toEqual(['POST /trigger {"jobName":"job","input":[1]}', "/subscribe after 0"]);
});

test("a run that somebody else retries is followed again", async () => {
  server.on("/run", () => aRun("r", "running")).on("/runs", () => []);
  const { run, leave } = watched("r");
  const left = client.watchRuns().subscribe(() => {});
  const first = await stream(0);
  const failure = { error: "no", errorType: null, failedStepName: null };
  first.tell(anEvent("run:fail", "r", 2, failure), 2, NEVER);
  first.end();
  await expect.poll(() => run().status).toBe("failed");
  await expect.poll(() => server.count("/runs/subscribe")).toBe(1);
  const list = server.streams.find(({ asked }) => asked.path === "/runs/subscribe");
  list?.tell(anEvent("run:retry", "r", 1)); // an older one, told late
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(run().status).toBe("failed");
  list?.tell(anEvent("run:retry", "r", 3));
  await expect.poll(() => run()).toMatchObject({ status: "pending", error: null });
  await expect.poll(() => server.count("/subscribe")).toBe(2);
  const second = server.streams.at(-1);
  expect(second?.asked.headers["last-event-id"]).toBe("2");
  second?.tell(anEvent("run:retry", "r", 3), 3);
  second?.tell(anEvent("run:complete", "r", 4, { output: 1, duration: 1 }), 4, NEVER);
  await expect.poll(() => run()).toMatchObject({ status: "completed", output: 1 });
  leave();
  left();
});

test.each(["run:complete", "runs:resync"])(
  "what comes together with %s is not newer than the answer",
  async (type) => {
    let run = aRun("b", "pending");
    server.on("/run", ({ query }) => (query.get("runId") === "b" ? run : aRun("a", "running")));
    const [a, b] = [watched("a"), watched("b")];
    await expect.poll(() => b.run().status).toBe("pending");
    await expect.poll(() => server.count("/runs/subscribe")).toBe(1);
    const list = server.streams.find(({ asked }) => asked.path === "/runs/subscribe");
    await expect
      .poll(() => server.asked.filter(({ query }) => query.get("runId") === "b").length)
      .toBe(4);
    run = aRun("b", "completed", { output: 1 });
    const together = [anEvent("run:start", "b", 2), anEvent(type, "b", 3)];
    list?.send(together.map((event) => `data: ${JSON.stringify(event)}\n\n`).join(""));
    await expect.poll(() => b.run()).toMatchObject({ status: "completed", output: 1 });
    a.leave();
    b.leave();
  },
);
