/** Serves a page, and a run that logs at a given rate: `/api/subscribe`. */

import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const TICK = 5; // milliseconds
const HTML = `<!doctype html><div id="root"></div><script type="module" src="/page.js"></script>`;

/** How the run behaves. */
export interface Load {
  /** Events in a second. */
  rate: number;
  seconds: number;
}

export async function serve(page: string, load: Load): Promise<{ origin: string; server: Server }> {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://localhost");
    if (pathname === "/api/subscribe") void stream(response, load);
    else if (pathname === "/api/run")
      json(response, { id: "run", jobName: "job", status: "running" });
    else if (pathname === "/api/logs") json(response, []);
    else if (pathname === "/page.js") send(response, "text/javascript", page);
    else send(response, "text/html", HTML);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, server };
}

function json(response: ServerResponse, value: unknown): void {
  send(response, "application/json", JSON.stringify(value));
}

function send(response: ServerResponse, type: string, text: string): void {
  response.writeHead(200, { "content-type": type }).end(text);
}

async function stream(response: ServerResponse, { rate, seconds }: Load): Promise<void> {
  response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
  await sleep(500);
  const start = performance.now();
  const all = rate * seconds;
  for (let sent = 0; sent < all; ) {
    const due = Math.min(all, Math.floor(((performance.now() - start) / 1000) * rate));
    let text = "";
    for (; sent < due; sent++) text += frameOf(sent);
    if (text !== "" && !response.write(text)) {
      await new Promise((resolve) => response.once("drain", resolve));
    }
    await sleep(TICK);
  }
}

function frameOf(n: number): string {
  const event = {
    type: "log:write",
    runId: "run",
    jobName: "job",
    labels: {},
    stepName: "step",
    level: "info",
    message: `line ${n}`,
    data: null,
    timestamp: "2026-01-01T00:00:00.000Z",
    sequence: n + 1,
  };
  return `id: ${n + 1}\ndata: ${JSON.stringify(event)}\n\n`;
}
