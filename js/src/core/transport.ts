/** How requests reach a server: the one seam between the client and the way there. */

import { DurablyError } from "./errors.js";
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
    const own = typeof headers === "function" ? await headers() : headers;
    const query = ask.query?.toString();
    const sent = { ...protocolHeaders(ask), ...own, ...ask.headers, ...more };
    let response: Response;
    try {
      response = await fetch(`${this.#api}${ask.path}${query ? `?${query}` : ""}`, {
        method: ask.method,
        headers: sent,
        body: JSON.stringify(ask.body), // undefined stays undefined
        signal: ask.signal ?? null,
        cache: "no-store",
      });
    } catch (error) {
      if (ask.signal?.aborted) throw error;
      throw new DurablyError("the server cannot be reached", 0, "unreachable", { cause: error });
    }
    if (!response.ok) throw await refusalOf(response);
    return response;
  }
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
