/** Pages, bundled. */

import { writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { build } from "vite";

const JS = join(import.meta.dirname, "../..");
const HTML = `<!doctype html><html lang="en"><meta charset="utf-8"><title>durably</title><link rel="icon" href="data:,">
<div id="root"></div><script type="module" src="/page.js"></script></html>`;

/** Writes `index.html` and `page.js` into a folder. */
export async function buildPage(
  folder: string,
  entry = join(import.meta.dirname, "page.tsx"),
): Promise<void> {
  const alias = [
    { find: /^durably-react$/, replacement: join(JS, "src/index.ts") },
    { find: "durably-react/client", replacement: join(JS, "src/client.ts") },
    { find: /^(react|react-dom)(?=\/|$)/, replacement: join(JS, "node_modules/$1") },
  ];
  await build({
    configFile: false,
    logLevel: "error",
    root: dirname(entry),
    // `NODE_ENV` in tests is "test"; StrictMode only mounts twice in development.
    define: { "process.env.NODE_ENV": '"development"' },
    resolve: { alias },
    oxc: { jsx: { runtime: "automatic", development: false } },
    build: {
      outDir: folder,
      emptyOutDir: false,
      minify: false,
      lib: { entry, formats: ["es"], fileName: () => "page.js" },
    },
  });
  await writeFile(join(folder, "index.html"), HTML);
}
