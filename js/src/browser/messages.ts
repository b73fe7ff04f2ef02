/** What pages and workers say to each other beside the protocol. */

/** How far a worker is. `standby`: it is ready to take over, as soon as the owner is gone. */
export type Phase = "python" | "packages" | "jobs" | "standby" | "database" | "ready";

/** What the page tells its worker to be. */
export interface Orders {
  /** The folder of the bundle, absolute. */
  bundle: string;
  /** The folder of Pyodide, absolute. */
  pyodide: string;
  database: string;
  /** Addresses of `.py` files and wheels, or Python itself. */
  jobs: readonly string[];
  /** Of wheels. */
  packages: readonly string[];
  /** Where the jobs of a wheel are. */
  module: string | undefined;
  standby: boolean;
  settings: Record<string, unknown>;
}

/** From a worker to its own page. */
export type Report = { phase: Phase } | { failed: { code: string; message: string } } | "yielded";

/** What a page tells its worker later: to end for good, or to let another go on, if one waits. */
export type Order = "stop" | "yield";

/** On the channel that all pages and workers of a database hear. */
export type Announcement =
  /** A page: who owns it? */
  | { who: true }
  /** The owner: I do; my term is this. */
  | { owner: string }
  /** A page: let us talk. It listens on `channelOf(database, owner, page)`. */
  | { hello: string; owner: string };

/** The name of the owner's lock, and of the channel that all hear. */
export const nameOf = (database: string) => `durably:${database}`;
/** Whoever holds it is next. */
export const standbyOf = (database: string) => `${nameOf(database)}:standby`;
/** Held while a worker loads Python; the service worker waits for it. */
export const LOADING = "durably:loading";
/** A page, or an owner, holds it as long as it lives. */
export const lifeOf = (database: string, whose: string) => `${nameOf(database)}:${whose}`;
/** Where one page and one owner talk. Both have made it when `welcome` comes over it. */
export const channelOf = (database: string, owner: string, page: string) =>
  `${nameOf(database)}:${owner}:${page}`;

export const WELCOME = "welcome";

/** Why something cannot be, for the page to tell. */
export class Failure extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

export const messageOf = (error: unknown) =>
  error instanceof Error ? error.message : String(error);
