/** A stream that comes back: after a lost connection, a restarted server, a night offline. */

import { DurablyError } from "./errors.js";
import type { Frame } from "./sse.js";
import type { Ask, Transport } from "./transport.js";

const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 30_000;
/** A server that sends one back for so long says that there is nothing to come back for. */
const NEVER = 3_600_000;
/** The server gives a sign of life every 15 s. After three missed ones the connection is dead. */
const LONGEST_SILENCE = 45_000;

/** What becomes of a stream. `refused` and `over` are said once, and nothing after them. */
export interface StreamHandler {
  /** Connected; `resumed` when it goes on after what was heard before, without a gap. */
  opened(resumed: boolean): void;
  /** The values that came together, in order. */
  heard(values: unknown[]): void;
  /** The server will not have us. */
  refused(error: DurablyError): void;
  /** The server ended it, with the word not to come back. */
  over(): void;
}

/** Waits; less when the network comes back or the signal says so. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      globalThis.removeEventListener?.("online", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", done);
    globalThis.addEventListener?.("online", done);
    if (signal.aborted) done();
  });
}

/** How long to wait after so many failures in a row: anywhere up to twice as long as before. */
export function backoff(failures: number, first = FIRST_PAUSE): number {
  return Math.random() * Math.min(LONGEST_PAUSE, first * 2 ** failures);
}

/** Tries until it succeeds or is refused for good. `failed` hears what went wrong in between. */
export async function patiently<T>(
  attempt: () => Promise<T>,
  signal: AbortSignal,
  failed?: (error: DurablyError) => void,
): Promise<T> {
  for (let failures = 0; ; failures++) {
    try {
      return await attempt();
    } catch (error) {
      if (signal.aborted || !(error instanceof DurablyError) || !error.isTransient) throw error;
      failed?.(error);
      await pause(backoff(failures), signal);
      signal.throwIfAborted();
    }
  }
}

/** One stream and its connections, one after another. */
export class Stream {
  readonly #transport: Transport;
  readonly #ask: Ask;
  readonly #handler: StreamHandler;
  readonly #closing = new AbortController();
  #lastId: string | number | undefined;
  #hint = FIRST_PAUSE;
  #failures = 0;

  /** Opens it. `lastId` is the id after which to go on; undefined: with the present. */
  constructor(transport: Transport, ask: Ask, handler: StreamHandler, lastId?: number) {
    this.#transport = transport;
    this.#ask = ask;
    this.#handler = handler;
    this.#lastId = lastId;
    void this.#keepOpen();
  }

  /** For good. */
  close(): void {
    this.#closing.abort();
  }

  async #keepOpen(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      const refusal = await this.#connect();
      if (signal.aborted) return;
      if (refusal || this.#hint >= NEVER) {
        this.close();
        return refusal ? this.#handler.refused(refusal) : this.#handler.over();
      }
      await pause(backoff(this.#failures, this.#hint), signal);
      this.#failures++;
    }
  }

  /** One connection, from its beginning to its end. Gives the refusal that is for good, if any. */
  async #connect(): Promise<DurablyError | undefined> {
    const connection = new AbortController();
    const abort = () => connection.abort();
    let silence = setTimeout(abort, LONGEST_SILENCE);
    this.#closing.signal.addEventListener("abort", abort);
    const headers: Record<string, string> =
      this.#lastId === undefined ? {} : { "last-event-id": `${this.#lastId}` };
    try {
      await this.#transport.subscribe(
        { ...this.#ask, headers, signal: connection.signal },
        {
          opened: () => this.#handler.opened(this.#lastId !== undefined),
          heard: (frames) => {
            clearTimeout(silence);
            silence = setTimeout(abort, LONGEST_SILENCE);
            this.#hear(frames);
          },
        },
      );
    } catch (error) {
      if (error instanceof DurablyError && !error.isTransient) return error;
    } finally {
      clearTimeout(silence);
      this.#closing.signal.removeEventListener("abort", abort);
    }
    return undefined;
  }

  #hear(frames: Frame[]): void {
    if (this.#closing.signal.aborted) return;
    this.#failures = 0;
    const values: unknown[] = [];
    for (const frame of frames) {
      if (frame.id !== null) this.#lastId = frame.id;
      if (frame.retry !== null) this.#hint = frame.retry;
      // An end that was not the end: somebody retried the run.
      else if (frame.data !== "" && this.#hint >= NEVER) this.#hint = FIRST_PAUSE;
      const value = parsed(frame.data);
      if (value) values.push(value);
    }
    if (values.length > 0) this.#handler.heard(values);
  }
}

/** The event of a frame; undefined for one without, or with something that this version cannot read. */
function parsed(data: string): unknown {
  try {
    const value = JSON.parse(data);
    return value?.type && value;
  } catch {
    return undefined;
  }
}
