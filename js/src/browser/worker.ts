/**
 * The worker of a page. It waits for its turn, loads Python, waits until the database is free, and owns
 * it until the page goes: then the next one, which has loaded Python already, takes over.
 */

import type { FromPage } from "../core/port.js";
import {
  type Announcement,
  channelOf,
  Failure,
  LOADING,
  lifeOf,
  messageOf,
  nameOf,
  type Order,
  type Orders,
  type Report,
  standbyOf,
  WELCOME,
} from "./messages.js";
import { mountFiles, type OpfsFiles, openFiles } from "./opfs.js";
import { loadPython, type Python, type PythonPort, type PythonServer } from "./python.js";

const FOLDER = "/durably/data";
const CHECK = ".commit-check";

const report = (said: Report) => postMessage(said);
let database = "";
let python: Python | undefined;
let server: PythonServer | undefined;

addEventListener("message", ({ data }: MessageEvent<Orders | Order>) => {
  if (data === "stop") void stop();
  else if (data === "yield") void yieldIfAwaited();
  else serve(data).catch(fail);
});
for (const broken of ["error", "unhandledrejection"]) addEventListener(broken, checkPython);

async function stop(): Promise<void> {
  try {
    await server?.stop();
  } finally {
    close();
  }
}

/** The page is about to be frozen, and we with it. Whoever waits for the database shall have it. */
async function yieldIfAwaited(): Promise<void> {
  const { pending } = await navigator.locks.query();
  if (server === undefined || !pending?.some(({ name }) => name === nameOf(database))) return;
  report("yielded");
  await stop();
}

/** Something went wrong that nobody expected. When it broke Python, this worker is of no use any more. */
function checkPython(): void {
  if (python?.isAlive() === false) fail(new Failure("crashed", "Python broke down"));
}

function fail(error: unknown): void {
  const code = error instanceof Failure ? error.code : "failed";
  report({ failed: { code, message: messageOf(error) } });
  close();
}

/** The whole life: next in line, then owner. */
async function serve(orders: Orders): Promise<void> {
  checkPlatform();
  database = orders.database;
  const turn = await held(standbyOf(database));
  const load = () =>
    // A service worker that brings a new release waits for it: its parts come from one release.
    navigator.locks.request(LOADING, { mode: "shared" }, () =>
      loadPython(orders, (phase) => report({ phase })),
    );
  if (orders.standby) {
    python = await load();
    report({ phase: "standby" });
  }
  await held(nameOf(database));
  python ??= await load();
  await own(orders, python);
  turn.release();
}

async function own(orders: Orders, python: Python): Promise<void> {
  report({ phase: "database" });
  const files = await openDatabase(orders.database);
  mountFiles(python.fs, files, FOLDER);
  try {
    python.durably.check_commits(`${FOLDER}/${CHECK}`, () => files.flushes);
    const [modules, settings] = [JSON.stringify(python.modules), JSON.stringify(orders.settings)];
    server = await python.durably.start(`${FOLDER}/${orders.database}`, modules, settings);
  } catch (error) {
    throw ofPython(error);
  }
  await listen(server);
  report({ phase: "ready" });
}

/** What this browser must have. */
function checkPlatform(): void {
  const handle = (globalThis as { FileSystemFileHandle?: { prototype: object } })
    .FileSystemFileHandle;
  const hasOpfs = handle && "createSyncAccessHandle" in handle.prototype;
  if (!navigator.storage?.getDirectory || !hasOpfs) {
    throw new Failure(
      "no_opfs",
      "this browser has no origin-private file system with synchronous access, or keeps it from this page; " +
        "Chrome 102, Firefox 111 and Safari 16.4 are the first with it, and private windows may be without",
    );
  }
}

async function openDatabase(database: string): Promise<OpfsFiles> {
  try {
    const root = await navigator.storage.getDirectory();
    const directory = await root.getDirectoryHandle("durably", { create: true });
    return await openFiles(directory, [database, CHECK]);
  } catch (error) {
    throw ofStorage(error);
  }
}

function ofStorage(error: unknown): Failure {
  const name = error instanceof Error ? error.name : "";
  const why = messageOf(error);
  switch (name) {
    case "QuotaExceededError":
      return new Failure("quota", `there is no room for the database: ${why}`);
    case "NoModificationAllowedError":
      return new Failure("in_use", `somebody else has the database open: ${why}`);
    case "SecurityError":
      return new Failure("no_opfs", `the browser keeps its file system from this page: ${why}`);
    default:
      return new Failure("storage", `the database cannot be opened: ${name}: ${why}`);
  }
}

/** An exception of Python: its last line tells what, all of it where. */
function ofPython(error: unknown): Failure {
  const text = messageOf(error).trim();
  const isFull = text.includes("disk is full");
  return new Failure(isFull ? "quota" : "python", text);
}

// -- locks

/** Hold a lock, until it is released or this worker ends. */
function held(name: string): Promise<{ release(): void }> {
  return new Promise((granted, refused) => {
    navigator.locks
      .request(name, () => new Promise<void>((release) => granted({ release })))
      .catch(refused);
  });
}

// -- pages

/** Tell the pages who owns the database, and answer each that says hello. */
async function listen(server: PythonServer): Promise<void> {
  const term = crypto.randomUUID();
  await held(lifeOf(database, term));
  const all = new BroadcastChannel(nameOf(database));
  const announce = () => all.postMessage({ owner: term } satisfies Announcement);
  const channels = new Map<string, BroadcastChannel>();
  all.onmessage = ({ data }: MessageEvent<Announcement>) => {
    if ("who" in data) announce();
    else if ("hello" in data && data.owner === term) {
      const page = data.hello; // which says it again while our answer takes its time
      const channel = channels.get(page) ?? new BroadcastChannel(channelOf(database, term, page));
      if (!channels.has(page)) answer(channel, page, server, () => channels.delete(page));
      channels.set(page, channel);
      channel.postMessage(WELCOME);
    }
  };
  announce();
}

/** Answer a page until it is gone. */
function answer(
  channel: BroadcastChannel,
  page: string,
  server: PythonServer,
  gone: () => void,
): void {
  const port = server.connect({
    head: (id, status, headers) =>
      channel.postMessage({ id, status, headers: JSON.parse(headers) }),
    chunk: (id, chunk) => channel.postMessage({ id, chunk }),
    end: (id) => channel.postMessage({ id, end: true }),
  });
  channel.onmessage = ({ data }: MessageEvent<FromPage>) => pass(data, port);
  // Ours once the page is gone, however it went.
  void navigator.locks.request(lifeOf(database, page), () => {
    port.close();
    port.destroy();
    channel.close();
    gone();
  });
}

function pass(said: FromPage, port: PythonPort): void {
  // Only a Python that has broken down throws here: see `checkPython`.
  if ("cancel" in said) port.cancel(said.id);
  else if ("more" in said) port.more(said.id, said.more);
  else if ("method" in said)
    port.ask(said.id, said.method, said.path, JSON.stringify(said.headers), said.body);
}
