/** Pyodide with Durably and the jobs in it, all from the application's own files. */

import { Failure, messageOf, type Orders, type Phase } from "./messages.js";
import { type EmscriptenFS, mendFdatasync } from "./opfs.js";

/** What `durably browser-bundle` wrote about the bundle. */
export interface Manifest {
  durably: string;
  pyodide: string;
  /** In the order in which they are installed. */
  wheels: string[];
}

/** The other end of a port, as Python sees it. */
export interface PageSide {
  head(id: number, status: number, headers: string): void;
  chunk(id: number, text: string): void;
  end(id: number): void;
}

/** `durably.browser.Port`. */
export interface PythonPort {
  ask(id: number, method: string, path: string, headers: string, body: string): void;
  more(id: number, chunks: number): void;
  cancel(id: number): void;
  close(): void;
  destroy(): void;
}

/** `durably.browser.Server`. */
export interface PythonServer {
  connect(page: PageSide): PythonPort;
  stop(grace?: number): Promise<void>;
}

interface DurablyBrowser {
  check_commits(path: string, flushes: () => number): void;
  start(database: string, modules: string, settings: string): Promise<PythonServer>;
}

interface Pyodide {
  FS: EmscriptenFS;
  loadPackage(urls: string[], options: object): Promise<unknown>;
  unpackArchive(buffer: ArrayBuffer, format: string): void;
  runPython(code: string): unknown;
  pyimport(name: string): unknown;
}

/** Pyodide, ready to open the database. */
export interface Python {
  fs: EmscriptenFS;
  durably: DurablyBrowser;
  /** The names of the modules with jobs. */
  modules: string[];
  /** False once the interpreter has broken down. */
  isAlive(): boolean;
}

const FOLDER = "/durably/jobs";

/** Load all that can be loaded while another tab still has the database. */
export async function loadPython(orders: Orders, tell: (phase: Phase) => void): Promise<Python> {
  tell("python");
  mendFdatasync();
  const [pyodide, manifest, ...jobs] = await Promise.all([
    loadPyodide(orders),
    manifestOf(orders.bundle),
    ...orders.jobs.map((one, index) => jobsOf(one, index, orders.module)),
  ]);
  tell("packages");
  const wheels = manifest.wheels.map((wheel) => new URL(wheel, orders.bundle).href);
  const more = jobs.flatMap(({ wheel }) => wheel ?? []);
  await install(pyodide, [...wheels, ...orders.packages, ...more]);
  tell("jobs");
  pyodide.FS.mkdirTree(FOLDER);
  pyodide.runPython(`import sys; sys.path.insert(0, ${JSON.stringify(FOLDER)})`);
  for (const { module, source } of jobs) {
    if (source !== undefined) pyodide.FS.writeFile(`${FOLDER}/${module}.py`, source);
  }
  const durably = importDurably(pyodide);
  const isAlive = () => {
    try {
      return pyodide.runPython("True") === true;
    } catch {
      return false;
    }
  };
  return { fs: pyodide.FS, durably, modules: jobs.map(({ module }) => module), isAlive };
}

function importDurably(pyodide: Pyodide): DurablyBrowser {
  try {
    return pyodide.pyimport("durably.browser") as DurablyBrowser;
  } catch (error) {
    throw new Failure("no_package", messageOf(error));
  }
}

async function loadPyodide({ pyodide }: Orders): Promise<Pyodide> {
  try {
    const { loadPyodide } = await import(/* @vite-ignore */ `${pyodide}pyodide.mjs`);
    return await loadPyodide({ indexURL: pyodide });
  } catch (error) {
    throw new Failure(
      "no_python",
      `Pyodide could not be loaded from ${pyodide}: ${messageOf(error)}`,
    );
  }
}

async function manifestOf(bundle: string): Promise<Manifest> {
  const response = await get(`${bundle}manifest.json`, "no_bundle");
  try {
    return await response.json();
  } catch {
    throw new Failure("no_bundle", `${response.url} is no manifest of 'durably browser-bundle'`);
  }
}

async function install(pyodide: Pyodide, wheels: string[]): Promise<void> {
  const problems: string[] = [];
  const quiet = { messageCallback: () => {}, errorCallback: (text: string) => problems.push(text) };
  await pyodide.loadPackage(wheels, quiet);
  if (problems.length > 0) throw new Failure("no_package", problems.join("\n"));
}

/** The name of the module with the jobs, and what it comes from. */
interface Jobs {
  module: string;
  source?: string;
  wheel?: string;
}

async function jobsOf(jobs: string, index: number, module: string | undefined): Promise<Jobs> {
  if (jobs.includes("\n")) return { module: index === 0 ? "jobs" : `jobs_${index}`, source: jobs };
  const path = new URL(jobs).pathname;
  const file = decodeURIComponent(path.slice(path.lastIndexOf("/") + 1));
  if (file.endsWith(".whl")) {
    return { module: module ?? file.slice(0, file.indexOf("-")), wheel: jobs };
  }
  const response = await get(jobs, "no_jobs");
  return { module: file.replace(/\.py$/, ""), source: await response.text() };
}

async function get(url: string, code: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new Failure(code, `${url} cannot be loaded: ${messageOf(error)}`);
  }
  if (!response.ok) throw new Failure(code, `${url} cannot be loaded: HTTP ${response.status}`);
  return response;
}
