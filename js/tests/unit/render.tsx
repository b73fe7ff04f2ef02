/** Components on a real root, without `act`: they are looked at as a page shows them. */

import { type ReactNode, StrictMode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, vi } from "vitest";

const roots: Root[] = [];

beforeEach(() => {
  vi.spyOn(console, "error");
});
afterEach(() => {
  for (const root of roots.splice(0)) root.unmount();
  // React tells of mistakes in components here.
  expect(vi.mocked(console.error).mock.calls).toEqual([]);
});

/** Renders in StrictMode; what is returned shows something else on the same root. */
export function render(node: ReactNode): {
  render: (node: ReactNode) => void;
  unmount: () => void;
} {
  const root = createRoot(document.createElement("div"));
  roots.push(root);
  const show = (shown: ReactNode) => root.render(<StrictMode>{shown}</StrictMode>);
  show(node);
  return { render: show, unmount: () => root.unmount() };
}

/** What a hook returned last, and how to call it with other arguments. */
export function renderHook<Args, Result>(
  hook: (args: Args) => Result,
  args: Args,
  wrap: (node: ReactNode) => ReactNode = (node) => node,
) {
  let last: Result | undefined;
  let renders = 0;
  function Component({ given }: { given: Args }) {
    last = hook(given);
    renders++;
    return null;
  }
  const root = render(wrap(<Component given={args} />));
  return {
    get current(): Result {
      return last as Result;
    },
    get renders() {
      return renders;
    },
    ready: () => expect.poll(() => last).toBeDefined(),
    rerender: (given: Args) => root.render(wrap(<Component given={given} />)),
    unmount: root.unmount,
  };
}
