/** The examples of the documentation, on a page, against the real server. */

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createDurablyClient } from "../../src/client.js";
import { blocks } from "../docs.js";
import { buildPage } from "../page/build.js";
import { openChromium } from "../page/chromium.js";
import { Server } from "../server/server.js";

const EXAMPLES = blocks("reference/hooks.md").filter(({ name }) => name.endsWith(".tsx"));

let server: Server;
let browser: Browser;

beforeAll(async () => {
  [server, browser] = await Promise.all([Server.start(), openChromium()]);
  const source = join(server.folder, "source");
  await mkdir(source);
  for (const { name, text } of EXAMPLES) await writeFile(join(source, name), text);
  await writeFile(join(source, "entry.tsx"), ENTRY);
  await buildPage(join(server.folder, "page"), join(source, "entry.tsx"));
});
afterAll(async () => {
  await browser?.close();
  await server?.end();
});

/** Shows each component that an example exports, with the run of the query. */
const ENTRY = `import { StrictMode, createElement } from "react";
import { createRoot } from "react-dom/client";
${EXAMPLES.map(({ name }, index) => `import * as m${index} from "./${name}";`).join("\n")}
const runId = new URLSearchParams(location.search).get("run");
const root = document.getElementById("root");
for (const module of [${EXAMPLES.map((_, index) => `m${index}`)}]) {
  for (const [name, component] of Object.entries(module)) {
    if (typeof component !== "function" || !/^[A-Z]/.test(name)) continue;
    const place = document.createElement("div");
    place.id = name;
    root.append(place);
    createRoot(place).render(createElement(StrictMode, null, createElement(component, { runId })));
  }
}`;

test("every example of the hooks works", async () => {
  const client = createDurablyClient({ api: server.api });
  const { runId } = await client.triggerAndWait("import-csv", { rows: 2 });
  const page = await browser.newPage();
  const complaints: string[] = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  await page.goto(`${server.origin}/?run=${runId}`);
  // biome-ignore lint/performance/useDomNodeTextContent: as a person sees it, with its spaces
  const text = (selector: string) => page.locator(selector).innerText();
  await expect.poll(() => text("#RunMonitor")).toMatch(/completed row 2 2/);
  await expect.poll(() => text("#LogViewer")).toMatch(/row-1 \[info\] saved \{"row":1\}/);
  await expect.poll(() => text("#Dashboard")).toMatch(/completed 2/);
  await expect.poll(() => text("#FinishedImports")).toBe("2 rows");
  await page.locator("#ImportButton button", { hasText: /^Import$/ }).click();
  await expect.poll(() => text("#ImportButton")).toMatch(/completed\s+3 rows/);
  await expect.poll(() => text("#FinishedImports")).toBe("5 rows");
  await expect.poll(() => text("#Importer")).toMatch(/3 no more rows/);
  await page.locator("#ImportButton button", { hasText: /tell/ }).click();
  await expect.poll(() => text("#AnyRuns")).toBe('{"count":3}');
  await page.locator("#RunActions button", { hasText: "Cancel" }).click();
  await page.locator("#App button", { hasText: "Jobs" }).click();
  await expect.poll(() => text("#App")).toMatch(/import-csv/);
  await expect.poll(() => text("#RunActions")).toMatch(/finished|completed|over/);
  const refused = complaints.filter((complaint) => !/409 \(Conflict\)/.test(complaint));
  expect(refused).toEqual([]);
  await page.close();
});
