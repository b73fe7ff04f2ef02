/** Shows the last 100 log lines of a run by one package's hook, and counts the frames meanwhile. */

import { useJobLogs as theirs } from "@coji/durably-react";
import type { ReactNode } from "react";
import { createRoot } from "react-dom/client";
import { useJobLogs as ours } from "../src/client.js";

/** As far as this page needs them, both packages' hooks are alike. */
interface Line {
  id: string;
  message: string;
}
type Hook = (options: { api: string; runId: string; maxLogs: number }) => { logs: readonly Line[] };

const asked = new URLSearchParams(location.search);
const useJobLogs: Hook = asked.get("package") === "theirs" ? theirs : ours;

function Page(): ReactNode {
  const { logs } = useJobLogs({ api: "/api", runId: "run", maxLogs: 100 });
  return (
    <ol id="logs">
      {logs.map((line) => (
        <li key={line.id}>{line.message}</li>
      ))}
    </ol>
  );
}

/** Milliseconds between frames, as they were. */
const frames: number[] = [];
let before = performance.now();
requestAnimationFrame(function next(now) {
  frames.push(now - before);
  before = now;
  requestAnimationFrame(next);
});
Object.assign(globalThis, { frames });

createRoot(document.getElementById("root") as HTMLElement).render(<Page />);
