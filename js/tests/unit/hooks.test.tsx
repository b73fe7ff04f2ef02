import { Component, type ReactNode, Suspense, useState, version } from "react";
import { renderToString } from "react-dom/server";
import { beforeEach, describe, expect, test, vi } from "vitest";
import {
  createDurablyClient,
  DurablyProvider,
  defineJob,
  type UseJobClientOptions,
  type UseRunsOptions,
  useDurably,
  useJob,
  useJobLogs,
  useJobRun,
  useRunActions,
  useRuns,
} from "../../src/index.js";
import { render, renderHook } from "./render.js";
import { anEvent, aRun, type OpenStream, refuse, ScriptedServer } from "./scripted.js";

const NEVER = 86_400_000;
const JOB = "job";

let server: ScriptedServer;
let api: string;

beforeEach(async () => {
  server = await ScriptedServer.start();
  server.on("/logs", () => []).on("/runs", () => []);
  api = server.api;
});

const stream = async (path: string, index = 0): Promise<OpenStream> => {
  const found = () => server.streams.filter(({ asked }) => asked.path === path);
  await expect.poll(() => found().length).toBeGreaterThan(index);
  return found()[index] as OpenStream;
};
const runStream = (index?: number) => stream("/subscribe", index);
const listStream = (index?: number) => stream("/runs/subscribe", index);
const settle = () => new Promise((resolve) => setTimeout(resolve, 150));
const quiet = { autoResume: false, followLatest: false };

test(`this is React ${process.env.REACT}`, () => {
  expect(version.split(".")[0]).toBe(process.env.REACT);
});

describe("useJobRun", () => {
  test("a run is followed to its end, in StrictMode, with one stream", async () => {
    server.on("/run", () => aRun("r", "pending"));
    const hook = renderHook(useJobRun, { api, runId: "r" as string | null });
    await expect.poll(() => hook.current?.isPending).toBe(true);
    const only = await runStream();
    only.tell(anEvent("run:start", "r", 2), 2);
    await expect.poll(() => hook.current.isRunning).toBe(true);
    const more = { stepName: "s", level: "info", message: "m", data: { a: 1 } };
    only.tell(anEvent("log:write", "r", 3, more), 3);
    only.tell(anEvent("run:complete", "r", 4, { output: "", duration: 1 }), 4, NEVER);
    await expect.poll(() => hook.current.isCompleted).toBe(true);
    expect(hook.current).toMatchObject({ status: "completed", output: "", error: null });
    expect(hook.current.logs).toMatchObject([{ stepName: "s", message: "m", data: { a: 1 } }]);
    expect(server.count("/subscribe")).toBe(1);
    hook.unmount();
  });

  test("another run shows nothing of the one before", async () => {
    const answers = new Map<string, (run: unknown) => void>();
    server.on("/run", ({ query }) => {
      return new Promise((resolve) => answers.set(query.get("runId") ?? "", resolve));
    });
    const hook = renderHook(useJobRun, { api, runId: "a" as string | null });
    await expect.poll(() => answers.has("a")).toBe(true);
    hook.rerender({ api, runId: "b" });
    await expect.poll(() => answers.has("b")).toBe(true);
    answers.get("b")?.(aRun("b", "running"));
    await expect.poll(() => hook.current.status).toBe("running");
    answers.get("a")?.(aRun("a", "failed", { error: "no" }));
    await settle();
    expect(hook.current).toMatchObject({ status: "running", error: null });
    hook.rerender({ api, runId: null });
    await expect.poll(() => hook.current.status).toBe(null);
    hook.unmount();
    await expect.poll(() => server.open).toEqual([]);
  });

  test("many components share a stream, and one that remounts keeps it", async () => {
    server.on("/run", () => aRun("r", "running"));
    const Show = () => <>{useJobRun({ api, runId: "r" }).status}</>;
    let remount: () => void = () => {};
    function Page() {
      const [key, setKey] = useState(0);
      remount = () => setKey(key + 1);
      return [0, 1, 2].map((n) => <Show key={`${n}-${key}`} />);
    }
    const page = render(<Page />);
    await runStream();
    remount();
    await settle();
    expect(server.count("/subscribe")).toBe(1);
    page.unmount();
    await expect.poll(() => server.open).toEqual([]);
  });

  test("an unknown run is an error", async () => {
    server.on("/subscribe", () => refuse(404, "run_not_found"));
    const hook = renderHook(useJobRun, { api, runId: "x" });
    await expect.poll(() => hook.current?.error).toBe("this is run_not_found");
    expect(hook.current.status).toBe(null);
  });

  test("what it is called for, once each, and again after a retry", async () => {
    server.on("/run", ({ query }) => aRun(query.get("runId") ?? "", "pending"));
    const called: string[] = [];
    const callbacks = {
      onStart: () => called.push("start"),
      onComplete: () => called.push("complete"),
      onFail: () => called.push("fail"),
    };
    const hook = renderHook(({ runId }) => useJobRun({ api, runId, ...callbacks }), {
      runId: null as string | null,
    });
    await hook.ready();
    expect(hook.current).toMatchObject({ isActive: false, isTerminal: false });
    hook.rerender({ runId: "r" });
    const first = await runStream();
    await expect.poll(() => hook.current).toMatchObject({ isActive: true, isTerminal: false });
    first.tell(anEvent("run:start", "r", 2), 2);
    await expect.poll(() => hook.current.isRunning).toBe(true);
    first.tell(anEvent("run:fail", "r", 3, { error: "no" }), 3);
    await expect.poll(() => hook.current).toMatchObject({ isActive: false, isTerminal: true });
    expect(called).toEqual(["start", "fail"]);
    first.tell(anEvent("run:retry", "r", 4), 4);
    first.tell(anEvent("run:start", "r", 5), 5);
    await expect.poll(() => hook.current.isRunning).toBe(true);
    first.tell(anEvent("run:complete", "r", 6, { output: 1, duration: 1 }), 6, NEVER);
    await expect.poll(() => hook.current.isCompleted).toBe(true);
    hook.rerender({ runId: "other" });
    await expect.poll(() => hook.current.isPending).toBe(true);
    expect(called).toEqual(["start", "fail", "start", "complete", "start"]);
  });

  test("a thousand events are a few renders", async () => {
    server.on("/run", () => aRun("r", "running"));
    const hook = renderHook(useJobRun, { api, runId: "r" });
    const only = await runStream();
    for (let n = 0; n <= 1_000; n++) {
      only.tell(anEvent("run:progress", "r", null, { progress: { current: n } }));
    }
    await expect.poll(() => hook.current?.progress?.current).toBe(1_000);
    expect(hook.renders).toBeLessThan(200);
  });
});

describe("useJob", () => {
  const start = (more: Partial<UseJobClientOptions> = quiet) =>
    renderHook((options: UseJobClientOptions) => useJob<object, number>(options), {
      api,
      jobName: JOB,
      ...more,
    });

  test("answers out of order: the run that was triggered last is followed", async () => {
    const answers: ((answer: unknown) => void)[] = [];
    server.on("/trigger", () => new Promise((resolve) => void answers.push(resolve)));
    const hook = start();
    await hook.ready();
    const both = [hook.current.trigger({ n: 1 })];
    await expect.poll(() => answers.length).toBe(1);
    both.push(hook.current.trigger({ n: 2 }));
    await expect.poll(() => answers.length).toBe(2);
    answers[1]?.({ runId: "second", disposition: "created" });
    await expect.poll(() => hook.current.currentRunId).toBe("second");
    answers[0]?.({ runId: "first", disposition: "created" });
    expect((await Promise.all(both)).map(({ runId }) => runId)).toEqual(["first", "second"]);
    await settle();
    expect(hook.current).toMatchObject({ currentRunId: "second", isPending: true });
  });

  test("reset puts a run away, also one that is not there yet", async () => {
    let answer: (answer: unknown) => void = () => {};
    server.on("/trigger", () => new Promise((resolve) => (answer = resolve)));
    const hook = start();
    await hook.ready();
    const triggered = hook.current.trigger({});
    await expect.poll(() => server.count("/trigger")).toBe(1);
    hook.current.reset();
    answer({ runId: "r", disposition: "created" });
    await triggered;
    await settle();
    expect(hook.current).toMatchObject({ currentRunId: null, status: null });
  });

  test.each([0, false, "", null, [], {}])("triggerAndWait gives %j", async (output) => {
    server.on("/trigger", () => ({ runId: "r", disposition: "created" }));
    const hook = start();
    await hook.ready();
    const waiting = hook.current.triggerAndWait({});
    (await runStream()).tell(anEvent("run:complete", "r", 1, { output, duration: 1 }), 1, NEVER);
    expect(await waiting).toEqual({ runId: "r", output });
    await expect.poll(() => hook.current).toMatchObject({ isCompleted: true, output });
  });

  test("triggerAndWait goes on when the component is gone", async () => {
    server.on("/trigger", () => ({ runId: "r", disposition: "created" }));
    const hook = start();
    await hook.ready();
    const waiting = hook.current.triggerAndWait({});
    const only = await runStream();
    hook.unmount();
    await settle();
    only.tell(anEvent("run:complete", "r", 1, { output: 1, duration: 1 }), 1, NEVER);
    expect(await waiting).toEqual({ runId: "r", output: 1 });
  });

  test("options go with a trigger", async () => {
    server.on("/trigger", () => ({ runId: "r", disposition: "created" }));
    const hook = start();
    await hook.ready();
    const options = { idempotencyKey: "i", concurrencyKey: "c", labels: { a: "b" } };
    expect(await hook.current.trigger({ x: 1 }, options)).toEqual({
      runId: "r",
      disposition: "created",
    });
    const asked = server.asked.find(({ path }) => path === "/trigger");
    expect(asked?.body).toEqual({ jobName: JOB, input: { x: 1 }, ...options });
  });

  test("autoResume: what runs comes before what waits, and a trigger before both", async () => {
    server.on("/runs", ({ query }) =>
      query.getAll("status").includes("running")
        ? [aRun("running", "running")]
        : [aRun("pending", "pending")],
    );
    server.on("/run", ({ query }) => aRun(query.get("runId") ?? "", "running"));
    const hook = start({ followLatest: false });
    await expect.poll(() => hook.current?.currentRunId).toBe("running");
    hook.unmount();
    const answers: (() => void)[] = [];
    server.on(
      "/runs",
      () => new Promise((resolve) => answers.push(() => resolve([aRun("old", "running")]))),
    );
    server.on("/trigger", () => ({ runId: "new", disposition: "created" }));
    const other = start({ followLatest: false });
    await other.ready();
    await other.current.trigger({});
    for (const answer of answers) answer();
    await settle();
    expect(other.current.currentRunId).toBe("new");
  });

  test("initialRunId is followed at first; another one then", async () => {
    server.on("/run", ({ query }) => aRun(query.get("runId") ?? "", "running"));
    const hook = start({ initialRunId: "a" });
    await expect.poll(() => hook.current?.currentRunId).toBe("a");
    expect(server.count("/runs")).toBe(0);
    hook.rerender({ api, jobName: JOB, ...quiet, initialRunId: "b" });
    await expect.poll(() => hook.current.currentRunId).toBe("b");
    hook.rerender({ api, jobName: "other", ...quiet });
    await expect.poll(() => hook.current.currentRunId).toBe(null);
  });

  test("followLatest: new runs at once, older ones when nothing is under way", async () => {
    const hook = start({ autoResume: false });
    const list = await listStream();
    expect(list.asked.query.getAll("jobName")).toEqual([JOB]);
    list.tell(anEvent("run:trigger", "a", 1));
    await expect.poll(() => hook.current?.currentRunId).toBe("a");
    list.tell(anEvent("run:start", "older", 2));
    list.tell(anEvent("step:start", "other", null));
    await settle();
    expect(hook.current).toMatchObject({ currentRunId: "a", isPending: true });
    expect(server.count("/run")).toBe(0); // the journal of a new run tells everything
    list.tell(anEvent("run:trigger", "b", 1));
    await expect.poll(() => hook.current.currentRunId).toBe("b");
    hook.current.reset();
    await expect.poll(() => hook.current.currentRunId).toBe(null);
    list.tell(anEvent("run:start", "b", 2));
    await settle();
    expect(hook.current.currentRunId).toBe(null);
    list.tell(anEvent("run:start", "older", 2));
    await expect.poll(() => hook.current.currentRunId).toBe("older");
    hook.unmount();
    await expect.poll(() => server.open).toEqual([]);
  });

  test("a trigger that is refused rejects, and nothing is followed", async () => {
    server.on("/trigger", () => refuse(400, "invalid_input"));
    const hook = start();
    await hook.ready();
    await expect(hook.current.trigger({})).rejects.toMatchObject({ code: "invalid_input" });
    expect(hook.current.currentRunId).toBe(null);
  });
});

describe("useJobLogs", () => {
  test("the newest lines, and only those after they were cleared", async () => {
    const line = (n: number) => ({ id: `r:${n}`, runId: "r", stepName: null, message: `${n}` });
    server.on("/run", () => aRun("r", "running")).on("/logs", () => [1, 2, 3].map(line));
    const hook = renderHook(useJobLogs, { api, runId: "r", maxLogs: 2 });
    const shown = () => hook.current?.logs.map(({ message }) => message);
    await expect.poll(shown).toEqual(["2", "3"]);
    hook.current.clearLogs();
    await expect.poll(shown).toEqual([]);
    const more = { stepName: null, level: "warn", message: "4", data: null };
    (await runStream()).tell(anEvent("log:write", "r", 4, more), 4);
    await expect.poll(shown).toEqual(["4"]);
    hook.rerender({ api, runId: "r", maxLogs: 0 });
    await expect.poll(shown).toEqual([]);
  });
});

describe("useRuns", () => {
  const page = (query: URLSearchParams) => Number(query.get("offset")) / Number(query.get("limit"));
  const start = (more: Partial<UseRunsOptions> = {}) =>
    renderHook((options: UseRunsOptions) => useRuns(options), { api, pageSize: 2, ...more });
  const ids = (hook: ReturnType<typeof start>) => hook.current?.runs.map(({ id }) => id);

  test("pages", async () => {
    server.on("/runs", ({ query }, response) => {
      if (page(query) < 2) response.setHeader("durably-next-cursor", "x");
      return [aRun(`p${page(query)}`, "completed")];
    });
    const hook = start({ jobName: ["a", "b"], status: "completed", labels: { x: "y" } });
    await expect.poll(() => ids(hook)).toEqual(["p0"]);
    expect(server.asked[0]?.query.toString()).toBe(
      "jobName=a&jobName=b&label.x=y&status=completed&limit=2&offset=0",
    );
    expect(hook.current).toMatchObject({ page: 0, hasMore: true, isLoading: false, error: null });
    hook.current.nextPage();
    await expect.poll(() => hook.current.page).toBe(1);
    await expect.poll(() => ids(hook)).toEqual(["p1"]);
    hook.current.goToPage(2);
    await expect.poll(() => ids(hook)).toEqual(["p2"]);
    expect(hook.current.hasMore).toBe(false);
    hook.current.goToPage(-1);
    await expect.poll(() => ids(hook)).toEqual(["p0"]);
    hook.current.prevPage();
    await settle();
    expect(hook.current.page).toBe(0);
    hook.unmount();
    await expect.poll(() => server.open).toEqual([]);
  });

  test("the rows stay until the next page is there; another list begins anew", async () => {
    const answers: (() => void)[] = [];
    server.on("/runs", ({ query }) => {
      if (page(query) === 0) return [aRun("p0", "completed")];
      return new Promise((resolve) => answers.push(() => resolve([aRun("p1", "completed")])));
    });
    const hook = start({ realtime: false });
    await expect.poll(() => ids(hook)).toEqual(["p0"]);
    hook.current.nextPage();
    await expect.poll(() => hook.current).toMatchObject({ page: 1, isLoading: true });
    expect(ids(hook)).toEqual(["p0"]);
    await expect.poll(() => answers.length).toBe(1);
    answers[0]?.();
    await expect.poll(() => ids(hook)).toEqual(["p1"]);
    hook.rerender({ api, pageSize: 3, realtime: false });
    await expect.poll(() => hook.current).toMatchObject({ page: 0, isLoading: false });
    expect(server.streams).toEqual([]);
  });

  test("refresh reads again, and resolves when it was read", async () => {
    let runs = [aRun("a", "completed")];
    server.on("/runs", () => runs);
    const hook = start({ realtime: false });
    await expect.poll(() => ids(hook)).toEqual(["a"]);
    runs = [];
    await hook.current.refresh();
    await expect.poll(() => ids(hook)).toEqual([]);
  });

  test("a refusal is shown; a server that is away is asked again", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0);
    server.on("/runs", () => refuse(400, "invalid_request"));
    const hook = start();
    await expect.poll(() => hook.current?.error).toBe("this is invalid_request");
    expect(hook.current.isLoading).toBe(false);
    hook.unmount();
    await settle();
    let answers = 0;
    server.on("/runs", () => (++answers < 3 ? refuse(503, "away") : [aRun("a", "completed")]));
    const other = start();
    await expect.poll(() => ids(other)).toEqual(["a"]);
    expect(other.current.error).toBe(null);
  });

  test("a job definition filters by its name", async () => {
    const job = defineJob<{ a: string }, { b: number }>({ name: "typed" });
    const hook = renderHook((options: UseRunsOptions) => useRuns(job, options), { api });
    await hook.ready();
    await expect.poll(() => server.asked[0]?.query.get("jobName")).toBe("typed");
  });
});

describe("useRunActions", () => {
  test("each action, while it is on its way, and when it is refused", async () => {
    let answer: (answer: unknown) => void = () => {};
    server.on("/retry", () => new Promise((resolve) => (answer = resolve)));
    server.on("/cancel", () => refuse(409, "conflict"));
    server.on("/retrigger", () => ({ success: true, runId: "new" }));
    server.on("/run", ({ method }) => (method === "GET" ? aRun("r", "failed") : { success: true }));
    server.on("/steps", () => [{ name: "s" }]);
    const hook = renderHook(useRunActions, { api });
    await hook.ready();
    const retrying = hook.current.retry("r");
    await expect.poll(() => hook.current.isLoading).toBe(true);
    await expect.poll(() => server.count("/retry")).toBe(1);
    answer({ success: true });
    await retrying;
    await expect.poll(() => hook.current.isLoading).toBe(false);
    await expect(hook.current.cancel("r")).rejects.toMatchObject({ code: "conflict" });
    await expect.poll(() => hook.current.error).toBe("this is conflict");
    expect(await hook.current.retrigger("r")).toBe("new");
    await expect.poll(() => hook.current.error).toBe(null);
    expect(await hook.current.getRun("r")).toMatchObject({ id: "r" });
    expect(await hook.current.getSteps("r")).toEqual([{ name: "s" }]);
    await hook.current.deleteRun("r");
    expect(server.asked.at(-1)).toMatchObject({ method: "DELETE", path: "/run" });
  });
});

describe("the provider", () => {
  const client = () => createDurablyClient({ api });

  test("gives its client to the hooks below", async () => {
    const durably = client();
    server.on("/run", () => aRun("r", "running"));
    const job = defineJob<object, number>({ name: JOB });
    const hook = renderHook(
      () => ({
        run: useJobRun({ runId: "r" }),
        job: useJob(job, quiet),
        runs: useRuns({ pageSize: 1 }),
        logs: useJobLogs({ runId: null }),
        actions: useRunActions(),
        durably: useDurably().durably,
      }),
      undefined,
      (node) => <DurablyProvider durably={durably}>{node}</DurablyProvider>,
    );
    await expect.poll(() => hook.current?.run.status).toBe("running");
    expect(hook.current.durably).toBe(durably);
  });

  test("a promise: the fallback, then the hooks", async () => {
    let keep: (durably: ReturnType<typeof client>) => void = () => {};
    const promise = new Promise<ReturnType<typeof client>>((resolve) => {
      keep = resolve;
    });
    const shown = vi.fn((text: string) => text);
    const Fallback = ({ text }: { text: string }) => <>{shown(text)}</>;
    const hook = renderHook(useDurably, undefined, (node) => (
      <DurablyProvider durably={promise} fallback={<Fallback text="own" />}>
        {node}
      </DurablyProvider>
    ));
    const outer = renderHook(useDurably, undefined, (node) => (
      <Suspense fallback={<Fallback text="outer" />}>
        <DurablyProvider durably={promise}>{node}</DurablyProvider>
      </Suspense>
    ));
    await expect
      .poll(() => shown.mock.calls.flat())
      .toEqual(expect.arrayContaining(["own", "outer"]));
    expect(hook.current).toBeUndefined();
    const durably = client();
    keep(durably);
    await expect.poll(() => hook.current?.durably).toBe(durably);
    await expect.poll(() => outer.current?.durably).toBe(durably);
  });

  test("a promise that is broken reaches the error boundary", async () => {
    const silenced = vi.mocked(console.error).mockImplementation(() => {});
    const { promise, fail } = failing();
    let caught: unknown;
    class Boundary extends Component<{ children: ReactNode }> {
      override state = { failed: false };
      static getDerivedStateFromError() {
        return { failed: true };
      }
      override componentDidCatch(error: unknown) {
        caught = error;
      }
      override render() {
        return this.state.failed ? null : this.props.children;
      }
    }
    render(
      <Boundary>
        <DurablyProvider durably={promise} fallback="…" />
      </Boundary>,
    );
    await settle();
    fail(new Error("no database"));
    await expect.poll(() => caught).toMatchObject({ message: "no database" });
    silenced.mockClear();
  });
});

function failing() {
  let fail: (error: Error) => void = () => {};
  const promise = new Promise<never>((_, reject) => {
    fail = reject;
  });
  return { promise, fail };
}

test("without a server a hook says what to do", () => {
  const Lost = () => <>{useJobRun({ runId: "r" }).status}</>;
  expect(() => renderToString(<Lost />)).toThrow(/`api`, or a <DurablyProvider>/);
});

test("the hooks of a client's jobs", async () => {
  type Jobs = { "import-csv": { input: { rows: number }; output: { count: number } } };
  server.on("/trigger", () => ({ runId: "r", disposition: "created" }));
  const byName = createDurablyClient<Jobs>({ api });
  const jobs = {
    importCsv: defineJob<{ rows: number }, { count: number }>({ name: "import-csv" }),
  };
  const byProperty = createDurablyClient({ api, jobs });
  expect(byName["import-csv"]).toBe(byName["import-csv"]);
  for (const job of [byName["import-csv"], byProperty.importCsv]) {
    const hook = renderHook(
      () => ({ job: job.useJob(quiet), run: job.useRun(null), logs: job.useLogs(null) }),
      undefined,
    );
    await hook.ready();
    await hook.current.job.trigger({ rows: 1 });
    expect(server.asked.at(-1)?.body ?? server.asked.at(-2)?.body).toMatchObject({
      jobName: "import-csv",
    });
    hook.unmount();
  }
});

test("a client's own hooks", async () => {
  type Jobs = { "import-csv": { input: { rows: number }; output: { count: number } } };
  server.on("/runs", () => [aRun("a", "failed")]).on("/retry", () => ({ success: true }));
  server.on("/run", () => aRun("a", "completed"));
  const client = createDurablyClient<Jobs>({ api });
  const typed = defineJob<{ rows: number }, { count: number }>({ name: "typed" });
  const called: string[] = [];
  const hook = renderHook(
    () => ({
      all: client.useRuns({ pageSize: 3 }),
      typed: client.useRuns(typed, { realtime: false }),
      actions: client.useRunActions(),
      run: client["import-csv"].useRun("a", { onComplete: () => called.push("complete") }),
    }),
    undefined,
  );
  await hook.ready();
  await expect.poll(() => hook.current.all.runs.map(({ id }) => id)).toEqual(["a"]);
  await expect.poll(() => hook.current.typed.runs.length).toBe(1);
  const lists = server.asked.filter(({ path }) => path === "/runs").map(({ query }) => query);
  expect(lists.map((query) => query.get("limit"))).toContain("3");
  expect(lists.map((query) => query.get("jobName"))).toContain("typed");
  await hook.current.actions.retry("a");
  expect(server.count("/retry")).toBe(1);
  await expect.poll(() => called).toEqual(["complete"]);
});

test("on a server nothing is asked, and nothing is known", () => {
  function Page() {
    const job = useJob<object, number>({ api, jobName: JOB, initialRunId: "r" });
    const run = useJobRun({ api, runId: "r" });
    const { logs } = useJobLogs({ api, runId: "r" });
    const { runs, isLoading } = useRuns({ api });
    const { error } = useRunActions({ api });
    return (
      <p>
        {JSON.stringify([job.status, job.currentRunId, run.status, logs, runs, isLoading, error])}
      </p>
    );
  }
  const html = renderToString(<Page />).replaceAll("&quot;", '"');
  expect(html).toBe('<p>[null,"r",null,[],[],true,null]</p>');
  expect(server.asked).toEqual([]);
});
