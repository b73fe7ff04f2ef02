import { Activity, useEffect, useState, useSyncExternalStore } from "react";
import { useIsConnected } from "./connection";
import { durably, nameOf } from "./durably";
import { ImportCard } from "./import-card";
import { RunDetails } from "./run-details";
import { RunsCard } from "./runs-card";
import { ThumbnailsCard } from "./thumbnails-card";

/** A hidden tab gives its connections back: browsers keep six to a server, for all tabs together. */
export function App() {
  const isSeen = useOutside(document, "visibilitychange", () => !document.hidden);
  return (
    <Activity mode={isSeen ? "visible" : "hidden"}>
      <Page />
    </Activity>
  );
}

function Page() {
  const hash = useOutside(window, "hashchange", () => location.hash);
  const selected = new URLSearchParams(hash.slice(1)).get("run");
  const isConnected = useIsConnected();
  return (
    <div className={isConnected ? "page" : "page lost"}>
      <header>
        <svg viewBox="0 0 32 32" aria-hidden="true" className="mark">
          <rect width="32" height="32" rx="9" />
          <path d="M9 10h14M9 16h9M9 22h5" />
          <circle cx="22" cy="21" r="3.2" />
        </svg>
        <div>
          <h1>Durably, full stack</h1>
          <p className="hint">Kill the server while a bar moves, and start it again.</p>
        </div>
        <p role="status" id="connection">
          {isConnected ? "live" : "reconnecting…"}
        </p>
      </header>
      <main className={selected ? "with-details" : ""}>
        <ImportCard />
        <ThumbnailsCard />
        <RunsCard selected={selected} />
        {selected && <RunDetails runId={selected} />}
      </main>
      <News />
    </div>
  );
}

const ENDS: Record<string, string> = {
  "run:complete": "completed",
  "run:fail": "failed",
  "run:cancel": "cancelled",
};

/** For those who do not see it: how runs ended. */
function News() {
  const [news, setNews] = useState("");
  useEffect(() => {
    const leaving = new AbortController();
    const listen = async () => {
      for await (const event of durably.subscribeRuns({}, { signal: leaving.signal })) {
        const end = ENDS[event.type];
        if (end === undefined || event.type === "runs:resync") continue;
        const run = await durably.run(event.runId, { signal: leaving.signal }).catch(() => null);
        if (run) setNews(`${nameOf(run as Parameters<typeof nameOf>[0])} is ${end}`);
      }
    };
    listen().catch(() => {}); // the page was left
    return () => leaving.abort();
  }, []);
  return (
    <p role="status" className="unseen">
      {news}
    </p>
  );
}

/** A value of the browser's, read again at each of these events. */
function useOutside<T>(where: EventTarget, event: string, read: () => T): T {
  const [subscribe] = useState(() => (changed: () => void) => {
    where.addEventListener(event, changed);
    return () => where.removeEventListener(event, changed);
  });
  return useSyncExternalStore(subscribe, read);
}
