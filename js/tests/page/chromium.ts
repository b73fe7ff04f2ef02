/** A real Chromium: `$CHROME_PATH`, else Debian's. */

import { existsSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // Loopback is all that a test may reach.
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
];

export function openChromium(): Promise<Browser> {
  const path = process.env.CHROME_PATH ?? "/usr/bin/chromium";
  if (!existsSync(path)) throw new Error(`there is no Chromium at ${path}: set CHROME_PATH`);
  return chromium.launch({ executablePath: path, args: FLAGS });
}
