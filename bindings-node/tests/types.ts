// What the types promise; only compiled. A line under `@ts-expect-error` must be refused.

import {
  CHAT,
  type ChatReply,
  Client,
  Code,
  type CodeName,
  Directory,
  IicpError,
  type Inbound,
  Node,
  type NodeInfo,
  RejectedError,
  Reply,
  type TaskResult,
  serve,
} from "@iicp/core";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>): void => undefined;

export async function everything(signal: AbortSignal): Promise<void> {
  await using directory = await Directory.loopback({ heartbeatMs: 1_000 });
  await using client = new Client({ directory: directory.url, timeoutMs: 5_000, region: undefined });

  const nodes = await client.discover({ intent: CHAT, limit: 5, qos: "best-effort" }, { signal });
  same<typeof nodes, NodeInfo[]>(true);

  const done = await client.submit<{ text: string }>({ intent: CHAT, payload: { any: ["value"] } });
  same<typeof done, TaskResult<{ text: string }>>(true);
  same<typeof done.result.text, string>(true);
  const unknown = await client.submit({ intent: CHAT, payload: null });
  same<typeof unknown.result, unknown>(true);

  const reply = await client.chat({ messages: [{ role: "user", content: "Hi" }], maxTokens: 5 });
  same<typeof reply, ChatReply>(true);

  const node = await serve<{ text: string }>({ intents: [CHAT] }, async (task, context) => {
    same<typeof task, Inbound<{ text: string }>>(true);
    same<typeof context.signal, AbortSignal>(true);
    if (task.payload.text === "") throw new RejectedError("empty");
    return Reply.json(task.payload, { tokensUsed: 3 });
  });
  same<typeof node, Node>(true);
  await serve({ intents: [CHAT] }, (task) => task.payload, { onError: (error, task) => console.error(error, task.taskId) });

  // @ts-expect-error an unknown option
  new Client({ directroy: "x" });
  // @ts-expect-error the engine's spelling is not this language's
  new Client({ timeout_ms: 5 });
  // @ts-expect-error a task needs an intent
  await client.submit({ payload: 1 });
  // @ts-expect-error a task needs a payload
  await client.submit({ intent: CHAT });
  // @ts-expect-error no such quality of service
  await client.discover({ intent: CHAT, qos: "fast" });
  // @ts-expect-error made by `serve` only
  new Node("1", { nodeId: "", url: "", registered: true, activeJobs: 0 }, () => undefined);
  // @ts-expect-error made by `loopback` only
  new Directory("1", "");
}

export function read(error: unknown): CodeName | undefined {
  if (!(error instanceof IicpError)) return undefined;
  same<typeof error.code, number>(true);
  same<typeof error.retryAfterMs, number | undefined>(true);
  return error.code === Code.NO_NODES ? error.codeName : undefined;
}
