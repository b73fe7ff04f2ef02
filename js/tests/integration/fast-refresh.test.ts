/** A developer edits a component while its run goes on: Vite's own server, in a real browser. */

import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import react from "@vitejs/plugin-react";
import type { Browser } from "playwright-core";
import { createServer, type ViteDevServer } from "vite";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openChromium } from "../page/chromium.js";
import { Server } from "../server/server.js";

const JS = join(import.meta.dirname, "../..");

let server: Server;
let browser: Browser;
let vite: ViteDevServer;
let folder: string;

const component = (title: string) => `import { useJob, useRuns } from "durably-react/client";
const api = "/api/durably";
export function Page() {
  const { trigger, status, currentRunId, progress, output, logs } = useJob({ api, jobName: "import-csv" });
  const { page, nextPage } = useRuns({ api, pageSize: 1 });
  return (
    <main>
      <h1>${title}</h1>
      <button id="trigger" onClick={() => trigger({ name: "refresh", rows: 2, hold: [1] })}>trigger</button>
      <button id="next" onClick={nextPage}>next</button>
      <p id="run">{currentRunId}</p>
      <p id="page">{page}</p>
      <p id="state">{status} {progress?.current} {output?.count} {logs.length}</p>
    </main>
  );
}`;

const MAIN = `import { createRoot } from "react-dom/client";
import { StrictMode } from "react";
import { Page } from "./page.jsx";
createRoot(document.getElementById("root")).render(<StrictMode><Page /></StrictMode>);`;

beforeAll(async () => {
  [server, browser] = await Promise.all([Server.start(), openChromium()]);
  folder = join(server.folder, "application");
  await mkdir(folder);
  await symlink(join(JS, "node_modules"), join(folder, "node_modules"));
  const html = `<!doctype html><div id="root"></div><script type="module" src="/main.jsx"></script>`;
  await writeFile(join(folder, "index.html"), html);
  await writeFile(join(folder, "main.jsx"), MAIN);
  await writeFile(join(folder, "page.jsx"), component("before"));
  vite = await createServer({
    configFile: false,
    logLevel: "error",
    root: folder,
    cacheDir: join(server.folder, "cache"),
    plugins: [react()],
    resolve: {
      alias: { "durably-react/client": join(JS, "src/client.ts") },
      dedupe: ["react", "react-dom"],
    },
    server: {
      host: "127.0.0.1",
      port: 0,
      strictPort: false,
      fs: { strict: false },
      proxy: { "/api": server.origin },
    },
  });
  await vite.listen();
});
afterAll(async () => {
  await browser?.close();
  await vite?.close();
  await server?.end();
});

test("an edit keeps the run and the page that are shown", async () => {
  const page = await browser.newPage();
  const errors: Error[] = [];
  page.on("pageerror", (error) => errors.push(error));
  await page.goto(vite.resolvedUrls?.local[0] ?? "");
  const text = (id: string) => page.locator(id).textContent();
  await page.locator("#trigger").click();
  await expect.poll(() => text("#state")).toBe("running 1  1");
  await page.locator("#next").click();
  await expect.poll(() => text("#page")).toBe("1");
  const run = await text("#run");
  await page.evaluate("window.isTheSame = true");
  await writeFile(join(folder, "page.jsx"), component("after"));
  await expect.poll(() => text("h1")).toBe("after");
  expect(await page.evaluate("window.isTheSame")).toBe(true);
  expect(await text("#run")).toBe(run);
  expect(await text("#page")).toBe("1");
  expect(await text("#state")).toBe("running 1  1");
  await server.open("refresh-1");
  await expect.poll(() => text("#state")).toBe("completed 2 2 3");
  expect(errors).toEqual([]);
});
