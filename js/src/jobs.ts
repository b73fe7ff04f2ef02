/** Jobs as a page knows them: a name, and the types of what goes in and comes out. */

import type { JobTypes } from "./core/client.js";
import type { Run } from "./core/protocol.js";

declare const types: unique symbol;

/** A job that a server runs. Made by `defineJob`. */
export interface JobDefinition<Input = unknown, Output = unknown, Name extends string = string> {
  readonly name: Name;
  /** For the compiler only. */
  readonly [types]?: { input: Input; output: Output };
}

/** Names a job of the server and says its types: `defineJob<Input, Output>({ name: "import-csv" })`. */
export function defineJob<Input = unknown, Output = unknown>(job: {
  name: string;
}): JobDefinition<Input, Output> {
  return job;
}

/** A run with the types of its job. */
export type TypedRun<Input = unknown, Output = unknown, Name extends string = string> = Omit<
  Run,
  "jobName" | "input" | "payload" | "output"
> & { jobName: Name; input: Input; payload?: Input; output: Output | null };

/** The same as `TypedRun`. */
export type TypedClientRun<
  Input = unknown,
  Output = unknown,
  Name extends string = string,
> = TypedRun<Input, Output, Name>;

/** The types of a job definition, as a job map has them. */
export type TypesOf<Definition> =
  Definition extends JobDefinition<infer Input, infer Output>
    ? { input: Input; output: Output }
    : JobTypes;
