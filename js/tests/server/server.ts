/** The real server, in a process of its own. */

import { type ChildProcess, spawn } from "node:child_process";
import { createSocket, type Socket } from "node:dgram";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const HERE = import.meta.dirname;
const ROOT = join(HERE, "../../..");
const PATIENCE = 30_000;

/** Python with durably: `$DURABLY_PYTHON`, else the project's environment, else any. */
export function python(): string {
  const own = join(ROOT, ".venv/bin/python");
  return process.env.DURABLY_PYTHON ?? (existsSync(own) ? own : "python3");
}

export class Server {
  readonly folder: string;
  readonly port: number;
  #child: ChildProcess | undefined;

  private constructor(folder: string, port: number) {
    this.folder = folder;
    this.port = port;
  }

  /** A server with an empty database, started. */
  static async start(): Promise<Server> {
    const folder = await mkdtemp(join(tmpdir(), "durably-js-"));
    await mkdir(join(folder, "page"));
    const server = new Server(folder, await freePort());
    await server.restart();
    return server;
  }

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get api(): string {
    return `${this.origin}/api/durably`;
  }

  /** Starts the process: at first, or after `kill`. */
  async restart(): Promise<void> {
    const args = [join(HERE, "app.py"), this.folder, String(this.port)];
    const child = spawn(python(), args, { stdio: ["ignore", "inherit", "inherit"] });
    this.#child = child;
    for (const end = Date.now() + PATIENCE; ; ) {
      if (child.exitCode !== null) throw new Error(`the server ended with ${child.exitCode}`);
      if (await this.#answers()) return;
      if (Date.now() > end) throw new Error("the server does not answer");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async #answers(): Promise<boolean> {
    try {
      return (await fetch(`${this.api}/healthz`)).ok;
    } catch {
      return false;
    }
  }

  /** SIGKILL: as a crash. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
  }

  /** Lets a job go on that holds for this. */
  async open(gate: string): Promise<void> {
    await writeFile(join(this.folder, "gates", gate), "");
  }

  /** Ends it and removes what it kept. */
  async end(): Promise<void> {
    await this.kill();
    await rm(this.folder, { recursive: true, force: true });
  }
}

const FIRST_PORT = 20_000;
const FIRST_EPHEMERAL = 32_768;

/**
 * A port that stays ours while the server is down: none that the system hands out to connections, and with
 * the port of UDP, which nothing here speaks, held as a mark for other processes.
 */
async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * (FIRST_EPHEMERAL - FIRST_PORT));
    const mark = createSocket("udp4").unref();
    if ((await binds(mark, port)) && (await listens(port))) return port;
    mark.close();
  }
}

function binds(mark: Socket, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    mark.once("error", () => resolve(false));
    mark.bind({ port, address: "127.0.0.1", exclusive: true }, () => resolve(true));
  });
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });
}
