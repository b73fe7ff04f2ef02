/** The TypeScript of the documentation. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

const DOCS = join(import.meta.dirname, "../../docs");
const FENCE = /^```(tsx?)\n(.*?)^```$/gms;

export interface Block {
  /** The file's name: what its first line says, else where it stands. */
  name: string;
  text: string;
}

/** The `ts` and `tsx` blocks of a page. */
export function blocks(page: string): Block[] {
  const text = readFileSync(join(DOCS, page), "utf8");
  return [...text.matchAll(FENCE)].map(([, language, code = ""], index) => {
    const named = /^\/\/ ([\w.]+\.tsx?)\n/.exec(code)?.[1];
    return { name: named ?? `block${index}.${language}`, text: code };
  });
}
