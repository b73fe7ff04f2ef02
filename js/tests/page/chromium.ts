/** A real Chromium: the one that the project's other tests find. */

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { type Browser, chromium } from "playwright-core";
import { python } from "../server/server.js";

const ROOT = join(import.meta.dirname, "../../..");
const FIND = `
import json
from tests.browser.chromium import FLAGS, find
found = find()
print(json.dumps({"path": str(found.path), "env": dict(found.env), "flags": FLAGS}))
`;

export async function openChromium(): Promise<Browser> {
  const { stdout } = await promisify(execFile)(python(), ["-c", FIND], { cwd: ROOT });
  const { path, env, flags } = JSON.parse(stdout);
  return chromium.launch({ executablePath: path, args: flags, env: { ...process.env, ...env } });
}
