/** A DOM for React, beside Node's own `fetch` and streams. */

import { Window } from "happy-dom";

const window = new Window({ url: "http://localhost/" });
for (const name of [
  "window",
  "document",
  "navigator",
  "HTMLElement",
  "HTMLIFrameElement",
  "Node",
] as const) {
  const value = name === "window" ? window : window[name];
  Object.defineProperty(globalThis, name, { value, configurable: true });
}
