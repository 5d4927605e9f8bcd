// One half of every pair: a node and a client of this language, told by lines what to do.
//
//   node mate.mjs DIRECTORY_URL INTENT [NODE_OPTIONS]

import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

import { Client, RejectedError, serve } from "@iicp/core";

const [directory, intent, more = "{}"] = process.argv.slice(2);
if (!intent) throw new Error("usage: node mate.mjs DIRECTORY_URL INTENT [NODE_OPTIONS]");

/** What the handler saw. */
const seen = { seen: 0, cancelled: 0 };

async function handler({ payload }, { signal }) {
  seen.seen += 1;
  switch (payload.do) {
    case "echo":
      return { echo: payload.value };
    case "fail":
      throw new RejectedError("the piano is out of tune");
    case "throw":
      throw new Error("as told");
    case "count":
      return count(payload.to);
    case "drip":
      return drip(signal);
    case "slow":
      await untilCancelled(payload.ms, signal);
      return { slept: payload.ms };
    case "wait":
      await untilCancelled(60_000, signal);
      throw new RejectedError("nobody cancelled");
    default:
      throw new RejectedError("nobody told what to do");
  }
}

async function* count(to) {
  for (let number = 0; number < to; number++) yield number;
}

async function* drip(signal) {
  yield 0;
  await untilCancelled(60_000, signal);
}

/** Sleeps; counts and throws what ends it early. */
async function untilCancelled(ms, signal) {
  try {
    await sleep(ms, undefined, { signal });
  } catch (error) {
    seen.cancelled += 1;
    throw error;
  }
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** The engine's names of options as this language has them. */
const camel = (_, value) =>
  value?.constructor === Object
    ? Object.fromEntries(Object.entries(value).map(([name, v]) => [name.replace(/_(.)/g, (_, c) => c.toUpperCase()), v]))
    : value;
const options = { intents: [intent], directory, maxConcurrent: 2, ...JSON.parse(more, camel) };
const node = await serve(options, handler, { onError: () => {} });
const client = new Client({ directory });
const running = new Map();

async function parts(stream, most) {
  const taken = [];
  for await (const { result } of stream) if (taken.push(result) === most) break;
  return taken;
}

async function submit({ id, intent, payload, timeout_ms: timeoutMs, take }) {
  const controller = new AbortController();
  running.set(id, controller);
  try {
    const [task, call] = [{ intent, payload, timeoutMs }, { signal: controller.signal }];
    const came = take ? await parts(client.stream(task, call), take) : (await client.submit(task, call)).result;
    say({ id, payload: came });
  } catch (error) {
    const code = error.name === "AbortError" ? "CANCELLED" : (error.codeName ?? String(error));
    say({ id, error: code, wire_code: error.wireCode ?? null });
  } finally {
    running.delete(id);
  }
}

say({ ready: node.nodeId });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.cancel) running.get(command.cancel)?.abort();
  else if (command.status) say({ id: command.id, ...seen });
  else void submit(command);
}
await client.close();
await node.close({ graceMs: 2_000 });
