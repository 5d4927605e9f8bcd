// The model tasks that have a call of their own, against handlers of this process.

import assert from "node:assert/strict";
import { inspect } from "node:util";
import { test } from "node:test";

import { CHAT, COMPLETION, Client, Code, EMBEDDING, MODERATION, SPEECH, TRANSCRIPTION } from "@iicp/core";
import { ECHO, deferred, mesh, rejection } from "./mesh.mjs";

const usage = { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 };
const SOUND = Uint8Array.from({ length: 10_000 }, (_, n) => n % 256);

const handlers = {
  [COMPLETION]: ({ prompt, max_tokens: most }) => ({
    choices: [{ text: `${prompt} time`, finish_reason: most === undefined ? "stop" : "length" }],
    usage,
    model: "completer",
  }),
  [EMBEDDING]: ({ input }) => ({
    // In another order than asked.
    data: input.map((text, index) => ({ index, embedding: [text.length, 0.1, -1e-7] })).reverse(),
    usage,
    model: "embedder",
  }),
  [TRANSCRIPTION]: ({ audio, filename }) => ({ text: `${Buffer.from(audio, "base64").length} bytes of ${filename}`, language: "en" }),
  [SPEECH]: ({ input, voice }) => ({
    audio: input === "nothing" ? "" : Buffer.from(SOUND).toString("base64"),
    content_type: "audio/wav",
    format: voice,
  }),
  [MODERATION]: ({ input }) => ({
    results: input.map((text) => ({
      flagged: text === "bad",
      categories: { self_harm: false, "hate/threatening": text === "bad" },
      category_scores: { self_harm: 0.1, "hate/threatening": 0.9 },
    })),
    model: "judge",
  }),
};
const intents = [CHAT, ECHO, ...Object.keys(handlers)];
const models = (t) => mesh(t, (task) => handlers[task.intent](task.payload), { node: { intents, maxConcurrent: 64 } });

test("every model task has a typed reply that is a finished task as well", async (t) => {
  const { client, node } = await models(t);
  const counted = { promptTokens: 3, completionTokens: 4, totalTokens: 7 };

  const completed = await client.complete("Once upon a", { maxTokens: 5 });
  assert.deepEqual([completed.text, completed.finishReason, completed.model], ["Once upon a time", "length", "completer"]);
  assert.deepEqual(completed.usage, counted);
  assert.equal(completed.result.choices.length, 1);

  const embedded = await client.embed(["a", "four"], { timeoutMs: 20_000 });
  assert.deepEqual(embedded.vectors, [[1, 0.1, -1e-7], [4, 0.1, -1e-7]]);
  assert.deepEqual([embedded.usage, embedded.model], [counted, "embedder"]);
  assert.deepEqual((await client.embed("one alone")).vectors, [[9, 0.1, -1e-7]]);

  const heard = await client.transcribe(SOUND, { filename: "a.wav" });
  assert.deepEqual([heard.text, heard.language], ["10000 bytes of a.wav", "en"]);
  assert.equal((await client.transcribe(Buffer.from("abc"), { filename: "b" })).text, "3 bytes of b");

  const judged = await client.moderate(["good", "bad"]);
  const of = (flagged) => ({
    flagged,
    categories: { self_harm: false, "hate/threatening": flagged },
    categoryScores: { self_harm: 0.1, "hate/threatening": 0.9 },
  });
  assert.deepEqual([judged.results, judged.model], [[of(false), of(true)], "judge"]);

  for (const reply of [completed, embedded, heard, judged]) {
    assert.deepEqual([reply.nodeId, reply.attempts, reply.sealed], [node.nodeId, 1, true]);
    assert.equal(reply.receipt.selectedNodeIdPrefix, node.nodeId.slice(0, 8));
  }
});

test("a speech's sound is bytes of its own, and its task's result is null", async (t) => {
  const { client } = await models(t);
  const spoken = await client.speak("Hello", { voice: "alto" });
  assert.ok(spoken.audio instanceof Uint8Array && !(spoken.audio instanceof Buffer));
  assert.deepEqual(spoken.audio, SOUND);
  assert.deepEqual([spoken.contentType, spoken.format, spoken.result], ["audio/wav", "alto", null]);
  const nothing = await client.speak("nothing");
  assert.deepEqual([nothing.audio.byteLength, nothing.audio.buffer.byteLength, nothing.format], [0, 0, null]);
  // Speeches among other tasks: each has its own form.
  const calls = Array.from({ length: 50 }, (_, n) => (n % 2 ? client.speak("x") : client.embed("x")));
  for (const reply of await Promise.all(calls)) assert.ok(reply.audio ? reply.audio.length === 10_000 : reply.vectors.length === 1);
});

test("what a model task is not given right is refused by its name, with the stack of the call", async (t) => {
  const { client } = await models(t);
  const code = async (promise) => {
    const error = await rejection(promise);
    assert.match(error.stack, /inference\.test\.mjs/);
    return `${error.codeName}: ${error.message}`;
  };
  assert.match(await code(client.complete("")), /^CONFIG_INVALID: .*prompt/);
  assert.match(await code(client.complete()), /^CONFIG_INVALID: .*prompt/);
  assert.match(await code(client.complete("x", { temprature: 1 })), /^CONFIG_INVALID: .*temprature/);
  assert.match(await code(client.complete("x", { prompt: "y" })), /^INVALID_ARG: .*prompt/);
  assert.match(await code(client.embed([])), /^CONFIG_INVALID: .*input/);
  assert.match(await code(client.embed(5)), /^CONFIG_INVALID: .*text/);
  assert.match(await code(client.speak("x", { speed: 9 })), /^CONFIG_INVALID: .*speed/);
  assert.match(await code(client.moderate("x", { input: "y" })), /^INVALID_ARG: .*input/);
  assert.match(await code(client.transcribe("c29tZQ==")), /^INVALID_ARG: .*Uint8Array/);
  assert.match(await code(client.transcribe(SOUND, { audio: "" })), /^INVALID_ARG: .*audio/);
  assert.match(await code(client.transcribe(new Uint8Array())), /^CONFIG_INVALID: .*audio/);
  for (const options of [null, 5, []]) assert.match(await code(client.embed("x", options)), /^INVALID_ARG/);
  assert.match(await code(client.embed("x", { signal: 5 })), /^INVALID_ARG: .*signal/);
});

test("a model task is cancelled by its signal, and ends with its client", async (t) => {
  const begun = deferred();
  const { client } = await mesh(t, () => (begun.resolve(), new Promise(() => {})), { node: { intents } });
  const controller = new AbortController();
  const call = rejection(client.embed("x", { signal: controller.signal }));
  await begun.promise;
  controller.abort();
  assert.equal(await call, controller.signal.reason);
  const last = rejection(client.speak("x"));
  await client.close();
  assert.equal((await last).codeName, "CLOSED");
  assert.equal((await rejection(client.complete("x"))).codeName, "CLOSED");
});

test("a chat takes parts, tools and more, and tells what the model wants called and why it ended", async (t) => {
  const seen = [];
  const called = [{ id: "call-1", type: "function", function: { name: "look_up", arguments: "{}" } }];
  const { client } = await mesh(t, ({ payload }) => {
    seen.push(payload);
    return { choices: [{ message: { role: "assistant", content: null, tool_calls: called }, finish_reason: "tool_calls" }] };
  });
  const content = [
    { type: "text", text: "What is it?" },
    { type: "image_url", image_url: { url: "https://x.test/a.png", detail: "low" } },
    { type: "input_audio", input_audio: { data: "AAAA", format: "wav" } },
  ];
  const tools = [{ type: "function", function: { name: "look_up", parameters: { type: "object", maxLength: 1 } } }];
  const asked = { tools, toolChoice: { type: "function", function: { name: "look_up" } }, stop: ["\n"], extra: { top_p: 0.5 } };
  const messages = [
    { role: "user", content },
    { role: "assistant", tool_calls: called },
    { role: "tool", tool_call_id: "call-1", content: "found" },
  ];
  const reply = await client.chat({ messages, ...asked, runtimeIdentity: "disabled" });
  assert.deepEqual([reply.text, reply.finishReason, reply.toolCalls], ["", "tool_calls", called]);
  const [{ messages: sent, ...more }] = seen;
  assert.deepEqual(sent, messages);
  assert.deepEqual(more, { tools, tool_choice: asked.toolChoice, stop: ["\n"], top_p: 0.5 });
  const wrong = await rejection(client.chat({ messages: [{ role: "user", content: [{ type: "video", video: "x" }] }] }));
  assert.equal(wrong.codeName, "CONFIG_INVALID");
});

test("options that options hold arrive under the core's names", async (t) => {
  const { client, directory } = await mesh(t, (task) => task.payload);
  const message = (options) => {
    try {
      new Client(options);
    } catch (error) {
      assert.equal(error.code, Code.CONFIG_INVALID);
      return error.message;
    }
    throw new Error("it was taken");
  };
  assert.match(message({ routingPolicy: { profile: "secret" } }), /routingPolicy: expected one of "standard"/);
  assert.match(message({ routingPolicy: { requireEncription: true } }), /requireEncription.*requireEncryption/);
  assert.match(message({ profileRequest: { profileId: "x", profileVersion: "1", profileFixtureSha256: "short" } }), /profileFixtureSha256/);
  for (const routingPolicy of [5, "standard", null]) assert.match(message({ routingPolicy }), /routingPolicy: expected an object/);

  const payload = 1;
  const to = async (options) => (await rejection(client.submit({ intent: ECHO, payload, ...options }))).codeName;
  assert.equal(await to({ routingPolicy: { allowedRegions: ["mars"] } }), "POLICY_REFUSED");
  assert.equal(await to({ routingPolicy: { allowRemoteExecutor: false } }), "POLICY_REFUSED");
  assert.equal(await to({ route: { minReputation: 2 } }), "CONFIG_INVALID");
  assert.equal(await to({ route: { profileRequest: { profileId: "" } } }), "CONFIG_INVALID");
  assert.equal((await client.submit({ intent: ECHO, payload, route: { limit: 3, region: undefined } })).result, 1);
  // A payload's own fields are nobody's options.
  const own = { routingPolicy: { requireEncryption: 1 } };
  assert.deepEqual((await client.submit({ intent: ECHO, payload: own })).result, own);

  const strict = new Client({ directory: directory.url, routingPolicy: { requirePolicyManifest: true } });
  assert.equal((await rejection(strict.submit({ intent: ECHO, payload }))).codeName, "POLICY_REFUSED");
  await strict.close();
});

test("a finished task says where its time went, how its node was chosen and that it was sealed", async (t) => {
  const { client, node } = await mesh(t, (task) => task.payload, { client: { routingStrategy: "deterministic" } });
  const { timingsMs, receipt, sealed } = await client.submit({ intent: ECHO, payload: 1 });
  assert.deepEqual(Object.keys(timingsMs), ["discover", "select", "connect", "firstByte", "overhead", "total"]);
  for (const [name, time] of Object.entries(timingsMs)) assert.ok(time >= 0 && time <= timingsMs.total, name);
  assert.ok(timingsMs.total > 0 && timingsMs.firstByte > 0);
  assert.equal(sealed, true);
  const { dispatchTicketIdPrefix: ticket, selectionProfile: profile, ...rest } = receipt;
  assert.match(profile, /^(deterministic|directory_ticket_v1)/);
  assert.ok(ticket === null || ticket.length === 12);
  assert.deepEqual(rest, {
    receiptVersion: "iicp-routing-receipt-v1",
    eligibleCandidateCount: 1,
    selectedNodeIdPrefix: node.nodeId.slice(0, 8),
    profileNegotiation: null,
    redaction: "prompt_response_endpoint_token_excluded",
  });
  const [found] = await client.discover({ intent: ECHO });
  for (const name of ["healthLabel", "directoryObservedReachable", "browserUsable", "nodePolicyManifest"]) {
    assert.ok(name in found, name);
  }
});

test("the caller's own token is in nothing that can be printed", async (t) => {
  const { directory } = await mesh(t, () => null);
  const nodeToken = "canary-token";
  const client = new Client({ directory: directory.url, nodeToken });
  const shown = [inspect(client, { depth: 9, showHidden: true }), JSON.stringify(client), String(client)];
  const failures = [
    () => new Client({ nodeToken: `${nodeToken}\n` }),
    () => new Client({ nodeToken: [nodeToken] }),
    () => new Client({ nodeToken: { nodeToken } }),
    () => new Client({ nodeToken, timeoutMs: -1 }),
    () => new Client({ nodeToken, directory: "ftp://x" }),
  ];
  for (const fails of failures) {
    assert.throws(fails, (error) => {
      shown.push(inspect(error, { depth: 9, showHidden: true }), JSON.stringify(error));
      return error.codeName === "CONFIG_INVALID";
    });
  }
  shown.push(inspect(await rejection(client.submit({ intent: "urn:iicp:intent:x.test:nobody:v1", payload: 1 }))));
  await client.close();
  for (const text of shown) assert.ok(!text.includes("canary"), text);
});
