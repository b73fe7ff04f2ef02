/** The requests of the protocol, one method each. */

import { DurablyError } from "./errors.js";
import { queryOf } from "./list-feed.js";
import type { JobInfo, LogEntry, Run, RunStatus, Step, Triggered } from "./protocol.js";
import type { Ask, Transport } from "./transport.js";

export interface Options {
  /** Ends the request, or the waiting for it. */
  signal?: AbortSignal | undefined;
}

export interface TriggerOptions extends Options {
  /** A second trigger of this job with the same key gives the first one's run. */
  idempotencyKey?: string | undefined;
  /** Runs of one key are executed one after another. */
  concurrencyKey?: string | undefined;
  /** A run of this job that waits with the same `concurrencyKey`, and has not begun, is given instead. */
  coalesce?: "skip" | undefined;
  /** To find the run by. */
  labels?: Record<string, string> | undefined;
}

export interface LogOptions extends Options {
  /** Only lines after this number of the run's journal. */
  after?: number | undefined;
  limit?: number | undefined;
}

/** Which runs to list. */
export interface RunFilter {
  /** Of this job; of any of several. */
  jobName?: string | readonly string[] | undefined;
  /** In this status; in any of several. */
  status?: RunStatus | readonly RunStatus[] | undefined;
  /** With all of these labels. */
  labels?: Record<string, string> | undefined;
  /** At most so many: 50 unless said. The server gives 200 at once; more are asked for in parts. */
  limit?: number | undefined;
  /** Leave out so many of the newest. */
  offset?: number | undefined;
  /** Go on after this: `nextCursor` of the page before. */
  cursor?: string | undefined;
}

/** A part of a list, newest first. */
export interface Page<R = Run> {
  runs: R[];
  /** Where the next page begins; null when this is the last. */
  nextCursor: string | null;
}

/** One or several, as several; none means that nothing was asked for. */
export function several<T extends string>(
  given: T | readonly T[] | undefined,
): readonly T[] | undefined {
  const all = typeof given === "string" ? [given] : given;
  return all?.length ? all : undefined;
}

/** More lines of a run than these are not kept here. */
export const MAX_LOGS = 10_000;
const RUNS_AT_ONCE = 200;
const RUNS_BY_DEFAULT = 50;

/** One request each; nothing is kept. */
export class Api {
  readonly transport: Transport;

  constructor(transport: Transport) {
    this.transport = transport;
  }

  /** Runs, newest first. */
  async runs(filter?: RunFilter, options?: Options): Promise<Run[]> {
    return (await this.page(filter, options)).runs;
  }

  /** The same as `runs`, by the name that it has on the server. */
  getRuns(filter?: RunFilter, options?: Options): Promise<Run[]> {
    return this.runs(filter, options);
  }

  /** Runs, newest first, and where to go on. */
  async page(filter: RunFilter = {}, options?: Options): Promise<Page> {
    const { jobName, status, labels, limit, ...numbers } = filter;
    const query = queryOf({ jobNames: several(jobName), labels });
    added(query, { status, limit: limit && Math.min(limit, RUNS_AT_ONCE), ...numbers });
    const ask: Ask = { method: "GET", path: "/runs", query, ...options };
    const { body, header } = await this.transport.request(ask);
    const runs = body as Run[];
    const cursor = header("durably-next-cursor");
    // The server gives 200 at once, and fewer where they are large.
    const isPartial = header("durably-page") === "partial";
    const further = (limit ?? RUNS_BY_DEFAULT) - (isPartial ? runs.length : RUNS_AT_ONCE);
    if (cursor === null || further <= 0) return { runs, nextCursor: cursor };
    const rest = { ...filter, offset: undefined, cursor, limit: further };
    const { runs: more, nextCursor } = await this.page(rest, options);
    return { runs: [...runs, ...more], nextCursor };
  }

  /** A run; null when there is none of this id. */
  async run(runId: string, options?: Options): Promise<Run | null> {
    try {
      return await this.#about<Run>("GET", "/run", runId, options);
    } catch (error) {
      if (error instanceof DurablyError && error.code === "run_not_found") return null;
      throw error;
    }
  }

  /** A run's steps, in order. */
  async steps(runId: string, options?: Options): Promise<Step[]> {
    const found = await this.#pages<Step>("/steps", runId, options);
    const byName = new Map(found.map((step) => [step.name, step])); // a later end replaces a failure
    return [...byName.values()].sort((one, other) => one.index - other.index);
  }

  /** A run's kept log lines, oldest first; 1,000 at most, and fewer where they are large. */
  logs(runId: string, options: LogOptions = {}): Promise<LogEntry[]> {
    const { after, limit, ...rest } = options;
    return this.#about("GET", "/logs", runId, rest, { after, limit });
  }

  /** A run's kept log lines, oldest first; 10,000 at most. */
  allLogs(runId: string, options?: Options): Promise<LogEntry[]> {
    return this.#pages("/logs", runId, options, MAX_LOGS);
  }

  /** The jobs that the server runs. */
  jobs(options?: Options): Promise<JobInfo[]> {
    return this.#ask({ method: "GET", path: "/jobs", ...options });
  }

  /** Resumes a failed or cancelled run; what it had finished is kept. */
  async retry(runId: string, options?: Options): Promise<void> {
    await this.#about("POST", "/retry", runId, options);
  }

  /** A new run with the input of this one. */
  retrigger(runId: string, options?: Options): Promise<{ runId: string }> {
    return this.#about("POST", "/retrigger", runId, options);
  }

  /** Stops a run. */
  async cancel(runId: string, options?: Options): Promise<void> {
    await this.#about("POST", "/cancel", runId, options);
  }

  /** Deletes a run that is over, and all that was kept of it. */
  async deleteRun(runId: string, options?: Options): Promise<void> {
    await this.#about("DELETE", "/run", runId, options);
  }

  /** Creates a run. */
  protected create(
    jobName: string,
    input: unknown,
    { signal, ...keys }: TriggerOptions = {},
  ): Promise<Triggered> {
    return this.#ask({
      method: "POST",
      path: "/trigger",
      body: { jobName, input, ...keys },
      signal,
    });
  }

  #about<T>(
    method: Ask["method"],
    path: string,
    runId: string,
    options?: Options,
    values: Values = {},
  ): Promise<T> {
    const query = added(new URLSearchParams({ runId }), values);
    return this.#ask({ method, path, query, ...options });
  }

  /** All pages of a list about a run, until they have `most` items together. */
  async #pages<T>(path: string, runId: string, options?: Options, most = Infinity): Promise<T[]> {
    const all: T[] = [];
    for (let after: string | undefined; ; ) {
      const query = added(new URLSearchParams({ runId }), { after });
      const ask: Ask = { method: "GET", path, query, ...options };
      const { body, header } = await this.transport.request(ask);
      all.push(...(body as T[]));
      after = header("durably-next-cursor") ?? undefined;
      if (after === undefined || all.length >= most) return all;
    }
  }

  async #ask<T>(ask: Ask): Promise<T> {
    return (await this.transport.request(ask)).body as T;
  }
}

/** The number of a kept log line in its run's journal; 0 for none. */
export function numberOf(line: LogEntry | undefined): number {
  return Number(line?.id.split(":").at(-1) ?? 0);
}

type Values = { [name: string]: number | string | readonly string[] | undefined };

function added(query: URLSearchParams, values: Values): URLSearchParams {
  for (const [name, value] of Object.entries(values)) {
    for (const one of [value].flat()) if (one !== undefined) query.append(name, String(one));
  }
  return query;
}
