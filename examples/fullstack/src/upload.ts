/** Files go up as they are; the job is triggered with what the server calls them. */

import { DurablyError } from "durably-react";
import { watched } from "./connection";
import type { Upload } from "./jobs";

const PAUSE = 1_000;

export async function upload(file: File): Promise<Upload> {
  const response = await patiently(() =>
    watched("/api/files", {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: file,
    }),
  );
  const told = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(told.detail ?? `the server answered ${response.status}`);
  return { name: file.name.slice(0, 255), digest: told.digest };
}

/** Asks until the server is there. What is asked twice must be done once: see `idempotencyKey`. */
export async function patiently<T>(ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      const isAway =
        error instanceof TypeError ||
        (error instanceof DurablyError && error.code === "unreachable");
      if (!isAway) throw error;
      await new Promise((resume) => setTimeout(resume, PAUSE));
    }
  }
}
