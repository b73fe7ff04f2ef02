/** The protocol over a message port: the way to a worker that answers as a server does. */

import {
  type Answer,
  type Ask,
  HttpTransport,
  type StreamListener,
  type Transport,
  unlessAborted,
} from "./transport.js";

/** One end of a port: a `MessagePort`, a `Worker`, a `BroadcastChannel`. */
export interface Port {
  postMessage(message: unknown): void;
  addEventListener(type: "message", listener: (event: MessageEvent) => void): void;
  removeEventListener(type: "message", listener: (event: MessageEvent) => void): void;
}

/** What a page says. */
export type FromPage =
  | { id: number; method: string; path: string; headers: Record<string, string>; body: string }
  | { id: number; cancel: true }
  /** It has taken so many chunks. The worker sends 64 ahead, and no more. */
  | { id: number; more: number };

/** What the worker says: the head once, chunks of text, the end once. */
export type FromWorker =
  | { id: number; status: number; headers: Record<string, string> }
  | { id: number; chunk: string }
  | { id: number; end: true };

const MORE_AFTER = 16; // chunks

/** The port was closed; whoever asks again may be answered by another. */
export class PortClosed extends Error {}

interface Asked {
  head(status: number, headers: Record<string, string>): void;
  chunk(text: string): void;
  end(): void;
  fail(error: unknown): void;
}

/** `fetch`, by messages. */
export class PortClient {
  readonly #port: Port;
  readonly #asked = new Map<number, Asked>();
  #lastId = 0;
  #closed = false;

  constructor(port: Port) {
    this.#port = port;
    port.addEventListener("message", this.#hear);
  }

  /** The other end is gone: whatever is under way ends with a `PortClosed`. */
  close(): void {
    this.#closed = true;
    this.#port.removeEventListener("message", this.#hear);
    for (const asked of this.#asked.values()) asked.fail(new PortClosed("the worker is gone"));
    this.#asked.clear();
  }

  readonly fetch: typeof globalThis.fetch = (path, init = {}) => {
    if (this.#closed) return Promise.reject(new PortClosed("the worker is gone"));
    const id = ++this.#lastId;
    return new Promise<Response>((resolve, reject) => {
      const signal = init.signal;
      if (signal?.aborted) return reject(signal.reason);
      const abort = () => {
        this.#asked.get(id)?.fail(signal?.reason);
        this.#leave(id);
      };
      signal?.addEventListener("abort", abort);
      const done = () => signal?.removeEventListener("abort", abort);
      this.#asked.set(id, this.#answer(id, resolve, reject, done));
      this.#port.postMessage({
        id,
        method: init.method ?? "GET",
        path: String(path),
        headers: Object.fromEntries(new Headers(init.headers)),
        body: typeof init.body === "string" ? init.body : "",
      } satisfies FromPage);
    });
  };

  /** How an answer becomes a `Response`. */
  #answer(
    id: number,
    resolve: (response: Response) => void,
    reject: (error: unknown) => void,
    done: () => void,
  ): Asked {
    const encoder = new TextEncoder();
    let body!: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>;
    let taken = 0;
    let isOpen = true;
    const stream = new ReadableStream<Uint8Array<ArrayBuffer>>({
      start: (controller) => {
        body = controller;
      },
      pull: () => {
        if (taken < MORE_AFTER) return;
        this.#port.postMessage({ id, more: taken } satisfies FromPage);
        taken = 0;
      },
      cancel: () => {
        isOpen = false;
        done();
        this.#leave(id);
      },
    });
    const over = (act: () => void) => {
      done();
      if (isOpen) act();
      isOpen = false;
    };
    return {
      head: (status, headers) => resolve(new Response(stream, { status, headers })),
      chunk: (text) => {
        taken++;
        body.enqueue(encoder.encode(text));
      },
      end: () => over(() => body.close()),
      fail: (error) => {
        over(() => body.error(error));
        reject(error); // of no effect once there was a head
      },
    };
  }

  #leave(id: number): void {
    if (this.#asked.delete(id)) this.#port.postMessage({ id, cancel: true } satisfies FromPage);
  }

  readonly #hear = ({ data }: MessageEvent): void => {
    const said = data as FromWorker;
    const asked = this.#asked.get(said.id);
    if (asked === undefined) return;
    if ("status" in said) asked.head(said.status, said.headers);
    else if ("chunk" in said) asked.chunk(said.chunk);
    else if ("end" in said) {
      this.#asked.delete(said.id);
      asked.end();
    }
  };
}

/**
 * The protocol over ports, one after the other: `connect` gives the present one, or waits for one.
 * What only reads is asked again when a port closes before it has answered; what changes something
 * may have been done, and is refused as `unreachable`, as it is when a server dies.
 */
export class PortTransport implements Transport {
  readonly #connect: () => Promise<PortClient>;
  readonly #http: HttpTransport;

  constructor(connect: () => Promise<PortClient>) {
    this.#connect = connect;
    this.#http = new HttpTransport({ api: "", fetch: this.#fetch });
  }

  request(ask: Ask): Promise<Answer> {
    return this.#http.request(ask);
  }

  subscribe(ask: Ask, listener: StreamListener): Promise<void> {
    return this.#http.subscribe(ask, listener);
  }

  readonly #fetch: typeof globalThis.fetch = async (path, init) => {
    for (;;) {
      const client = await unlessAborted(this.#connect(), init?.signal);
      try {
        return await client.fetch(path, init);
      } catch (error) {
        if (!(error instanceof PortClosed) || init?.method !== "GET") throw error;
      }
    }
  };
}
