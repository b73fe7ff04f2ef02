/** A page among the others of its origin: whose worker owns the database, and how to talk to it. */

import { DurablyError } from "../core/errors.js";
import { PortClient } from "../core/port.js";
import {
  type Announcement,
  channelOf,
  lifeOf,
  messageOf,
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
  #wasReady = false;
  #hasYielded = false;
  /** Why this page's worker will never own the database. */
  #failure: DurablyError | undefined;
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
    const { signal } = this.#closing;
    document.addEventListener("freeze", () => this.#worker?.postMessage("yield"), { signal });
    document.addEventListener("resume", () => this.#resume(), { signal });
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
    this.#wasReady = this.#hasYielded = false;
    this.#failure = undefined;
    let worker: Worker;
    try {
      worker = new Worker(this.#script, { type: "module", name: "durably" });
    } catch (error) {
      this.#fail(this.#noWorker(messageOf(error)));
      return;
    }
    worker.onmessage = ({ data }: MessageEvent<Report>) => this.#hear(data);
    worker.onerror = (event) => {
      if (event instanceof ErrorEvent) return; // in the midst of its work: the worker looks after it
      this.#fail(this.#noWorker("it is not there, or the page's policy forbids it"));
    };
    worker.postMessage(this.#orders);
    this.#worker = worker;
  }

  #hear(said: Report): void {
    if (said === "yielded") this.#hasYielded = true;
    else if ("phase" in said) {
      this.#wasReady = said.phase === "ready";
      this.#tell(said.phase);
    } else if (!("failed" in said)) {
      return; // a newer worker's report
    } else if (this.#wasReady) {
      console.error(`durably: the worker begins anew: ${said.failed.message}`);
      this.#start();
    } else this.#fail(new DurablyError(said.failed.message, 0, said.failed.code));
  }

  /** Awake again. What we had another has now; we are in line again. */
  #resume(): void {
    if (this.#hasYielded) this.#start();
    this.#announce({ who: true });
  }

  #noWorker(why: string): DurablyError {
    return new DurablyError(`the worker ${this.#script} cannot be started: ${why}`, 0, "no_worker");
  }

  /** Nobody here can own the database. That is the end only while nobody else does. */
  #fail(error: DurablyError): void {
    this.#failure = error;
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
    this.#mourn(owner).catch(() => {}); // this was closed
    const channel = new BroadcastChannel(channelOf(this.#orders.database, owner, this.#id));
    const client = new PortClient(channel);
    this.#port = { channel, client };
    let isWelcome = false;
    const hello = () => {
      if (isWelcome || this.#port?.client !== client) return;
      this.#announce({ hello: this.#id, owner });
      setTimeout(hello, HELLO_AGAIN);
    };
    channel.addEventListener("message", ({ data }: MessageEvent) => {
      if (data !== WELCOME || isWelcome) return;
      isWelcome = true;
      if (this.#connected.isSettled) this.#connected = deferred();
      this.#connected.resolve(client);
    });
    hello();
  }

  /** What is under way ends with its owner, even if nobody follows. */
  async #mourn(owner: string): Promise<void> {
    const name = lifeOf(this.#orders.database, owner);
    const { signal } = this.#closing;
    await navigator.locks.request(name, { mode: "shared", signal }, () => {
      if (owner === this.#owner) this.#disconnect();
    });
  }

  #disconnect(): void {
    if (this.#port === undefined) return;
    this.#port.client.close();
    this.#port.channel.close();
    this.#port = undefined;
    if (this.#connected.isSettled) this.#connected = deferred();
    if (this.#failure !== undefined) this.#connected.reject(this.#failure);
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
