/** What a run's stream does not tell: what it was given, and what its steps gave. */

import { type Step, useDurably } from "durably-react";
import { useEffect, useState } from "react";
import type { AnyRun } from "./durably";
import { patiently } from "./upload";

/** The value of an answer, asked for anew whenever the question is another; the older one until then. */
function useAnswer<T>(
  question: string | null,
  subject: string | null,
  ask: (signal: AbortSignal) => Promise<T>,
) {
  const [held, hold] = useState<{ subject: string | null; answer: T | undefined }>();
  // biome-ignore lint/correctness/useExhaustiveDependencies: the question says all that matters
  useEffect(() => {
    if (question === null) return;
    const leaving = new AbortController();
    patiently(() => ask(leaving.signal)).then(
      (answer) => leaving.signal.aborted || hold({ subject, answer }),
      () => {}, // whoever follows the run is told why
    );
    return () => leaving.abort();
  }, [question]);
  return held?.subject === subject ? held?.answer : undefined;
}

/** A run as it was when it was asked for: its input and its name stay the same. */
export function useRun(runId: string | null): AnyRun | null | undefined {
  const { durably } = useDurably();
  return useAnswer(
    runId,
    runId,
    (signal) => durably.run(String(runId), { signal }) as Promise<AnyRun | null>,
  );
}

/** The steps of a run, asked for again whenever `version` changes. */
export function useSteps(runId: string | null, version: unknown): Step[] {
  const { durably } = useDurably();
  const question = runId && JSON.stringify([runId, version]);
  return useAnswer(question, runId, (signal) => durably.steps(String(runId), { signal })) ?? [];
}
