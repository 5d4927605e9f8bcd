// The client of `@iicp/core` as a child of the benches: `node_client.mjs DIRECTORY IN_FLIGHT PAYLOAD`.

import { CHAT, Client } from "../../bindings-node/dist/index.mjs";
import { many, obey } from "./node_child.mjs";

const [directory, inFlight, json] = process.argv.slice(2);
const payload = JSON.parse(json);
const client = new Client({ directory, routingPolicy: { requireEncryption: false } });
obey({}, (count) => many(count, Number(inFlight), () => client.submit({ intent: CHAT, payload })));
