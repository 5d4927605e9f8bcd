// What the types promise; only compiled. A line under `@ts-expect-error` must be refused.

import {
  CHAT,
  type ChatReply,
  Chunk,
  Client,
  type CompletionReply,
  Code,
  type CodeName,
  Directory,
  type EmbeddingReply,
  IicpError,
  type Inbound,
  Node,
  type ModerationReply,
  type NodeInfo,
  type Ranker,
  RejectedError,
  Reply,
  type RoutingPolicy,
  type SpeechReply,
  type StreamResult,
  type TaskResult,
  type TaskStream,
  type TranscriptionReply,
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

  same<Awaited<ReturnType<typeof client.chat>>, ChatReply>(true);
  await client.chat("Hi", { maxTokens: 5, timeoutMs: 5_000, signal });
  await client.chat({ messages: [] }, { signal });
  client.stream("Hi", { maxTokens: 5, signal });
  // @ts-expect-error the options of a conversation stand among its own
  await client.chat({ messages: [] }, { timeoutMs: 5_000 });
  // @ts-expect-error what is said is the first argument
  await client.chat("Hi", { messages: [] });

  const node = await serve<{ text: string }>({ intents: [CHAT] }, async (task, context) => {
    same<typeof task, Inbound<{ text: string }>>(true);
    same<typeof context.signal, AbortSignal>(true);
    if (task.payload.text === "") throw new RejectedError("empty");
    return Reply.json(task.payload, { tokensUsed: 3 });
  });
  same<typeof node, Node>(true);
  await serve({ backend: { kind: "ollama" } });
  // @ts-expect-error Nothing serves.
  await serve({ intents: [CHAT] });
  await serve({ intents: [CHAT] }, (task) => task.payload, { onError: (error, task) => console.error(error, task.taskId) });

  const asked = await client.chat({
    messages: [
      { role: "user", content: [{ type: "text", text: "Hi" }, { type: "image_url", image_url: { url: "data:," } }] },
      { role: "tool", tool_call_id: "1", content: "done" },
    ],
    tools: [{ type: "function" }],
    toolChoice: "auto",
  });
  same<typeof asked.finishReason, string | null>(true);
  same<typeof asked.sealed, boolean>(true);
  same<typeof asked.receipt.dispatchTicketIdPrefix, string | null>(true);
  same<typeof asked.timingsMs.firstByte, number>(true);

  for await (const chunk of client.stream("Hi", { signal })) same<typeof chunk, Chunk<unknown>>(true);
  await using stream = client.stream<{ n: number }>({ intent: CHAT, payload: 1, timeoutMs: 5 });
  same<typeof stream, TaskStream<{ n: number }>>(true);
  for await (const { result, text, tokensUsed, sequence, taskId, nodeId } of stream) {
    same<typeof result, { n: number }>(true);
    same<[typeof text, typeof tokensUsed, typeof sequence], [string, number | null, number]>(true);
    same<[typeof taskId, typeof nodeId], [string, string]>(true);
  }
  const ended = await stream.result;
  same<typeof ended, StreamResult>(true);
  client.stream({ messages: [{ role: "user", content: "Hi" }], maxTokens: 5 });
  await serve({ intents: [CHAT] }, async function* (task) {
    yield task.takesEvents ? "a" : Chunk.delta("b", { tokensUsed: 1 });
    yield Chunk.json({ any: ["value"] });
  });
  // @ts-expect-error a task needs a payload, a chat needs messages
  client.stream({ intent: CHAT });
  // @ts-expect-error made by `stream` only
  new Chunk({}, "", null, 0, "", "");

  const routingPolicy: RoutingPolicy = { profile: "eu_restricted", allowedRegions: ["eu"] as const };
  const completed = await client.complete("Once", { maxTokens: 5, routingPolicy, route: { profileRequest: undefined } });
  same<typeof completed, CompletionReply>(true);
  const embedded = await client.embed(["a", "b"] as const, { dimensions: 5, signal });
  same<typeof embedded, EmbeddingReply>(true);
  const heard = await client.transcribe(Buffer.from("sound"), { filename: "a.wav" });
  same<typeof heard, TranscriptionReply>(true);
  const spoken = await client.speak("Hi", { responseFormat: "wav", signal: undefined });
  same<typeof spoken, SpeechReply>(true);
  same<typeof spoken.result, null>(true);
  const judged = await client.moderate("Hi");
  same<typeof judged, ModerationReply>(true);

  const rankers: Ranker[] = [
    () => null,
    () => undefined,
    async ({ candidates: [first] }, context) => {
      same<typeof context.signal, AbortSignal>(true);
      return first && { candidateRef: first.candidateRef, policyId: "first", mode: "normal" };
    },
  ];
  for (const ranker of rankers) await new Client({}, { ranker }).close();

  // @ts-expect-error this language's spelling, in what options hold as well
  new Client({ routingPolicy: { allowed_regions: [] } });
  // @ts-expect-error no such profile
  new Client({ routingPolicy: { profile: "secret" } });
  // @ts-expect-error a ranker is given beside the options
  new Client({ ranker: () => null });
  // @ts-expect-error set by giving a ranker
  new Client({ externalRanker: true });
  // @ts-expect-error a choice says by which policy
  new Client({}, { ranker: () => ({ candidateRef: "x", mode: "normal" }) });
  // @ts-expect-error what is asked is the first argument
  await client.embed("a", { input: "b" });
  // @ts-expect-error a sound is bytes
  await client.transcribe("c29tZQ==");
  // @ts-expect-error no such part
  await client.chat({ messages: [{ role: "user", content: [{ type: "video" }] }] });
  // @ts-expect-error replies are only read
  reply.text = "";

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
