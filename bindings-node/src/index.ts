/**
 * Client, serving node and embedded directory for the IICP mesh.
 *
 * @packageDocumentation
 */

export { Client } from "./client.js";
export type {
  ChatOptions,
  ClientHooks,
  CompleteOptions,
  EmbedOptions,
  ModerateOptions,
  SpeakOptions,
  Task,
  TranscribeOptions,
} from "./client.js";
export { Directory } from "./directory.js";
export { IicpError, RejectedError } from "./errors.js";
export type { ErrorFields } from "./errors.js";
export { CHAT, COMPLETION, Code, EMBEDDING, MODERATION, SPEECH, TRANSCRIPTION } from "./generated.js";
export type {
  BackendOptions,
  Chat,
  ChatMessage,
  ClientOptions,
  CodeName,
  ContentPart,
  DirectoryOptions,
  Discover,
  NodeOptions,
  ProfileRequest,
  RouteConstraints,
  RoutingPolicy,
  TaskOptions,
} from "./generated.js";
export type { CloseOptions } from "./json.js";
export type { CallOptions } from "./loop.js";
export { Chunk, TaskStream } from "./stream.js";
export { Node, Reply, serve } from "./node.js";
export type { Caller, Handler, HandlerContext, Inbound, NatReport, NatRung, NodeStatus, ServeOptions } from "./node.js";
export type { CandidateEvidence, RankChoice, RankContext, RankRequest, Ranker } from "./ranker.js";
export type {
  ChatReply,
  CompletionReply,
  EmbeddingReply,
  Judgement,
  ModerationReply,
  NodeInfo,
  RoutingReceipt,
  SpeechReply,
  StreamResult,
  TaskResult,
  TimingsMs,
  TranscriptionReply,
  Usage,
} from "./replies.js";
export { version } from "./native.js";
