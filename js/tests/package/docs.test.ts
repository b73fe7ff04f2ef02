import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { blocks } from "../docs.js";
import { JS, runOwn, temporary } from "./npm.js";

test.each(["reference/hooks.md", "guides/react.md", "guides/browser.md"])(
  "the TypeScript of %s is right",
  async (page) => {
    const found = blocks(page);
    expect(found.length).toBeGreaterThan(0);
    const folder = await temporary();
    await symlink(join(JS, "node_modules"), join(folder, "node_modules"));
    await mkdir(join(folder, "src"));
    for (const { name, text } of found) await writeFile(join(folder, "src", name), text);
    const paths = {
      "durably-react": [join(JS, "src/index.ts")],
      "durably-react/client": [join(JS, "src/client.ts")],
      "durably-react/browser": [join(JS, "src/browser/index.ts")],
    };
    const compilerOptions = { paths, module: "ESNext", moduleResolution: "bundler", types: [] };
    const config = { extends: join(JS, "tsconfig.json"), compilerOptions, include: ["src"] };
    await writeFile(join(folder, "tsconfig.json"), JSON.stringify(config));
    expect(await runOwn("tsc", ["-p", folder])).toBe("");
  },
);

test("each hook has its example", () => {
  const text = blocks("reference/hooks.md").map((block) => block.text);
  const hooks = ["useJob", "useJobRun", "useJobLogs", "useRuns", "useRunActions", "useDurably"];
  for (const hook of hooks) {
    expect(
      text.some((code) => new RegExp(`= ${hook}[<(]`).test(code)),
      hook,
    ).toBe(true);
  }
});
