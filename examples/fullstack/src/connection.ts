/** Whether the server was there when it was last asked. Streams ask by themselves until it is. */

import { useSyncExternalStore } from "react";

let isAnswering = true;
const listeners = new Set<() => void>();

function tell(answers: boolean): void {
  if (answers === isAnswering) return;
  isAnswering = answers;
  for (const listener of listeners) listener();
}

/** `fetch`, listened to. A proxy answers 502 for a server that is away. */
export const watched: typeof fetch = async (...request) => {
  try {
    const response = await fetch(...request);
    tell(response.status < 500);
    return response;
  } catch (error) {
    if (!(error instanceof DOMException && error.name === "AbortError")) tell(false);
    throw error;
  }
};

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  addEventListener("online", listener);
  addEventListener("offline", listener);
  return () => {
    listeners.delete(listener);
    removeEventListener("online", listener);
    removeEventListener("offline", listener);
  };
}

export function useIsConnected(): boolean {
  return useSyncExternalStore(subscribe, () => isAnswering && navigator.onLine);
}
