// What a page shows, by playwright-core: a Node script as a test would have one.
import { createRequire } from "node:module";

const { chromium } = createRequire(`${process.env.NODE_MODULES}/`)("playwright-core");
const { path, env, flags, html } = JSON.parse(process.argv[2]);

const browser = await chromium.launch({
  executablePath: path,
  args: flags,
  env: { ...process.env, ...env },
});
const page = await browser.newPage();
await page.setContent(html);
console.log(JSON.stringify(await page.title()));
await browser.close();
