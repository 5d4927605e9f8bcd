// Runs the case table against this client. `CASE=part-of-a-name` runs some of it.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { after, describe, test } from "node:test";

import { Client, IicpError } from "@iicp/core";
import { Stage } from "./stage.mjs";

const names = createRequire(import.meta.url)("../dist/generated.js");
const folder = new URL("../../tests/cases/", import.meta.url);
/** Stages, and so cases, that run at the same time. */
const WORKERS = 4;

const cases = readdirSync(folder)
  .filter((file) => file.endsWith(".json"))
  .flatMap((file) => JSON.parse(readFileSync(new URL(file, folder), "utf8")))
  .filter(({ name }) => name.includes(process.env.CASE ?? ""));

describe("the case table", { concurrency: WORKERS }, () => {
  const free = [];
  after(() => free.forEach((stage) => stage.close()));
  for (const it of cases) {
    test(it.name, async () => {
      const stage = free.pop() ?? new Stage();
      try {
        await run(stage, it);
      } catch (error) {
        error.message = `${it.promise}\n${error.message}`;
        throw error;
      } finally {
        free.push(stage);
      }
    });
  }
  test("has cases", () => assert.ok(cases.length > 0));
});

async function run(stage, it) {
  let scene = await stage.call({ setup: it.setup ?? {} });
  // What the ranker answers for the call that was made last.
  let answer;
  const ranks = it.do.some((step) => step.rank !== undefined);
  const hooks = ranks ? { ranker: (request) => rank(answer, request) } : {};
  let made = newClient(it.client ?? {}, scene, hooks);
  const running = new Map();
  for (const [index, step] of it.do.entries()) {
    const begun = performance.now();
    let outcomes;
    if (step.stage) {
      const answer = await stage.call(step.stage);
      if (step.stage.add_node) scene = answer;
      continue;
    } else if (step.client_new) {
      made = newClient(step.client_new, scene, hooks);
      outcomes = [made.error ? failed(made.error) : {}];
    } else if (step.join ?? step.cancel) {
      const calls = running.get(step.join ?? step.cancel);
      if (step.cancel) calls.controller.abort();
      outcomes = await Promise.all(calls.outcomes);
    } else {
      if (made.error) throw made.error;
      answer = step.rank ?? "none";
      const controller = new AbortController();
      const start = () => call(made.client, step, scene, controller.signal);
      const calls = { controller, outcomes: Array.from({ length: step.parallel ?? 1 }, start) };
      if (step.as) {
        running.set(step.as, calls);
        continue;
      }
      outcomes = await Promise.all(calls.outcomes);
    }
    for (const outcome of outcomes) check(index + 1, step.expect ?? {}, outcome, performance.now() - begun);
  }
  if (it.ledger) await stage.waitFor(it.ledger, 10_000);
  await stage.call({ teardown: {} });
  await made.client?.close();
}

function rank(answer, { candidates }) {
  if (answer === "none") return null;
  if (answer === "last") return { candidateRef: candidates.at(-1).candidateRef, policyId: "case-policy", mode: "normal" };
  if (answer === "unknown") return { candidateRef: "nobody", policyId: "case-policy", mode: "normal" };
  throw new Error(answer.error);
}

function newClient(options, scene, hooks) {
  const { directory } = options;
  const given = directory === undefined ? scene.directory : replaced(directory, scene.directory);
  try {
    return { client: new Client(camel({ ...options, directory: given }, names.CLIENT_NAMES), hooks) };
  } catch (error) {
    return { error };
  }
}

function replaced(directory, url) {
  return typeof directory === "string" ? directory.replace("$directory", url) : directory;
}

async function call(client, step, scene, signal) {
  const place = (id) => {
    const index = scene.nodes.findIndex((node) => node.node_id === id);
    return index < 0 ? null : index;
  };
  const ran = (done) => ({
    node: place(done.nodeId),
    attempts: done.attempts,
    sealed: done.sealed,
    receipt: snake(done.receipt),
  });
  try {
    if (step.submit) {
      const task = { ...camel(step.submit, names.TASK_NAMES), payload: payload(step) };
      const done = await client.submit(task, { signal });
      return { ...ran(done), result: done.result };
    }
    if (step.chat) return said(ran, await client.chat(camel(step.chat, names.CHAT_NAMES), { signal }));
    if (step.stream) return await follow(client, step, signal, ran);
    if (step.infer) return said(ran, await infer(client, step.infer, signal));
    const nodes = await client.discover(camel(step.discover, names.DISCOVER_NAMES), { signal });
    return { nodes: nodes.map((node) => place(node.nodeId)) };
  } catch (error) {
    return failed(error);
  }
}

/** Takes the parts of a stream, and tells what they say and how it ended. */
async function follow(client, step, signal, ran) {
  const isTask = "payload" in step;
  const options = camel(step.stream, isTask ? names.TASK_NAMES : names.CHAT_NAMES);
  const texts = [];
  try {
    const stream = client.stream(isTask ? { ...options, payload: step.payload } : options, { signal });
    for await (const part of stream) {
      texts.push(part.text);
      if (texts.length === step.take) return { texts };
    }
    const end = await stream.result;
    return { ...ran(end), texts, tokens_used: end.tokensUsed };
  } catch (error) {
    return { ...failed(error), texts };
  }
}

function infer(client, { kind, audio_text: sound, ...asked }, signal) {
  const given = (table) => ({ ...camel(asked, table), signal });
  switch (kind) {
    case "completion": {
      const { prompt, ...options } = given(names.COMPLETION_NAMES);
      return client.complete(prompt, options);
    }
    case "embedding": {
      const { input, ...options } = given(names.EMBEDDING_NAMES);
      return client.embed(input, options);
    }
    case "transcription":
      return client.transcribe(new TextEncoder().encode(sound ?? ""), given(names.TRANSCRIPTION_NAMES));
    case "speech": {
      const { input, ...options } = given(names.SPEECH_NAMES);
      return client.speak(input, options);
    }
    case "moderation": {
      const { input, ...options } = given(names.MODERATION_NAMES);
      return client.moderate(input, options);
    }
    default:
      throw new Error(`there is no call for ${kind}`);
  }
}

/** What a model's reply holds besides its task. */
function said(ran, reply) {
  const { taskId, nodeId, attempts, traceparent, timingsMs, receipt, sealed, result, usage, results, audio, ...rest } = reply;
  const outcome = { ...ran(reply), ...snake(rest) };
  if (usage !== undefined) outcome.usage = snake(usage);
  if (results !== undefined) outcome.results = results.map(snake);
  if (audio !== undefined) outcome.audio = new TextDecoder().decode(audio);
  return outcome;
}

function payload(step) {
  return step.payload_bytes ? { pad: "x".repeat(step.payload_bytes - 10) } : (step.payload ?? { text: "canary" });
}

/** The options of a case under the names that they have in this language; unknown ones as they are. */
function camel(options, table) {
  const back = new Map([...table].map(([name, core]) => [core, name]));
  const inner = (name, value) => {
    const table = back.has(name) ? names.NESTED.get(name) : undefined;
    return table !== undefined && Object.prototype.toString.call(value) === "[object Object]" ? camel(value, table) : value;
  };
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [back.get(name) ?? name, inner(name, value)]));
}

/** The fields of a result under the core's names. */
function snake(fields) {
  const name = (key) => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return fields && Object.fromEntries(Object.entries(fields).map(([key, value]) => [name(key), value]));
}

function failed(error) {
  if (error.name === "AbortError") return { code: "CANCELLED", message: error.message };
  if (!(error instanceof IicpError)) throw error;
  return {
    code: error.codeName,
    message: error.message,
    retryable: error.retryable,
    retry_after_ms: error.retryAfterMs,
    http_status: error.httpStatus,
    wire_code: error.wireCode,
  };
}

function check(number, expect, outcome, took) {
  const { says = [], within_ms: within, ...wanted } = expect;
  const told = `step ${number}: expected ${JSON.stringify(expect)}, got ${JSON.stringify(outcome)}`;
  assert.ok(("code" in wanted) === ("code" in outcome) && holds(wanted, outcome), told);
  assert.ok(!(outcome.message ?? "").includes("canary"), `${told}: the message gives away what it must not`);
  // The table has the engine's names.
  const message = says.length === 0 ? "" : folded(outcome.message);
  for (const part of says) assert.ok(message.includes(folded(part)), `${told}: it does not say ${part}`);
  assert.ok(within === undefined || took <= within, `${told}: it took ${took} ms`);
}

/** A text in which `timeout_ms` and `timeoutMs` are the same. */
function folded(text) {
  return text.replaceAll("_", "").toLowerCase();
}

/** Objects are compared by the fields that are expected, everything else exactly. */
function holds(expected, actual) {
  if (Array.isArray(expected)) {
    // A list of codes: any of them.
    if (typeof actual === "string") return expected.includes(actual);
    const same = Array.isArray(actual) && expected.length === actual.length;
    return same && expected.every((item, index) => holds(item, actual[index]));
  }
  if (typeof expected === "object" && expected !== null) {
    if (typeof actual !== "object" || actual === null) return false;
    return Object.entries(expected).every(([name, value]) => name in actual && holds(value, actual[name]));
  }
  return expected === actual || (expected === null && actual === undefined);
}
