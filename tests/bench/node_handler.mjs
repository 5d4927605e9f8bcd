// A node of `@iicp/core` with an async handler that does nothing, as a child of the benches.

import { CHAT, serve } from "../../bindings-node/dist/index.mjs";
import { obey } from "./node_child.mjs";

const node = await serve({ intents: [CHAT], maxConcurrent: 256 }, async () => null);
await obey({ url: node.url }, () => {
  throw new Error("a server runs nothing by itself");
});
await node.close({ graceMs: 0 });
