// What the lifecycle tests run in processes of their own: `node children.mjs NAME`.

import { Worker } from "node:worker_threads";

import { Client, Directory, serve } from "@iicp/core";
import { ECHO } from "../mesh.mjs";

/** A directory, and a node that answers what the payload says. */
async function mesh(options = {}) {
  const directory = await Directory.loopback({ heartbeatMs: 100, nodeTtlMs: 1_000 });
  const handler = async ({ payload }, { signal }) => {
    if (payload === "hang") await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    if (payload === "exit") process.exit(7);
    return payload;
  };
  const node = await serve({ intents: [ECHO], directory: directory.url, maxConcurrent: 256, ...options }, handler);
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

  async blocksItsLoop() {
    const { directory, node } = await mesh({ maxConcurrent: 4 });
    say(`${directory.url} ${node.nodeId}`);
    process.stdin.once("data", () => {
      say("blocked");
      const until = Date.now() + 5_000;
      while (Date.now() < until);
      say("free");
    });
  },

  async cancels(count) {
    const { call, close } = await mesh();
    const storm = async (calls) => {
      for (let n = 0; n < calls; n += 100) {
        const controllers = Array.from({ length: 100 }, () => new AbortController());
        const all = controllers.map(({ signal }) => call("hang", {}, { signal }).catch((error) => error.name));
        await new Promise(setImmediate);
        controllers.forEach((controller) => controller.abort());
        if ((await Promise.all(all)).some((name) => name !== "AbortError")) throw new Error("not cancelled");
      }
      globalThis.gc();
      return process.memoryUsage().rss;
    };
    const before = await storm(2_000);
    const after = await storm(Number(count));
    if ((await call("echo")).result !== "echo") throw new Error("the slots are gone");
    await close();
    say(String(Math.round((after - before) / Number(count))));
  },

  /** Bytes that a call leaves behind, in the second half of so many calls. */
  async remembers(count) {
    const { call, close } = await mesh();
    const run = async (calls) => {
      for (let n = 0; n < calls; n += 100) await Promise.all(Array.from({ length: 100 }, () => call("echo")));
      for (let n = 0; n < 3; n++) globalThis.gc();
      const { heapUsed, rss } = process.memoryUsage();
      return { heapUsed, rss };
    };
    await run(count / 2);
    const before = await run(count / 4);
    const after = await run(count / 4);
    await close();
    const slope = (of) => Math.round((after[of] - before[of]) / (count / 4));
    say(JSON.stringify({ heapUsed: slope("heapUsed"), rss: slope("rss") }));
  },
};

const [name, ...args] = process.argv.slice(2);
await children[name](...args);
