import { type RunStatus, useRunActions, useRuns } from "durably-react";
import { useRef, useState } from "react";
import { type AnyRun, JOB_TITLES, nameOf } from "./durably";
import { Badge, Bar, figure, isActive, Moment } from "./parts";

const FILTERS = {
  All: [],
  Active: ["pending", "running"],
  Completed: ["completed"],
  Failed: ["failed", "cancelled"],
} satisfies Record<string, RunStatus[]>;
type Filter = keyof typeof FILTERS;

/** All runs, newest first; what happens to them shows at once. */
export function RunsCard({ selected }: { selected: string | null }) {
  const [filter, setFilter] = useState<Filter>("All");
  const { runs, page, hasMore, isLoading, error, nextPage, prevPage } = useRuns<AnyRun>({
    status: FILTERS[filter],
    pageSize: 20,
  });
  const actions = useRunActions();
  const title = useRef<HTMLHeadingElement>(null);
  /** What a refused action says is in `actions.error`. The button may be gone: the focus goes to the title. */
  const act = (action: (runId: string) => Promise<unknown>, run: AnyRun) =>
    action(run.id).then(
      () => {
        title.current?.focus();
        if (action === actions.deleteRun && run.id === selected) location.hash = "";
      },
      () => {},
    );
  const problem = actions.error ?? error;
  return (
    <section className="card runs">
      <div className="bar">
        <h2 ref={title} tabIndex={-1}>
          Runs
        </h2>
        <Filters chosen={filter} choose={setFilter} />
      </div>
      {problem && (
        <p role="alert" className="problem">
          {problem}
        </p>
      )}
      {runs.length > 0 && (
        <table>
          <thead>
            <tr>
              <th scope="col">Run</th>
              <th scope="col">Status</th>
              <th scope="col">Progress</th>
              <th scope="col" className="when">
                Created
              </th>
              <th scope="col">
                <span className="unseen">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {runs.map((run) => (
              <Row
                key={run.id}
                run={run}
                isSelected={run.id === selected}
                actions={actions}
                act={act}
              />
            ))}
          </tbody>
        </table>
      )}
      {runs.length === 0 && !isLoading && !error && (
        <p className="none">
          {filter === "All" ? "Nothing yet. Start an import or make thumbnails." : "None."}
        </p>
      )}
      {(page > 0 || hasMore) && (
        <nav className="pages" aria-label="Pages of runs">
          <button type="button" onClick={prevPage} disabled={page === 0}>
            Newer
          </button>
          <span className="figures">Page {page + 1}</span>
          <button type="button" onClick={nextPage} disabled={!hasMore}>
            Older
          </button>
        </nav>
      )}
    </section>
  );
}

function Filters({ chosen, choose }: { chosen: Filter; choose: (filter: Filter) => void }) {
  return (
    <fieldset className="filters">
      <legend className="unseen">Show</legend>
      {(Object.keys(FILTERS) as Filter[]).map((filter) => (
        <label key={filter}>
          <input
            type="radio"
            name="filter"
            checked={filter === chosen}
            onChange={() => choose(filter)}
          />
          <span>{filter}</span>
        </label>
      ))}
    </fieldset>
  );
}

function Row(props: {
  run: AnyRun;
  isSelected: boolean;
  actions: ReturnType<typeof useRunActions>;
  act: (action: (runId: string) => Promise<unknown>, run: AnyRun) => void;
}) {
  const { run, isSelected, actions, act } = props;
  const { id, status, progress, createdAt } = run;
  const name = nameOf(run);
  const button = (text: string, action: (runId: string) => Promise<unknown>) => (
    <button type="button" aria-label={`${text} ${name}`} onClick={() => act(action, run)}>
      {text}
    </button>
  );
  return (
    <tr data-status={status} data-run={id}>
      <td className="what">
        <a className="name" href={`#run=${id}`} aria-current={isSelected ? "true" : undefined}>
          {name}
        </a>
        <span className="kind">{JOB_TITLES[run.jobName]}</span>
      </td>
      <td>
        <Badge status={status} />
      </td>
      <td className="far">
        <Bar of={name} status={status} progress={progress} />
        <span className="figures">
          {progress && `${figure(progress.current)} / ${figure(progress.total ?? 0)}`}
        </span>
      </td>
      <td className="when">
        <Moment at={createdAt} />
      </td>
      <td className="actions">
        {isActive(status) && button("Cancel", actions.cancel)}
        {(status === "failed" || status === "cancelled") && button("Retry", actions.retry)}
        {status === "completed" && button("Again", actions.retrigger)}
        {!isActive(status) && button("Delete", actions.deleteRun)}
      </td>
    </tr>
  );
}
