// A page with the hooks of the published React client, as its users write them. It shows all that they
// return; the tests read it there. `?view=` chooses one of three views, the rest of the query its options.
import {
  createDurably,
  createJobHooks,
  useRunActions,
  useRuns,
} from "@coji/durably-react";
import { useState } from "react";
import { createRoot } from "react-dom/client";

const asked = new URLSearchParams(location.search);
const API = asked.get("api") ?? new URL("api/durably", location.href).pathname;
const durably = createDurably({ api: API });

const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const flag = (name) => asked.get(name) !== "no";
const one = (values) => (values.length > 1 ? values : values[0]);

/** What was answered last, and a way to ask. */
function useAnswer() {
  const [answer, setAnswer] = useState("");
  const ask = async (call) => {
    setAnswer("…");
    try {
      setAnswer(text(await call()) ?? "done");
    } catch (error) {
      setAnswer(`refused: ${error.message}`);
    }
  };
  return [answer, ask];
}

function Run({ run }) {
  const flags = Object.keys(run).filter((key) => key.startsWith("is") && run[key] === true);
  return (
    <>
      <p id="status">{text(run.status)}</p>
      <p id="flags">{flags.join(" ")}</p>
      <p id="output">{text(run.output)}</p>
      <p id="error">{text(run.error)}</p>
      <p id="progress">{text(run.progress)}</p>
      <Logs logs={run.logs} />
    </>
  );
}

function Logs({ logs }) {
  return (
    <ol id="logs">
      {logs.map((log) => (
        <li key={log.id}>{`${log.level} ${log.message} ${text(log.data ?? "")}`}</li>
      ))}
    </ol>
  );
}

function Actions({ runId, ask }) {
  const { retrigger, cancel, deleteRun, getRun, getSteps } = useRunActions({ api: API });
  const actions = { retrigger, cancel, deleteRun, getRun, getSteps };
  return Object.entries(actions).map(([name, action]) => (
    <button key={name} className={name} onClick={() => ask(() => action(runId))}>
      {name}
    </button>
  ));
}

function JobView() {
  const [answer, ask] = useAnswer();
  const [input, setInput] = useState("{}");
  const job = durably[asked.get("job")].useJob({
    initialRunId: asked.get("initialRunId") ?? undefined,
    autoResume: flag("autoResume"),
    followLatest: flag("followLatest"),
  });
  return (
    <>
      <textarea id="input" value={input} onChange={(event) => setInput(event.target.value)} />
      <button id="trigger" onClick={() => ask(() => job.trigger(JSON.parse(input)))}>trigger</button>
      <button id="wait" onClick={() => ask(() => job.triggerAndWait(JSON.parse(input)))}>wait</button>
      <button id="reset" onClick={job.reset}>reset</button>
      <Actions runId={job.currentRunId} ask={ask} />
      <p id="answer">{answer}</p>
      <p id="run">{text(job.currentRunId)}</p>
      <Run run={job} />
    </>
  );
}

function RunView() {
  const [called, setCalled] = useState([]);
  const calls = (name) => () => setCalled((before) => [...before, name]);
  const { useRun, useLogs } = createJobHooks({ api: API, jobName: "any" });
  const run = useRun(asked.get("runId"), {
    onStart: calls("start"),
    onComplete: calls("complete"),
    onFail: calls("fail"),
  });
  const { logs, clearLogs } = useLogs(asked.get("runId"), { maxLogs: 2 });
  return (
    <>
      <Run run={run} />
      <p id="called">{called.join(" ")}</p>
      <button id="clear" onClick={clearLogs}>clear</button>
      <ol id="last">{logs.map((log) => <li key={log.id}>{log.message}</li>)}</ol>
    </>
  );
}

function ListView() {
  const [answer, ask] = useAnswer();
  const labels = [...asked].filter(([key]) => key.startsWith("label."));
  const list = useRuns({
    api: API,
    jobName: one(asked.getAll("job")),
    status: one(asked.getAll("status")),
    labels: labels.length ? Object.fromEntries(labels.map(([k, v]) => [k.slice(6), v])) : undefined,
    pageSize: Number(asked.get("pageSize") ?? 10),
    realtime: flag("realtime"),
  });
  return (
    <>
      <button id="prev" onClick={list.prevPage}>back</button>
      <button id="next" onClick={list.nextPage}>on</button>
      <button id="third" onClick={() => list.goToPage(2)}>third</button>
      <button id="refresh" onClick={list.refresh}>refresh</button>
      <p id="answer">{answer}</p>
      <p id="page">{`${list.page} ${list.hasMore ? "more" : "last"} ${list.error ?? "fine"}`}</p>
      <table>
        <tbody>
          {list.runs.map((run) => (
            <tr key={run.id} id={`run-${run.id}`} title={text(run)}>
              <td className="name">{run.input.name}</td>
              <td className="job">{run.jobName}</td>
              <td className="status">{run.status}</td>
              <td className="progress">{text(run.progress)}</td>
              <td className="steps">{run.currentStepIndex}</td>
              <td className="output">{text(run.output)}</td>
              <td className="error">{text(run.error)}</td>
              <td><Actions runId={run.id} ask={ask} /></td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

const VIEWS = { job: JobView, run: RunView, list: ListView };
const View = VIEWS[asked.get("view")];
createRoot(document.getElementById("root")).render(<View />);
