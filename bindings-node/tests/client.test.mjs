// The client's promises, against an embedded directory and a node of this process.

import assert from "node:assert/strict";
import { getEventListeners, once } from "node:events";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { test } from "node:test";

import { CHAT, Client, Code, Directory, IicpError, Reply, RejectedError, version } from "@iicp/core";
import { ECHO, deferred, mesh, rejection } from "./mesh.mjs";

const echo = (task) => task.payload;

test("discover, submit and chat find the node and bring back what its handler returned", async (t) => {
  const { client, node } = await mesh(t, (task) => (task.intent === CHAT ? Reply.chat("Hello.") : task.payload));
  const [found] = await client.discover({ intent: ECHO, limit: 5 });
  assert.equal(found.nodeId, node.nodeId);
  assert.equal(found.endpoint, node.url);

  const payload = { text: "Grüße 🌍", list: [1, 2.5, null, true], deep: { a: { b: [] } } };
  const done = await client.submit({ intent: ECHO, payload, timeoutMs: 20_000, taskId: "task-1" });
  assert.deepEqual(done.result, payload);
  assert.deepEqual([done.taskId, done.nodeId, done.attempts], ["task-1", node.nodeId, 1]);
  assert.match(done.traceparent, /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
  assert.ok(done.timingsMs.total > 0);

  const reply = await client.chat("Hello, mesh.");
  assert.deepEqual([reply.text, reply.nodeId, reply.usage], ["Hello.", node.nodeId, null]);
  const asked = await client.chat({ messages: [{ role: "user", content: "Hi" }], maxTokens: 5 });
  assert.equal(asked.text, "Hello.");
});

test("a message has its options and its signal beside it, as what every other model task is asked", async (t) => {
  const { client } = await mesh(t, ({ payload }) => Reply.chat(`${payload.messages.at(-1).content} ${payload.max_tokens}`));
  const call = { maxTokens: 7, timeoutMs: 20_000, signal: new AbortController().signal };
  assert.equal((await client.chat("Hi", call)).text, "Hi 7");
  const parts = [];
  for await (const { text } of client.stream("Hi", call)) parts.push(text);
  assert.equal(parts.join(""), "Hi 7");
  const refused = async (...asked) => (await rejection(client.chat(...asked))).message;
  assert.match(await refused("Hi", { timeoutMs: 0 }), /option timeoutMs of a task is 0 ms/);
  assert.match(await refused("Hi", { messages: [] }), /cannot have messages: the call itself sets it/);
  assert.match(await refused("Hi", { signal: 5 }), /must be an AbortSignal/);
  assert.match(await refused("Hi", null), /the options of a chat must be an object/);
  assert.match(await refused({ messages: [] }, { timeoutMs: 5 }), /the options of a call cannot have timeoutMs/);
  const why = new Error("gone");
  assert.equal(await rejection(client.chat("Hi", { ...call, signal: AbortSignal.abort(why) })), why);
});

test("a payload of bytes is JSON text that is passed on as it is", async (t) => {
  const { client } = await mesh(t, echo);
  const payload = new TextEncoder().encode('{"n": 12345678901234567890, "t": "ü"}');
  assert.equal((await client.submit({ intent: ECHO, payload })).result.t, "ü");
  const error = await rejection(client.submit({ intent: ECHO, payload: new Uint8Array([123, 255]) }));
  assert.equal(error.code, Code.PAYLOAD_INVALID);
});

test("an unknown or wrong option is refused by the core, with its code and the option's name", async (t) => {
  assert.throws(() => new Client({ directroy: "x" }), { codeName: "CONFIG_INVALID", message: /directroy/ });
  assert.throws(() => new Client({ maxAttempts: 99 }), { code: Code.CONFIG_INVALID, message: /option maxAttempts of a client is 99/ });
  assert.throws(() => new Client({ timeoutMs: 0 }), { message: /option timeoutMs of a task is 0 ms/ });
  assert.throws(() => new Client({ tiemoutMs: 5 }), { message: /"tiemoutMs"; expected one of directory, timeoutMs, / });
  assert.throws(() => new Client({ timeout_ms: 5 }), { codeName: "CONFIG_INVALID", message: /no timeout_ms; give timeoutMs/ });
  assert.throws(() => new Client({ constructor: 1 }), { code: Code.CONFIG_INVALID });
  const { client } = await mesh(t, echo);
  const code = async (promise) => (await rejection(promise)).codeName;
  assert.equal(await code(client.submit({ intent: ECHO, payload: 1, timeoutMs: 120_001 })), "TIMEOUT_TOO_LARGE");
  assert.equal(await code(client.submit({ intent: ECHO, payload: 1, tiemoutMs: 5 })), "CONFIG_INVALID");
  assert.equal(await code(client.submit({ intent: "nonsense", payload: 1 })), "INTENT_INVALID");
  assert.equal(await code(client.discover({ intent: ECHO, limit: 0 })), "CONFIG_INVALID");
  assert.equal(await code(client.chat({ messages: [] })), "CONFIG_INVALID");
  assert.equal(await code(client.chat({ messages: [{ role: "user", content: 5 }] })), "CONFIG_INVALID");
});

test("values that are no options and payloads without JSON form are a code, not a crash", async (t) => {
  const cycle = {};
  cycle.self = cycle;
  const { client } = await mesh(t, echo);
  const wrong = { bigint: 1n, cycle, nan: { a: [NaN] }, infinite: -Infinity, half: ["\ud83d"], halfName: { "\udc00": 1 } };
  const none = { undefined, function: () => {}, symbol: Symbol("s"), inList: [1, undefined], toJSON: { toJSON: () => undefined } };
  for (const [name, payload] of Object.entries({ ...wrong, ...none })) {
    const error = await rejection(client.submit({ intent: ECHO, payload }));
    assert.equal(error.codeName, "PAYLOAD_INVALID", name);
    assert.match(error.message, /^the payload has no JSON form: \w+/);
    assert.match(error.stack, /client\.test\.mjs/);
  }
  const right = { nothing: null, left: undefined, text: "null and \\ud800, both as text", pair: "😀", date: new Date(0) };
  const { result } = await client.submit({ intent: ECHO, payload: right });
  assert.deepEqual(result, { nothing: null, text: right.text, pair: "😀", date: "1970-01-01T00:00:00.000Z" });
  for (const options of [null, 5, "text", [], () => {}]) {
    assert.throws(() => new Client(options), { codeName: "INVALID_ARG" });
    assert.equal((await rejection(client.submit(options))).codeName, "INVALID_ARG");
  }
  assert.equal((await rejection(client.discover({ intent: 1n }))).codeName, "INVALID_ARG");
  assert.equal((await rejection(client.discover({ intent: cycle }))).codeName, "INVALID_ARG");
  assert.equal((await rejection(client.discover({ intent: ECHO, limit: NaN }))).codeName, "INVALID_ARG");
  for (const call of [{ signal: 5 }, { singal: AbortSignal.abort() }, null, 5]) {
    assert.equal((await rejection(client.discover({ intent: ECHO }, call))).codeName, "INVALID_ARG");
  }
});

test("an error keeps the stack of the call that failed, and says all that is known", async () => {
  const closed = createServer().listen(0, "127.0.0.1");
  await once(closed, "listening");
  const { port } = closed.address();
  closed.close();
  const client = new Client({ directory: `http://127.0.0.1:${port}` });
  async function whoCalled() {
    return await client.discover({ intent: ECHO });
  }
  const error = await rejection(whoCalled());
  assert.ok(error instanceof IicpError && error instanceof Error);
  assert.deepEqual([error.name, error.code, error.codeName], ["IicpError", 3001, "DIRECTORY_UNREACHABLE"]);
  assert.equal(error.retryable, true);
  assert.match(error.stack, /^IicpError: .*\n\s+at .*whoCalled/);
  assert.ok(!error.stack.includes("dist/"), "the frames of the library are left out");
  await client.close();
});

test("among many calls, whoever awaits one is in its error's stack as well", async (t) => {
  const { client } = await mesh(t, () => new Promise(() => {}), { node: { maxConcurrent: 128 }, client: { timeoutMs: 30_000 } });
  const others = Array.from({ length: 50 }, () => rejection(client.submit({ intent: ECHO, payload: 1 })));
  const nobody = "urn:iicp:intent:x.test:nobody:v1";
  async function whoAwaits(call) {
    return await call();
  }
  const failed = await rejection(whoAwaits(() => client.submit({ intent: nobody, payload: 1 })));
  assert.equal(failed.codeName, "NO_NODES");
  const refused = await rejection(whoAwaits(() => client.submit({ intent: nobody, payload: NaN })));
  assert.equal(refused.codeName, "PAYLOAD_INVALID");
  for (const { stack } of [failed, refused]) {
    assert.match(stack, /^IicpError: .*\n(.*\n)*\s+at .*whoAwaits/);
    assert.ok(!stack.includes("dist/"), stack);
  }
  await client.close();
  await Promise.all(others);
});

test("an error of another copy of the package is an IicpError, and nothing else is", () => {
  const other = Object.create({ [Symbol.for("@iicp/core.IicpError")]: true });
  assert.ok(other instanceof IicpError);
  for (const not of [new Error("x"), null, undefined, 5, {}, new RejectedError("x")]) assert.ok(!(not instanceof IicpError));
  class Mine extends IicpError {}
  assert.ok(!(new IicpError({ code: 1, message: "" }) instanceof Mine));
  assert.ok(new Mine({ code: 1001, message: "" }) instanceof IicpError);
});

test("a signal that fires rejects with its reason, reaches the node, and is left alone afterwards", async (t) => {
  const [begun, stopped] = [deferred(), deferred()];
  const { client } = await mesh(t, async (task, { signal }) => {
    if (task.payload !== "hang") return task.payload;
    begun.resolve();
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    stopped.resolve(signal.reason);
  });
  const controller = new AbortController();
  const { signal } = controller;
  await client.submit({ intent: ECHO, payload: 1 }, { signal });
  assert.equal(getEventListeners(signal, "abort").length, 0, "settled calls leave no listener");
  const call = client.submit({ intent: ECHO, payload: "hang" }, { signal });
  await begun.promise;
  const why = new Error("no longer wanted");
  controller.abort(why);
  assert.equal(await rejection(call), why);
  assert.equal((await stopped.promise).codeName, "CANCELLED", "the far end was told");
  assert.equal(getEventListeners(signal, "abort").length, 0);
  assert.equal(await rejection(client.submit({ intent: ECHO, payload: 1 }, { signal })), why, "an aborted signal at once");
  const unrelated = await client.submit({ intent: ECHO, payload: 2 });
  assert.equal(unrelated.result, 2);
});

test("a signal for a hundred calls has one listener, and a warning for none", async (t) => {
  const { client } = await mesh(t, () => new Promise(() => {}), { node: { maxConcurrent: 128 } });
  const warnings = [];
  const warned = (warning) => warnings.push(warning);
  process.on("warning", warned);
  const controller = new AbortController();
  const { signal } = controller;
  const calls = Array.from({ length: 100 }, () => rejection(client.submit({ intent: ECHO, payload: 1 }, { signal })));
  assert.equal(getEventListeners(signal, "abort").length, 1);
  controller.abort();
  assert.deepEqual(new Set(await Promise.all(calls)), new Set([signal.reason]));
  assert.equal(getEventListeners(signal, "abort").length, 0);
  await new Promise(setImmediate);
  process.off("warning", warned);
  assert.deepEqual(warnings, []);
});

test("a timeout of the signal rejects with TimeoutError, the task's own with a code", async (t) => {
  const { client } = await mesh(t, () => new Promise(() => {}));
  const signal = AbortSignal.timeout(50);
  assert.equal((await rejection(client.submit({ intent: ECHO, payload: 1 }, { signal }))).name, "TimeoutError");
  const error = await rejection(client.submit({ intent: ECHO, payload: 1, timeoutMs: 100 }));
  assert.ok(["TIMEOUT", "TASK_TIMEOUT"].includes(error.codeName), error.codeName);
});

test("close ends what runs with CLOSED, waits for it, and refuses what comes later", async (t) => {
  const begun = deferred();
  const { client } = await mesh(t, () => (begun.resolve(), new Promise(() => {})));
  const call = rejection(client.submit({ intent: ECHO, payload: 1 }));
  await begun.promise;
  let ended = false;
  void call.then(() => (ended = true));
  await client.close();
  assert.ok(ended, "close waits for what it ends");
  assert.equal((await call).codeName, "CLOSED");
  assert.equal((await rejection(client.discover({ intent: ECHO }))).codeName, "CLOSED");
  await client.close();
  await client[Symbol.asyncDispose]();
});

test("a result of a megabyte and a hundred calls at once come back whole", async (t) => {
  const { client } = await mesh(t, echo, { node: { maxConcurrent: 128 } });
  const text = "x".repeat(1 << 20);
  assert.equal((await client.submit({ intent: ECHO, payload: text })).result, text);
  const all = Array.from({ length: 100 }, (_, n) => client.submit({ intent: ECHO, payload: n }));
  assert.deepEqual((await Promise.all(all)).map(({ result }) => result), [...all.keys()]);
});

test("a directory can be as strict as a public one, and the version is the package's", async () => {
  const directory = await Directory.bind({ maxNodes: 5 });
  assert.match(directory.url, /^http:\/\/127\.0\.0\.1:\d+$/);
  const client = new Client({ directory: directory.url });
  const call = client.submit({ intent: ECHO, payload: 1 });
  assert.equal((await rejection(call)).codeName, "NO_NODES");
  await client.close();
  await directory.close();
  await directory.close();
  assert.equal((await rejection(Directory.bind({ maxNodes: -1 }))).codeName, "CONFIG_INVALID");
  assert.equal(version(), createRequire(import.meta.url)("../package.json").version);
});
