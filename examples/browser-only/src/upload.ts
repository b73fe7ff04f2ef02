/** How a file gets into the database. */

import { durably } from "./durably";

const PART = 300_000; // characters
const MAX_BYTES = 50_000_000;

/** Keep a file's text, part after part, under its digest. Begun again, it goes on. */
export async function keep(file: File, told: (done: number) => void): Promise<string> {
  if (file.size > MAX_BYTES) throw new Error("files of up to 50 MB, please");
  const bytes = await file.arrayBuffer();
  const digest = await sha256(bytes);
  const text = decoded(bytes);
  const client = await durably;
  for (let start = 0; start === 0 || start < text.length; start += PART) {
    const part = { file: digest, number: start / PART, content: text.slice(start, start + PART) };
    const { runId } = await client.triggerAndWait("keep-part", part);
    await client.deleteRun(runId); // the part is in its table; its run need not keep it again
    told(Math.min(1, (start + PART) / text.length));
  }
  return digest;
}

/** UTF-8, or what spreadsheets write where it is not. */
function decoded(bytes: ArrayBuffer): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

async function sha256(bytes: ArrayBuffer): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
