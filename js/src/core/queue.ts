/** What comes by callbacks, as something to iterate. */

type Opening<T> = (queue: Queue<T>) => () => void;

/** Opens its source when it is iterated, and closes it when that ends, however it does. */
export class Queue<T> implements AsyncIterable<T> {
  readonly #open: Opening<T>;
  readonly #signal: AbortSignal | undefined;
  #values: T[] = [];
  #isOver = false;
  #failure: Error | undefined;
  #wake: () => void = () => {};

  constructor(signal: AbortSignal | undefined, open: Opening<T>) {
    this.#open = open;
    this.#signal = signal;
  }

  /** Adds values; with one that `isLast` it is over. */
  push(values: T[], isLast?: (value: T) => boolean): void {
    this.#values.push(...values);
    if (isLast && values.some(isLast)) this.#isOver = true;
    this.#wake();
  }

  end(): void {
    this.#isOver = true;
    this.#wake();
  }

  fail(error: Error): void {
    this.#failure = error;
    this.end();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    this.#signal?.throwIfAborted();
    const close = this.#open(this);
    const end = () => this.end();
    this.#signal?.addEventListener("abort", end);
    try {
      for (;;) {
        const values = this.#values;
        this.#values = [];
        yield* values;
        if (this.#values.length > 0) continue;
        if (this.#failure) throw this.#failure;
        this.#signal?.throwIfAborted();
        if (this.#isOver) return;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      this.#signal?.removeEventListener("abort", end);
      close();
    }
  }
}
