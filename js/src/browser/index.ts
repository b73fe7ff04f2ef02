/** `durably-react/browser`: Durably in the page itself. Python runs in a worker, SQLite on the disk. */

import { DurablyClient, type JobMap } from "../core/client.js";
import { DurablyError } from "../core/errors.js";
import { PortTransport } from "../core/port.js";
import type { Phase } from "./messages.js";
import { Tab } from "./tab.js";

export type { Phase };

export interface BrowserOptions {
  /**
   * The jobs: the address of a `.py` file or of a wheel, or Python itself (anything with a line end);
   * or several of these.
   */
  jobs: string | readonly string[];
  /** The name of the database in the origin-private file system: `app.sqlite3`. */
  database: string;
  /** Where `durably browser-bundle` put its files. */
  bundle?: string | undefined;
  /** Where Pyodide is, if not in the bundle. */
  pyodide?: string | undefined;
  /** Addresses of wheels that the jobs import. */
  packages?: readonly string[] | undefined;
  /** In a wheel, the module with the jobs; the wheel's own name unless said. */
  module?: string | undefined;
  /** Load Python in one more tab, ahead of the day when it takes over. True unless said. */
  standby?: boolean | undefined;
  /** Hears how far this tab's worker is. */
  onProgress?: ((phase: Phase) => void) | undefined;
  /** As the parameters of Python's `Durably`; durations in seconds. */
  settings?: BrowserSettings | undefined;
}

export interface BrowserSettings {
  durability?: "full" | "process" | undefined;
  maxConcurrentRuns?: number | undefined;
  pollingInterval?: number | undefined;
  heartbeatInterval?: number | undefined;
  staleThreshold?: number | undefined;
  retainRuns?: number | undefined;
  /** Whether log lines are kept. True unless said. */
  persistLogs?: boolean | undefined;
}

/** A client whose server is a worker: this tab's, or that of the tab which owns the database. */
export class BrowserDurably<Jobs = JobMap> extends DurablyClient<Jobs> {
  readonly #tab: Tab;

  constructor(tab: Tab) {
    super(new PortTransport(tab.connect), Number.POSITIVE_INFINITY);
    this.#tab = tab;
  }

  /** End this tab's part; another takes over. */
  close(): void {
    this.#tab.close();
  }
}

/**
 * Starts the worker of this page, and resolves once somebody owns the database: this tab, or another.
 * Rejects with a `DurablyError` that tells why it cannot be, by its `code`: `no_opfs`, `quota`,
 * `insecure_context`, `no_worker`, `no_bundle`, `no_python`, `no_package`, `no_jobs`, `python`, `in_use`.
 */
export async function createBrowserDurably<Jobs = JobMap>(
  options: BrowserOptions,
): Promise<BrowserDurably<Jobs>> {
  const { jobs, database, bundle = "/durably/", standby = true } = options;
  if (!isSecureContext) {
    const message = "browser mode needs https, or a page on localhost";
    throw new DurablyError(message, 0, "insecure_context");
  }
  if (!/^\w[\w.-]*$/.test(database)) {
    throw new TypeError(`database must be the name of a file, as "app.sqlite3"; not ${database}`);
  }
  const absolute = (url: string) => new URL(url, document.baseURI).href;
  const folder = (url: string) => absolute(url.endsWith("/") ? url : `${url}/`);
  const home = folder(bundle);
  const orders = {
    bundle: home,
    pyodide: options.pyodide === undefined ? `${home}pyodide/` : folder(options.pyodide),
    database,
    jobs: [jobs].flat().map((one) => (one.includes("\n") ? one : absolute(one))),
    packages: (options.packages ?? []).map(absolute),
    module: options.module,
    standby,
    settings: inSnakeCase(options.settings ?? {}),
  };
  const tab = new Tab(orders, `${home}browser/worker.js`, options.onProgress ?? (() => {}));
  try {
    await tab.open();
    await tab.connect();
  } catch (error) {
    tab.close();
    throw error;
  }
  return new BrowserDurably<Jobs>(tab);
}

function inSnakeCase(settings: object): Record<string, unknown> {
  const word = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return Object.fromEntries(Object.entries(settings).map(([name, value]) => [word(name), value]));
}
