/** Stores that are shared: opened by the first who subscribes, closed after the last has left. */

/** Milliseconds that a source outlives its last subscriber: React may unmount only to mount again. */
const LINGER = 50;
/** Milliseconds between two times that subscribers are told: a frame. */
const FRAME = 16;

/** What React's `useSyncExternalStore` and any other framework can watch. */
export interface Store<State> {
  /** The same object until something changes. */
  getSnapshot(): State;
  /** Returns how to leave. */
  subscribe(listener: () => void): () => void;
}

const waiting = new Set<() => void>();
let told = 0;

/** Tells soon: at once when all was quiet, else with the next frame, all together. */
function tellSoon(tell: () => void): void {
  if (waiting.size === 0) setTimeout(tellAll, Math.max(0, told + FRAME - performance.now()));
  waiting.add(tell);
}

function tellAll(): void {
  told = performance.now();
  const now = [...waiting];
  waiting.clear();
  for (const tell of now) tell();
}

/** A state that follows a server while somebody watches. */
export abstract class Source<State> implements Store<State> {
  #state: State;
  readonly #listeners = new Set<() => void>();
  #isOpen = false;
  #leaving: ReturnType<typeof setTimeout> | undefined;
  readonly #tell = () => {
    for (const listener of [...this.#listeners]) {
      try {
        listener();
      } catch (error) {
        // Of one listener: the page reports it, and the others are called all the same.
        setTimeout(() => {
          throw error;
        });
      }
    }
  };
  /** Called when it was closed: nobody watches it any more. */
  closed: () => void = () => {};

  constructor(initial: State) {
    this.#state = initial;
  }

  readonly getSnapshot = (): State => this.#state;

  readonly subscribe = (listener: () => void): (() => void) => {
    // A function may subscribe twice, and leave once.
    const mine = () => listener();
    clearTimeout(this.#leaving);
    this.#listeners.add(mine);
    if (!this.#isOpen) {
      this.#isOpen = true;
      this.open();
    }
    return () => {
      if (this.#listeners.delete(mine) && this.#listeners.size === 0) {
        clearTimeout(this.#leaving);
        this.#leaving = setTimeout(() => this.#close(), LINGER);
      }
    };
  };

  /** Begin to follow. */
  protected abstract open(): void;
  /** End it. */
  protected abstract close(): void;

  protected update(state: State): void {
    if (state === this.#state) return;
    this.#state = state;
    tellSoon(this.#tell);
  }

  #close(): void {
    this.#isOpen = false;
    this.close();
    this.closed();
  }
}

/** The sources that are watched now, each under its name. */
export class Sources<State, Kind extends Source<State>> {
  readonly #open = new Map<string, Kind>();

  /**
   * The source of this name as a store. Making one costs nothing and leaves nothing behind: only
   * subscribing does, so that a component which never gets on the page opens no stream.
   */
  store(name: string, initial: State, make: () => Kind): Store<State> {
    return {
      getSnapshot: () => this.#open.get(name)?.getSnapshot() ?? initial,
      subscribe: (listener) => this.#get(name, make).subscribe(listener),
    };
  }

  /** The open source of this name. */
  find(name: string): Kind | undefined {
    return this.#open.get(name);
  }

  #get(name: string, make: () => Kind): Kind {
    let source = this.#open.get(name);
    if (source === undefined) {
      source = make();
      this.#open.set(name, source);
      source.closed = () => this.#open.delete(name);
    }
    return source;
  }
}
