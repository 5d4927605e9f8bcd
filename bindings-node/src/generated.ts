// Written by `cargo gen` from options.rs, error.rs and event.rs of the core. Do not edit.

/** The intent of a chat with a language model. */
export const CHAT = "urn:iicp:intent:llm:chat:v1";

/** Every stable error code by its name. */
export const Code = {
  /** Success; never carried by an error. */
  OK: 0,
  /** A fault of this library; please report it. */
  INTERNAL: 1001,
  /** Code of this library or of a handler panicked; the panic was contained. */
  PANIC: 1002,
  /** A required argument was null. */
  NULL_ARG: 1003,
  /** An argument has the wrong type or form. */
  INVALID_ARG: 1004,
  /** The object was closed, or is shutting down. */
  CLOSED: 1005,
  /** The operation was cancelled by its owner. */
  CANCELLED: 1006,
  /** The caller's deadline passed before there was a result. */
  TIMEOUT: 1007,
  /** The object was made before a fork(); make a new one in the child. */
  FORKED: 1008,
  /** Header and library speak different versions of the C interface. */
  ABI_MISMATCH: 1009,
  /** The id names nothing that is alive: it was freed, finished or never given out. */
  STALE_ID: 1010,
  /** The event queue has no room for another operation; take events first. */
  QUEUE_FULL: 1011,
  /** This build or this platform cannot do what was asked. */
  UNSUPPORTED: 1012,
  /** An option is unknown, has the wrong type or a value out of range. */
  CONFIG_INVALID: 2001,
  /** The intent is not a well-formed urn:iicp:intent URN. */
  INTENT_INVALID: 2002,
  /** The timeout is over the cap of 120,000 ms. */
  TIMEOUT_TOO_LARGE: 2003,
  /** A routing policy refused the task before anything was sent. */
  POLICY_REFUSED: 2004,
  /** The endpoint is not one that may be called. */
  ENDPOINT_REFUSED: 2005,
  /** The prompt would leave this machine unsealed. */
  CONFIDENTIALITY_REQUIRED: 2006,
  /** The payload is not valid JSON. */
  PAYLOAD_INVALID: 2007,
  /** The payload is over the size limit. */
  PAYLOAD_TOO_LARGE: 2008,
  /** The directory could not be reached, or could not answer. */
  DIRECTORY_UNREACHABLE: 3001,
  /** The directory refused the request. */
  DIRECTORY_REJECTED: 3002,
  /** No available node serves the intent with these constraints. */
  NO_NODES: 3003,
  /** The directory did not accept the credential. */
  DIRECTORY_UNAUTHORIZED: 3004,
  /** The directory asks for a pause. */
  DIRECTORY_RATE_LIMITED: 3005,
  /** The directory's answer is not one of this protocol. */
  DIRECTORY_MALFORMED: 3006,
  /** No connection to the node; the task was not sent. */
  CONNECT: 4001,
  /** The TLS handshake failed; the task was not sent. */
  TLS: 4002,
  /** The connection broke after the task was sent; it may have run. */
  LOST: 4003,
  /** The node's answer is not one of this protocol; the task may have run. */
  MALFORMED: 4004,
  /** The node's answer is over the size limit; the task may have run. */
  RESPONSE_TOO_LARGE: 4005,
  /** The provider refused the task. */
  TASK_REJECTED: 5001,
  /** Every provider that was asked is at capacity or draining. */
  CAPACITY: 5002,
  /** The provider did not finish within the task's time. */
  TASK_TIMEOUT: 5003,
  /** The provider's handler or backend failed. */
  BACKEND: 5004,
  /** The provider has seen this task id with other content, or no longer holds its result. */
  DUPLICATE: 5005,
  /** The provider does not serve the intent. */
  UNKNOWN_INTENT: 5006,
  /** The handler returned something that is not a reply. */
  HANDLER: 6001,
  /** The address to serve on could not be bound. */
  BIND: 6002,
} as const;

/** The name of an error code. */
export type CodeName = keyof typeof Code;

/** The names of the codes by their numbers. */
export const CODE_NAMES: ReadonlyMap<number, CodeName> = new Map(
  Object.entries(Code).map(([name, number]) => [number, name as CodeName]),
);

/** What an event of the core says. */
export const EventKind = {
  /** The last event of an operation: its result or its error. Every operation has exactly one. */
  DONE: 1,
  /** A part of an operation's result; more events of the operation follow. */
  CHUNK: 2,
  /** An inbound task that waits for an answer. */
  TASK: 3,
  /** An inbound task needs no answer any more: its caller left, its deadline passed or its node closed. */
  TASK_CANCEL: 4,
} as const;

/** How a client finds nodes and how long it waits for them. */
export interface ClientOptions {
  /** Base URL of the directory; `/v1/...` is appended. An `/api` at the end belongs to it. Default: `"http://127.0.0.1:9480"`. */
  directory?: string | undefined;
  /** Time for one whole submit, all attempts included, in milliseconds; at most 120,000. Default: `30000`. */
  timeoutMs?: number | undefined;
  /** Preferred region of the nodes, unless a call names one. */
  region?: string | undefined;
  /** Times a task may be sent to the same node, where sending again is allowed at all. Default: `3`. */
  maxAttempts?: number | undefined;
  /** How long a list of nodes is used before the directory is asked again, in milliseconds. Default: `30000`. */
  routeTtlMs?: number | undefined;
  /** The largest answer that is read from a node, in bytes. Default: `33554432`. */
  maxResponseBytes?: number | undefined;
  /** The largest task that is sent, in bytes. Default: `16777216`. */
  maxRequestBytes?: number | undefined;
  /** Longest silence between two pieces of an answer that has begun, in milliseconds. Default: `10000`. */
  idleTimeoutMs?: number | undefined;
}

/** What the core calls the options of `ClientOptions`. */
export const CLIENT_NAMES: ReadonlyMap<string, string> = new Map([
  ["directory", "directory"],
  ["timeoutMs", "timeout_ms"],
  ["region", "region"],
  ["maxAttempts", "max_attempts"],
  ["routeTtlMs", "route_ttl_ms"],
  ["maxResponseBytes", "max_response_bytes"],
  ["maxRequestBytes", "max_request_bytes"],
  ["idleTimeoutMs", "idle_timeout_ms"],
]);

/** What to ask the directory for. */
export interface Discover {
  /** The intent that the nodes must serve. */
  intent: string;
  /** Preferred region; a preference, not a filter. */
  region?: string | undefined;
  /** Quality of service that the nodes must be fit for. */
  qos?: "realtime" | "interactive" | "batch" | "best-effort" | undefined;
  /** A model that the nodes must serve. */
  model?: string | undefined;
  /** Least reputation of the nodes, 0 to 1. */
  minReputation?: number | undefined;
  /** Most nodes to return, 1 to 50. Default: `10`. */
  limit?: number | undefined;
}

/** What the core calls the options of `Discover`. */
export const DISCOVER_NAMES: ReadonlyMap<string, string> = new Map([
  ["intent", "intent"],
  ["region", "region"],
  ["qos", "qos"],
  ["model", "model"],
  ["minReputation", "min_reputation"],
  ["limit", "limit"],
]);

/** A task apart from its payload. */
export interface TaskOptions {
  /** The intent of the task. */
  intent: string;
  /** Id of the task; by default a fresh UUIDv4. Visible ASCII without `|`, at most 128 characters. */
  taskId?: string | undefined;
  /** Time for the whole submit, in milliseconds, at most 120,000; by default the client's. */
  timeoutMs?: number | undefined;
  /** Whether running the task twice does no harm, so that it may be sent again when it may have run already. Default: `false`. */
  idempotent?: boolean | undefined;
  /** Preferred region, by default the client's. */
  region?: string | undefined;
  /** Quality of service. */
  qos?: "realtime" | "interactive" | "batch" | "best-effort" | undefined;
  /** The model that must serve the task. */
  model?: string | undefined;
  /** Least reputation of the node, 0 to 1. */
  minReputation?: number | undefined;
  /** W3C trace context of the caller; by default a fresh one. */
  traceparent?: string | undefined;
  /** Id of the node on whose behalf the task is sent, if there is one. */
  sourceNodeId?: string | undefined;
}

/** What the core calls the options of `TaskOptions`. */
export const TASK_NAMES: ReadonlyMap<string, string> = new Map([
  ["intent", "intent"],
  ["taskId", "task_id"],
  ["timeoutMs", "timeout_ms"],
  ["idempotent", "idempotent"],
  ["region", "region"],
  ["qos", "qos"],
  ["model", "model"],
  ["minReputation", "min_reputation"],
  ["traceparent", "traceparent"],
  ["sourceNodeId", "source_node_id"],
]);

/** A chat task: messages and the usual knobs of inference. */
export interface Chat {
  /** The conversation, oldest first. */
  messages: readonly { role: string; content: string }[];
  /** The model that must answer. */
  model?: string | undefined;
  /** Most tokens of the answer. */
  maxTokens?: number | undefined;
  /** Sampling temperature, 0 to 2. */
  temperature?: number | undefined;
  /** Time for the whole call, in milliseconds, at most 120,000; by default the client's. */
  timeoutMs?: number | undefined;
  /** Whether the chat may be sent again when it may have run already; it harms no one, so by default yes. Default: `true`. */
  idempotent?: boolean | undefined;
  /** Preferred region, by default the client's. */
  region?: string | undefined;
  /** Quality of service. */
  qos?: "realtime" | "interactive" | "batch" | "best-effort" | undefined;
  /** Least reputation of the node, 0 to 1. */
  minReputation?: number | undefined;
  /** W3C trace context of the caller; by default a fresh one. */
  traceparent?: string | undefined;
}

/** What the core calls the options of `Chat`. */
export const CHAT_NAMES: ReadonlyMap<string, string> = new Map([
  ["messages", "messages"],
  ["model", "model"],
  ["maxTokens", "max_tokens"],
  ["temperature", "temperature"],
  ["timeoutMs", "timeout_ms"],
  ["idempotent", "idempotent"],
  ["region", "region"],
  ["qos", "qos"],
  ["minReputation", "min_reputation"],
  ["traceparent", "traceparent"],
]);

/** What a serving node offers and how much of it. */
export interface NodeOptions {
  /** Intents that the handler serves. */
  intents: readonly string[];
  /** Models that the handler serves, as discovery shows them. */
  models?: readonly string[] | undefined;
  /** Base URL of the directory to register with; empty: serve without registering. */
  directory?: string | undefined;
  /** Id of the node, at most 36 letters, digits, `.`, `_`, `:` or `-`; by default a fresh UUID. */
  nodeId?: string | undefined;
  /** Region as the directory shows it: a letter, then letters, digits, `-` or `_`. Default: `"unknown"`. */
  region?: string | undefined;
  /** Address to listen on. Default: `"127.0.0.1"`. */
  host?: string | undefined;
  /** Port to listen on; 0 lets the system choose. Default: `0`. */
  port?: number | undefined;
  /** URL under which callers reach the node; by default the address it listens on. */
  endpoint?: string | undefined;
  /** Tasks that may run at the same time; one more is answered with `capacity_exceeded`. Default: `4`. */
  maxConcurrent?: number | undefined;
  /** Token rate that is advertised to the directory. Default: `10000`. */
  tokensPerMin?: number | undefined;
  /** Most tokens of one answer, as advertised to the directory. Default: `8192`. */
  maxTokens?: number | undefined;
  /** Time of a task that names none, in milliseconds. Default: `30000`. */
  defaultTimeoutMs?: number | undefined;
  /** The largest task body that is read, in bytes. Default: `16777216`. */
  maxBodyBytes?: number | undefined;
  /** Connections held at the same time; by default what the process's descriptor limit allows, at most 16,384. */
  maxConnections?: number | undefined;
  /** Time to the end of a request's head, counted from its first byte (or from connecting), in milliseconds. Default: `10000`. */
  headerTimeoutMs?: number | undefined;
  /** How long a connection may wait for its next request, in milliseconds. Default: `75000`. */
  idleTimeoutMs?: number | undefined;
  /** Grace for a body or an answer to move on, in milliseconds; after it at least 1 KiB a second must pass. Default: `10000`. */
  transferGraceMs?: number | undefined;
  /** Memory for remembering task ids, in bytes; the oldest are forgotten first. Default: `67108864`. */
  replayBytes?: number | undefined;
  /** Memory for stored answers of finished tasks, in bytes; the oldest are dropped first. Default: `67108864`. */
  resultBytes?: number | undefined;
}

/** What the core calls the options of `NodeOptions`. */
export const NODE_NAMES: ReadonlyMap<string, string> = new Map([
  ["intents", "intents"],
  ["models", "models"],
  ["directory", "directory"],
  ["nodeId", "node_id"],
  ["region", "region"],
  ["host", "host"],
  ["port", "port"],
  ["endpoint", "endpoint"],
  ["maxConcurrent", "max_concurrent"],
  ["tokensPerMin", "tokens_per_min"],
  ["maxTokens", "max_tokens"],
  ["defaultTimeoutMs", "default_timeout_ms"],
  ["maxBodyBytes", "max_body_bytes"],
  ["maxConnections", "max_connections"],
  ["headerTimeoutMs", "header_timeout_ms"],
  ["idleTimeoutMs", "idle_timeout_ms"],
  ["transferGraceMs", "transfer_grace_ms"],
  ["replayBytes", "replay_bytes"],
  ["resultBytes", "result_bytes"],
]);

/** The embedded directory. */
export interface DirectoryOptions {
  /** Address to listen on. Default: `"127.0.0.1"`. */
  host?: string | undefined;
  /** Port to listen on; 0 lets the system choose. Default: `0`. */
  port?: number | undefined;
  /** Whether a node's health is asked before it is registered. Default: `true`. */
  probe?: boolean | undefined;
  /** Whether requests are rate limited as on the public directory. Default: `true`. */
  limits?: boolean | undefined;
  /** Whether `interactive` and `realtime` tasks only see nodes with a record of finished tasks. Default: `true`. */
  qosGating?: boolean | undefined;
  /** How often nodes are asked to report, in milliseconds. Default: `30000`. */
  heartbeatMs?: number | undefined;
  /** How long a silent node stays in discovery, in milliseconds. Default: `90000`. */
  nodeTtlMs?: number | undefined;
  /** Nodes that may be registered at the same time. Default: `10000`. */
  maxNodes?: number | undefined;
}

/** What the core calls the options of `DirectoryOptions`. */
export const DIRECTORY_NAMES: ReadonlyMap<string, string> = new Map([
  ["host", "host"],
  ["port", "port"],
  ["probe", "probe"],
  ["limits", "limits"],
  ["qosGating", "qos_gating"],
  ["heartbeatMs", "heartbeat_ms"],
  ["nodeTtlMs", "node_ttl_ms"],
  ["maxNodes", "max_nodes"],
]);

/** How a directory for development on this machine differs from a public one. */
export const LOOPBACK: DirectoryOptions = {
  limits: false,
  probe: false,
  qosGating: false,
};
