import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

const source = (path: string) => fileURLToPath(new URL(`../../js/src/${path}`, import.meta.url));

export default defineConfig({
  base: "./", // so that the build can lie in any folder of any host
  plugins: [react(), offline()],
  // Inside Durably's repository its package is taken from its source. An application of your own says
  // `npm install durably-react` and needs none of this (nor `paths` in tsconfig.json).
  resolve: {
    alias: {
      "durably-react/browser": source("browser/index.ts"),
      "durably-react": source("index.ts"),
    },
    dedupe: ["react"],
  },
});

/** Writes the service worker: Durably's own, told which files this page is made of. */
function offline(): Plugin {
  return {
    name: "offline",
    apply: "build",
    generateBundle(_, files) {
      const names = JSON.stringify(["./", "index.html", ...Object.keys(files)]);
      this.emitFile({
        type: "asset",
        fileName: "sw.js",
        source: `const here = (name) => new URL(name, self.location).pathname;
self.DURABLY = { bundle: here("durably/"), pages: ${names}.map(here) };
importScripts("durably/service-worker.js");
`,
      });
    },
  };
}
