import { useRunActions, useRuns } from "durably-react";
import { useRef } from "react";
import { ask, type CleanRun, cleanCsv } from "./durably";
import { Badge, Bar, figure, isActive, Moment } from "./parts";

/** All tables, newest first; what happens to them shows at once, in each tab. */
export function RunsCard({ selected }: { selected: string | null }) {
  const list = useRuns(cleanCsv, { pageSize: 6 });
  const actions = useRunActions();
  const title = useRef<HTMLHeadingElement>(null);
  /** The button may be gone then: the focus goes to the title. */
  const act = async (action: (runId: string) => Promise<unknown>, run: CleanRun) => {
    try {
      if (action === actions.deleteRun) await ask("forget-table", { table: run.id });
      await action(run.id);
      if (action === actions.deleteRun) location.hash = "";
      title.current?.focus();
    } catch {
      // `actions.error` says why
    }
  };
  const problem = actions.error ?? list.error;
  return (
    <section className="card runs">
      <h2 ref={title} tabIndex={-1}>
        Tables
      </h2>
      {problem && (
        <p role="alert" className="problem">
          {problem}
        </p>
      )}
      <ul className="list">
        {list.runs.map((run) => (
          <Row key={run.id} run={run} isShown={run.id === selected} actions={actions} act={act} />
        ))}
      </ul>
      {list.runs.length === 0 && !list.isLoading && <p className="none">Nothing yet.</p>}
      {(list.page > 0 || list.hasMore) && (
        <nav className="pages" aria-label="Pages of tables">
          <button type="button" onClick={list.prevPage} disabled={list.page === 0}>
            Newer
          </button>
          <span className="figures">Page {list.page + 1}</span>
          <button type="button" onClick={list.nextPage} disabled={!list.hasMore}>
            Older
          </button>
        </nav>
      )}
    </section>
  );
}

function Row(props: {
  run: CleanRun;
  isShown: boolean;
  actions: ReturnType<typeof useRunActions>;
  act: (action: (runId: string) => Promise<unknown>, run: CleanRun) => void;
}) {
  const { run, isShown, actions, act } = props;
  const { id, status, progress, createdAt } = run;
  const { name } = run.input;
  const button = (text: string, action: (runId: string) => Promise<unknown>) => (
    <button type="button" aria-label={`${text} ${name}`} onClick={() => act(action, run)}>
      {text}
    </button>
  );
  return (
    <li data-status={status}>
      <p className="line">
        <a className="name" href={`#run=${id}`} aria-current={isShown ? "true" : undefined}>
          {name}
        </a>
        <Badge status={status} />
      </p>
      {isActive(status) && <Bar of={name} status={status} progress={progress} />}
      <p className="line hint figures">
        <Moment at={createdAt} />
        {run.output && `${figure(run.output.counts.rows)} rows`}
        <span className="actions">
          {isActive(status) && button("Cancel", actions.cancel)}
          {(status === "failed" || status === "cancelled") && button("Retry", actions.retry)}
          {status === "completed" && button("Again", actions.retrigger)}
          {!isActive(status) && button("Delete", actions.deleteRun)}
        </span>
      </p>
    </li>
  );
}
