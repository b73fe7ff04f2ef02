import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { createDurablyClient } from "../../src/client.js";
import { buildPage } from "../page/build.js";
import { openChromium } from "../page/chromium.js";
import { Server } from "../server/server.js";

let server: Server;
let browser: Browser;
const pages: Page[] = [];
const errors: Error[] = [];

beforeAll(async () => {
  [server, browser] = await Promise.all([Server.start(), openChromium()]);
  await buildPage(join(server.folder, "page"));
});
afterAll(async () => {
  await browser?.close();
  await server?.end();
});
afterEach(async () => {
  await Promise.all(pages.splice(0).map((page) => page.context().close()));
  expect(errors.splice(0)).toEqual([]);
});

async function open(query: Record<string, string | string[]>, beside?: Page): Promise<Page> {
  const context = beside?.context() ?? (await browser.newContext());
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on("pageerror", (error) => errors.push(error));
  pages.push(page);
  const asked = new URLSearchParams();
  for (const [name, given] of Object.entries(query)) {
    for (const value of [given].flat()) asked.append(name, value);
  }
  await page.goto(`${server.origin}/?${asked}`);
  return page;
}

/** The elements of these ids show these texts, now or soon. */
async function shows(page: Page, texts: Record<string, string>): Promise<void> {
  for (const [id, text] of Object.entries(texts)) {
    await expect.poll(() => page.locator(`#${id}`).textContent(), { message: id }).toBe(text);
  }
}

const items = (page: Page, selector: string) => page.locator(selector).allTextContents();

async function trigger(page: Page, input: unknown, button = "trigger"): Promise<void> {
  await page.locator("#input").fill(JSON.stringify(input));
  await page.locator(`#${button}`).click();
}

test("a run from its trigger to its output", async () => {
  const page = await open({ autoResume: "no" });
  await shows(page, { status: "null", currentRunId: "null", flags: "" });
  await trigger(page, { name: "first", rows: 3, hold: [0, 2] });
  await shows(page, { status: "running", flags: "isRunning isActive", output: "null" });
  await server.open("first-0");
  await shows(page, { progress: '{"current":2,"total":3,"message":"row 2"}' });
  await expect.poll(() => items(page, "#logs li")).toHaveLength(2);
  await server.open("first-2");
  await shows(page, {
    status: "completed",
    output: '{"count":3}',
    flags: "isCompleted isTerminal",
  });
  expect(await items(page, "#logs li")).toEqual([
    'row-0 info saved {"row":0}',
    'row-1 info saved {"row":1}',
    'row-2 info saved {"row":2}',
    "null warn no more rows null",
  ]);
  await page.locator("#reset").click();
  await shows(page, { status: "null", currentRunId: "null", output: "null" });
});

test.each(["null", "0", "false", '""', "[]", "{}"])(
  "triggerAndWait gives the output %s",
  async (value) => {
    const page = await open({ job: "echo" });
    await page.locator("#input").fill(value);
    await page.locator("#wait").click();
    await expect
      .poll(() => page.locator("#answer").textContent())
      .toMatch(new RegExp(`"output":${value.replace(/[[\]{}]/g, "\\$&")}}$`));
    await shows(page, { status: "completed", flags: "isCompleted isTerminal" });
  },
);

test("a run that fails tells why, and triggerAndWait rejects", async () => {
  const page = await open({ job: "broken", autoResume: "no" });
  await trigger(page, {}, "wait");
  await shows(page, {
    answer: "refused: row 3 is no number",
    error: "row 3 is no number",
    flags: "isFailed isTerminal",
  });
});

test("a refused trigger rejects with what the server says", async () => {
  const page = await open({ autoResume: "no" });
  await trigger(page, { rows: "many" });
  await expect.poll(() => page.locator("#answer").textContent()).toMatch(/^refused: .*rows/s);
  await shows(page, { status: "null", currentRunId: "null" });
});

test("a page that opens on a run tells its state, whatever it is", async () => {
  const client = createDurablyClient({ api: server.api });
  const over = await client.triggerAndWait("import-csv", { rows: 2 });
  const held = await client.trigger("import-csv", { name: "state", rows: 2, hold: [1] });
  const options = { concurrencyKey: "state" };
  const first = await client.trigger("import-csv", { name: "before", hold: [0] }, options);
  const second = await client.trigger("import-csv", { name: "after" }, options);
  const page = await open({ run: over.runId, followLatest: "no" });
  await shows(page, { status: "completed", output: '{"count":2}' });
  await expect.poll(() => items(page, "#logs li")).toHaveLength(3);
  const running = await open({ run: held.runId, followLatest: "no" });
  await shows(running, {
    status: "running",
    progress: '{"current":1,"total":2,"message":"row 1"}',
  });
  await expect.poll(() => items(running, "#logs li")).toEqual(['row-0 info saved {"row":0}']);
  const waiting = await open({ run: second.runId, followLatest: "no" });
  await shows(waiting, { status: "pending", flags: "isPending isActive" });
  await server.open("state-1");
  await server.open("before-0");
  await shows(running, { status: "completed", output: '{"count":2}' });
  await shows(waiting, { status: "completed", output: '{"count":3}' });
  expect(await items(running, "#logs li")).toHaveLength(3);
  await client.wait(first.runId);
});

test("an unknown run is an error", async () => {
  const page = await open({ run: "no-such-run", followLatest: "no" });
  await expect.poll(() => page.locator("#error").textContent()).toMatch(/no-such-run/);
  await shows(page, { status: "null" });
});

test("a reload resumes the run, with its log lines", async () => {
  const page = await open({});
  await trigger(page, { name: "reload", rows: 3, hold: [2] });
  await shows(page, { progress: '{"current":2,"total":3,"message":"row 2"}' });
  await page.reload();
  await shows(page, {
    status: "running",
    progress: '{"current":2,"total":3,"message":"row 2"}',
  });
  await expect.poll(() => items(page, "#logs li")).toHaveLength(2);
  await server.open("reload-2");
  await shows(page, { status: "completed", output: '{"count":3}' });
  expect(await items(page, "#logs li")).toHaveLength(4);
  await expect.poll(() => items(page, "#newest li")).toHaveLength(4);
  await page.locator("#clear").click();
  await expect.poll(() => items(page, "#newest li")).toEqual([]);
});

test("another tab follows, and both stay in step", async () => {
  await createDurablyClient({ api: server.api }).triggerAndWait("import-csv", { rows: 1 });
  const one = await open({ autoResume: "no" });
  const two = await open({ autoResume: "no" }, one);
  const list = await open({ view: "list" }, one);
  const alone = await open({ autoResume: "no", followLatest: "no" });
  await expect.poll(() => items(list, ".status")).not.toEqual([]);
  await trigger(one, { name: "tabs", rows: 2, hold: [1] });
  for (const tab of [one, two]) {
    await shows(tab, { progress: '{"current":1,"total":2,"message":"row 1"}' });
  }
  await expect.poll(async () => (await items(list, ".status"))[0]).toBe("running");
  await expect.poll(async () => (await items(list, ".progress"))[0]).toBe("1");
  await server.open("tabs-1");
  for (const tab of [one, two]) await shows(tab, { status: "completed", output: '{"count":2}' });
  await expect.poll(async () => (await items(list, ".output"))[0]).toBe('{"count":2}');
  await shows(alone, { status: "null" });
});

test("a server that is killed and comes back: the page sees the run to its end", async () => {
  const page = await open({});
  await trigger(page, { name: "kill", rows: 4, hold: [2] });
  await shows(page, { progress: '{"current":2,"total":4,"message":"row 2"}' });
  const list = await open({ view: "list" });
  await expect.poll(async () => (await items(list, ".status"))[0]).toBe("running");
  await server.kill();
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  await shows(page, { status: "running" });
  await server.open("kill-2");
  await server.restart();
  await shows(page, { status: "completed", output: '{"count":4}' });
  expect(await items(page, "#logs li")).toEqual([
    ...[0, 1, 2, 3].map((row) => `row-${row} info saved {"row":${row}}`),
    "null warn no more rows null",
  ]);
  await expect.poll(async () => (await items(list, ".status"))[0]).toBe("completed");
  await shows(list, { error: "null" });
});

test("a page that was offline catches up", async () => {
  const page = await open({});
  await trigger(page, { name: "offline", rows: 4, hold: [1] });
  await shows(page, { progress: '{"current":1,"total":4,"message":"row 1"}' });
  await page.context().setOffline(true);
  await server.open("offline-1");
  await page.context().setOffline(false);
  await shows(page, { status: "completed", output: '{"count":4}' });
  expect(await items(page, "#logs li")).toHaveLength(5);
});

test("twenty runs are followed at once, over six connections", async () => {
  const client = createDurablyClient({ api: server.api });
  const names = Array.from({ length: 20 }, (_, index) => `bar${index}`);
  const runs = await Promise.all(
    names.map((name) => client.trigger("import-csv", { name, rows: 2, hold: [1] })),
  );
  const page = await open({ view: "bars", run: runs.map(({ runId }) => runId) });
  const running = () =>
    items(page, ".bar").then((bars) => bars.filter((bar) => /running 1/.test(bar)).length);
  await expect.poll(running).toBeGreaterThan(5);
  await Promise.all(names.map((name) => server.open(`${name}-1`)));
  const done = () =>
    items(page, ".bar").then((bars) => bars.filter((bar) => /completed 2 2/.test(bar)).length);
  await expect.poll(done).toBe(20);
});

test("a run that is over is asked for no more", async () => {
  const page = await open({ autoResume: "no", followLatest: "no" });
  await trigger(page, { rows: 1 }, "wait");
  await shows(page, { status: "completed" });
  const asked: string[] = [];
  page.on("request", (request) => asked.push(request.url()));
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  expect(asked).toEqual([]);
});

test("a list is turned page by page, and its runs are acted on", async () => {
  const client = createDurablyClient({ api: server.api });
  const echoes = [];
  for (const value of [1, 2, 3, 4]) echoes.push(await client.triggerAndWait("echo", value));
  const page = await open({ view: "list", job: ["echo", "broken"] });
  await expect.poll(() => items(page, ".output")).toEqual(["4", "3", "2"]);
  await shows(page, { page: "0", hasMore: "true" });
  await page.locator("#next").click();
  await shows(page, { page: "1" });
  await expect.poll(async () => (await items(page, ".output"))[0]).toBe("1");
  await page.locator("#prev").click();
  await expect.poll(() => items(page, ".output")).toEqual(["4", "3", "2"]);
  const row = `#run-${echoes[3]?.runId}`;
  await page.locator(`${row} .getRun`).click();
  await expect.poll(() => page.locator("#answer").textContent()).toMatch(/"output":4/);
  await page.locator(`${row} .getSteps`).click();
  await shows(page, { answer: "[]" });
  await page.locator(`${row} .retrigger`).click();
  await expect.poll(() => items(page, ".output")).toEqual(["4", "4", "3"]);
  await page.locator(`${row} .deleteRun`).click();
  await expect.poll(() => items(page, ".output")).toEqual(["4", "3", "2"]);
  await page.locator(`#run-${echoes[2]?.runId} .cancel`).click();
  await expect.poll(() => page.locator("#answer").textContent()).toMatch(/^refused: /);
});

test("a failed run is retried from a list; a running one is cancelled", async () => {
  const client = createDurablyClient({ api: server.api });
  const failed = await client.trigger("broken", {});
  await client.wait(failed.runId).catch(() => {});
  const held = await client.trigger("import-csv", { name: "cancel", hold: [0] });
  const page = await open({ view: "list" });
  const status = ({ runId }: { runId: string }) =>
    page.locator(`#run-${runId} .status`).textContent({ timeout: 5_000 });
  await expect.poll(() => status(held)).toBe("running");
  await page.locator(`#run-${held.runId} .cancel`).click();
  await expect.poll(() => status(held)).toBe("cancelled");
  expect(await status(failed)).toBe("failed");
  await server.open("mended");
  await page.locator(`#run-${failed.runId} .retry`).click();
  await expect.poll(() => status(failed)).toBe("completed");
});

test("a run that another tab cancels and resumes goes on in every tab", async () => {
  const one = await open({});
  await trigger(one, { name: "again", rows: 3, hold: [1, 2] });
  const two = await open({}, one);
  const list = await open({ view: "list" }, one);
  await shows(two, { progress: '{"current":1,"total":3,"message":"row 1"}' });
  await list.locator(".cancel").first().click();
  for (const tab of [one, two]) await shows(tab, { status: "cancelled" });
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  await server.open("again-1");
  await list.locator(".retry").first().click();
  for (const tab of [one, two]) {
    await shows(tab, { status: "running", progress: '{"current":2,"total":3,"message":"row 2"}' });
  }
  await server.open("again-2");
  for (const tab of [one, two]) await shows(tab, { status: "completed", output: '{"count":3}' });
  await expect.poll(async () => (await items(list, ".status"))[0]).toBe("completed");
});
