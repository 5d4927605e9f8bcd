// What calls come back with, and how it is read from what the core says.

import { camelKeys } from "./json.js";

/** Where the time of a submit went, in milliseconds. */
export interface TimingsMs {
  /** Asking the directory; zero if a known route was used. */
  readonly discover: number;
  /** Choosing among the candidates, the application's ranker included. */
  readonly select: number;
  /** Connecting to the node that answered; zero if a connection was there. */
  readonly connect: number;
  /** From sending the task, over an open connection, to the first byte of the answer. */
  readonly firstByte: number;
  /** The engine's own work: what is left of the total after waiting for directory, ranker, nodes and pauses. */
  readonly overhead: number;
  /** From the call of the submit to its result. */
  readonly total: number;
}

/** How the node of a task was chosen, without anything that is private: no prompt, answer, endpoint or token. */
export interface RoutingReceipt {
  /** Always `iicp-routing-receipt-v1`. */
  readonly receiptVersion: string;
  /** What chose: a strategy, `directory_ticket_v1`, or `external_ranker/<policy>/<mode>`. */
  readonly selectionProfile: string;
  /** Nodes that the task could have been sent to. */
  readonly eligibleCandidateCount: number;
  /** The first eight characters of the node's id. */
  readonly selectedNodeIdPrefix: string;
  /** The first twelve characters of the ticket's id, if the route came with a ticket. */
  readonly dispatchTicketIdPrefix: string | null;
  /** What the directory said about the profile that was asked for: `compatible` or `unsupported`. */
  readonly profileNegotiation: string | null;
  /** What was left out: always `prompt_response_endpoint_token_excluded`. */
  readonly redaction: string;
}

/** A finished task. */
export interface TaskResult<R = unknown> {
  /** Id of the task. */
  readonly taskId: string;
  /** Id of the node that ran it. */
  readonly nodeId: string;
  /** How often the task was sent, at least once. */
  readonly attempts: number;
  /** The trace that all calls of this submit carried. */
  readonly traceparent: string;
  /** Where the time went. */
  readonly timingsMs: TimingsMs;
  /** How the node was chosen. */
  readonly receipt: RoutingReceipt;
  /** Whether task and answer were sealed: nobody but the caller and the node could read them. */
  readonly sealed: boolean;
  /** What the handler returned. */
  readonly result: R;
}

/** Tokens that a model used, as the provider counted them. */
export interface Usage {
  /** Tokens of what was asked. */
  readonly promptTokens: number;
  /** Tokens of the answer. */
  readonly completionTokens: number;
  /** Both together. */
  readonly totalTokens: number;
}

/** The answer to a chat; `result` is the provider's whole reply. */
export interface ChatReply extends TaskResult {
  /** The text of the answer; empty if the model only calls tools. */
  readonly text: string;
  /** The tools that the model wants called, as it wrote them. */
  readonly toolCalls: readonly Readonly<Record<string, unknown>>[];
  /** Why the answer ends: `stop`, `length`, `tool_calls`, … */
  readonly finishReason: string | null;
  /** Tokens used, if the provider counted them. */
  readonly usage: Usage | null;
  /** The model that answered, if the provider says. */
  readonly model: string | null;
}

/** What is known of a task whose parts have all come; `result` is null, because the parts were it. */
export interface StreamResult extends TaskResult<null> {
  /** Why the answer ends: `stop`, `length`, `tool_calls`, … */
  readonly finishReason: string | null;
  /** Tokens used, if the provider counted them. */
  readonly usage: Usage | null;
  /** The model that answered, if the provider says. */
  readonly model: string | null;
  /** Tokens that the task has used, if the provider counts them. */
  readonly tokensUsed: number | null;
}

/** The answer to a completion; `result` is the provider's whole reply. */
export interface CompletionReply extends TaskResult {
  /** The text that follows. */
  readonly text: string;
  /** Why it ends: `stop`, `length`, … */
  readonly finishReason: string | null;
  /** Tokens used, if the provider counted them. */
  readonly usage: Usage | null;
  /** The model that answered, if the provider says. */
  readonly model: string | null;
}

/** The vectors of texts; `result` is the provider's whole reply. */
export interface EmbeddingReply extends TaskResult {
  /** One vector for each text, in their order. */
  readonly vectors: number[][];
  /** Tokens used, if the provider counted them. */
  readonly usage: Usage | null;
  /** The model that answered, if the provider says. */
  readonly model: string | null;
}

/** What was said in a sound file; `result` is the provider's whole reply. */
export interface TranscriptionReply extends TaskResult {
  /** The words. */
  readonly text: string;
  /** The language, if the provider says. */
  readonly language: string | null;
}

/** A spoken text; `result` is null, because all that the provider said of it is here. */
export interface SpeechReply extends TaskResult<null> {
  /** The sound file. */
  readonly audio: Uint8Array;
  /** Its media type, such as `audio/wav`, if the provider says. */
  readonly contentType: string | null;
  /** Its format, such as `wav`, if the provider says. */
  readonly format: string | null;
}

/** How one text was judged. */
export interface Judgement {
  /** Whether it breaks a rule at all. */
  readonly flagged: boolean;
  /** Which rules it breaks, by their names. */
  readonly categories: Readonly<Record<string, boolean>>;
  /** How surely it breaks each, by the same names. */
  readonly categoryScores: Readonly<Record<string, number>>;
}

/** How texts were judged; `result` is the provider's whole reply. */
export interface ModerationReply extends TaskResult {
  /** One judgement for each text, in their order. */
  readonly results: readonly Judgement[];
  /** The model that judged, if the provider says. */
  readonly model: string | null;
}

/** A provider as the directory describes it. */
export interface NodeInfo {
  /** Id of the node. */
  readonly nodeId: string;
  /** Base URL of the node. */
  readonly endpoint: string;
  /** The directory's score, 0 to 1; 0 if it gave none. */
  readonly score: number;
  /** Whether the directory calls the node available. */
  readonly available: boolean;
  /** Region of the node. */
  readonly region: string | null;
  /** Models that the node serves. */
  readonly models: string[];
  /** Share of the node's slots in use, 0 to 1. */
  readonly load: number | null;
  /** Reputation of the node, 0 to 1. */
  readonly reputationScore: number | null;
  /** The key to seal tasks to, as the directory shows it. */
  readonly cxPublicKey: unknown;
  /** How well the node is, in the directory's words. */
  readonly healthLabel: string | null;
  /** Whether the directory has reached the node itself. */
  readonly directoryObservedReachable: boolean | null;
  /** Where the node takes native frames: `iicp://` or `iicpsec://`, host and port. */
  readonly transportEndpoint: string | null;
  /** Whether a browser can call the node. */
  readonly browserUsable: boolean | null;
  /** What the node promises about the tasks it is given, and how firmly, as the directory states it. */
  readonly nodePolicyManifest: unknown;
}

interface CoreTask {
  task_id: string;
  node_id: string;
  attempts: number;
  traceparent: string;
  timings_ms: { discover: number; select: number; connect: number; first_byte: number; overhead: number; total: number };
  receipt: {
    receipt_version: string;
    selection_profile: string;
    eligible_candidate_count: number;
    selected_node_id_prefix: string;
    dispatch_ticket_id_prefix: string | null;
    profile_negotiation: string | null;
    redaction: string;
  };
  sealed: boolean;
}

interface CoreGenerated extends CoreTask {
  text: string;
  finish_reason: string | null;
  usage: object | null;
  model: string | null;
}

interface CoreStream extends CoreTask {
  finish_reason: string | null;
  usage: object | null;
  model: string | null;
  tokens_used: number | null;
}

interface CoreChat extends CoreGenerated {
  tool_calls: Record<string, unknown>[];
}

interface CoreEmbedding extends CoreTask {
  vectors: number[][];
  usage: object | null;
  model: string | null;
}

interface CoreTranscription extends CoreTask {
  text: string;
  language: string | null;
}

interface CoreSpeech extends CoreTask {
  content_type: string | null;
  format: string | null;
}

interface CoreModeration extends CoreTask {
  results: object[];
  model: string | null;
}

export function readNodes(nodes: object[]): NodeInfo[] {
  return nodes.map((node) => camelKeys(node) as NodeInfo);
}

/** Written out, because every call passes here. */
export function readTask<R>(task: CoreTask, body: unknown): TaskResult<R> {
  const { timings_ms: timings, receipt } = task;
  return {
    taskId: task.task_id,
    nodeId: task.node_id,
    attempts: task.attempts,
    traceparent: task.traceparent,
    timingsMs: {
      discover: timings.discover,
      select: timings.select,
      connect: timings.connect,
      firstByte: timings.first_byte,
      overhead: timings.overhead,
      total: timings.total,
    },
    receipt: {
      receiptVersion: receipt.receipt_version,
      selectionProfile: receipt.selection_profile,
      eligibleCandidateCount: receipt.eligible_candidate_count,
      selectedNodeIdPrefix: receipt.selected_node_id_prefix,
      dispatchTicketIdPrefix: receipt.dispatch_ticket_id_prefix,
      profileNegotiation: receipt.profile_negotiation,
      redaction: receipt.redaction,
    },
    sealed: task.sealed,
    result: body as R,
  };
}

export function readChat(chat: CoreChat, body: unknown): ChatReply {
  return { ...readCompletion(chat, body), toolCalls: chat.tool_calls };
}

export function readStream(done: CoreStream): StreamResult {
  const { finish_reason: finishReason, model, tokens_used: tokensUsed } = done;
  return { ...readTask<null>(done, null), finishReason, usage: readUsage(done.usage), model, tokensUsed };
}

export function readCompletion(done: CoreGenerated, body: unknown): CompletionReply {
  const { text, finish_reason: finishReason, model } = done;
  return { ...readTask(done, body), text, finishReason, usage: readUsage(done.usage), model };
}

export function readEmbedding(done: CoreEmbedding, body: unknown): EmbeddingReply {
  return { ...readTask(done, body), vectors: done.vectors, usage: readUsage(done.usage), model: done.model };
}

export function readTranscription(done: CoreTranscription, body: unknown): TranscriptionReply {
  return { ...readTask(done, body), text: done.text, language: done.language };
}

/** The addon writes the sound as base64. */
export function readSpeech(done: CoreSpeech, body: unknown): SpeechReply {
  // A copy, because a small buffer is a part of one that Node shares with others.
  const audio = new Uint8Array(Buffer.from((body ?? "") as string, "base64"));
  return { ...readTask<null>(done, null), audio, contentType: done.content_type, format: done.format };
}

export function readModeration(done: CoreModeration, body: unknown): ModerationReply {
  const results = done.results.map((judged) => camelKeys(judged) as Judgement);
  return { ...readTask(done, body), results, model: done.model };
}

function readUsage(usage: object | null): Usage | null {
  return usage && (camelKeys(usage) as Usage);
}
