// Pyodide under Node: { wheels, archive?, env, code, inTask? } in, what the code calls `result` out.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { wheels, archive, env, code, inTask = true } = JSON.parse(process.argv[2]);

async function main() {
  const modules = pathToFileURL(`${process.env.NODE_MODULES}/`);
  const { loadPyodide } = await import(new URL("pyodide/pyodide.mjs", modules));
  const log = (text) => process.stderr.write(`${text}\n`);
  const python = await loadPyodide({ env, stdout: log, stderr: log });
  await python.loadPackage(wheels, { messageCallback() {} });
  if (archive) {
    python.FS.mkdirTree("/project");
    python.unpackArchive(new Uint8Array(readFileSync(archive)), "zip", { extractDir: "/project" });
  }
  // Within a task no other loop can run its own.
  if (inTask) await python.runPythonAsync(code);
  else python.runPython(code);
  return python.runPython("import json\njson.dumps(result)");
}

// The place where an uncaught error came from would be shown with its line, which is all of Pyodide.
main().then(console.log, (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
