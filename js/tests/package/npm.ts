/** The package as it is published, and other programs of this project. */

import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll } from "vitest";

export const JS = join(import.meta.dirname, "../..");

const execute = promisify(execFile);

/** Runs a program; what it prints, or an error with it. */
export async function run(program: string, args: string[], cwd = JS): Promise<string> {
  // Settings of the npm that runs these tests are not meant for others.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.toLowerCase().startsWith("npm_package")),
  );
  try {
    return (await execute(program, args, { cwd, env: { ...env, NODE_ENV: "development" } })).stdout;
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`${program} ${args.join(" ")} failed:\n${stdout}${stderr}`);
  }
}

/** A program of this project's packages. */
export function runOwn(program: string, args: string[], cwd = JS): Promise<string> {
  return run(join(JS, "node_modules/.bin", program), args, cwd);
}

const folders: string[] = [];

afterAll(async () => {
  await Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true })));
});

/** A folder that is gone after the tests. */
export async function temporary(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "durably-js-"));
  folders.push(folder);
  return folder;
}
