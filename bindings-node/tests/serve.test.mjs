// The serving node's promises.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, Code, Directory, IicpError, Reply, RejectedError, serve } from "@iicp/core";
import { ECHO, deferred, mesh, rejection } from "./mesh.mjs";

test("a handler sees the task, its caller and how long there is", async (t) => {
  const seen = deferred();
  const { client, node } = await mesh(t, (task) => (seen.resolve(task), null));
  const done = await client.submit({ intent: ECHO, payload: [1], timeoutMs: 5_000, qos: "batch", sourceNodeId: "node-9" });
  const task = await seen.promise;
  assert.equal(done.result, null);
  assert.deepEqual([task.taskId, task.intent, task.payload, task.qos], [done.taskId, ECHO, [1], "batch"]);
  assert.ok(task.deadlineMs > 0 && task.deadlineMs <= 5_000);
  assert.equal(task.traceparent, done.traceparent);
  assert.match(task.caller.peer, /^127\.0\.0\.1:\d+$/);
  assert.deepEqual([task.caller.sourceNodeId, task.nodeId], ["node-9", node.nodeId]);
});

test("what a caller asks for and proves reaches the handler", async (t) => {
  const seen = deferred();
  const { node } = await mesh(t, (task) => (seen.resolve(task), null), { node: { accessToken: "known to few" } });
  const traceparent = `00-${"4b".repeat(16)}-${"01".repeat(8)}-01`;
  const answer = await fetch(`${node.url}/v1/task`, {
    method: "POST",
    headers: { "content-type": "application/json", traceparent, tracestate: "vendor=1" },
    body: JSON.stringify({
      task_id: "task-1",
      intent: ECHO,
      payload: [1],
      constraints: { timeout_ms: 9_000, priority: "high", model: "small", max_tokens: 12 },
      source_node_id: "node-9",
      auth: { node_token: "known to few" },
    }),
  });
  assert.equal(answer.status, 200);
  const { priority, model, maxTokens, tracestate, caller, ...task } = await seen.promise;
  assert.deepEqual([priority, model, maxTokens, tracestate], ["high", "small", 12, "vendor=1"]);
  assert.deepEqual([caller.sourceNodeId, caller.verified, caller.verifiedNodeId], ["node-9", true, null]);
  assert.ok(task.traceparent.startsWith(`00-${"4b".repeat(16)}-`));
});

test("plain and async functions serve, and thenables are awaited", async (t) => {
  const handlers = {
    plain: () => "plain",
    async: async () => "async",
    thenable: () => ({ then: (resolve) => resolve("thenable") }),
    reply: () => Reply.json("reply", { tokensUsed: 7 }),
    bytes: () => new TextEncoder().encode('"bytes"'),
  };
  const { client } = await mesh(t, (task) => handlers[task.payload]());
  for (const name of Object.keys(handlers)) {
    assert.equal((await client.submit({ intent: ECHO, payload: name })).result, name);
  }
});

test("what a handler throws stays with its provider; RejectedError is made to be shown", async (t) => {
  const told = [];
  const secret = new Error("canary");
  const handlers = {
    throws: () => {
      throw secret;
    },
    rejects: () => Promise.reject(secret),
    refuses: () => Promise.reject(new RejectedError("only short texts")),
    throwsNothing: () => {
      throw undefined;
    },
  };
  const onError = (error, task) => told.push([task.payload, error]);
  const { client } = await mesh(t, (task) => handlers[task.payload](), { onError });
  const call = (payload) => rejection(client.submit({ intent: ECHO, payload }));
  for (const payload of ["throws", "rejects", "throwsNothing"]) {
    const error = await call(payload);
    assert.ok(error instanceof IicpError && error.code === Code.BACKEND, error.message);
    assert.ok(!error.message.includes("canary") && !error.stack.includes("canary"));
  }
  const refused = await call("refuses");
  assert.equal(refused.codeName, "TASK_REJECTED");
  assert.match(refused.message, /only short texts/);
  assert.deepEqual(told, [["throws", secret], ["rejects", secret], ["throwsNothing", undefined]]);
});

test("a value without JSON form is a failure that the provider reads", async (t) => {
  const told = [];
  const cycle = {};
  cycle.self = cycle;
  const values = [undefined, () => {}, Symbol("s"), 1n, cycle, NaN, "\udc00", new Uint8Array([123])];
  const onError = (error) => told.push(error.codeName);
  // As many failures in a row as there are values: the client is not to leave the node alone.
  const { client, node } = await mesh(t, (task) => values[task.payload], { onError, client: { breakerFailures: 100 } });
  for (const payload of values.keys()) {
    const error = await rejection(client.submit({ intent: ECHO, payload }));
    assert.ok(error instanceof IicpError, String(error));
  }
  assert.deepEqual(told, values.map(() => "HANDLER"));
  assert.equal(node.status().activeJobs, 0);
});

test("a handler past its deadline is told, its slot is free again and its late answer is nobody's", async (t) => {
  const [told, late] = [deferred(), deferred()];
  const errors = [];
  const handler = async (task, { signal }) => {
    if (task.payload !== "slow") return "ok";
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    told.resolve(signal.aborted);
    await late.promise;
    return "late";
  };
  const { client } = await mesh(t, handler, { node: { maxConcurrent: 1 }, onError: (error) => errors.push(error) });
  await rejection(client.submit({ intent: ECHO, payload: "slow", timeoutMs: 200 }));
  assert.equal(await told.promise, true);
  const next = await client.submit({ intent: ECHO, payload: "next", timeoutMs: 10_000 });
  assert.equal(next.result, "ok");
  late.resolve();
  await client.submit({ intent: ECHO, payload: "last" });
  assert.deepEqual(errors, []);
});

test("a signal that is asked for after the cancel has fired already", async (t) => {
  const [begun, ended, seen] = [deferred(), deferred(), deferred()];
  const { client } = await mesh(t, async (_task, context) => {
    begun.resolve();
    await ended.promise;
    seen.resolve(context.signal.aborted);
  });
  const controller = new AbortController();
  const call = rejection(client.submit({ intent: ECHO, payload: 1 }, { signal: controller.signal }));
  await begun.promise;
  controller.abort();
  await call;
  // The node learns of it by the connection's end; a second task comes after that.
  await assert.rejects(client.submit({ intent: ECHO, payload: 1, timeoutMs: 500 }));
  ended.resolve();
  assert.equal(await seen.promise, true);
});

test("status, url and id; close drains, says whether all ended, and may be asked for twice", async () => {
  const directory = await Directory.loopback();
  const [begun, go] = [deferred(), deferred()];
  const node = await serve({ intents: [ECHO], directory: directory.url, nodeId: "node-1" }, async () => {
    begun.resolve();
    await go.promise;
    return "done";
  });
  assert.deepEqual(node.status(), {
    nodeId: "node-1",
    url: node.url,
    registered: true,
    activeJobs: 0,
    effectiveMaxConcurrent: node.status().effectiveMaxConcurrent,
    models: [],
    backendState: "ok",
    backendReason: "ok",
  });
  assert.ok(node.status().effectiveMaxConcurrent > 0);
  const report = node.natReport();
  assert.deepEqual([report.reachedBy, report.doubleNat, report.rungs], [null, false, []]);
  assert.match(report.text, /not reached/);
  assert.match(node.url, /^http:\/\/127\.0\.0\.1:\d+$/);
  const client = new Client({ directory: directory.url });
  const call = client.submit({ intent: ECHO, payload: 1 });
  await begun.promise;
  assert.equal(node.status().activeJobs, 1);
  assert.equal((await rejection(node.close({ graceMs: "soon" }))).codeName, "INVALID_ARG");
  const closed = node.close({ graceMs: 10_000 });
  const again = node.close();
  go.resolve();
  assert.equal((await call).result, "done");
  assert.deepEqual([await closed, await again], [true, true]);
  assert.throws(() => node.status(), { codeName: "CLOSED" });
  assert.throws(() => node.natReport(), { codeName: "CLOSED" });
  await node[Symbol.asyncDispose]();
  await client.close();
  await directory.close();
});

test("a handler may close its own node", async () => {
  const directory = await Directory.loopback();
  const closed = deferred();
  const node = await serve({ intents: [ECHO], directory: directory.url }, () => {
    closed.resolve(node.close({ graceMs: 5_000 }));
    return "bye";
  });
  const client = new Client({ directory: directory.url });
  assert.equal((await client.submit({ intent: ECHO, payload: 1 })).result, "bye");
  assert.equal(await closed.promise, true);
  await client.close();
  await directory.close();
});

test("a node that cannot serve is refused with a code", async () => {
  const code = async (...given) => (await rejection(serve(...given))).codeName;
  assert.equal(await code({ intents: [] }, () => 1), "CONFIG_INVALID");
  assert.equal(await code({ intents: [ECHO], hots: "x" }, () => 1), "CONFIG_INVALID");
  assert.equal(await code({ intents: [ECHO] }), "INVALID_ARG");
  assert.equal(await code(null, () => 1), "INVALID_ARG");
  assert.equal(await code({ intents: [ECHO] }, () => 1, { onErr: () => {} }), "INVALID_ARG");
  assert.equal(await code({ intents: [ECHO] }, () => 1, { onError: 5 }), "INVALID_ARG");
  const node = await serve({ intents: [ECHO] }, () => 1);
  const { port } = new URL(node.url);
  assert.equal(await code({ intents: [ECHO], port: Number(port) }, () => 1), "BIND");
  await node.close();
});
