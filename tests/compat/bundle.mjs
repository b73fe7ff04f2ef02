// The page and the client it uses, unmodified, in one file.
import { createRequire } from "node:module";

const { build } = createRequire(`${process.env.NODE_MODULES}/`)("esbuild");
const { entry, outfile } = JSON.parse(process.argv[2]);

await build({
  entryPoints: [entry],
  outfile,
  bundle: true,
  format: "esm",
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"' },
  nodePaths: [process.env.NODE_MODULES],
  logLevel: "error",
});
