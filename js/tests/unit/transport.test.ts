import { expect, test } from "vitest";
import { createDurablyClient } from "../../src/client.js";
import { DurablyError } from "../../src/core/errors.js";
import { HttpTransport } from "../../src/core/transport.js";
import { refuse, ScriptedServer } from "./scripted.js";

test("a request says what it is", async () => {
  const server = await ScriptedServer.start();
  server.on("/trigger", () => ({ runId: "1" })).on("/cancel", () => ({ success: true }));
  let token = 0;
  const headers = async () => ({ authorization: `Bearer ${++token}` });
  const transport = new HttpTransport({ api: `${server.api}/`, headers });
  const body = { jobName: "job", input: { name: "Zoë" } };
  const answer = await transport.request({ method: "POST", path: "/trigger", body });
  expect(answer.body).toEqual({ runId: "1" });
  const query = new URLSearchParams({ runId: "a b&c" });
  await transport.request({ method: "POST", path: "/cancel", query });
  const [trigger, cancel] = server.asked;
  expect(trigger?.body).toEqual(body);
  expect(trigger?.headers).toMatchObject({
    "content-type": "application/json",
    authorization: "Bearer 1",
  });
  expect(cancel?.query.get("runId")).toBe("a b&c");
  expect(cancel?.headers).toMatchObject({ "x-durably": "1", authorization: "Bearer 2" });
  expect(cancel?.headers).not.toHaveProperty("content-type");
});

test("a refusal is an error with the server's words", async () => {
  const server = await ScriptedServer.start();
  server.on("/run", () => refuse(404, "run_not_found"));
  const transport = new HttpTransport({ api: server.api });
  const error = await transport.request({ method: "GET", path: "/run" }).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(DurablyError);
  expect(error).toMatchObject({
    message: "this is run_not_found",
    status: 404,
    code: "run_not_found",
    isTransient: false,
  });
});

test.each([
  ["a proxy's page", 502, "<html>", { status: 502, code: "refused", isTransient: true }],
  ["no JSON", 200, "<html>", { status: 200, code: "malformed_answer", isTransient: false }],
])("an answer that is %s is an error", async (_, status, text, expected) => {
  const server = await ScriptedServer.start();
  server.on("/jobs", (_asked, response) => void response.writeHead(status).end(text));
  const transport = new HttpTransport({ api: server.api });
  await expect(transport.request({ method: "GET", path: "/jobs" })).rejects.toMatchObject(expected);
});

test("a server that is away is an error, and an abort is an abort", async () => {
  const server = await ScriptedServer.start();
  const transport = new HttpTransport({ api: server.api });
  server.on("/jobs", () => new Promise(() => {}));
  const leaving = new AbortController();
  const asking = transport.request({ method: "GET", path: "/jobs", signal: leaving.signal });
  await expect.poll(() => server.count("/jobs")).toBe(1);
  leaving.abort();
  await expect(asking).rejects.toThrow(/abort/i);
  await server.close();
  await expect(transport.request({ method: "GET", path: "/jobs" })).rejects.toMatchObject({
    code: "unreachable",
    isTransient: true,
  });
});

test("what is no stream is refused", async () => {
  const server = await ScriptedServer.start();
  server.on("/subscribe", () => ({}));
  const transport = new HttpTransport({ api: server.api });
  const listener = { opened: () => expect.unreachable(), heard: () => expect.unreachable() };
  const opening = transport.subscribe({ method: "GET", path: "/subscribe" }, listener);
  await expect(opening).rejects.toMatchObject({ code: "malformed_answer" });
});

const cyclic: Record<string, unknown> = { name: "a" };
cyclic.parts = [{ whole: cyclic }];

test.each([
  ["a BigInt", { rows: [1, { id: 2n }] }, "input.rows[1].id is a BigInt, which JSON cannot hold"],
  ["a BigInt alone", 2n, "input is a BigInt, which JSON cannot hold"],
  ["a cycle", cyclic, "input.parts[0].whole is a circular reference, which JSON cannot hold"],
  ["what throws", { toJSON: () => fail("no view") }, "the input cannot be sent: no view"],
])("%s in the input is not the network's fault", async (_, input, message) => {
  const server = await ScriptedServer.start();
  const client = createDurablyClient({ api: server.api });
  await expect(client.trigger("job", input)).rejects.toMatchObject({
    message,
    code: "invalid_input",
    isTransient: false,
  });
  expect(server.asked).toEqual([]);
});

function fail(message: string): never {
  throw new Error(message);
}

test("one value in two places is no cycle", async () => {
  const server = await ScriptedServer.start();
  server.on("/trigger", () => ({ runId: "1", disposition: "created" }));
  const part = { a: 1 };
  await createDurablyClient({ api: server.api }).trigger("job", { one: part, two: [part, part] });
  expect(server.asked[0]?.body).toMatchObject({ input: { one: part, two: [part, part] } });
});

test.each([
  ["a line end", { authorization: "Bearer secret\n2" }, '"authorization"'],
  ["no Latin-1", { "x-user": "secret ☃" }, '"x-user"'],
  ["no name", { "x user": "secret" }, '"x user"'],
])("a header that cannot be sent, %s, is named without its value", async (_, headers, name) => {
  const server = await ScriptedServer.start();
  const transport = new HttpTransport({ api: server.api, headers: () => headers as never });
  const error = await transport.request({ method: "GET", path: "/jobs" }).catch((e: unknown) => e);
  expect(error).toMatchObject({ code: "invalid_headers", isTransient: false });
  expect(String(error)).toContain(name);
  expect(String((error as Error).stack) + String((error as Error).cause)).not.toContain("secret");
  expect(server.asked).toEqual([]);
});

test("headers that fail are told as that, and a fetch that fails says why", async () => {
  const headers = () => Promise.reject(new Error("no session"));
  const transport = new HttpTransport({ api: "http://127.0.0.1:1", headers });
  await expect(transport.request({ method: "GET", path: "/jobs" })).rejects.toMatchObject({
    message: "headers() failed: no session",
    code: "headers_failed",
    isTransient: true,
  });
  const fetch = () => Promise.reject(new TypeError("not logged in"));
  const other = new HttpTransport({ api: "/api", fetch });
  await expect(other.request({ method: "GET", path: "/jobs" })).rejects.toMatchObject({
    message: "the server cannot be reached: not logged in",
    code: "unreachable",
  });
});

test("who waits for headers that never come need not wait for ever", async () => {
  const headers = () => new Promise<never>(() => {});
  const transport = new HttpTransport({ api: "http://127.0.0.1:1", headers });
  const leaving = new AbortController();
  const asking = transport.request({ method: "GET", path: "/jobs", signal: leaving.signal });
  leaving.abort();
  await expect(asking).rejects.toThrow(/abort/i);
});
