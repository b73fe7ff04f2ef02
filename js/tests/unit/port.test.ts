import { afterEach, expect, test } from "vitest";
import { DurablyError } from "../../src/core/errors.js";
import { type FromPage, type FromWorker, PortClient, PortTransport } from "../../src/core/port.js";

const ports: MessagePort[] = [];
afterEach(() => {
  for (const port of ports.splice(0)) port.close();
});

/** The worker's end of a port, and a client at the other. */
function worker(): { asked: FromPage[]; say(said: FromWorker): void; client: PortClient } {
  const { port1, port2 } = new MessageChannel();
  ports.push(port1, port2);
  const asked: FromPage[] = [];
  port2.onmessage = ({ data }) => void asked.push(data);
  port1.start();
  return { asked, say: (said) => port2.postMessage(said), client: new PortClient(port1) };
}

const heading = (id: number, type: string): FromWorker => ({
  id,
  status: 200,
  headers: { "content-type": type },
});

test("a request is a message, and so is its answer", async () => {
  const { asked, say, client } = worker();
  const transport = new PortTransport(async () => client);
  const query = new URLSearchParams({ runId: "a b" });
  const answering = transport.request({
    method: "POST",
    path: "/trigger",
    query,
    body: { x: "ü" },
  });
  await expect.poll(() => asked.length).toBe(1);
  expect(asked[0]).toEqual({
    id: 1,
    method: "POST",
    path: "/trigger?runId=a+b",
    headers: { "content-type": "application/json" },
    body: '{"x":"ü"}',
  });
  say(heading(1, "application/json"));
  say({ id: 1, chunk: '{"runId":' });
  say({ id: 1, chunk: '"7"}' });
  say({ id: 1, end: true });
  expect((await answering).body).toEqual({ runId: "7" });
});

test("a refusal is an error with the worker's words", async () => {
  const { asked, say, client } = worker();
  const answering = new PortTransport(async () => client).request({ method: "GET", path: "/run" });
  await expect.poll(() => asked.length).toBe(1);
  say({ id: 1, status: 404, headers: {} });
  say({ id: 1, chunk: '{"error":"no","code":"run_not_found"}' });
  say({ id: 1, end: true });
  await expect(answering).rejects.toMatchObject({ status: 404, code: "run_not_found" });
});

test("a stream is read as it comes, and says how much was taken", async () => {
  const { asked, say, client } = worker();
  const heard: string[] = [];
  const streaming = new PortTransport(async () => client).subscribe(
    { method: "GET", path: "/runs/subscribe" },
    {
      opened: () => heard.push("opened"),
      heard: (frames) => heard.push(...frames.map((f) => f.data)),
    },
  );
  await expect.poll(() => asked.length).toBe(1);
  say(heading(1, "text/event-stream"));
  for (let number = 0; number < 40; number++) say({ id: 1, chunk: `data: ${number}\n\n` });
  await expect.poll(() => heard.length).toBe(41);
  const more = () =>
    asked.slice(1).reduce((sum, said) => sum + ("more" in said ? said.more : 0), 0);
  await expect.poll(more).toBeGreaterThanOrEqual(24);
  say({ id: 1, end: true });
  await streaming;
});

test("who leaves a stream says so, and hears nothing more of it", async () => {
  const { asked, say, client } = worker();
  const leaving = new AbortController();
  const streaming = new PortTransport(async () => client).subscribe(
    { method: "GET", path: "/runs/subscribe", signal: leaving.signal },
    { opened: () => leaving.abort(), heard: () => {} },
  );
  await expect.poll(() => asked.length).toBe(1);
  say(heading(1, "text/event-stream"));
  await expect(streaming).rejects.toThrow(/abort/i);
  await expect.poll(() => asked.at(-1)).toEqual({ id: 1, cancel: true });
  say({ id: 1, chunk: "data: late\n\n" });
});

test("when a port closes, what reads is asked again, and what changes something is not", async () => {
  const [first, second] = [worker(), worker()];
  let current = first.client;
  const transport = new PortTransport(async () => current);
  const reading = transport.request({ method: "GET", path: "/jobs" });
  const changing = transport.request({ method: "POST", path: "/trigger", body: {} });
  await expect.poll(() => first.asked.length).toBe(2);
  current = second.client;
  first.client.close();
  const error = await changing.catch((error: unknown) => error);
  expect(error).toBeInstanceOf(DurablyError);
  expect(error).toMatchObject({ code: "unreachable", isTransient: true });
  await expect.poll(() => second.asked.length).toBe(1);
  second.say(heading(1, "application/json"));
  second.say({ id: 1, chunk: "[]" });
  second.say({ id: 1, end: true });
  expect((await reading).body).toEqual([]);
});

test("a stream that was open breaks with its port", async () => {
  const { asked, say, client } = worker();
  const streaming = new PortTransport(async () => client).subscribe(
    { method: "GET", path: "/runs/subscribe" },
    { opened: () => client.close(), heard: () => {} },
  );
  await expect.poll(() => asked.length).toBe(1);
  say(heading(1, "text/event-stream"));
  await expect(streaming).rejects.toThrow("the worker is gone");
});

test("who waits for a worker need not wait for ever", async () => {
  const transport = new PortTransport(() => new Promise(() => {}));
  const leaving = new AbortController();
  const asking = transport.request({ method: "GET", path: "/jobs", signal: leaving.signal });
  leaving.abort();
  await expect(asking).rejects.toThrow(/abort/i);
});
