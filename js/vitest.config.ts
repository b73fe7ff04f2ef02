import { join } from "node:path";
import { defineConfig, type TestProjectInlineConfiguration } from "vitest/config";

const REACT_18 = join(import.meta.dirname, "tests/react-18/node_modules");
const HOOKS = "tests/unit/hooks.test.tsx";

/** The tests of the hooks, with a version of React. */
function hooks(version: string, modules?: string): TestProjectInlineConfiguration {
  const alias = ["react-dom", "react"].map((name) => ({
    find: new RegExp(`^${name}(?=/|$)`), // `react-dom` is not `react`
    replacement: join(modules ?? "", name),
  }));
  return {
    extends: true,
    resolve: { alias: modules === undefined ? [] : alias },
    test: {
      name: `react ${version}`,
      include: [HOOKS],
      setupFiles: ["tests/unit/dom.ts"],
      env: { REACT: version },
    },
  };
}

export default defineConfig({
  test: {
    // For a busy machine: what does not come is waited for so long.
    expect: { poll: { timeout: 20_000, interval: 10 } },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    restoreMocks: true,
    projects: [
      {
        extends: true,
        test: { name: "unit", include: ["tests/unit/**/*.test.ts"] },
      },
      hooks("19"),
      hooks("18", REACT_18),
      {
        extends: true,
        test: { name: "package", include: ["tests/package/**/*.test.ts"] },
      },
      {
        extends: true,
        test: { name: "integration", include: ["tests/integration/**/*.test.ts"] },
      },
    ],
  },
});
