/** How requests reach a server: the one seam between the client and the way there. */

import { DurablyError, messageOf } from "./errors.js";
import { type Frame, FrameParser } from "./sse.js";

/** A request of the protocol. */
export interface Ask {
  method: "GET" | "POST" | "DELETE";
  /** Below the API's base path: `/trigger`. */
  path: string;
  query?: URLSearchParams;
  /** What is sent as JSON. */
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

/** A successful answer; a refusal is thrown as a `DurablyError`. */
export interface Answer {
  body: unknown;
  header(name: string): string | null;
}

/** What a stream says to the one who opened it. */
export interface StreamListener {
  /** The server let us in. */
  opened(): void;
  /** All frames that came together; none when it was only a sign of life. */
  heard(frames: Frame[]): void;
}

/** The way to a server. Streams here are single connections: who wants to come back opens another. */
export interface Transport {
  request(ask: Ask): Promise<Answer>;
  /** Resolves when the stream ends, rejects when it cannot be opened or breaks. */
  subscribe(ask: Ask, listener: StreamListener): Promise<void>;
}

type Headers_ = Record<string, string>;

export interface HttpOptions {
  /** Where the API is: `/api/durably`, or with an origin. */
  api: string;
  /** Instead of the global one; for credentials, tests, or another way to the server. */
  fetch?: typeof globalThis.fetch | undefined;
  /** Sent with each request; a function is asked each time, also when a stream comes back. */
  headers?: Headers_ | (() => Headers_ | Promise<Headers_>) | undefined;
}

/** The protocol over HTTP. */
export class HttpTransport implements Transport {
  readonly #api: string;
  readonly #options: HttpOptions;

  constructor(options: HttpOptions) {
    this.#api = options.api.replace(/\/+$/, "");
    this.#options = options;
  }

  async request(ask: Ask): Promise<Answer> {
    const response = await this.#fetch(ask);
    const body = await jsonOf(response, ask);
    return { body, header: (name) => response.headers.get(name) };
  }

  async subscribe(ask: Ask, listener: StreamListener): Promise<void> {
    const response = await this.#fetch(ask, { accept: "text/event-stream" });
    const type = response.headers.get("content-type") ?? "";
    if (!type.startsWith("text/event-stream") || response.body === null) {
      await response.body?.cancel();
      throw new DurablyError(`${ask.path} gave no stream but ${type}`, 0, "malformed_answer");
    }
    listener.opened();
    await readFrames(response.body, listener);
  }

  async #fetch(ask: Ask, more?: Headers_): Promise<Response> {
    const { fetch = globalThis.fetch, headers } = this.#options;
    const body = bodyOf(ask);
    const own = typeof headers === "function" ? await asked(headers, ask) : headers;
    const query = ask.query?.toString();
    const sent = { ...protocolHeaders(ask), ...own, ...ask.headers, ...more };
    Object.entries(sent).forEach(checkHeader);
    let response: Response;
    try {
      response = await fetch(`${this.#api}${ask.path}${query ? `?${query}` : ""}`, {
        method: ask.method,
        headers: sent,
        body,
        signal: ask.signal ?? null,
        cache: "no-store",
      });
    } catch (error) {
      if (ask.signal?.aborted) throw error;
      const message = `the server cannot be reached: ${messageOf(error)}`;
      throw new DurablyError(message, 0, "unreachable", { cause: error });
    }
    if (!response.ok) throw await refusalOf(response);
    return response;
  }
}

/** What the page's own function gives. It may succeed the next time, as a request of its own may. */
async function asked(headers: () => Headers_ | Promise<Headers_>, ask: Ask): Promise<Headers_> {
  try {
    return await unlessAborted(Promise.resolve(headers()), ask.signal);
  } catch (cause) {
    if (ask.signal?.aborted) throw cause;
    throw new DurablyError(`headers() failed: ${messageOf(cause)}`, 0, "headers_failed", { cause });
  }
}

/** Gives up waiting when the signal says so. */
export function unlessAborted<T>(
  promise: Promise<T>,
  signal: AbortSignal | null | undefined,
): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/** Its value is not shown: it may be a secret. */
function checkHeader([name, value]: [string, string]): void {
  try {
    new Headers([[name, value]]);
  } catch {
    const message = `the header ${JSON.stringify(name)} has a character that cannot be sent`;
    throw new DurablyError(message, 0, "invalid_headers");
  }
}

/** A body as JSON; null for none. */
function bodyOf({ body }: Ask): string | null {
  try {
    return JSON.stringify(body) ?? null;
  } catch (cause) {
    const message = problemIn(body) ?? `the input cannot be sent: ${messageOf(cause)}`;
    throw new DurablyError(message, 0, "invalid_input", { cause });
  }
}

/** Which part of a value JSON cannot hold; `above` are those that it is in. */
function problemIn(value: unknown, path = "", above: unknown[] = []): string | undefined {
  if (typeof value === "bigint") return `${path} is a BigInt, which JSON cannot hold`;
  if (above.includes(value)) return `${path} is a circular reference, which JSON cannot hold`;
  if (typeof value !== "object" || value === null) return undefined;
  for (const [key, part] of Object.entries(value)) {
    const at = Array.isArray(value) ? `${path}[${key}]` : path ? `${path}.${key}` : key;
    const problem = problemIn(part, at, [...above, value]);
    if (problem) return problem;
  }
  return undefined;
}

/** Without one of these a server takes an unsafe request for another site's. */
function protocolHeaders(ask: Ask): Headers_ {
  if (ask.body !== undefined) return { "content-type": "application/json" };
  return ask.method === "GET" ? {} : { "x-durably": "1" };
}

async function jsonOf(response: Response, ask: Ask): Promise<unknown> {
  try {
    return await response.json();
  } catch (error) {
    if (ask.signal?.aborted) throw error;
    const message = `the answer of ${ask.path} is not JSON`;
    throw new DurablyError(message, response.status, "malformed_answer", { cause: error });
  }
}

async function refusalOf(response: Response): Promise<DurablyError> {
  const told: unknown = await response.json().catch(() => null);
  const { error, code } = (told ?? {}) as { error?: unknown; code?: unknown };
  const message = typeof error === "string" ? error : `HTTP ${response.status}`;
  return new DurablyError(message, response.status, typeof code === "string" ? code : "refused");
}

async function readFrames(body: ReadableStream<Uint8Array>, listener: StreamListener) {
  const parser = new FrameParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      listener.heard(parser.push(decoder.decode(value, { stream: true })));
    }
  } finally {
    // Not awaited: a connection that broke may never answer.
    reader.cancel().catch(() => {});
  }
}
