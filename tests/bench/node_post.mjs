// What Node.js has itself, posting the same envelope, as a child of the benches: `node_post.mjs HOW URL IN_FLIGHT PAYLOAD`.

import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";

import { many, obey } from "./node_child.mjs";

const [how, url, inFlight, json] = process.argv.slice(2);
const payload = JSON.parse(json);

/** Posts a body, and returns status and what was answered. */
const post = {
  fetch: () => async (url, options) => {
    const answer = await fetch(url, options);
    return { status: answer.status, body: await answer.json() };
  },
  undici() {
    const { request } = createRequire(new URL("../../bindings-node/package.json", import.meta.url))("undici");
    return async (url, options) => {
      const answer = await request(url, options);
      return { status: answer.statusCode, body: await answer.body.json() };
    };
  },
}[how]();

const headers = { "content-type": "application/json" };
obey({}, (count) =>
  many(count, Number(inFlight), async () => {
    const body = JSON.stringify({ task_id: randomUUID(), intent: "urn:iicp:intent:llm:chat:v1", payload });
    const answer = await post(`${url}/v1/task`, { method: "POST", headers, body });
    if (answer.status !== 200) throw new Error(`status ${answer.status}`);
    return answer.body;
  }),
);
