/** Where hooks get their client: from its own option, from `api`, or from the provider. */

import { createContext, type ReactNode, Suspense, useContext } from "react";
import { DurablyClient } from "../core/client.js";
import { HttpTransport } from "../core/transport.js";

// biome-ignore lint/suspicious/noExplicitAny: a client of any jobs
export type AnyClient = DurablyClient<any>;

/** Which server a hook speaks to; without any of these, the provider's. */
export interface Server {
  /** Where the API is: `/api/durably`. */
  api?: string | undefined;
  /** A client of one's own. */
  client?: AnyClient | undefined;
}

const Context = createContext<AnyClient | null>(null);

/** One for each address, so that all hooks of a page share their streams. */
const clients = new Map<string, AnyClient>();

export function useClient({ api, client }: Server): AnyClient {
  const provided = useContext(Context);
  const found = client ?? (api === undefined ? provided : clientOf(api));
  if (!found) throw new Error("say where the server is: `api`, or a <DurablyProvider> above");
  return found;
}

function clientOf(api: string): AnyClient {
  let client = clients.get(api);
  if (client === undefined) {
    client = new DurablyClient(new HttpTransport({ api }));
    clients.set(api, client);
  }
  return client;
}

export interface DurablyProviderProps {
  /** The client, or the promise of one. */
  durably: AnyClient | Promise<AnyClient>;
  /** Shown until the promise is kept; without it the nearest `Suspense` above shows its own. */
  fallback?: ReactNode;
  children?: ReactNode;
}

/** Gives a client to all hooks below. */
export function DurablyProvider({ durably, fallback, children }: DurablyProviderProps): ReactNode {
  const provided = <Provided durably={durably}>{children}</Provided>;
  return fallback === undefined ? provided : <Suspense fallback={fallback}>{provided}</Suspense>;
}

function Provided({ durably, children }: Omit<DurablyProviderProps, "fallback">): ReactNode {
  const client = "then" in durably ? settled(durably) : durably;
  return <Context.Provider value={client}>{children}</Context.Provider>;
}

/** The client of the nearest provider. */
export function useDurably(): { durably: AnyClient } {
  return { durably: useClient({}) };
}

type Settled = { client: AnyClient } | { error: unknown } | { pending: Promise<void> };
const promises = new WeakMap<Promise<AnyClient>, Settled>();

/** The value of a promise; until there is one, the component is suspended. As React 19's `use`. */
function settled(promise: Promise<AnyClient>): AnyClient {
  let state = promises.get(promise);
  if (state === undefined) {
    const pending = promise.then(
      (client) => void promises.set(promise, { client }),
      (error) => void promises.set(promise, { error }),
    );
    state = { pending };
    promises.set(promise, state);
  }
  if ("pending" in state) throw state.pending;
  if ("error" in state) throw state.error;
  return state.client;
}
