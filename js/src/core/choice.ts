/** Which of a job's runs is followed. */

import { Source } from "./source.js";

/** A run, or null. Answers may come in any order: who asked last, decides. */
export class Choice extends Source<string | null> {
  #asked = 0;
  #decided = 0;
  #putAway: string | null = null;

  /** Begin to look for a run. The function that is returned chooses it, unless that is outdated. */
  follow(): (runId: string) => void {
    const mine = ++this.#asked;
    return (runId) => this.#decide(mine, runId);
  }

  /** Follow none. */
  reset(): void {
    this.#putAway = this.getSnapshot();
    this.#decide(++this.#asked, null);
  }

  /** Whether this run was the last to be put away: nothing but a choice brings it back. */
  isPutAway(runId: string): boolean {
    return runId === this.#putAway;
  }

  #decide(mine: number, runId: string | null): void {
    if (mine < this.#decided) return;
    this.#decided = mine;
    this.update(runId);
  }

  protected open(): void {}
  protected close(): void {}
}
