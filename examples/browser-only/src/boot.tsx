/** What is seen until Python runs, and when it cannot. */

import type { Phase } from "durably-react/browser";
import { Component, type ReactNode, useSyncExternalStore } from "react";
import { progress } from "./durably";
import { Header } from "./parts";

const PHASES: [Phase, string][] = [
  ["python", "Python"],
  ["packages", "Libraries"],
  ["jobs", "The jobs of this page"],
  ["database", "The database on this machine"],
];

export function Booting() {
  const phase = useSyncExternalStore(progress.subscribe, progress.read);
  const reached = PHASES.findIndex(([name]) => name === phase);
  return (
    <div className="page">
      <Header state="starting" told="starting…" />
      <main>
        <section className="card boot">
          <h2>Python is on its way into this page</h2>
          <p className="hint">
            8 MB, the first time. Then it lies here, and the page works without a network.
          </p>
          <progress aria-label="Starting" max={PHASES.length} value={reached + 0.5} />
          <ol>
            {PHASES.map(([name, title], index) => (
              <li key={name} data-is={stateOf(index, reached)}>
                {title}
              </li>
            ))}
          </ol>
          <p role="status" className="unseen">
            {PHASES[reached]?.[1]}
          </p>
        </section>
      </main>
    </div>
  );
}

function stateOf(index: number, reached: number): string {
  if (index < reached) return "done";
  return index === reached ? "current" : "ahead";
}

const REASONS: Record<string, string> = {
  insecure_context:
    "Browsers keep files only for pages that come over https, or from this machine.",
  no_opfs:
    "This browser keeps no files for pages here. Private windows often refuse; try a usual one.",
  quota: "There is no room left on this machine, or for this page.",
  in_use: "Another tab, which does not answer, holds the database. Close it.",
};

/** Says why the page cannot work, instead of nothing. */
export class Trouble extends Component<{ children: ReactNode }, { error: Error | null }> {
  override state = { error: null as Error | null };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  override render() {
    const { error } = this.state;
    if (error === null) return this.props.children;
    const code = "code" in error ? String(error.code) : "";
    return (
      <div className="page">
        <Header state="lost" told="stopped" />
        <main>
          <section className="card boot" role="alert">
            <h2>This page cannot start</h2>
            <p>{REASONS[code] ?? "Something is not as it should be."}</p>
            <p className="problem">{error.message}</p>
            <button type="button" onClick={() => location.reload()}>
              Try again
            </button>
          </section>
        </main>
      </div>
    );
  }
}
