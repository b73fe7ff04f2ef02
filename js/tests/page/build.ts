/** The page, bundled. */

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { build } from "vite";

const HTML = `<!doctype html><html lang="en"><meta charset="utf-8"><title>durably</title>
<div id="root"></div><script type="module" src="/page.js"></script></html>`;

export async function buildPage(folder: string): Promise<void> {
  await build({
    configFile: false,
    logLevel: "error",
    root: import.meta.dirname,
    // `NODE_ENV` in tests is "test"; StrictMode only mounts twice in development.
    define: { "process.env.NODE_ENV": '"development"' },
    build: {
      outDir: folder,
      emptyOutDir: false,
      minify: false,
      lib: {
        entry: join(import.meta.dirname, "page.tsx"),
        formats: ["es"],
        fileName: () => "page.js",
      },
    },
  });
  await writeFile(join(folder, "index.html"), HTML);
}
