import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build, type Rollup } from "vite";
import { beforeAll, expect, test } from "vitest";
import { JS, run, runOwn, temporary } from "./npm.js";

const MOST_BYTES = 8_700;

let tarball: string;
let versions: Record<string, string>;

beforeAll(async () => {
  const folder = await temporary();
  const { devDependencies } = JSON.parse(await readFile(join(JS, "package.json"), "utf8"));
  versions = devDependencies;
  await run("npm", ["run", "--silent", "build"]);
  const packed = await run("npm", ["pack", "--silent", "--pack-destination", folder]);
  tarball = join(folder, packed.trim());
});

test("publint has nothing to say", async () => {
  const said = await runOwn("publint", ["run", "--strict", tarball]);
  expect(said).toMatch(/All good/);
});

test("are the types wrong? No", async () => {
  // ESM only: `require` of it works in no Node that lacks `require(esm)`.
  const said = await runOwn("attw", ["--profile", "esm-only", "--format", "ascii", tarball]);
  expect(said).not.toMatch(/FalseESM|FalseCJS|InternalResolution/);
});

test.each([
  ["durably-react/client", "client.js"],
  ["durably-react", "index.js"],
])(`%s is below ${MOST_BYTES} bytes, minified and compressed`, async (name, file) => {
  const output = (await build({
    configFile: false,
    logLevel: "error",
    build: {
      write: false,
      rolldownOptions: {
        input: join(JS, "dist", file),
        preserveEntrySignatures: "strict",
        external: ["react", "react/jsx-runtime"],
      },
    },
  })) as Rollup.RollupOutput;
  const { code } = output.output[0];
  const size = gzipSync(code, { level: 9 }).length;
  console.log(`${name}: ${size} bytes gzip, ${code.length} minified`);
  expect(size).toBeLessThan(MOST_BYTES);
});

test("it needs nothing at run time but React", async () => {
  const manifest = JSON.parse(await readFile(join(JS, "package.json"), "utf8"));
  expect(manifest.dependencies).toBeUndefined();
  expect(Object.keys(manifest.peerDependencies)).toEqual(["react"]);
  for (const entry of ["index", "client"]) {
    const text = await readFile(join(JS, "dist", `${entry}.js`), "utf8");
    expect(text).toMatch(/^"use client";/);
  }
});

test("the lock file names no host", async () => {
  expect(await readFile(join(JS, "package-lock.json"), "utf8")).not.toMatch(/:\/\//);
});

const APP = `import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { DurablyProvider, useJob } from "durably-react";
import { createDurablyClient } from "durably-react/client";

type Jobs = { "import-csv": { input: { file: string }; output: { count: number } } };
const client = createDurablyClient<Jobs>({ api: "/api/durably" });

function Import() {
  const { trigger, output, isRunning } = client["import-csv"].useJob();
  const echo = useJob<string, string>({ jobName: "echo" });
  const count: number | undefined = output?.count;
  return (
    <button type="button" disabled={isRunning} onClick={() => trigger({ file: "a.csv" })}>
      {count} {echo.output}
    </button>
  );
}

createRoot(document.getElementById("root") as HTMLElement).render(
  <StrictMode>
    <DurablyProvider durably={client}>
      <Import />
    </DurablyProvider>
  </StrictMode>,
);
`;

test("a fresh Vite application installs it, type-checks and builds", async () => {
  const folder = await temporary();
  const names = ["react", "react-dom", "@types/react", "@types/react-dom", "typescript", "vite"];
  const dependencies = Object.fromEntries(names.map((name) => [name, versions[name]]));
  const files = {
    "package.json": JSON.stringify({
      private: true,
      type: "module",
      dependencies: { ...dependencies, "durably-react": `file:${tarball}` },
    }),
    "tsconfig.json": JSON.stringify({
      compilerOptions: {
        target: "ES2022",
        module: "ESNext",
        moduleResolution: "bundler",
        lib: ["ES2022", "DOM"],
        jsx: "react-jsx",
        strict: true,
        noEmit: true,
        types: [],
      },
      include: ["src"],
    }),
    "index.html":
      '<!doctype html><div id="root"></div><script type="module" src="/src/main.tsx"></script>',
    "src/main.tsx": APP,
  };
  await mkdir(join(folder, "src"));
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  const install = ["install", "--silent", "--prefer-offline", "--no-audit", "--ignore-scripts"];
  await run("npm", install, folder);
  await run("npx", ["--no-install", "tsc", "-p", "."], folder);
  await run("npx", ["--no-install", "vite", "build", "--logLevel", "error"], folder);
  expect(await readFile(join(folder, "dist/index.html"), "utf8")).toMatch(/assets\/index-/);
}, 300_000);
