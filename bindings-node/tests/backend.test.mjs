// Nodes that hand their tasks to an inference server.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { json } from "node:stream/consumers";
import { test } from "node:test";

import { CHAT, Client, Code, Directory, serve } from "@iicp/core";
import { rejection } from "./mesh.mjs";

/** An inference server that answers chats by what they said, in the form of OpenAI. */
async function inference(t) {
  const server = createServer(async (request, response) => {
    response.setHeader("content-type", "application/json");
    if (request.method === "GET") return response.end(JSON.stringify({ data: [{ id: "parrot" }] }));
    const { model, messages } = await json(request);
    const message = { role: "assistant", content: `${model}: ${messages.at(-1).content}` };
    response.end(JSON.stringify({ choices: [{ message, finish_reason: "stop" }], model }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { url: `http://127.0.0.1:${server.address().port}/v1` };
}

test("a backend serves without a handler", async (t) => {
  const backend = await inference(t);
  const directory = await Directory.loopback();
  const node = await serve({ backend, directory: directory.url });
  const client = new Client({ directory: directory.url });
  t.after(async () => {
    await client.close();
    await node.close();
    await directory.close();
  });
  const [found] = await client.discover({ intent: CHAT });
  assert.deepEqual(found.models, ["parrot"]);
  const reply = await client.chat({ messages: [{ role: "user", content: "Hello, mesh." }], runtimeIdentity: "disabled" });
  assert.deepEqual([reply.text, reply.model], ["parrot: Hello, mesh.", "parrot"]);
  assert.equal(node.status().registered, true);
});

test("a node has either a handler or a backend", async () => {
  const backend = { url: "http://127.0.0.1:1" };
  const nothing = await rejection(serve({ intents: [CHAT] }));
  assert.equal(nothing.code, Code.INVALID_ARG);
  assert.match(nothing.message, /nothing that serves/);
  const both = await rejection(serve({ backend }, () => null));
  assert.equal(both.code, Code.INVALID_ARG);
  assert.match(both.message, /both a handler and a backend/);
  const wrong = await rejection(serve({ backend: { kind: "abacus" } }));
  assert.equal(wrong.code, Code.CONFIG_INVALID);
  assert.match(wrong.message, /backend: .*openai_compat/);
});
