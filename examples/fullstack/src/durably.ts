/** The client of our server, with the types of its jobs. */

import { createDurablyClient, type TypedRun } from "durably-react";
import { watched } from "./connection";
import type { Jobs } from "./jobs";

export const durably = createDurablyClient<Jobs>({ api: "/api/durably", fetch: watched });

/** A run of any of our jobs; `run.jobName` tells which, and so what its input and output are. */
export type AnyRun = {
  [Name in keyof Jobs]: TypedRun<Jobs[Name]["input"], Jobs[Name]["output"], Name>;
}[keyof Jobs];

export const JOB_TITLES: Record<keyof Jobs, string> = {
  "import-csv": "Contacts",
  "make-thumbnails": "Thumbnails",
};

/** What a run works on. */
export function nameOf(run: AnyRun): string {
  if (run.jobName === "import-csv") return run.input.name;
  const { photos } = run.input;
  return photos.length === 1 ? (photos[0]?.name ?? "") : `${photos.length} photos`;
}
