/** What a page writes with the types of app.py: compiled, never run. */

import { createDurablyClient, type TypedRun } from "durably-react/client";
import type { EverythingInput, EverythingOutput, Jobs } from "./jobs.js";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>) => {};

const durably = createDurablyClient<Jobs>({ api: "/api/durably" });

// -- triggers

durably.trigger("nothing");
durably.trigger("untyped", { whatever: 1 });
durably.trigger("grow/tree.v2", {});
durably.trigger("grow/tree.v2", { value: 1, children: [{ children: [] }] }, { labels: { a: "b" } });
durably.trigger("größe", 3);
// @ts-expect-error -- it wants an input
durably.trigger("größe");
// @ts-expect-error -- of another type
durably.trigger("größe", "3");
// @ts-expect-error -- there is no such job
durably.trigger("grow");
// @ts-expect-error -- a child is no number
durably.trigger("grow/tree.v2", { children: [1] });

// -- results

const { output: size } = await durably.triggerAndWait("größe", 3);
same<typeof size, number | null>(true);
const { output: none } = await durably.triggerAndWait("nothing");
same<typeof none, null>(true);
const { output: trees } = await durably.triggerAndWait("grow/tree.v2", {});
const depth: number | undefined = trees[0]?.children[0]?.children.length;

// -- hooks

function Everything(input: EverythingInput) {
  const { output, trigger } = durably.everything.useJob();
  trigger(input);
  // @ts-expect-error -- not all of it
  trigger({ text: "" });
  if (output !== null) members(output);
  return durably["2nd"].useRun("id").output?.cats[0]?.name;
}

function members(output: EverythingOutput) {
  same<typeof output.text, string>(true);
  same<typeof output.ratio, number | null>(true);
  same<typeof output.long, number | string>(true);
  same<typeof output.when, string | null>(true);
  same<typeof output.color, "red" | "dark blue">(true);
  same<typeof output.weight, 1 | "9007199254740993">(true);
  same<typeof output.one_of, "a" | 1 | true | null>(true);
  same<typeof output.pair, [number, string]>(true);
  same<typeof output.mixed, [] | [number | null, string[]]>(true);
  same<typeof output.lists, (number | null)[][]>(true);
  same<typeof output.by_color, { [color in "red" | "dark blue"]?: number }>(true);
  same<typeof output.odd.größe, number>(true);
  same<(typeof output.odd)["1st"], string>(true);
  same<typeof output.partial.sometimes, number | undefined>(true);
  same<typeof output.money, string>(true);
  same<typeof output.foreign.both.name, string>(true);
  same<typeof output.foreign.both.age, number | undefined>(true);
  same<typeof output.foreign.text_or_number, string | number | null>(true);
  same<typeof output.foreign.exactly, [string]>(true);
  same<typeof output.foreign.half_numbers, 1.5 | -2>(true);
  same<typeof output.open.unheard_of, unknown>(true);
  if (output.pet.kind === "cat") same<typeof output.pet.lives, number>(true);
  else same<typeof output.pet.tricks, string[]>(true);
}

// -- any run, told apart by its job's name

type AnyRun = { [Name in keyof Jobs]: TypedRun<Jobs[Name]["input"], Jobs[Name]["output"], Name> }[keyof Jobs];

export function titleOf(run: AnyRun): string {
  return run.jobName === "2nd" ? String(run.input.cats.length) : run.jobName;
}

export { depth, Everything };
