/** A real HTTP server whose answers a test decides on. */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach } from "vitest";
import type { Run, RunStatus } from "../../src/core/protocol.js";

export interface Asked {
  method: string;
  path: string;
  query: URLSearchParams;
  headers: IncomingMessage["headers"];
  body: unknown;
}

type Answering = (asked: Asked, response: ServerResponse) => unknown;

/** A stream that is open, or was. */
export class OpenStream {
  readonly asked: Asked;
  readonly #response: ServerResponse;
  isOpen = true;

  constructor(asked: Asked, response: ServerResponse) {
    this.asked = asked;
    this.#response = response;
    response.on("close", () => {
      this.isOpen = false;
    });
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.flushHeaders();
  }

  /** Sends frames as they are. */
  send(text: string): void {
    this.#response.write(text);
  }

  tell(event: object, id?: number, retry?: number): void {
    const head = (id === undefined ? "" : `id: ${id}\n`) + (retry ? `retry: ${retry}\n` : "");
    this.send(`${head}data: ${JSON.stringify(event)}\n\n`);
  }

  /** Ends it properly, or cuts the connection. */
  end(how: "properly" | "cut" = "properly"): void {
    if (how === "cut") this.#response.destroy();
    else this.#response.end();
  }
}

const servers: ScriptedServer[] = [];
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

export class ScriptedServer {
  readonly asked: Asked[] = [];
  readonly streams: OpenStream[] = [];
  readonly #answers = new Map<string, Answering>();
  readonly #server = createServer((request, response) => void this.#answer(request, response));

  /** Listens, until the test ends. */
  static async start(): Promise<ScriptedServer> {
    const scripted = new ScriptedServer();
    servers.push(scripted);
    await new Promise<void>((resolve) => scripted.#server.listen(0, "127.0.0.1", resolve));
    return scripted;
  }

  get api(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/api`;
  }

  /** What is answered at a path; a value is sent as JSON. Streams are open unless said otherwise. */
  on(path: string, answering: Answering): this {
    this.#answers.set(path, answering);
    return this;
  }

  /** The streams that are open now. */
  get open(): OpenStream[] {
    return this.streams.filter((stream) => stream.isOpen);
  }

  /** How often a path was asked for. */
  count(path: string): number {
    return this.asked.filter((asked) => asked.path === path).length;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "", "http://localhost");
    const path = url.pathname.replace("/api", "");
    const body = await bodyOf(request);
    const { method = "", headers } = request;
    const asked = { method, path, query: url.searchParams, headers, body };
    this.asked.push(asked);
    const answering = this.#answers.get(path);
    if (answering === undefined && path.endsWith("/subscribe")) {
      this.streams.push(new OpenStream(asked, response));
      return;
    }
    const answer = await (answering ?? (() => refuse(404, "not_found")))(asked, response);
    if (response.headersSent || answer === undefined) return;
    const status = answer instanceof Refusal ? answer.status : 200;
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(answer instanceof Refusal ? answer.body : answer));
  }
}

class Refusal {
  readonly status: number;
  readonly body: object;
  constructor(status: number, body: object) {
    this.status = status;
    this.body = body;
  }
}

export function refuse(status: number, code: string): Refusal {
  return new Refusal(status, { error: `this is ${code}`, code });
}

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text === "" ? undefined : JSON.parse(text);
}

const AT = "2026-01-01T00:00:00.000Z";

/** A run as a server tells it. */
export function aRun(id: string, status: RunStatus, more: Partial<Run> = {}): Run {
  const isTerminal = status === "completed" || status === "failed" || status === "cancelled";
  return {
    id,
    jobName: "job",
    status,
    input: {},
    payload: {},
    output: null,
    error: null,
    progress: null,
    labels: {},
    completedStepCount: 0,
    currentStepIndex: 0,
    startedAt: null,
    completedAt: null,
    createdAt: AT,
    updatedAt: AT,
    isTerminal,
    isActive: !isTerminal,
    attempt: 1,
    errorType: null,
    failedStepName: null,
    ...more,
  };
}

/** An event as a server tells it. */
export function anEvent(type: string, runId: string, sequence: number | null, more: object = {}) {
  const timestamp = "2026-01-01T00:00:01.000Z";
  return { type, runId, jobName: "job", labels: {}, timestamp, sequence, ...more };
}
