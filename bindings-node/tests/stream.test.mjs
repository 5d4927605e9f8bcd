// Results in parts: what is yielded arrives, and who leaves stops who yields.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { CHAT, Chunk, Client, Code, IicpError, RejectedError, Reply, TaskStream } from "@iicp/core";
import { ECHO, deferred, mesh, rejection, until } from "./mesh.mjs";

const WORDS = ["Hello", ", ", "mesh", "."];

async function* words() {
  for (const [at, word] of WORDS.entries()) yield Chunk.delta(word, { tokensUsed: at + 1 });
}

/** All parts of a stream. */
async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const texts = async (stream) => (await all(stream)).map(({ text }) => text);

test("what a generator yields arrives part by part, in every form of generator", async (t) => {
  const handlers = {
    async: words,
    texts: async function* () {
      yield* WORDS;
    },
    plain: function* () {
      yield* WORDS;
    },
    returned: async () => words(),
    iterable: () => ({ [Symbol.asyncIterator]: words }),
  };
  for (const [name, handler] of Object.entries(handlers)) {
    const { client, node } = await mesh(t, handler);
    const stream = client.stream("Hi");
    assert.ok(stream instanceof TaskStream);
    const chunks = await all(stream);
    assert.deepEqual(chunks.map(({ text }) => text), WORDS, name);
    assert.deepEqual(chunks.map(({ sequence }) => sequence), [0, 1, 2, 3]);
    assert.deepEqual(chunks[0].result, { choices: [{ index: 0, delta: { content: "Hello" } }] });
    const counts = ["async", "returned", "iterable"].includes(name);
    assert.deepEqual(chunks.map(({ tokensUsed }) => tokensUsed), counts ? [1, 2, 3, 4] : [null, null, null, null]);
    const result = await stream.result;
    assert.deepEqual([result.nodeId, result.taskId, result.result], [node.nodeId, chunks[0].taskId, null]);
    assert.deepEqual([chunks[0].nodeId, result.attempts, result.sealed], [node.nodeId, 1, true]);
    assert.equal(result.tokensUsed, counts ? 4 : null);
    // A caller who takes no parts gets them together.
    assert.equal((await client.chat("Hi")).text, WORDS.join(""));
  }
});

test("the result tells what the last part said, also when a generator returns it", async (t) => {
  const { client } = await mesh(t, async function* () {
    yield "Hello";
    const usage = { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 };
    return { model: "m", choices: [{ delta: {}, finish_reason: "stop" }], usage };
  });
  const stream = client.stream({ messages: [{ role: "user", content: "Hi" }] });
  assert.deepEqual(await texts(stream), ["Hello", ""]);
  const { finishReason, model, usage } = await stream.result;
  assert.deepEqual([finishReason, model, usage], ["stop", "m", { promptTokens: 1, completionTokens: 2, totalTokens: 3 }]);
});

test("a stream is passed on part by part", async (t) => {
  const { client: inner } = await mesh(t, words);
  for (const handler of [() => inner.stream("Hi"), async function* () { yield* inner.stream("Hi"); }]) {
    const { client } = await mesh(t, handler);
    const chunks = await all(client.stream("Hi"));
    assert.deepEqual(chunks.map(({ text, tokensUsed }) => [text, tokensUsed]), WORDS.map((word, at) => [word, at + 1]));
  }
});

test("a part arrives before the next is made", async (t) => {
  let goOn = deferred();
  const { client } = await mesh(t, async function* (task) {
    assert.equal(task.takesEvents, true);
    for (let n = 0; n < 3; n++) {
      yield n;
      await goOn.promise;
      goOn = deferred();
    }
  });
  const seen = [];
  for await (const { result } of client.stream({ intent: ECHO, payload: {} })) {
    seen.push(result);
    goOn.resolve();
  }
  assert.deepEqual(seen, [0, 1, 2]);
});

test("leaving the loop in any way stops the handler", async (t) => {
  const stopped = [];
  const handlers = {
    async *waits(_, { signal }) {
      try {
        yield "x";
        await sleep(60_000, undefined, { signal });
      } finally {
        stopped.push("stopped");
      }
    },
    // Never waits for anything, and does not keep the process for itself all the same.
    async *busy() {
      try {
        for (;;) yield "x";
      } finally {
        stopped.push("stopped");
      }
    },
    *plain() {
      try {
        for (;;) yield "x";
      } finally {
        stopped.push("stopped");
      }
    },
  };
  const ways = {
    async break(client) {
      const stream = client.stream("Hi");
      for await (const _ of stream) break;
      assert.equal((await stream.next()).done, true);
      assert.equal((await rejection(stream.result)).code, Code.CANCELLED);
    },
    async throw(client) {
      const read = async () => {
        for await (const _ of client.stream("Hi")) throw new RangeError("mine");
      };
      assert.ok((await rejection(read())) instanceof RangeError);
    },
    async return(client) {
      const stream = client.stream("Hi");
      await stream.next();
      await stream.return();
    },
    async dispose(client) {
      const stream = client.stream("Hi");
      await stream.next();
      await stream[Symbol.asyncDispose]();
    },
    async closeWhileSomebodyWaits(client) {
      const stream = client.stream("Hi");
      await stream.next();
      const waiting = rejection(stream.next());
      await stream.close();
      assert.equal((await waiting).code, Code.CANCELLED);
    },
    async signal(client) {
      const controller = new AbortController();
      const read = async () => {
        for await (const _ of client.stream("Hi", { signal: controller.signal })) controller.abort(new Error("enough"));
      };
      assert.equal((await rejection(read())).message, "enough");
      assert.equal(getEventListeners(controller.signal, "abort").length, 0);
    },
  };
  for (const [kind, handler] of Object.entries(handlers)) {
    const { client, node } = await mesh(t, handler);
    for (const [way, leave] of Object.entries(ways)) {
      // There is always a next part of these.
      if (way === "closeWhileSomebodyWaits" && kind !== "waits") continue;
      await leave(client);
      await until(() => stopped.length > 0, `${kind}: ${way}`);
      stopped.length = 0;
      await until(() => node.status().activeJobs === 0, `${kind}: ${way}`);
    }
  }
});

test("a deadline ends the stream and its generator, and a signal that fired before starts nothing", async (t) => {
  const stopped = deferred();
  let begun = 0;
  const { client } = await mesh(t, async function* () {
    begun++;
    try {
      for (;;) {
        yield "x";
        await sleep(20);
      }
    } finally {
      stopped.resolve();
    }
  });
  const stream = client.stream({ intent: CHAT, payload: 1, timeoutMs: 500 });
  const error = await rejection(all(stream));
  assert.ok([Code.TIMEOUT, Code.TASK_TIMEOUT].includes(error.code), String(error));
  assert.equal(await rejection(stream.result), error);
  await stopped.promise;
  assert.equal(begun, 1);
  const signal = AbortSignal.abort(new Error("before"));
  assert.equal((await rejection(all(client.stream("Hi", { signal })))).message, "before");
  assert.equal(begun, 1);
});

test("ten thousand parts and a slow reader keep little", async (t) => {
  const [count, part] = [10_000, "x".repeat(4096)];
  let made = 0;
  const handlers = {
    async *async() {
      for (made = 1; made <= count; made++) yield part;
    },
    *plain() {
      for (made = 1; made <= count; made++) yield part;
    },
  };
  for (const handler of Object.values(handlers)) {
    const { client } = await mesh(t, handler, { client: { maxResponseBytes: 1 << 28 } });
    const stream = client.stream({ intent: CHAT, payload: 1, timeoutMs: 60_000 });
    assert.equal((await stream.next()).value.sequence, 0);
    // Nothing more is taken until nothing more is made.
    for (let quiet = 0, before = 0; quiet < 20; before = made) {
      await sleep(20);
      quiet = made === before ? quiet + 1 : 0;
    }
    assert.ok(made < count / 2, `two megabytes of forty wait, and what the sockets hold: ${made} parts`);
    let read = 1;
    for await (const { sequence } of stream) {
      assert.equal(sequence, read++);
      assert.ok(made - read < count / 2);
    }
    assert.equal(read, count);
  }
});

test("a failure in the middle is told after the parts before it", async (t) => {
  const told = [];
  const fails = function* ({ payload }) {
    yield "one";
    if (payload === "reject") throw new RejectedError("no more");
    if (payload === "throw") throw new Error("secret");
    yield payload === "bytes" ? new TextEncoder().encode("no JSON") : 1n;
  };
  const handlers = [fails, async function* (task) { yield* fails(task); }];
  const codes = { reject: Code.TASK_REJECTED, throw: Code.BACKEND, bigint: Code.BACKEND, bytes: Code.BACKEND };
  for (const handler of handlers) {
    const { client } = await mesh(t, handler, { onError: (error) => told.push(error) });
    for (const [payload, code] of Object.entries(codes)) {
      const [stream, seen] = [client.stream({ intent: ECHO, payload }), []];
      const error = await rejection((async () => {
        for await (const { text } of stream) seen.push(text);
      })());
      assert.ok(error instanceof IicpError);
      assert.deepEqual([error.code, seen], [code, ["one"]], payload);
      assert.doesNotMatch(error.message, /secret/);
      assert.equal(/no more/.test(error.message), payload === "reject");
      assert.match(error.stack, /stream\.test\.mjs/);
      assert.equal((await stream.next()).done, true);
      assert.equal(told.splice(0).length, payload === "reject" ? 0 : 1, payload);
    }
  }
});

test("a node that answers once gives one part, and a generator that yields nothing none", async (t) => {
  const { client } = await mesh(t, () => Reply.chat(WORDS.join("")));
  const [chunk, ...more] = await all(client.stream("Hi"));
  assert.deepEqual([chunk.text, chunk.result.choices[0].message.role, more], [WORDS.join(""), "assistant", []]);
  const { client: other } = await mesh(t, async function* () {});
  assert.deepEqual(await all(other.stream("Hi")), []);
});

test("closing the client ends its streams", async (t) => {
  const { client, node } = await mesh(t, async function* (_, { signal }) {
    yield "x";
    await sleep(60_000, undefined, { signal });
  });
  const streams = [client.stream("Hi"), client.stream("Hi")];
  for (const stream of streams) assert.equal((await stream.next()).value.text, "x");
  const waiting = rejection(streams[0].next());
  await client.close();
  assert.equal((await waiting).code, Code.CLOSED);
  assert.equal((await rejection(streams[1].next())).code, Code.CLOSED);
  assert.equal((await rejection(all(client.stream("Hi")))).code, Code.CLOSED);
  await until(() => node.status().activeJobs === 0);
});

test("bad questions fail before the network, with the stack of the call", async () => {
  const client = new Client({ directory: "http://127.0.0.1:1" });
  const wrong = [
    [undefined, "INVALID_ARG"],
    [{ messages: [] }, "CONFIG_INVALID"],
    [{ messages: [{ role: "user", content: "Hi" }], tiemoutMs: 1 }, "CONFIG_INVALID"],
    [{ intent: ECHO, payload: 1n }, "PAYLOAD_INVALID"],
    [{ intent: ECHO, payload: new Uint8Array(0) }, "PAYLOAD_INVALID"],
    [{ intent: "nonsense", payload: 1 }, "INTENT_INVALID"],
    ["Hi", "DIRECTORY_UNREACHABLE"],
  ];
  for (const [ask, name] of wrong) {
    const stream = client.stream(ask);
    const error = await rejection(all(stream));
    assert.equal(error.codeName, name);
    assert.match(error.stack, /stream\.test\.mjs/);
    assert.equal(await rejection(stream.result), error);
  }
  assert.equal((await rejection(all(client.stream("Hi", { singal: 1 })))).codeName, "CONFIG_INVALID");
  await client.close();
});

test("a stream that is closed before it began sends nothing", async (t) => {
  let begun = 0;
  const { client } = await mesh(t, () => ++begun);
  const stream = client.stream("Hi");
  await stream.close();
  assert.equal((await stream.next()).done, true);
  assert.equal((await rejection(stream.result)).code, Code.CANCELLED);
  assert.equal(begun, 0);
});

test("streams of many readers do not mix", async (t) => {
  const { client } = await mesh(
    t,
    async function* ({ payload }) {
      for (let n = 0; n < 50; n++) yield `${payload}-${n}`;
    },
    { node: { maxConcurrent: 32 } },
  );
  const read = async (name) =>
    assert.deepEqual(await texts(client.stream({ intent: ECHO, payload: name })), Array.from({ length: 50 }, (_, n) => `${name}-${n}`));
  await Promise.all(Array.from({ length: 30 }, (_, n) => read(`s${n}`)));
});
