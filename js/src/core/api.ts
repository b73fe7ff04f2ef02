/** The requests of the protocol, one method each. */

import type { Scope } from "./list-feed.js";
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
  /** To find the run by. */
  labels?: Record<string, string> | undefined;
}

/** Which runs to list. */
export interface RunFilter {
  /** Of this job; of any of several. */
  jobName?: string | readonly string[] | undefined;
  /** In this status; in any of several. */
  status?: RunStatus | readonly RunStatus[] | undefined;
  /** With all of these labels. */
  labels?: Record<string, string> | undefined;
  /** At most so many: 50 unless said, 200 at most. */
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
  return all?.length === 0 ? undefined : all;
}

const LOGS_AT_ONCE = 1_000;

export class Api {
  readonly transport: Transport;

  constructor(transport: Transport) {
    this.transport = transport;
  }

  trigger(jobName: string, input: unknown, options: TriggerOptions = {}): Promise<Triggered> {
    const { signal, ...rest } = options;
    const body = { jobName, input, ...rest };
    return this.#ask({ method: "POST", path: "/trigger", body, signal });
  }

  async page(filter: RunFilter = {}, options: Options = {}): Promise<Page> {
    const { limit, offset, cursor, labels } = filter;
    const scope: Scope = { jobNames: several(filter.jobName), labels };
    const query = queryOf(scope);
    for (const status of several(filter.status) ?? []) query.append("status", status);
    for (const [name, value] of Object.entries({ limit, offset, cursor })) {
      if (value !== undefined) query.set(name, String(value));
    }
    const ask: Ask = { method: "GET", path: "/runs", query, signal: options.signal };
    const { body, header } = await this.transport.request(ask);
    return { runs: body as Run[], nextCursor: header("durably-next-cursor") };
  }

  run(runId: string, options: Options = {}): Promise<Run> {
    return this.#get("/run", runId, options);
  }

  steps(runId: string, options: Options = {}): Promise<Step[]> {
    return this.#get("/steps", runId, options);
  }

  logs(
    runId: string,
    {
      after,
      limit,
      signal,
    }: Options & { after?: number | undefined; limit?: number | undefined } = {},
  ): Promise<LogEntry[]> {
    return this.#get("/logs", runId, { signal }, { after, limit });
  }

  /** All kept log lines, oldest first. */
  async allLogs(runId: string, options: Options = {}): Promise<LogEntry[]> {
    const all: LogEntry[] = [];
    for (let after = 0; ; ) {
      const lines = await this.logs(runId, { ...options, after, limit: LOGS_AT_ONCE });
      all.push(...lines);
      const last = lines.at(-1);
      if (last === undefined || lines.length < LOGS_AT_ONCE) return all;
      after = Number(last.id.slice(last.id.lastIndexOf(":") + 1));
    }
  }

  async retry(runId: string, options: Options = {}): Promise<void> {
    await this.#act("POST", "/retry", runId, options);
  }

  async retrigger(runId: string, options: Options = {}): Promise<{ runId: string }> {
    return this.#act("POST", "/retrigger", runId, options) as Promise<{ runId: string }>;
  }

  async cancel(runId: string, options: Options = {}): Promise<void> {
    await this.#act("POST", "/cancel", runId, options);
  }

  async deleteRun(runId: string, options: Options = {}): Promise<void> {
    await this.#act("DELETE", "/run", runId, options);
  }

  jobs(options: Options = {}): Promise<JobInfo[]> {
    return this.#ask({ method: "GET", path: "/jobs", signal: options.signal });
  }

  #get<T>(
    path: string,
    runId: string,
    { signal }: Options,
    more: Record<string, number | undefined> = {},
  ): Promise<T> {
    const query = new URLSearchParams({ runId });
    for (const [name, value] of Object.entries(more)) {
      if (value !== undefined) query.set(name, String(value));
    }
    return this.#ask({ method: "GET", path, query, signal });
  }

  #act(method: Ask["method"], path: string, runId: string, { signal }: Options): Promise<unknown> {
    return this.#ask({ method, path, query: new URLSearchParams({ runId }), signal });
  }

  async #ask<T>(ask: Ask): Promise<T> {
    return (await this.transport.request(ask)).body as T;
  }
}
