import { useRuns } from "durably-react";
import { useEffect, useState, useSyncExternalStore } from "react";
import { CleanCard } from "./clean-card";
import { cleanCsv, progress } from "./durably";
import { Header } from "./parts";
import { RunsCard } from "./runs-card";
import { TableCard } from "./table-card";

export function App() {
  const hash = useOutside(window, ["hashchange"], () => location.hash);
  const { runs } = useRuns(cleanCsv, { pageSize: 1 });
  const chosen = new URLSearchParams(hash.slice(1)).get("run");
  const shown = chosen ?? runs[0]?.id ?? null;
  useTitle(shown);
  return (
    <div className="page">
      <Header {...useSituation()} />
      <main>
        <CleanCard />
        <RunsCard selected={shown} />
        {shown && <TableCard key={shown} runId={shown} />}
      </main>
      <footer className="hint">
        <p>
          Nothing of this leaves your machine. Close the tab in the middle, kill the browser, switch
          the network off: when the page is open again, it goes on where it was.
        </p>
      </footer>
    </div>
  );
}

/** Who works, and whether there is a network. */
function useSituation(): { state: "live" | "other"; told: string } {
  const isOnline = useOutside(window, ["online", "offline"], () => navigator.onLine);
  const isHere = useSyncExternalStore(progress.subscribe, progress.read) === "ready";
  const who = isHere ? "works here" : "works in another tab";
  return { state: isHere ? "live" : "other", told: isOnline ? who : `offline, ${who}` };
}

function useTitle(shown: string | null) {
  useEffect(() => {
    document.title = shown ? "A table · Durably, in your browser" : "Durably, in your browser";
  }, [shown]);
}

/** A value of the browser's, read again at each of these events. */
function useOutside<T>(where: EventTarget, events: string[], read: () => T): T {
  const [subscribe] = useState(() => (changed: () => void) => {
    for (const event of events) where.addEventListener(event, changed);
    return () => {
      for (const event of events) where.removeEventListener(event, changed);
    };
  });
  return useSyncExternalStore(subscribe, read);
}
