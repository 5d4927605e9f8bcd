// The application's own ranking of candidates.

import assert from "node:assert/strict";
import { test } from "node:test";

import { CHAT, Client, EMBEDDING, serve } from "@iicp/core";
import { ECHO, deferred, mesh, rejection } from "./mesh.mjs";

const intents = [CHAT, EMBEDDING, ECHO];

/** Three nodes that say who they are, and how many tasks they ran. */
async function three(t, ranker) {
  const ran = [];
  const handler = ({ intent, nodeId }) => {
    ran.push(nodeId);
    return intent === EMBEDDING ? { data: [{ embedding: [1] }] } : { text: nodeId };
  };
  const { directory } = await mesh(t, handler, { node: { nodeId: "node-a", intents } });
  for (const nodeId of ["node-b", "node-c"]) {
    const node = await serve({ intents, directory: directory.url, nodeId }, handler);
    t.after(() => node.close({ graceMs: 0 }));
  }
  // A ticket names one node; discovery all of them.
  const client = new Client({ directory: directory.url, routeDiscovery: "legacy" }, { ranker });
  t.after(() => client.close());
  return { client, ran, submit: (more, call) => client.submit({ intent: ECHO, payload: { text: "canary" }, ...more }, call) };
}

const first = (place, policyId = "by-place") => ({ candidates }) => ({ candidateRef: candidates.at(place).candidateRef, policyId, mode: "normal" });

test("a ranker, plain or async, puts its choice first in every kind of task, and the receipt says so", async (t) => {
  const seen = [];
  let choose;
  const { client, submit } = await three(t, (request) => (seen.push(request), choose(request)));
  const found = await client.discover({ intent: ECHO });
  choose = () => null;
  await submit();
  const nodes = new Map();
  for (const { candidateRef } of seen[0].candidates) {
    choose = () => ({ candidateRef, policyId: "by-name", mode: "normal" });
    nodes.set((await submit()).nodeId, candidateRef);
  }
  assert.deepEqual([...nodes.keys()].sort(), ["node-a", "node-b", "node-c"], "each choice went to its own node");

  choose = async () => (await null, { candidateRef: nodes.get("node-b"), policyId: "by-name", mode: "exploration" });
  const done = await submit();
  assert.equal(done.nodeId, "node-b");
  assert.equal(done.receipt.selectionProfile, "external_ranker/by-name/exploration");
  assert.equal(done.receipt.eligibleCandidateCount, 3);
  assert.equal((await client.chat("Hi")).nodeId, "node-b");
  assert.equal((await client.embed("Hi")).nodeId, "node-b");

  assert.equal(seen.length, 7);
  assert.ok(!JSON.stringify(seen).includes("canary"), "a ranker is shown no payload");
  for (const { nodeId, endpoint } of found) assert.ok(!JSON.stringify(seen).includes(nodeId) && !JSON.stringify(seen).includes(endpoint));
  const [{ requestRef, intent, candidates }] = seen;
  assert.match(requestRef, /^[0-9a-f]{64}$/);
  assert.equal(intent, ECHO);
  const [candidate] = candidates;
  assert.match(candidate.candidateRef, /^[0-9a-f]{64}$/);
  assert.equal(candidate.schemaVersion, "iicp-candidate-evidence-v0");
  assert.deepEqual([candidate.models, typeof candidate.directoryScore, typeof candidate.load], [[], "number", "number"]);
});

test("a ranker that has no opinion keeps the order", async (t) => {
  const nothings = [null, undefined, Promise.resolve(null)];
  const { submit } = await three(t, () => nothings.pop());
  for (let n = 0; n < 3; n++) assert.doesNotMatch((await submit()).receipt.selectionProfile, /external_ranker/);
  assert.equal(nothings.length, 0);
});

test("what a ranker throws refuses the task before anything is sent, in its words and as the cause", async (t) => {
  const why = new Error("no good candidate today");
  const thrown = [
    () => {
      throw why;
    },
    () => Promise.reject(why),
  ];
  let rank;
  const { submit, ran } = await three(t, (request) => rank(request));
  for (rank of thrown) {
    const error = await rejection(submit());
    assert.deepEqual([error.codeName, error.wireCode, error.cause], ["RANKER_REFUSED", "IICP-CANDIDATE-RANKER-REFUSED", why]);
    assert.match(error.message, /no good candidate today/);
    assert.match(error.stack, /ranker\.test\.mjs/);
  }
  for (const strange of [undefined, Symbol("s"), "a text", { message: 5 }, Object.create(null), "\ud800"]) {
    rank = () => Promise.reject(strange);
    assert.equal((await rejection(submit())).codeName, "RANKER_REFUSED", typeof strange);
  }
  assert.deepEqual(ran, []);
});

test("an answer that is no choice refuses the task", async (t) => {
  let answer;
  const { submit, ran } = await three(t, (request) => (typeof answer === "function" ? answer(request) : answer));
  const cycle = {};
  cycle.candidateRef = cycle;
  const wrong = [
    { candidateRef: "nobody", policyId: "p", mode: "normal" },
    first(0, "no spaces, please"),
    (request) => ({ ...first(0)(request), mode: "sometimes" }),
    (request) => ({ ...first(0)(request), why: "because" }),
    { error: "not a way to refuse" },
    {},
    [],
    5,
    "node-a",
    cycle,
    1n,
  ];
  for (answer of wrong) {
    const error = await rejection(submit());
    assert.equal(error.codeName, "RANKER_REFUSED", String(error));
  }
  assert.deepEqual(ran, []);
});

test("a ranker that never answers ends with the call: by its deadline, its signal or its client's end", async (t) => {
  const asked = [];
  const context = () => new Promise((resolve) => asked.push(resolve));
  let next = context();
  const { client, submit, ran } = await three(t, (_request, context) => (asked.pop()(context), new Promise(() => {})));
  assert.match((await rejection(submit({ timeoutMs: 300 }))).codeName, /TIMEOUT/);
  assert.equal((await next).signal.aborted, true, "asked for afterwards, it has fired");

  const controller = new AbortController();
  next = context();
  const call = rejection(submit({}, { signal: controller.signal }));
  const { signal } = await next;
  assert.equal(signal.aborted, false);
  const fired = new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  controller.abort();
  assert.equal(await call, controller.signal.reason);
  await fired;
  assert.equal(signal.reason.codeName, "CANCELLED");

  next = context();
  const last = rejection(submit());
  await next;
  await client.close();
  assert.equal((await last).codeName, "CLOSED");
  assert.deepEqual(ran, []);
});

test("a late answer, or a late failure, is nobody's", async (t) => {
  const late = [deferred(), deferred()];
  const begun = [deferred(), deferred()];
  let asked = 0;
  const { submit } = await three(t, async (request) => {
    const place = asked++;
    if (place >= 2) return first(-1)(request);
    begun[place].resolve();
    return late[place].promise.then(() => first(0)(request));
  });
  for (const { promise } of begun) {
    const controller = new AbortController();
    const call = rejection(submit({}, { signal: controller.signal }));
    await promise;
    controller.abort();
    await call;
  }
  late[0].resolve();
  late[1].reject(new Error("too late"));
  const { receipt } = await submit();
  assert.equal(receipt.selectionProfile, "external_ranker/by-place/normal");
});

test("a ranker's signal does not fire once it has answered", async (t) => {
  let signal;
  const { submit } = await three(t, (request, context) => ({ signal } = context, first(0)(request)));
  await submit();
  assert.equal(signal.aborted, false);
});

test("many calls are ranked at once, each by its own question", async (t) => {
  const waiting = [];
  const { submit } = await three(t, async (request) => {
    await new Promise((resolve) => {
      waiting.push(resolve);
      // Nobody goes on before all are asked; answered in the other order.
      if (waiting.length === 20) waiting.reverse().forEach((go) => go());
    });
    return first(0, `policy-${request.requestRef.slice(0, 8)}`)(request);
  });
  const profiles = (await Promise.all(Array.from({ length: 20 }, () => submit()))).map(({ receipt }) => receipt.selectionProfile);
  assert.equal(new Set(profiles).size, 20);
});

test("what is no ranker is refused when the client is made, and so is the option that it replaces", () => {
  const code = (...given) => {
    try {
      new Client(...given);
    } catch (error) {
      return error.codeName;
    }
    return "made";
  };
  assert.equal(code({}, { ranker: 5 }), "INVALID_ARG");
  assert.equal(code({}, { rnaker: () => null }), "INVALID_ARG");
  assert.equal(code({}, null), "INVALID_ARG");
  assert.equal(code({ externalRanker: true }), "CONFIG_INVALID");
  assert.equal(code({ external_ranker: true }, { ranker: () => null }), "INVALID_ARG");
  assert.equal(code({ ranker: () => null }), "INVALID_ARG", "never left out in silence");
  assert.equal(code({}, { ranker: undefined }), "made");
});
