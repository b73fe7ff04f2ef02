/** One stream for everything on the page that watches many runs. */

import type { DurablyError } from "./errors.js";
import type { ListEvent, Resync } from "./protocol.js";
import { backoff, Stream } from "./stream.js";
import type { Transport } from "./transport.js";

/** Whose runs a list holds; without `jobNames` those of all jobs. */
export interface Scope {
  jobNames?: readonly string[] | undefined;
  labels?: Readonly<Record<string, string>> | undefined;
}

export interface ListListener {
  /** Connected, or connected again: what was read before may be out of date. */
  resync(): void;
  /** Events of runs in the scope. */
  heard(events: ListEvent[]): void;
  /**
   * The server refuses the stream. A listener that gives true, or has no such method, stays, and hears
   * again when the server accepts: with another token, or after a login.
   */
  refused?(error: DurablyError): unknown;
}

const LINGER = 50;

/**
 * Browsers keep six connections to a host, over all tabs, while HTTP/1.1 is spoken. So lists share
 * one stream, as wide as the widest of them; each member hears its part.
 */
export class ListFeed {
  readonly #transport: Transport;
  readonly #overheard: (event: ListEvent) => void;
  readonly #members = new Map<ListListener, Scope>();
  #stream: Stream | undefined;
  #scope: Scope | undefined;
  #isConnected = false;
  /** In a row. */
  #refusals = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `overheard` is told every event, before those whom it concerns. */
  constructor(transport: Transport, overheard: (event: ListEvent) => void) {
    this.#transport = transport;
    this.#overheard = overheard;
  }

  /** Hear of these runs until the returned function is called. */
  join(scope: Scope, listener: ListListener): () => void {
    this.#members.set(listener, scope);
    this.#adjustSoon(0);
    if (this.#isConnected && covers(this.#scope, scope))
      queueMicrotask(() => this.#greet(listener));
    return () => {
      this.#members.delete(listener);
      if (this.#members.size === 0) this.#adjustSoon(LINGER);
    };
  }

  #greet(listener: ListListener): void {
    if (this.#members.has(listener)) listener.resync();
  }

  /** Later, so that all who come together are served by one stream. */
  #adjustSoon(delay: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#adjust(), delay);
  }

  #adjust(): void {
    if (this.#members.size === 0) {
      this.#close();
      return;
    }
    const wanted = [...this.#members.values()].reduce(union);
    if (covers(this.#scope, wanted)) return;
    const scope = this.#scope === undefined ? wanted : union(this.#scope, wanted);
    this.#close();
    this.#scope = scope;
    this.#stream = new Stream(
      this.#transport,
      { method: "GET", path: "/runs/subscribe", query: queryOf(scope) },
      {
        opened: (resumed) => this.#opened(resumed),
        heard: (values) => this.#hear(values as (ListEvent | Resync)[]),
        refused: (error) => this.#refuse(error),
        over: () => this.#close(),
      },
    );
  }

  #close(): void {
    this.#stream?.close();
    this.#stream = this.#scope = undefined;
    this.#isConnected = false;
  }

  #opened(resumed: boolean): void {
    this.#isConnected = true;
    this.#refusals = 0;
    // Who comes back is told `runs:resync` by the server.
    if (!resumed) this.#resync();
  }

  #resync(): void {
    for (const listener of [...this.#members.keys()]) listener.resync();
  }

  #hear(values: (ListEvent | Resync)[]): void {
    const events = values.filter((value) => value.type !== "runs:resync");
    events.forEach(this.#overheard);
    for (const [listener, scope] of [...this.#members]) {
      const mine = events.filter((event) => isIn(scope, event));
      if (mine.length > 0) listener.heard(mine);
    }
    // Last: what is read then is newer than all that was heard.
    if (events.length < values.length) this.#resync();
  }

  #refuse(error: DurablyError): void {
    this.#close();
    for (const listener of [...this.#members.keys()]) {
      if (listener.refused && !listener.refused(error)) this.#members.delete(listener);
    }
    if (this.#members.size > 0) this.#adjustSoon(backoff(this.#refusals++));
  }
}

/** The smallest scope that holds both. */
function union(a: Scope, b: Scope): Scope {
  const labels = Object.entries(a.labels ?? {}).filter(
    ([name, value]) => b.labels?.[name] === value,
  );
  return {
    jobNames: a.jobNames && b.jobNames && [...new Set([...a.jobNames, ...b.jobNames])],
    labels: Object.fromEntries(labels),
  };
}

function covers(open: Scope | undefined, wanted: Scope): boolean {
  if (open === undefined) return false;
  const { jobNames } = open;
  const jobs = !jobNames || (wanted.jobNames?.every((name) => jobNames.includes(name)) ?? false);
  return jobs && hasAll(wanted.labels, open.labels);
}

function isIn(scope: Scope, event: ListEvent): boolean {
  const isOfJob = !scope.jobNames || scope.jobNames.includes(event.jobName);
  return isOfJob && hasAll(event.labels, scope.labels);
}

function hasAll(labels: Scope["labels"], asked: Scope["labels"] = {}): boolean {
  return Object.entries(asked).every(([name, value]) => labels?.[name] === value);
}

/** A scope as the query of a list. */
export function queryOf(scope: Scope): URLSearchParams {
  const query = new URLSearchParams();
  for (const name of scope.jobNames ?? []) query.append("jobName", name);
  for (const [name, value] of Object.entries(scope.labels ?? {}))
    query.append(`label.${name}`, value);
  return query;
}
