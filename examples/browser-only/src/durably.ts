/** Durably in this page: Python in a worker, its database on this machine. */

import { defineJob, type TypedRun } from "durably-react";
import { type BrowserDurably, createBrowserDurably, type Phase } from "durably-react/browser";
import source from "../jobs.py?raw";
import type { Jobs } from "./jobs";

let phase: Phase | null = null;
const listeners = new Set<() => void>();

export const durably: Promise<BrowserDurably<Jobs>> = createBrowserDurably<Jobs>({
  jobs: source,
  database: "browser-only.sqlite3",
  bundle: "durably/",
  onProgress: (reached) => {
    phase = reached;
    for (const told of listeners) told();
  },
});

/** How far this tab's worker is, for `useSyncExternalStore`. */
export const progress = {
  subscribe: (listener: () => void) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
  read: () => phase,
};

export const cleanCsv = defineJob<Jobs["clean-csv"]["input"], Jobs["clean-csv"]["output"]>({
  name: "clean-csv",
});

export type CleanRun = TypedRun<Jobs["clean-csv"]["input"], Jobs["clean-csv"]["output"]>;

/** A question is a run, too; nobody keeps it. */
export async function ask<Name extends keyof Jobs>(
  name: Name,
  input: Jobs[Name]["input"],
): Promise<Jobs[Name]["output"]> {
  const client = await durably;
  const { runId } = await client.trigger(name, input);
  const { output } = await client.wait(runId);
  await client.deleteRun(runId);
  return output as Jobs[Name]["output"];
}
