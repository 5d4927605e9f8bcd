// A worker that is terminated with a call, a task and a server of its own under way.

import { parentPort, workerData } from "node:worker_threads";

import { Client, Directory, serve } from "@iicp/core";
import { ECHO } from "../mesh.mjs";

const own = await Directory.loopback();
const node = await serve({ intents: [ECHO], directory: own.url }, () => new Promise(() => {}));
const client = new Client({ directory: own.url });
client.submit({ intent: ECHO, payload: "hang" }).catch(() => {});
if (workerData) new Client({ directory: workerData }).submit({ intent: ECHO, payload: "hang" }).catch(() => {});
while (node.status().activeJobs === 0) await new Promise((resolve) => setTimeout(resolve, 5));
parentPort.postMessage("in flight");
