/** The golden files have exactly the fields of the types: no one more, no one less. */

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { JS, runOwn, temporary } from "./npm.js";

const TYPES: Record<string, string> = {
  runs: "Run",
  steps: "Step",
  logs: "LogEntry",
  jobs: "JobInfo",
  events: "RunEvent",
  list_events: "ListEvent | Resync",
};

test("every sample of the wire is of its type", async () => {
  const folder = await temporary();
  const protocol = join(JS, "src/core/protocol.js");
  const names = "JobInfo, ListEvent, LogEntry, Resync, Run, RunEvent, Step";
  const lines = [`import type { ${names} } from ${JSON.stringify(protocol)};`];
  for (const [file, type] of Object.entries(TYPES)) {
    const text = await readFile(join(JS, `../tests/wire/${file}.json`), "utf8");
    for (const sample of Object.values(JSON.parse(text))) {
      lines.push(`export const _${lines.length}: ${type} = ${JSON.stringify(sample)};`);
    }
  }
  await writeFile(join(folder, "samples.mts"), lines.join("\n"));
  const config = { extends: join(JS, "tsconfig.json"), include: ["samples.mts"] };
  const options = { compilerOptions: { types: [] } };
  await writeFile(join(folder, "tsconfig.json"), JSON.stringify({ ...config, ...options }));
  expect(await runOwn("tsc", ["-p", folder])).toBe("");
});
