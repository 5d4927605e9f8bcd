// Node's own `fetch` posting the same envelope, as a child of the benches: `node_fetch.mjs URL IN_FLIGHT PAYLOAD`.

import { randomUUID } from "node:crypto";

import { many, obey } from "./node_child.mjs";

const [url, inFlight, json] = process.argv.slice(2);
const payload = JSON.parse(json);
const headers = { "content-type": "application/json" };
obey({}, (count) =>
  many(count, Number(inFlight), async () => {
    const body = JSON.stringify({ task_id: randomUUID(), intent: "urn:iicp:intent:llm:chat:v1", payload });
    const answer = await fetch(`${url}/v1/task`, { method: "POST", headers, body });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    return await answer.json();
  }),
);
