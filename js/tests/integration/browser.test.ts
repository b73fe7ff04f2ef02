import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
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
    await expect
      .poll(() => page.locator(`#${id}`).textContent(), { timeout: 20_000, message: id })
      .toBe(text);
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
  await shows(page, { status: "running", flags: "isRunning", output: "null" });
  await server.open("first-0");
  await shows(page, { progress: '{"current":2,"total":3,"message":"row 2"}' });
  await expect.poll(() => items(page, "#logs li")).toHaveLength(2);
  await server.open("first-2");
  await shows(page, { status: "completed", output: '{"count":3}', flags: "isCompleted" });
  expect(await items(page, "#logs li")).toEqual([
    'row-0 info saved {"row":0}',
    'row-1 info saved {"row":1}',
    'row-2 info saved {"row":2}',
    "null warn no more rows null",
  ]);
  await page.locator("#reset").click();
  await shows(page, { status: "null", currentRunId: "null", output: "null" });
});
