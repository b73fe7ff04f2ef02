/** How many events a second a hook shows without dropped frames, in a real Chromium. `npm run bench` */

import { join } from "node:path";
import type { Browser } from "playwright-core";
import { build, type Rollup } from "vite";
import { test } from "vitest";
import { openChromium } from "../tests/page/chromium.js";
import { serve } from "./server.js";

const THEIRS = join(import.meta.dirname, "../../tests/browser/node_modules/@coji/durably-react");
const RATES = [10, 1_000, 5_000, 10_000, 20_000, 50_000];
const SECONDS = 3;
/** Each is measured so often; the median counts. */
const TURNS = 3;
/** A frame that came so much later was one too many. */
const DROPPED = 25; // milliseconds; a frame takes 16.7

interface Result {
  /** Whether all was shown when it had all been sent, or a second later. */
  inTime: boolean;
  /** Of a hundred frames. */
  dropped: number;
  longest: number;
}

async function bundle(): Promise<string> {
  const built = (await build({
    configFile: false,
    logLevel: "error",
    oxc: { jsx: { development: false } },
    define: { "process.env.NODE_ENV": '"production"' },
    resolve: { alias: { "@coji/durably-react": THEIRS }, dedupe: ["react", "react-dom"] },
    build: {
      write: false,
      rolldownOptions: { input: join(import.meta.dirname, "page.tsx") },
    },
  })) as Rollup.RollupOutput;
  return built.output[0].code;
}

async function measure(
  browser: Browser,
  code: string,
  name: string,
  rate: number,
): Promise<Result> {
  const load = { rate, seconds: SECONDS };
  const { origin, server } = await serve(code, load);
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(name, error));

  await page.goto(`${origin}/?package=${name}`);
  await page.waitForSelector("#logs li");
  await page.evaluate("frames.length = 0");
  await page.waitForTimeout(load.seconds * 1000 - 200);
  const frames = (await page.evaluate("frames.slice()")) as number[];
  const last = `line ${load.rate * load.seconds - 1}`;
  const inTime = await page
    .waitForFunction(
      (text) => document.querySelector("#logs")?.lastChild?.textContent === text,
      last,
      {
        timeout: 1_200,
      },
    )
    .then(
      () => true,
      () => false,
    );
  await page.close();
  server.closeAllConnections();
  server.close();
  const late = frames.filter((frame) => frame > DROPPED);
  return { inTime, dropped: (late.length / frames.length) * 100, longest: Math.max(...frames) };
}

/** The median of several measurements, each figure by itself. */
function median(results: readonly Result[]): Result {
  const middle = (figures: number[]) =>
    figures.sort((a, b) => a - b)[Math.floor(figures.length / 2)] ?? Number.NaN;
  return {
    inTime: results.filter(({ inTime }) => inTime).length > results.length / 2,
    dropped: middle(results.map(({ dropped }) => dropped)),
    longest: middle(results.map(({ longest }) => longest)),
  };
}

test("events a second through a hook", async () => {
  const [code, browser] = await Promise.all([bundle(), openChromium()]);
  const lines = [
    "| events/s | package | frames dropped | longest frame | all shown in time |",
    "|---|---|---|---|---|",
  ];
  for (const rate of RATES) {
    const results: Record<string, Result[]> = { ours: [], theirs: [] };
    for (let turn = 0; turn < TURNS; turn++) {
      for (const name of ["ours", "theirs"]) {
        results[name]?.push(await measure(browser, code, name, rate));
      }
    }
    for (const [name, measured] of Object.entries(results)) {
      const { inTime, dropped, longest } = median(measured);
      const figures = [`${dropped.toFixed(1)} %`, `${Math.round(longest)} ms`];
      lines.push(`| ${[rate, name, ...figures, inTime ? "yes" : "no"].join(" | ")} |`);
    }
  }
  await browser.close();
  console.log(lines.join("\n"));
});
