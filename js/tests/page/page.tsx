/** A page with the hooks as their users write them. It shows all that they return; tests read it. */

import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { useJob, useJobLogs, useJobRun, useRunActions, useRuns } from "../../src/client.js";

const api = "/api/durably";
const asked = new URLSearchParams(location.search);
const text = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value));

/** What was answered last, and a way to ask. */
function useAnswer() {
  const [answer, setAnswer] = useState("");
  const ask = async (call: () => Promise<unknown>) => {
    setAnswer("…");
    setAnswer(
      await call().then(
        (value) => text(value) ?? "done",
        (error: Error) => `refused: ${error.message}`,
      ),
    );
  };
  return [answer, ask] as const;
}

function Shown({ values }: { values: Record<string, unknown> }) {
  return Object.entries(values).map(([name, value]) => (
    <p key={name} id={name}>
      {text(value)}
    </p>
  ));
}

function Logs({ runId }: { runId: string | null }) {
  const { logs, clearLogs } = useJobLogs({ api, runId, maxLogs: 5 });
  return (
    <>
      <button type="button" id="clear" onClick={clearLogs}>
        clear
      </button>
      <ol id="newest">
        {logs.map((line) => (
          <li key={line.id}>{`${line.stepName} ${line.message}`}</li>
        ))}
      </ol>
    </>
  );
}

function JobView() {
  const [answer, ask] = useAnswer();
  const [input, setInput] = useState("{}");
  const { trigger, triggerAndWait, reset, logs, ...shown } = useJob({
    api,
    jobName: asked.get("job") ?? "import-csv",
    initialRunId: asked.get("run") ?? undefined,
    autoResume: asked.get("autoResume") !== "no",
    followLatest: asked.get("followLatest") !== "no",
  });
  const flags = Object.entries(shown).filter(([name, value]) => name.startsWith("is") && value);
  return (
    <>
      <textarea id="input" value={input} onChange={(event) => setInput(event.target.value)} />
      <button type="button" id="trigger" onClick={() => ask(() => trigger(JSON.parse(input)))}>
        trigger
      </button>
      <button type="button" id="wait" onClick={() => ask(() => triggerAndWait(JSON.parse(input)))}>
        wait
      </button>
      <button type="button" id="reset" onClick={reset}>
        reset
      </button>
      <p id="answer">{answer}</p>
      <p id="flags">{flags.map(([name]) => name).join(" ")}</p>
      <Shown values={shown} />
      <ol id="logs">
        {logs.map((line) => (
          <li
            key={line.id}
          >{`${line.stepName} ${line.level} ${line.message} ${text(line.data)}`}</li>
        ))}
      </ol>
      <Logs runId={shown.currentRunId} />
    </>
  );
}

function Bar({ runId }: { runId: string }) {
  const { status, progress, output, error } = useJobRun<{ count: number }>({ api, runId });
  return (
    <li className="bar">
      {status} {progress?.current} {output?.count} {error}
    </li>
  );
}

function BarsView() {
  const runIds = asked.getAll("run");
  return (
    <ul>
      {runIds.map((runId) => (
        <Bar key={runId} runId={runId} />
      ))}
    </ul>
  );
}

function ListView() {
  const [answer, ask] = useAnswer();
  const actions = useRunActions({ api });
  const { runs, page, hasMore, isLoading, error, ...turn } = useRuns({
    api,
    jobName: asked.getAll("job"),
    pageSize: 3,
  });
  const buttons = ["retry", "retrigger", "cancel", "deleteRun", "getRun", "getSteps"] as const;
  return (
    <>
      <Shown values={{ page, hasMore, isLoading, error, actionsLoading: actions.isLoading }} />
      <button type="button" id="next" onClick={turn.nextPage}>
        next
      </button>
      <button type="button" id="prev" onClick={turn.prevPage}>
        prev
      </button>
      <p id="answer">{answer}</p>
      <table>
        <tbody>
          {runs.map((run) => (
            <tr key={run.id} id={`run-${run.id}`}>
              <td className="status">{run.status}</td>
              <td className="progress">{run.progress?.current}</td>
              <td className="output">{text(run.output)}</td>
              <td>
                {buttons.map((name) => (
                  <button
                    key={name}
                    type="button"
                    className={name}
                    onClick={() => ask(() => actions[name](run.id))}
                  >
                    {name}
                  </button>
                ))}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

const VIEWS = { job: JobView, bars: BarsView, list: ListView };
const View = VIEWS[(asked.get("view") ?? "job") as keyof typeof VIEWS];

createRoot(document.getElementById("root") as HTMLElement).render(
  <StrictMode>
    <View />
  </StrictMode>,
);
