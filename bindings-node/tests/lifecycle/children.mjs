// What the lifecycle tests run in processes of their own: `node children.mjs NAME`.

import { fork } from "node:child_process";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";

import { Client, Directory, IicpError, serve } from "@iicp/core";
import { ECHO } from "../mesh.mjs";

const OTHER = "urn:iicp:intent:x.test:other:v1";

async function asTold({ payload }, { signal }) {
  if (payload === "hang") await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  if (payload === "exit") process.exit(7);
  return payload;
}

/** A directory, and a node that answers what the payload says. */
async function mesh(options = {}, handler = asTold) {
  const directory = await Directory.loopback({ heartbeatMs: 100, nodeTtlMs: 1_000 });
  // What a node remembers of its tasks would look like a leak until it is full.
  const memory = { replayBytes: 1 << 20, resultBytes: 1 << 20 };
  const node = await serve({ intents: [ECHO], directory: directory.url, maxConcurrent: 256, ...memory, ...options }, handler);
  const client = new Client({ directory: directory.url });
  const call = (payload, more = {}, rest = {}) => client.submit({ intent: ECHO, payload, ...more }, rest);
  const close = async () => {
    await client.close();
    await node.close({ graceMs: 0 });
    await directory.close();
  };
  return { directory, node, client, call, close };
}

/** Resolves when the node runs so many tasks. */
async function running(node, tasks) {
  while (node.status().activeJobs < tasks) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** The name of the error that a call ends with. */
async function failureOf(call) {
  try {
    return `no failure: ${JSON.stringify(await call)}`;
  } catch (error) {
    return error.codeName ?? error.name;
  }
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

/** Bytes that a call leaves behind: the last third of so many calls against the third before it, 100 at a time. */
async function slope(count, hundredCalls) {
  const SAMPLES = 30;
  const samples = [];
  for (let sample = 0; sample < SAMPLES; sample++) {
    for (let n = 0; n < count / SAMPLES; n += 100) await hundredCalls();
    globalThis.gc?.();
    samples.push(process.memoryUsage());
  }
  const third = (from, of) => median(samples.slice((SAMPLES * from) / 3, (SAMPLES * (from + 1)) / 3).map((usage) => usage[of]));
  const each = (of) => Math.round((third(2, of) - third(1, of)) / (count / 3));
  say(JSON.stringify({ heapUsed: each("heapUsed"), rss: each("rss") }));
}

const say = (text) => process.stdout.write(`${text}\n`);

const children = {
  async closesAll() {
    const { call, close } = await mesh();
    say((await call("echo")).result);
    await close();
  },

  async forgetsTheClient() {
    const { call, node, directory } = await mesh();
    say((await call("echo")).result);
    await node.close();
    await directory.close();
  },

  /** A stream that nobody reads just now keeps no process. */
  async leavesAStreamIdle(url) {
    globalThis.kept = new Client({ directory: url }).stream("Hi");
    say((await globalThis.kept.next()).value.text);
  },

  async forgetsAStream(url) {
    const client = new Client({ directory: url });
    say((await client.stream("Hi").next()).value.text);
    setInterval(globalThis.gc, 50);
  },

  /** Nothing but the call keeps this process. */
  async waitsForItsCall(url) {
    const client = new Client({ directory: url });
    client.submit({ intent: ECHO, payload: "slow" }).then(({ result }) => say(result));
  },

  /** Nothing but the server keeps this process. */
  async servesUntilItIsClosed() {
    const { node, client, directory } = await mesh();
    say(`${node.url} ${directory.url}`);
    await client.close();
    process.stdin.once("data", async () => {
      await node.close();
      await directory.close();
      process.stdin.unref();
      say("closed");
    });
    process.stdin.unref();
  },

  async exitsWithCallsPending() {
    const { node, call } = await mesh();
    for (let n = 0; n < 1_000; n++) call("hang").catch(() => {});
    await running(node, 100);
    say("pending");
    process.exit(3);
  },

  async exitsInAHandler() {
    const { call } = await mesh();
    await call("exit");
  },

  async throwsWithCallsPending() {
    const { node, call } = await mesh();
    call("hang").catch(() => {});
    await running(node, 1);
    throw new Error("nobody catches this");
  },

  async usesTheLibraryWhileItExits() {
    const { client, call } = await mesh();
    await call("echo");
    process.on("exit", () => {
      try {
        new Client();
      } catch (error) {
        say(error.codeName);
      }
      client.discover({ intent: ECHO }).catch(() => {});
    });
    process.exit(0);
  },

  /** Workers are terminated with calls and tasks in flight, while this thread goes on. */
  async terminatesWorkers(rounds) {
    const { directory, call, close } = await mesh();
    for (let round = 0; round < Number(rounds); round++) {
      const workers = Array.from({ length: 8 }, () => new Worker(new URL("worker.mjs", import.meta.url), { workerData: directory.url }));
      await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once("message", resolve))));
      await Promise.all(workers.map((worker) => worker.terminate()));
      if ((await call(round)).result !== round) throw new Error("the main thread's own mesh is gone");
    }
    await close();
    say("terminated");
  },

  /** The engine ends with its last environment, a worker's, and begins again here. */
  async outlivesTheLastWorker() {
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(new URL("worker.mjs", import.meta.url), { workerData: null });
      await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
      await worker.terminate();
    }
    await children.closesAll();
  },

  /** One node that will be full, and one whose heartbeats show that this process is alive. */
  async blocksItsLoop(idle) {
    const { directory } = await mesh({ maxConcurrent: 4 });
    const { nodeId } = await serve({ intents: [idle], directory: directory.url }, () => null);
    say(`${directory.url} ${nodeId}`);
    process.stdin.once("data", () => {
      say("blocked");
      const until = Date.now() + 5_000;
      while (Date.now() < until);
      say("free");
    });
  },

  async throwsInAHandler() {
    const handler = ({ payload }) => {
      if (payload === "throw") throw new Error("as told");
      return payload;
    };
    const { call, close } = await mesh({}, handler);
    say(`${await failureOf(call("throw"))} ${(await call("echo")).result}`);
    await close();
  },

  async returnsWhatIsNoJson() {
    const { call, close } = await mesh({}, ({ payload }) => (payload === "wrong" ? 1n : payload));
    say(`${await failureOf(call("wrong"))} ${(await call("echo")).result}`);
    await close();
  },

  /** The handler never looks at its signal; its slot is the only one. */
  async hangsPastItsDeadline() {
    const handler = ({ payload }) => (payload === "hang" ? new Promise(() => {}) : payload);
    const { call, close } = await mesh({ maxConcurrent: 1 }, handler);
    const failure = await failureOf(call("hang", { timeoutMs: 300 }));
    say(`${failure.replace("TASK_TIMEOUT", "TIMEOUT")} ${(await call("echo", { timeoutMs: 20_000 })).result}`);
    await close();
  },

  async closesItsOwnNode() {
    let closed;
    const { node, call, client, directory } = await mesh({}, async () => {
      // Its own task runs while it waits: the grace ends it.
      await (closed = node.close({ graceMs: 200 }));
    });
    // The caller may hear of it before the handler does, or after.
    say(await failureOf(call("close", { timeoutMs: 5_000 })));
    say(`closed: ${await closed}`);
    await client.close();
    await directory.close();
  },

  /** `child_process.fork` before and after the first use, and again inside the child. */
  async forks(depth = "0") {
    const { call, close } = await mesh();
    await call("echo");
    if (depth < 2) {
      const child = fork(fileURLToPath(import.meta.url), ["forks", String(Number(depth) + 1)]);
      const code = await new Promise((resolve) => child.once("exit", resolve));
      if (code !== 0) throw new Error(`the child ended with ${code}`);
    }
    say(`${(await call(`fork ${depth}`)).result}`);
    await close();
  },

  /** The same package at two places: two engines and two kinds of everything, which know each other's errors. */
  async loadsTwoCopies() {
    const folder = mkdtempSync(join(tmpdir(), "iicp-copy-"));
    cpSync(fileURLToPath(new URL("../..", import.meta.url)), folder, {
      recursive: true,
      filter: (path) => !/\/(node_modules|tests|src|native|scripts)$/.test(path),
    });
    const other = await import(join(folder, "dist/index.mjs"));
    const { directory, call, close } = await mesh();
    const client = new other.Client({ directory: directory.url });
    const node = await other.serve({ intents: [OTHER], directory: directory.url }, () => "other");
    const [ours, theirs] = await Promise.all([call("ours"), client.submit({ intent: ECHO, payload: "theirs" })]);
    const across = await call("across", { intent: OTHER });
    const error = await client.submit({ intent: ECHO }).catch((error) => error);
    say(`${ours.result} ${theirs.result} ${across.result} ${other.Client === Client} ${error instanceof IicpError}`);
    await client.close();
    await node.close();
    await close();
    rmSync(folder, { recursive: true });
  },

  /** Interrupted with a call and a task under way, it closes if it is told to, else it ends as any other program. */
  async isInterrupted(how) {
    const { node, call, close } = await mesh();
    if (how === "closes") {
      process.once("SIGINT", async () => {
        await close();
        say("closed");
      });
    }
    const hanging = failureOf(call("hang"));
    await running(node, 1);
    say("running");
    say(await hanging);
  },

  async cancels(count) {
    const { call, close } = await mesh();
    await slope(count, async () => {
      const controllers = Array.from({ length: 100 }, () => new AbortController());
      const all = controllers.map(({ signal }) => call("hang", {}, { signal }).catch((error) => error.name));
      await new Promise(setImmediate);
      controllers.forEach((controller) => controller.abort());
      if ((await Promise.all(all)).some((name) => name !== "AbortError")) throw new Error("not cancelled");
    });
    if ((await call("echo")).result !== "echo") throw new Error("the slots are gone");
    await close();
  },

  async remembers(count) {
    const { call, close } = await mesh();
    await slope(count, () => Promise.all(Array.from({ length: 100 }, () => call("echo"))));
    await close();
  },
};

const [name, ...args] = process.argv.slice(2);
await children[name](...args);
