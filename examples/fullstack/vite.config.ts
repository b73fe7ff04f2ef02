import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const server = `http://127.0.0.1:${process.env.PORT ?? 8000}`;

export default defineConfig({
  plugins: [react()],
  // Inside Durably's repository its package is taken from its source. An application of your own says
  // `npm install durably-react` and needs none of this (nor `paths` in tsconfig.json).
  resolve: {
    alias: { "durably-react": fileURLToPath(new URL("../../js/src/index.ts", import.meta.url)) },
    dedupe: ["react"],
  },
  server: { proxy: { "/api": server } },
});
