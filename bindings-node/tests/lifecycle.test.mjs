// How processes and workers end, and what is left of them. Every case is a process of its own.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

import { Client } from "@iicp/core";
import { ECHO, deferred, mesh, rejection } from "./mesh.mjs";

const children = fileURLToPath(new URL("lifecycle/children.mjs", import.meta.url));
/** Far more than any of them takes: one that hangs is killed, and shows by its signal. */
const LIMIT_MS = 120_000;
/** An exit takes a fraction of a second; the engine allows itself two. */
const EXIT_MS = 6_000;
/** Calls of the memory tests; the slopes need many. */
const CALLS = Number(process.env.IICP_CALLS ?? 45_000);
const CANCELS = 15_000;
/** An intent whose node has nothing to do. */
const IDLE = "urn:iicp:intent:x.test:idle:v1";

function start(args, execArgv = []) {
  const child = spawn(process.execPath, [...execArgv, children, ...args.map(String)], { stdio: ["pipe", "pipe", "pipe"], timeout: LIMIT_MS, killSignal: "SIGKILL" });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  let errors = "";
  child.stderr.on("data", (data) => (errors += data));
  return {
    child,
    line: async () => (await lines.next()).value,
    end: async () => {
      const [code, signal] = child.exitCode === null && child.signalCode === null ? await once(child, "close") : [child.exitCode, child.signalCode];
      return { code, signal, errors };
    },
  };
}

/** Runs a child to its end; its last line, and how long it took from there to its exit. */
async function run(args, execArgv) {
  const { line, end } = start(args, execArgv);
  let last;
  let at = performance.now();
  for (let next = await line(); next !== undefined; next = await line()) [last, at] = [next, performance.now()];
  const ended = await end();
  return { ...ended, last, exitMs: performance.now() - at };
}

async function runsToItsEnd(args, { code = 0, last, errors = /^$/ } = {}) {
  const ended = await run(args);
  assert.equal(ended.signal, null, ended.errors);
  assert.equal(ended.code, code, ended.errors);
  assert.equal(ended.last, last);
  assert.match(ended.errors, errors);
  assert.ok(ended.exitMs < EXIT_MS, `the exit took ${ended.exitMs} ms`);
}

test("a process ends by itself after everything is closed", () => runsToItsEnd(["closesAll"], { last: "echo" }));

test("an idle client keeps no process alive", () => runsToItsEnd(["forgetsTheClient"], { last: "echo" }));

/** A mesh whose handler tells when it was stopped in the middle of a stream. */
async function streaming(t) {
  const stopped = deferred();
  const { directory } = await mesh(t, async function* (_, { signal }) {
    signal.addEventListener("abort", stopped.resolve);
    yield "x";
    await stopped.promise;
  });
  return { url: directory.url, stopped: stopped.promise };
}

test("an idle stream keeps no process alive, and ends with it", async (t) => {
  const { url, stopped } = await streaming(t);
  await runsToItsEnd(["leavesAStreamIdle", url], { last: "x" });
  await stopped;
});

test("a stream that is forgotten in the middle is cancelled", async (t) => {
  const { url, stopped } = await streaming(t);
  const { child, line } = start(["forgetsAStream", url], ["--expose-gc"]);
  t.after(() => child.kill());
  assert.equal(await line(), "x");
  await stopped;
});

test("a call keeps its process alive until it is settled", async (t) => {
  const go = deferred();
  const { directory } = await mesh(t, async () => (await go.promise, "late"));
  const { child, line, end } = start(["waitsForItsCall", directory.url]);
  setTimeout(go.resolve, 1_500);
  assert.equal(await line(), "late");
  assert.equal((await end()).code, 0);
  assert.equal(child.signalCode, null);
});

test("a server keeps its process alive until it is closed", async () => {
  const { child, line, end } = start(["servesUntilItIsClosed"]);
  const [, url] = (await line()).split(" ");
  const client = new Client({ directory: url });
  for (let n = 0; n < 5; n++) {
    assert.equal((await client.submit({ intent: ECHO, payload: n })).result, n);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  child.stdin.end("close\n");
  assert.equal(await line(), "closed");
  assert.equal((await end()).code, 0);
  await client.close();
});

test("process.exit with a thousand calls pending ends at once", () => runsToItsEnd(["exitsWithCallsPending"], { code: 3, last: "pending" }));

test("process.exit in a handler ends at once", () => runsToItsEnd(["exitsInAHandler"], { code: 7 }));

test("an uncaught exception with a call pending ends the process with its own code", () =>
  runsToItsEnd(["throwsWithCallsPending"], { code: 1, errors: /nobody catches this/ }));

test("the library is CLOSED while the process exits", () => runsToItsEnd(["usesTheLibraryWhileItExits"], { last: "CLOSED" }));

for (const [what, child, last] of [
  ["throws", "throwsInAHandler", "BACKEND echo"],
  ["returns what has no JSON form", "returnsWhatIsNoJson", "BACKEND echo"],
  ["hangs past its deadline", "hangsPastItsDeadline", "TIMEOUT echo"],
]) {
  test(`a handler that ${what} costs its own task only`, () => runsToItsEnd([child], { last, errors: /^(@iicp|$)/ }));
}

test("a handler that closes its own node and waits for it is ended by the grace", () =>
  runsToItsEnd(["closesItsOwnNode"], { last: "closed: false" }));

test("forked children have an engine of their own", () => runsToItsEnd(["forks"], { last: "fork 0" }));

test("two copies of the package work in one process and know each other's errors", () =>
  runsToItsEnd(["loadsTwoCopies"], { last: "ours theirs other false true" }));

test("SIGINT is the program's own: by default it ends at once", async () => {
  const { child, line, end } = start(["isInterrupted"]);
  assert.equal(await line(), "running");
  const at = performance.now();
  child.kill("SIGINT");
  assert.equal((await end()).signal, "SIGINT");
  assert.ok(performance.now() - at < EXIT_MS);
});

test("SIGINT is the program's own: it may close everything and end by itself", async () => {
  const { child, line, end } = start(["isInterrupted", "closes"]);
  assert.equal(await line(), "running");
  child.kill("SIGINT");
  assert.deepEqual([await line(), await line()], ["CLOSED", "closed"]);
  assert.deepEqual(await end(), { code: 0, signal: null, errors: "" });
});

test("workers are terminated with calls and tasks in flight, and the main thread goes on", () =>
  runsToItsEnd(["terminatesWorkers", 5], { last: "terminated" }));

test("the engine ends with the last worker and begins again", () => runsToItsEnd(["outlivesTheLastWorker"], { last: "echo" }));

test("a loop blocked for five seconds delays no heartbeat, loses no task and takes no more than it may", async (t) => {
  const { child, line } = start(["blocksItsLoop", IDLE]);
  t.after(() => child.kill());
  const [directory, nodeId] = (await line()).split(" ");
  const client = new Client({ directory, routeTtlMs: 0 });
  t.after(() => client.close());
  child.stdin.write("block\n");
  assert.equal(await line(), "blocked");
  let free = false;
  const freed = line().then((text) => (free = text === "free"));
  const submit = (payload, timeoutMs) => client.submit({ intent: ECHO, payload, timeoutMs });
  const waiting = Promise.all([0, 1, 2, 3].map((payload) => submit(payload, 60_000)));
  let looks = 0;
  let refused;
  while (!free) {
    // It reports every 100 ms, and after a second of silence it would be gone.
    const found = await client.discover({ intent: IDLE });
    if (!free) assert.deepEqual(found.map((node) => node.nodeId), [nodeId], `after ${looks} looks`);
    looks += 1;
    refused ??= looks > 10 ? rejection(submit(4, 1_000)) : undefined;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await freed;
  assert.ok(looks > 10, `${looks} looks`);
  assert.deepEqual((await waiting).map(({ result }) => result), [0, 1, 2, 3]);
  // Refused by the node, or by the directory that knows it to be full.
  assert.match((await refused).codeName, /^(CAPACITY|NO_NODES)$/);
});

/** What a call leaves behind: nothing in the heap, and nothing to speak of in pages that come and go. */
async function leavesNothing(args, { collected }) {
  const { code, last, errors } = await run(args, collected ? ["--expose-gc"] : []);
  assert.equal(code, 0, errors);
  const { heapUsed, rss } = JSON.parse(last);
  // Without a collection just before, how full the heap is says little.
  if (collected) assert.ok(heapUsed < 50, `${heapUsed} bytes of heap a call`);
  assert.ok(rss < 400, `${rss} bytes a call`);
}

test("cancels leave nothing behind", () => leavesNothing(["cancels", CANCELS], { collected: true }));

test("calls leave nothing behind", () => leavesNothing(["remembers", CALLS], { collected: true }));

test("calls leave nothing behind where the garbage collector is left alone", () =>
  leavesNothing(["remembers", CALLS], { collected: false }));
