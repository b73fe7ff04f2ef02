/** A page among the others of its origin: whose worker owns the database, and how to talk to it. */

import { DurablyError } from "../core/errors.js";
import { PortClient } from "../core/port.js";
import {
  type Announcement,
  channelOf,
  lifeOf,
  nameOf,
  type Orders,
  type Phase,
  type Report,
  WELCOME,
} from "./messages.js";

const HELLO_AGAIN = 1_000; // ms

export class Tab {
  readonly #id = crypto.randomUUID();
  readonly #orders: Orders;
  readonly #script: string;
  readonly #tell: (phase: Phase) => void;
  readonly #all: BroadcastChannel;
  readonly #closing = new AbortController();
  #worker: Worker | undefined;
  #owner: string | undefined;
  #port: { channel: BroadcastChannel; client: PortClient } | undefined;
  #connected = deferred<PortClient>();

  constructor(orders: Orders, script: string, tell: (phase: Phase) => void) {
    this.#orders = orders;
    this.#script = script;
    this.#tell = tell;
    this.#all = new BroadcastChannel(nameOf(orders.database));
  }

  /** Start the worker, and look for the owner. */
  async open(): Promise<void> {
    await this.#live();
    this.#all.onmessage = ({ data }: MessageEvent<Announcement>) => {
      if ("owner" in data) this.#greet(data.owner);
    };
    this.#announce({ who: true });
    this.#start();
  }

  /** The way to the owner, as soon as there is one. */
  readonly connect = (): Promise<PortClient> => this.#connected.promise;

  /** End the worker; if it owns the database, its runs are handed back first. */
  close(): void {
    this.#worker?.postMessage("stop");
    this.#disconnect();
    this.#fail(new DurablyError("this was closed", 0, "closed"));
    this.#all.close();
    this.#closing.abort();
  }

  /** Hold a lock as long as this page lives, so that the owner sees when it is gone. */
  #live(): Promise<void> {
    return new Promise((alive, refused) => {
      const ended = new Promise<void>((end) =>
        this.#closing.signal.addEventListener("abort", () => end()),
      );
      navigator.locks
        .request(lifeOf(this.#orders.database, this.#id), () => {
          alive();
          return ended;
        })
        .catch(refused);
    });
  }

  // -- its own worker

  #start(): void {
    const worker = new Worker(this.#script, { type: "module", name: "durably" });
    worker.onmessage = ({ data }: MessageEvent<Report>) => {
      if ("phase" in data) this.#tell(data.phase);
      else this.#fail(new DurablyError(data.failed.message, 0, data.failed.code));
    };
    worker.onerror = (event) => {
      const why = event.message || "it was not found, or the page's policy forbids it";
      this.#fail(new DurablyError(`the worker ${this.#script} failed: ${why}`, 0, "no_worker"));
    };
    worker.postMessage(this.#orders);
    this.#worker = worker;
  }

  /** Nobody here can own the database. That is the end only while nobody else does. */
  #fail(error: DurablyError): void {
    if (this.#port === undefined) this.#connected.reject(error);
  }

  // -- the owner

  #announce(said: Announcement): void {
    this.#all.postMessage(said);
  }

  #greet(owner: string): void {
    if (owner === this.#owner) return;
    this.#owner = owner;
    this.#disconnect();
    const channel = new BroadcastChannel(channelOf(this.#orders.database, owner, this.#id));
    const client = new PortClient(channel);
    this.#port = { channel, client };
    const hello = () => this.#announce({ hello: this.#id, owner });
    const again = setInterval(hello, HELLO_AGAIN);
    const welcome = ({ data }: MessageEvent) => {
      if (data !== WELCOME) return;
      clearInterval(again);
      channel.removeEventListener("message", welcome);
      this.#connected.resolve(client);
    };
    channel.addEventListener("message", welcome);
    hello();
  }

  #disconnect(): void {
    if (this.#port === undefined) return;
    this.#port.client.close();
    this.#port.channel.close();
    this.#port = undefined;
    if (this.#connected.isSettled) this.#connected = deferred();
  }
}

interface Deferred<T> {
  promise: Promise<T>;
  isSettled: boolean;
  resolve(value: T): void;
  reject(error: unknown): void;
}

function deferred<T>(): Deferred<T> {
  const made = { isSettled: false } as Deferred<T>;
  made.promise = new Promise<T>((resolve, reject) => {
    made.resolve = (value) => {
      made.isSettled = true;
      resolve(value);
    };
    made.reject = (error) => {
      made.isSettled = true;
      reject(error);
    };
  });
  made.promise.catch(() => {}); // whoever asks is told
  return made;
}
