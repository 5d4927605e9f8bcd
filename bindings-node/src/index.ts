/**
 * Client, serving node and embedded directory for the IICP mesh.
 *
 * @packageDocumentation
 */

export { Client } from "./client.js";
export type { ChatReply, NodeInfo, Task, TaskResult, TimingsMs, Usage } from "./client.js";
export { Directory } from "./directory.js";
export { IicpError, RejectedError } from "./errors.js";
export type { ErrorFields } from "./errors.js";
export { CHAT, Code } from "./generated.js";
export type { Chat, ClientOptions, CodeName, DirectoryOptions, Discover, NodeOptions, TaskOptions } from "./generated.js";
export type { CloseOptions } from "./json.js";
export type { CallOptions } from "./loop.js";
export { Node, Reply, serve } from "./node.js";
export type { Caller, Handler, HandlerContext, Inbound, NodeStatus, ServeOptions } from "./node.js";
export { version } from "./native.js";
