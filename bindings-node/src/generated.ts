// Written by `cargo gen` from options.rs, error.rs and event.rs of the core. Do not edit.

/** The intent of a chat with a language model. */
export const CHAT = "urn:iicp:intent:llm:chat:v1";

/** The intent of a text completion. */
export const COMPLETION = "urn:iicp:intent:llm:completion:v1";

/** The intent of turning texts into vectors. */
export const EMBEDDING = "urn:iicp:intent:llm:embedding:v1";

/** The intent of writing down speech. */
export const TRANSCRIPTION = "urn:iicp:intent:audio:transcribe:v1";

/** The intent of speaking a text. */
export const SPEECH = "urn:iicp:intent:audio:speech:v1";

/** The intent of judging a text. */
export const MODERATION = "urn:iicp:intent:safety:moderate:v1";

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
  /** The client wants a consumer token for the provider, and the directory gave none. */
  CONSUMER_AUTH_REQUIRED: 2009,
  /** The application's ranker failed, or chose what is no candidate. */
  RANKER_REFUSED: 2010,
  /** The directory does not support the profile that the call requires. */
  PROFILE_UNSUPPORTED: 2011,
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
  /** The directory's dispatch ticket could not be verified. */
  TICKET_REFUSED: 3007,
  /** The directory has no dispatch tickets, and the client accepts nothing else. */
  TICKETS_UNAVAILABLE: 3008,
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
  /** The node's answer is not sealed as agreed, or does not open. */
  REPLY_UNSEALED: 4006,
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
  /** Not enough providers gave the same answer. */
  NO_CONSENSUS: 5007,
  /** The handler returned something that is not a reply. */
  HANDLER: 6001,
  /** The address to serve on could not be bound. */
  BIND: 6002,
  /** Another process, or another node of this one, serves with the same id and state folder. */
  NODE_LOCKED: 6003,
  /** The relay could not be reached, or does not speak the protocol. */
  RELAY_UNREACHABLE: 7001,
  /** The relay did not bind this node. */
  RELAY_REFUSED: 7002,
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
  /** An operation asks the application which candidate goes first; it waits for an answer. */
  RANK: 5,
  /** An inbound task whose part was refused with QUEUE_FULL has room for it now. */
  TASK_ROOM: 6,
} as const;

/** The model tasks that have a call of their own. */
export const Inference = {
  /** Completes a text. */
  COMPLETION: 1,
  /** Turns texts into vectors. */
  EMBEDDING: 2,
  /** Writes down what is said in a sound file. */
  TRANSCRIPTION: 3,
  /** Speaks a text. */
  SPEECH: 4,
  /** Judges texts. */
  MODERATION: 5,
} as const;

/** A part of a message: text, a picture (an `https:` or a `data:` URL that the provider fetches), or sound in base64. */
export type ContentPart =
  | { type: "text"; text: string }
  | { type: "image_url"; image_url: { url: string; detail?: "auto" | "low" | "high" } }
  | { type: "input_audio"; input_audio: { data: string; format: string } };

/** How a client finds nodes, whom it trusts and how long it waits for them. */
export interface ClientOptions {
  /** Base URL of the directory; `/v1/...` is appended. An `/api` at the end belongs to it. Default: `"http://127.0.0.1:9480"`. */
  directory?: string | undefined;
  /** Time for one whole submit, all attempts included, in milliseconds; at most 120,000. Default: `30000`. */
  timeoutMs?: number | undefined;
  /** Preferred region of the nodes, unless a call names one. */
  region?: string | undefined;
  /** Times a task may be sent to the same node, where sending again is allowed at all. Default: `3`. */
  maxAttempts?: number | undefined;
  /** How long a list of nodes is used before the directory is asked again, in milliseconds. A ticketed route is used until ten seconds before its ticket ends. Default: `30000`. */
  routeTtlMs?: number | undefined;
  /** The largest answer that is read from a node, in bytes. Default: `33554432`. */
  maxResponseBytes?: number | undefined;
  /** The largest task that is sent, in bytes. Default: `16777216`. */
  maxRequestBytes?: number | undefined;
  /** Longest silence between two pieces of an answer that has begun, in milliseconds. Default: `10000`. */
  idleTimeoutMs?: number | undefined;
  /** Where routes come from. Default: `"auto"`. */
  routeDiscovery?: "auto" | "ticketed" | "legacy" | undefined;
  /** In which order nodes are asked. Default: `"weighted_v1"`. */
  routingStrategy?: "deterministic" | "epsilon" | "softmax_top_k" | "weighted_v1" | undefined;
  /** How often `epsilon` begins with a node at random, 0 to 1. Default: `0.05`. */
  routingEpsilon?: number | undefined;
  /** From how many of the best nodes `softmax_top_k` and `weighted_v1` choose. Default: `3`. */
  routingTopK?: number | undefined;
  /** How much `softmax_top_k` cares for the score; the smaller the more, at least 0.001. Default: `0.04`. */
  routingSoftmaxTau?: number | undefined;
  /** Who may be sent a task, unless a call says otherwise. */
  routingPolicy?: RoutingPolicy | undefined;
  /** A profile that the directory is to take into account, unless a call names one. */
  profileRequest?: ProfileRequest | undefined;
  /** Whether providers are shown a token that names the caller; takes `node_token`. Default: `"optional"`. */
  consumerAuth?: "optional" | "required" | "disabled" | undefined;
  /** The caller's own credential at the directory; goes nowhere else. */
  nodeToken?: string | undefined;
  /** Id of the node that `node_token` belongs to, where the directory wants to be told. */
  nodeId?: string | undefined;
  /** Certificates of authorities that are trusted beside the system's: path of a PEM file, or its text. For directories and nodes, over HTTPS and native connections; read once. */
  trustedCa?: string | undefined;
  /** Whether nodes on private, loopback and other addresses that are not public may be called. A directory that is itself on this machine may name nodes on this machine. Default: `false`. */
  allowPrivateEndpoints?: boolean | undefined;
  /** Whether nodes that take native frames are sent them. A node's place is tried once before; who does not answer there is sent his tasks over HTTP. Default: `"auto"`. */
  native?: "auto" | "any" | "off" | undefined;
  /** Whether a direct path (QUIC over UDP) is looked for to nodes that are behind a relay, by which both learn each other's address. Tasks go through the relay until there is one, and again when it dies. Not with `native` off. Default: `"auto"`. */
  punch?: "auto" | "off" | undefined;
  /** Failures in a row after which a node is left alone for a while. Default: `5`. */
  breakerFailures?: number | undefined;
  /** How long such a node is left alone before it is tried again, in milliseconds. Default: `30000`. */
  breakerOpenMs?: number | undefined;
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
  ["routeDiscovery", "route_discovery"],
  ["routingStrategy", "routing_strategy"],
  ["routingEpsilon", "routing_epsilon"],
  ["routingTopK", "routing_top_k"],
  ["routingSoftmaxTau", "routing_softmax_tau"],
  ["routingPolicy", "routing_policy"],
  ["profileRequest", "profile_request"],
  ["consumerAuth", "consumer_auth"],
  ["nodeToken", "node_token"],
  ["nodeId", "node_id"],
  ["trustedCa", "trusted_ca"],
  ["allowPrivateEndpoints", "allow_private_endpoints"],
  ["native", "native"],
  ["punch", "punch"],
  ["breakerFailures", "breaker_failures"],
  ["breakerOpenMs", "breaker_open_ms"],
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
  /** Whether only nodes that a browser can call are returned. Default: `false`. */
  browserUsableOnly?: boolean | undefined;
  /** A profile that the directory is to take into account. */
  profileRequest?: ProfileRequest | undefined;
}

/** What the core calls the options of `Discover`. */
export const DISCOVER_NAMES: ReadonlyMap<string, string> = new Map([
  ["intent", "intent"],
  ["region", "region"],
  ["qos", "qos"],
  ["model", "model"],
  ["minReputation", "min_reputation"],
  ["limit", "limit"],
  ["browserUsableOnly", "browser_usable_only"],
  ["profileRequest", "profile_request"],
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
  /** How the task stands among others of its class, told to the provider; by default nothing is said, which is `normal`. */
  priority?: "critical" | "high" | "normal" | "low" | undefined;
  /** The model that must serve the task. */
  model?: string | undefined;
  /** Least reputation of the node, 0 to 1. */
  minReputation?: number | undefined;
  /** W3C trace context of the caller; by default a fresh one. */
  traceparent?: string | undefined;
  /** What the caller's tracing system adds to `traceparent` (W3C `tracestate`), passed on as it is; at most 512 visible ASCII characters. Without `traceparent` it means nothing and is not sent. */
  tracestate?: string | undefined;
  /** Id of the node on whose behalf the task is sent, if there is one. */
  sourceNodeId?: string | undefined;
  /** Who may be sent the task; by default as the client says. */
  routingPolicy?: RoutingPolicy | undefined;
  /** What is asked of the route and never told to a provider; what it does not give is taken from the task. */
  route?: RouteConstraints | undefined;
  /** How many nodes run the task and must agree; by default one, whose result counts. */
  consensus?: "first_completed" | "majority_of_3" | "majority_of_5" | undefined;
}

/** What the core calls the options of `TaskOptions`. */
export const TASK_NAMES: ReadonlyMap<string, string> = new Map([
  ["intent", "intent"],
  ["taskId", "task_id"],
  ["timeoutMs", "timeout_ms"],
  ["idempotent", "idempotent"],
  ["region", "region"],
  ["qos", "qos"],
  ["priority", "priority"],
  ["model", "model"],
  ["minReputation", "min_reputation"],
  ["traceparent", "traceparent"],
  ["tracestate", "tracestate"],
  ["sourceNodeId", "source_node_id"],
  ["routingPolicy", "routing_policy"],
  ["route", "route"],
  ["consensus", "consensus"],
]);

/** Who may be sent a task: a profile, and what is to differ from it. */
export interface RoutingPolicy {
  /** The rules to begin with. Default: `"standard"`. */
  profile?: "standard" | "sensitive" | "eu_restricted" | "strict_policy" | "debug_override" | undefined;
  /** Whether nodes without a key to seal to are refused. */
  requireEncryption?: boolean | undefined;
  /** Whether nodes that are not the caller's own may run the task. */
  allowRemoteExecutor?: boolean | undefined;
  /** Regions that nodes must be in: equal, or beginning with one of these and a dash; `eea` also takes `eu-…`. An empty list allows every region. */
  allowedRegions?: readonly string[] | undefined;
  /** Whether nodes without a policy manifest are refused. */
  requirePolicyManifest?: boolean | undefined;
  /** Whether nodes whose manifest does not rule out keeping the task are refused. */
  requireNoPayloadRetention?: boolean | undefined;
  /** Whether only nodes of operators whom the directory knows are taken; the same as the highest identity level. */
  knownOperatorOnly?: boolean | undefined;
  /** The least level of identity that a node's manifest must have. */
  requiredManifestIdentityLevel?: "self_attested" | "signed_valid" | "operator_bound" | "known_operator" | undefined;
}

/** What the core calls the options of `RoutingPolicy`. */
export const ROUTINGPOLICY_NAMES: ReadonlyMap<string, string> = new Map([
  ["profile", "profile"],
  ["requireEncryption", "require_encryption"],
  ["allowRemoteExecutor", "allow_remote_executor"],
  ["allowedRegions", "allowed_regions"],
  ["requirePolicyManifest", "require_policy_manifest"],
  ["requireNoPayloadRetention", "require_no_payload_retention"],
  ["knownOperatorOnly", "known_operator_only"],
  ["requiredManifestIdentityLevel", "required_manifest_identity_level"],
]);

/** What is asked of the route and never told to a provider. What is not given here is taken from the task. */
export interface RouteConstraints {
  /** Preferred region of the node. */
  region?: string | undefined;
  /** Quality of service that the node must be fit for. */
  qos?: "realtime" | "interactive" | "batch" | "best-effort" | undefined;
  /** A model that the node must serve. */
  model?: string | undefined;
  /** Least reputation of the node, 0 to 1. */
  minReputation?: number | undefined;
  /** Whether only nodes that a browser can call are taken. Default: `false`. */
  browserUsableOnly?: boolean | undefined;
  /** Most nodes to choose from, 1 to 50; by default 10. */
  limit?: number | undefined;
  /** A profile that the directory is to take into account; asks by discovery, not for a ticket. */
  profileRequest?: ProfileRequest | undefined;
}

/** What the core calls the options of `RouteConstraints`. */
export const ROUTECONSTRAINTS_NAMES: ReadonlyMap<string, string> = new Map([
  ["region", "region"],
  ["qos", "qos"],
  ["model", "model"],
  ["minReputation", "min_reputation"],
  ["browserUsableOnly", "browser_usable_only"],
  ["limit", "limit"],
  ["profileRequest", "profile_request"],
]);

/** A version of a profile that discovery is to take into account. */
export interface ProfileRequest {
  /** Id of the profile. */
  profileId: string;
  /** Its version. */
  profileVersion: string;
  /** SHA-256 of the profile's fixture, 64 lower-case hex digits. */
  profileFixtureSha256: string;
  /** Whether nothing is sent unless the directory supports it. Default: `false`. */
  required?: boolean | undefined;
}

/** What the core calls the options of `ProfileRequest`. */
export const PROFILEREQUEST_NAMES: ReadonlyMap<string, string> = new Map([
  ["profileId", "profile_id"],
  ["profileVersion", "profile_version"],
  ["profileFixtureSha256", "profile_fixture_sha256"],
  ["required", "required"],
]);

/** A chat: messages, the tools that may be called, and the usual knobs of inference. */
export interface Chat {
  /** The conversation, oldest first. */
  messages: readonly ChatMessage[];
  /** Most tokens of the answer. */
  maxTokens?: number | undefined;
  /** Sampling temperature, 0 to 2. */
  temperature?: number | undefined;
  /** Texts at which the answer ends. */
  stop?: readonly string[] | undefined;
  /** Tools that the model may call, passed through as they are. */
  tools?: readonly Readonly<Record<string, unknown>>[] | undefined;
  /** Which of them it must call, passed through as it is. */
  toolChoice?: unknown | undefined;
  /** Whether the model is told that the request reached it through IICP, by one system message after leading instructions. Default: `"auto"`. */
  runtimeIdentity?: "auto" | "required" | "disabled" | undefined;
  /** The model that must answer. */
  model?: string | undefined;
  /** Time for the whole call, in milliseconds, at most 120,000; by default the client's. */
  timeoutMs?: number | undefined;
  /** Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: `true`. */
  idempotent?: boolean | undefined;
  /** Preferred region, by default the client's. */
  region?: string | undefined;
  /** Quality of service. */
  qos?: "realtime" | "interactive" | "batch" | "best-effort" | undefined;
  /** Least reputation of the node, 0 to 1. */
  minReputation?: number | undefined;
  /** W3C trace context of the caller; by default a fresh one. */
  traceparent?: string | undefined;
  /** Who may be sent it; by default as the client says. */
  routingPolicy?: RoutingPolicy | undefined;
  /** What is asked of the route and never told to a provider; what it does not give is taken from the call. */
  route?: RouteConstraints | undefined;
  /** How many nodes are asked and must agree; by default one, whose answer counts. */
  consensus?: "first_completed" | "majority_of_3" | "majority_of_5" | undefined;
  /** More fields of the payload, passed through as they are. */
  extra?: Readonly<Record<string, unknown>> | undefined;
}

/** What the core calls the options of `Chat`. */
export const CHAT_NAMES: ReadonlyMap<string, string> = new Map([
  ["messages", "messages"],
  ["maxTokens", "max_tokens"],
  ["temperature", "temperature"],
  ["stop", "stop"],
  ["tools", "tools"],
  ["toolChoice", "tool_choice"],
  ["runtimeIdentity", "runtime_identity"],
  ["model", "model"],
  ["timeoutMs", "timeout_ms"],
  ["idempotent", "idempotent"],
  ["region", "region"],
  ["qos", "qos"],
  ["minReputation", "min_reputation"],
  ["traceparent", "traceparent"],
  ["routingPolicy", "routing_policy"],
  ["route", "route"],
  ["consensus", "consensus"],
  ["extra", "extra"],
]);

/** One message of a chat. */
export interface ChatMessage {
  /** `system`, `developer`, `user`, `assistant` or `tool`. */
  role: string;
  /** What it says; an assistant's message that only calls tools says nothing. */
  content?: string | readonly ContentPart[] | undefined;
  /** Who says it, where several have the same role. */
  name?: string | undefined;
  /** The tools that the assistant called, as it wrote them. */
  tool_calls?: readonly Readonly<Record<string, unknown>>[] | undefined;
  /** The call that a tool's message answers. */
  tool_call_id?: string | undefined;
}

/** A text to be completed. */
export interface Completion {
  /** The text. */
  prompt: string;
  /** Most tokens of the answer. */
  maxTokens?: number | undefined;
  /** Sampling temperature, 0 to 2. */
  temperature?: number | undefined;
  /** Texts at which the answer ends. */
  stop?: readonly string[] | undefined;
  /** The model that must answer. */
  model?: string | undefined;
  /** Time for the whole call, in milliseconds, at most 120,000; by default the client's. */
  timeoutMs?: number | undefined;
  /** Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: `true`. */
  idempotent?: boolean | undefined;
  /** Preferred region, by default the client's. */
  region?: string | undefined;
  /** Quality of service. */
  qos?: "realtime" | "interactive" | "batch" | "best-effort" | undefined;
  /** Least reputation of the node, 0 to 1. */
  minReputation?: number | undefined;
  /** W3C trace context of the caller; by default a fresh one. */
  traceparent?: string | undefined;
  /** Who may be sent it; by default as the client says. */
  routingPolicy?: RoutingPolicy | undefined;
  /** What is asked of the route and never told to a provider; what it does not give is taken from the call. */
  route?: RouteConstraints | undefined;
  /** How many nodes are asked and must agree; by default one, whose answer counts. */
  consensus?: "first_completed" | "majority_of_3" | "majority_of_5" | undefined;
  /** More fields of the payload, passed through as they are. */
  extra?: Readonly<Record<string, unknown>> | undefined;
}

/** What the core calls the options of `Completion`. */
export const COMPLETION_NAMES: ReadonlyMap<string, string> = new Map([
  ["prompt", "prompt"],
  ["maxTokens", "max_tokens"],
  ["temperature", "temperature"],
  ["stop", "stop"],
  ["model", "model"],
  ["timeoutMs", "timeout_ms"],
  ["idempotent", "idempotent"],
  ["region", "region"],
  ["qos", "qos"],
  ["minReputation", "min_reputation"],
  ["traceparent", "traceparent"],
  ["routingPolicy", "routing_policy"],
  ["route", "route"],
  ["consensus", "consensus"],
  ["extra", "extra"],
]);

/** Texts to be turned into vectors. */
export interface Embedding {
  /** The texts; one alone may stand without a list. */
  input: readonly string[];
  /** The length of the vectors, where the model lets one choose. */
  dimensions?: number | undefined;
  /** The model that must answer. */
  model?: string | undefined;
  /** Time for the whole call, in milliseconds, at most 120,000; by default the client's. */
  timeoutMs?: number | undefined;
  /** Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: `true`. */
  idempotent?: boolean | undefined;
  /** Preferred region, by default the client's. */
  region?: string | undefined;
  /** Quality of service. */
  qos?: "realtime" | "interactive" | "batch" | "best-effort" | undefined;
  /** Least reputation of the node, 0 to 1. */
  minReputation?: number | undefined;
  /** W3C trace context of the caller; by default a fresh one. */
  traceparent?: string | undefined;
  /** Who may be sent it; by default as the client says. */
  routingPolicy?: RoutingPolicy | undefined;
  /** What is asked of the route and never told to a provider; what it does not give is taken from the call. */
  route?: RouteConstraints | undefined;
  /** How many nodes are asked and must agree; by default one, whose answer counts. */
  consensus?: "first_completed" | "majority_of_3" | "majority_of_5" | undefined;
  /** More fields of the payload, passed through as they are. */
  extra?: Readonly<Record<string, unknown>> | undefined;
}

/** What the core calls the options of `Embedding`. */
export const EMBEDDING_NAMES: ReadonlyMap<string, string> = new Map([
  ["input", "input"],
  ["dimensions", "dimensions"],
  ["model", "model"],
  ["timeoutMs", "timeout_ms"],
  ["idempotent", "idempotent"],
  ["region", "region"],
  ["qos", "qos"],
  ["minReputation", "min_reputation"],
  ["traceparent", "traceparent"],
  ["routingPolicy", "routing_policy"],
  ["route", "route"],
  ["consensus", "consensus"],
  ["extra", "extra"],
]);

/** Speech to be written down. */
export interface Transcription {
  /** The sound file, base64. */
  audio: string;
  /** Its name, whose ending tells the format; `audio.wav` if nothing is said. */
  filename?: string | undefined;
  /** The language that is spoken, such as `en`. */
  language?: string | undefined;
  /** Words that help the model to spell. */
  prompt?: string | undefined;
  /** Sampling temperature, 0 to 1. */
  temperature?: number | undefined;
  /** The model that must answer. */
  model?: string | undefined;
  /** Time for the whole call, in milliseconds, at most 120,000; by default the client's. */
  timeoutMs?: number | undefined;
  /** Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: `true`. */
  idempotent?: boolean | undefined;
  /** Preferred region, by default the client's. */
  region?: string | undefined;
  /** Quality of service. */
  qos?: "realtime" | "interactive" | "batch" | "best-effort" | undefined;
  /** Least reputation of the node, 0 to 1. */
  minReputation?: number | undefined;
  /** W3C trace context of the caller; by default a fresh one. */
  traceparent?: string | undefined;
  /** Who may be sent it; by default as the client says. */
  routingPolicy?: RoutingPolicy | undefined;
  /** What is asked of the route and never told to a provider; what it does not give is taken from the call. */
  route?: RouteConstraints | undefined;
  /** How many nodes are asked and must agree; by default one, whose answer counts. */
  consensus?: "first_completed" | "majority_of_3" | "majority_of_5" | undefined;
  /** More fields of the payload, passed through as they are. */
  extra?: Readonly<Record<string, unknown>> | undefined;
}

/** What the core calls the options of `Transcription`. */
export const TRANSCRIPTION_NAMES: ReadonlyMap<string, string> = new Map([
  ["audio", "audio"],
  ["filename", "filename"],
  ["language", "language"],
  ["prompt", "prompt"],
  ["temperature", "temperature"],
  ["model", "model"],
  ["timeoutMs", "timeout_ms"],
  ["idempotent", "idempotent"],
  ["region", "region"],
  ["qos", "qos"],
  ["minReputation", "min_reputation"],
  ["traceparent", "traceparent"],
  ["routingPolicy", "routing_policy"],
  ["route", "route"],
  ["consensus", "consensus"],
  ["extra", "extra"],
]);

/** Text to be spoken. */
export interface Speech {
  /** The text. */
  input: string;
  /** The voice, by the backend's name for it. */
  voice?: string | undefined;
  /** The sound's format, such as `wav` or `mp3`. */
  responseFormat?: string | undefined;
  /** How fast, 0.25 to 4. */
  speed?: number | undefined;
  /** The model that must answer. */
  model?: string | undefined;
  /** Time for the whole call, in milliseconds, at most 120,000; by default the client's. */
  timeoutMs?: number | undefined;
  /** Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: `true`. */
  idempotent?: boolean | undefined;
  /** Preferred region, by default the client's. */
  region?: string | undefined;
  /** Quality of service. */
  qos?: "realtime" | "interactive" | "batch" | "best-effort" | undefined;
  /** Least reputation of the node, 0 to 1. */
  minReputation?: number | undefined;
  /** W3C trace context of the caller; by default a fresh one. */
  traceparent?: string | undefined;
  /** Who may be sent it; by default as the client says. */
  routingPolicy?: RoutingPolicy | undefined;
  /** What is asked of the route and never told to a provider; what it does not give is taken from the call. */
  route?: RouteConstraints | undefined;
  /** How many nodes are asked and must agree; by default one, whose answer counts. */
  consensus?: "first_completed" | "majority_of_3" | "majority_of_5" | undefined;
  /** More fields of the payload, passed through as they are. */
  extra?: Readonly<Record<string, unknown>> | undefined;
}

/** What the core calls the options of `Speech`. */
export const SPEECH_NAMES: ReadonlyMap<string, string> = new Map([
  ["input", "input"],
  ["voice", "voice"],
  ["responseFormat", "response_format"],
  ["speed", "speed"],
  ["model", "model"],
  ["timeoutMs", "timeout_ms"],
  ["idempotent", "idempotent"],
  ["region", "region"],
  ["qos", "qos"],
  ["minReputation", "min_reputation"],
  ["traceparent", "traceparent"],
  ["routingPolicy", "routing_policy"],
  ["route", "route"],
  ["consensus", "consensus"],
  ["extra", "extra"],
]);

/** Texts to be judged. */
export interface Moderation {
  /** The texts; one alone may stand without a list. */
  input: readonly string[];
  /** The model that must answer. */
  model?: string | undefined;
  /** Time for the whole call, in milliseconds, at most 120,000; by default the client's. */
  timeoutMs?: number | undefined;
  /** Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: `true`. */
  idempotent?: boolean | undefined;
  /** Preferred region, by default the client's. */
  region?: string | undefined;
  /** Quality of service. */
  qos?: "realtime" | "interactive" | "batch" | "best-effort" | undefined;
  /** Least reputation of the node, 0 to 1. */
  minReputation?: number | undefined;
  /** W3C trace context of the caller; by default a fresh one. */
  traceparent?: string | undefined;
  /** Who may be sent it; by default as the client says. */
  routingPolicy?: RoutingPolicy | undefined;
  /** What is asked of the route and never told to a provider; what it does not give is taken from the call. */
  route?: RouteConstraints | undefined;
  /** How many nodes are asked and must agree; by default one, whose answer counts. */
  consensus?: "first_completed" | "majority_of_3" | "majority_of_5" | undefined;
  /** More fields of the payload, passed through as they are. */
  extra?: Readonly<Record<string, unknown>> | undefined;
}

/** What the core calls the options of `Moderation`. */
export const MODERATION_NAMES: ReadonlyMap<string, string> = new Map([
  ["input", "input"],
  ["model", "model"],
  ["timeoutMs", "timeout_ms"],
  ["idempotent", "idempotent"],
  ["region", "region"],
  ["qos", "qos"],
  ["minReputation", "min_reputation"],
  ["traceparent", "traceparent"],
  ["routingPolicy", "routing_policy"],
  ["route", "route"],
  ["consensus", "consensus"],
  ["extra", "extra"],
]);

/** What a serving node offers and how much of it. */
export interface NodeOptions {
  /** Intents that the handler serves. With a `backend`, by default those that it can serve. */
  intents?: readonly string[] | undefined;
  /** Models that the handler serves, as discovery shows them. With a `backend`, by default those that it lists. */
  models?: readonly string[] | undefined;
  /** The inference server that runs the tasks; by default there is none, and a handler serves them. */
  backend?: BackendOptions | undefined;
  /** Base URL of the directory to register with; empty: serve without registering. */
  directory?: string | undefined;
  /** Id of the node, at most 36 letters, digits, `.`, `_`, `:` or `-`; by default a UUID, which is kept in `state_dir`. */
  nodeId?: string | undefined;
  /** Folder for what must outlive the process: the node's id, its sealing key, and what it needs to prove to the directory that it is the same node. By default nothing is kept, and every start makes another node. Of the nodes with one id, one at a time may use it. */
  stateDir?: string | undefined;
  /** Region as the directory shows it: a letter, then letters, digits, `-` or `_`. Default: `"unknown"`. */
  region?: string | undefined;
  /** Address to listen on. Default: `"127.0.0.1"`. */
  host?: string | undefined;
  /** Port to listen on; 0 lets the system choose. Default: `0`. */
  port?: number | undefined;
  /** URL under which callers reach the node; by default the address it listens on. */
  endpoint?: string | undefined;
  /** TLS on the node's port; by default it speaks HTTP, for what speaks TLS in front of it. With it, an `endpoint` begins with `https`. */
  tls?: TlsOptions | undefined;
  /** Certificates of authorities that are trusted beside the system's: path of a PEM file, or its text. For the directory, and for the node's look at itself. */
  trustedCa?: string | undefined;
  /** Lends the node's address to workers that nobody can reach: the node is a relay. By default it is none. */
  relayServer?: RelayServerOptions | undefined;
  /** Has the node reached through a relay, because nobody can reach it. By default it is called where it listens. */
  relayWorker?: RelayWorkerOptions | undefined;
  /** How the node finds a way to be reached, if it listens on all addresses of its machine. */
  nat?: NatOptions | undefined;
  /** Tasks that may run at the same time; one more waits if its class is `realtime` or `interactive`, and is answered with `capacity_exceeded` otherwise. Default: `4`. */
  maxConcurrent?: number | undefined;
  /** How long a task of these classes may wait for its turn, in milliseconds; 0: none waits. Default: `2000`. */
  queueWaitMs?: number | undefined;
  /** Tasks that may wait at the same time, the more urgent first; of one more, the least urgent is refused. Default: `64`. */
  queueLength?: number | undefined;
  /** What callers have to prove. Default: `"token"`. */
  auth?: "open" | "token" | "required" | undefined;
  /** A token that the operator gives to callers of his choice, who show it as `auth.node_token`. The token that the directory gave the node counts as well, but whoever has that can also speak for the node there. */
  accessToken?: string | undefined;
  /** Tasks that one web page (`Origin`) may send in a minute; 0: any number. Default: `120`. */
  ratePerOrigin?: number | undefined;
  /** Tasks that one address may send in a minute, an IPv6 network of 64 bits counting as one; 0: any number. Behind a tunnel or a proxy all callers have the same address. Default: `0`. */
  ratePerIp?: number | undefined;
  /** Token rate that is advertised to the directory. Default: `10000`. */
  tokensPerMin?: number | undefined;
  /** Most tokens of one answer, as advertised to the directory. Default: `8192`. */
  maxTokens?: number | undefined;
  /** What is served by which models, where `models` alone does not say it; an intent without an entry has one with `models` and text. Directories list it as it stands here, also when a backend turns out to have other models. */
  capabilities?: readonly NodeCapability[] | undefined;
  /** What runs the models, as the directory shows it; by default what a `backend` turns out to be. */
  engine?: "ollama" | "lmstudio" | "vllm" | "llamacpp" | "meshllm" | "anthropic" | "custom" | undefined;
  /** What others' tasks may do here; by default nothing is declared, and tools are not run. */
  policy?: NodePolicy | undefined;
  /** What tasks cost; by default nothing is declared, which directories take for the usual price. */
  pricing?: NodePricing | undefined;
  /** Key for the proofs that a node gives its directory, at most 128 visible ASCII characters; by default the directory makes one. */
  nodeHmacKey?: string | undefined;
  /** By which way the node is reached. With this and a known `nat_type`, neither the directory nor the node itself tries whether the endpoint answers. */
  transportMethod?: "direct" | "upnp_mapped" | "stun_hole_punch" | "turn_relay" | "external_tunnel" | "unknown" | undefined;
  /** What kind of NAT the node is behind. */
  natType?: "full_cone" | "restricted_cone" | "port_restricted" | "symmetric" | "unknown" | undefined;
  /** How the node stands towards the Internet. */
  exposureMode?: "outbound_only" | "ipv4_public_direct" | "ipv4_cgnat_blocked" | "ipv6_direct_firewall_required" | "ipv6_direct_pinhole_available" | "relay_required" | "tunnel_required" | "dual_stack_available" | undefined;
  /** What the operator promises about tasks, as an object in the form of the specification; passed on as it is, so that its signature stays good. At most 16 KiB. */
  policyManifest?: Readonly<Record<string, unknown>> | undefined;
  /** Whether and how the node is shown to people. */
  listing?: PublicListing | undefined;
  /** The operator's signed word that the node is his: an object with `node_id`, `operator_pub`, `not_after` and `sig`. */
  operatorDelegation?: Readonly<Record<string, unknown>> | undefined;
  /** Name of the operator, at most 64 bytes; directories show it only with a good `operator_delegation`. */
  operatorDisplayName?: string | undefined;
  /** Receipts that the node can give beside the directory's own. */
  supportedReceiptProfiles?: readonly ("consumer_cosignature_v1")[] | undefined;
  /** How much of the node is given to others at which time of the day; the first window that fits counts, and outside of all of them it is half. By default everything, always. */
  availability?: readonly AvailabilityWindow[] | undefined;
  /** Whether the directory is asked for credits after every task whose tokens are known. Default: `false`. */
  receipts?: boolean | undefined;
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
  /** Whether the port also speaks the native framed transport, and to whom. Default: `"auto"`. */
  native?: "auto" | "any" | "off" | undefined;
  /** Whether callers of a node behind a relay may find a direct path to it (QUIC over UDP), by which both learn each other's address; and whether a relay helps them to find it. Not with `native` off. Default: `"auto"`. */
  punch?: "auto" | "off" | undefined;
  /** Memory for remembering task ids, in bytes; the oldest are forgotten first. Nonces, which must not be forgotten, have as much again; when it is full, tasks with a nonce are refused. Default: `67108864`. */
  replayBytes?: number | undefined;
  /** Memory for stored answers of finished tasks, in bytes; the oldest are dropped first. Default: `67108864`. */
  resultBytes?: number | undefined;
}

/** What the core calls the options of `NodeOptions`. */
export const NODE_NAMES: ReadonlyMap<string, string> = new Map([
  ["intents", "intents"],
  ["models", "models"],
  ["backend", "backend"],
  ["directory", "directory"],
  ["nodeId", "node_id"],
  ["stateDir", "state_dir"],
  ["region", "region"],
  ["host", "host"],
  ["port", "port"],
  ["endpoint", "endpoint"],
  ["tls", "tls"],
  ["trustedCa", "trusted_ca"],
  ["relayServer", "relay_server"],
  ["relayWorker", "relay_worker"],
  ["nat", "nat"],
  ["maxConcurrent", "max_concurrent"],
  ["queueWaitMs", "queue_wait_ms"],
  ["queueLength", "queue_length"],
  ["auth", "auth"],
  ["accessToken", "access_token"],
  ["ratePerOrigin", "rate_per_origin"],
  ["ratePerIp", "rate_per_ip"],
  ["tokensPerMin", "tokens_per_min"],
  ["maxTokens", "max_tokens"],
  ["capabilities", "capabilities"],
  ["engine", "engine"],
  ["policy", "policy"],
  ["pricing", "pricing"],
  ["nodeHmacKey", "node_hmac_key"],
  ["transportMethod", "transport_method"],
  ["natType", "nat_type"],
  ["exposureMode", "exposure_mode"],
  ["policyManifest", "policy_manifest"],
  ["listing", "listing"],
  ["operatorDelegation", "operator_delegation"],
  ["operatorDisplayName", "operator_display_name"],
  ["supportedReceiptProfiles", "supported_receipt_profiles"],
  ["availability", "availability"],
  ["receipts", "receipts"],
  ["defaultTimeoutMs", "default_timeout_ms"],
  ["maxBodyBytes", "max_body_bytes"],
  ["maxConnections", "max_connections"],
  ["headerTimeoutMs", "header_timeout_ms"],
  ["idleTimeoutMs", "idle_timeout_ms"],
  ["transferGraceMs", "transfer_grace_ms"],
  ["native", "native"],
  ["punch", "punch"],
  ["replayBytes", "replay_bytes"],
  ["resultBytes", "result_bytes"],
]);

/** An inference server that a node hands its tasks to. The operator wrote its URL himself, so it may be on this machine or in a private network; no proxy of the environment is used and no redirect is followed. */
export interface BackendOptions {
  /** Which interface it has. Default: `"openai_compat"`. */
  kind?: "openai_compat" | "vllm" | "llamacpp" | "ollama" | "anthropic" | undefined;
  /** Its base URL, with or without `/v1` at the end; by default the usual port of `vllm`, `llamacpp` or `ollama` on this machine, or `https://api.anthropic.com`. `openai_compat` has none. */
  url?: string | undefined;
  /** The key that it wants; goes nowhere else and is never shown. */
  apiKey?: string | undefined;
  /** Model of the tasks that name none. If it is given, and the node's `models` are not, it is also the only one that is offered; without both, what the backend lists is offered, and the first of that is the default. */
  model?: string | undefined;
  /** Longest time for one task in milliseconds, whatever the task allows; at most 120,000. Default: `120000`. */
  timeoutMs?: number | undefined;
  /** Longest silence between two parts of an answer that comes in parts, in milliseconds. Default: `30000`. */
  idleTimeoutMs?: number | undefined;
  /** The largest answer that is read from it, in bytes. Default: `33554432`. */
  maxResponseBytes?: number | undefined;
  /** How often it is asked for its models and its health, in milliseconds. Default: `30000`. */
  probeIntervalMs?: number | undefined;
  /** Failures in a row after which it is left alone for a while. Default: `5`. */
  breakerFailures?: number | undefined;
  /** How long it is left alone before one task tries it again, in milliseconds. Default: `10000`. */
  breakerOpenMs?: number | undefined;
}

/** What the core calls the options of `BackendOptions`. */
export const BACKEND_NAMES: ReadonlyMap<string, string> = new Map([
  ["kind", "kind"],
  ["url", "url"],
  ["apiKey", "api_key"],
  ["model", "model"],
  ["timeoutMs", "timeout_ms"],
  ["idleTimeoutMs", "idle_timeout_ms"],
  ["maxResponseBytes", "max_response_bytes"],
  ["probeIntervalMs", "probe_interval_ms"],
  ["breakerFailures", "breaker_failures"],
  ["breakerOpenMs", "breaker_open_ms"],
]);

/** The TLS of a serving node: its one port takes HTTPS and native frames over TLS 1.3, beside what comes in plain text from this machine. Files are looked at every few seconds: renewed ones are taken without a restart, and connections that are open stay open. */
export interface TlsOptions {
  /** The certificate and those that lead from it to an authority, the node's own first: path of a PEM file, or its text. */
  certificate?: string | undefined;
  /** The certificate's private key, not encrypted: path of a PEM file, or its text. */
  key?: string | undefined;
  /** Whether nothing is taken in plain text. By default callers on this machine may do without TLS, everybody may ask for the node's health, and a relay takes what is for its workers (unless its own `tls_required`): published ones are called by `http`. Whatever else comes in plain text is told to use `https`. Default: `false`. */
  only?: boolean | undefined;
}

/** What the core calls the options of `TlsOptions`. */
export const TLS_NAMES: ReadonlyMap<string, string> = new Map([
  ["certificate", "certificate"],
  ["key", "key"],
  ["only", "only"],
]);

/** An intent as the node serves it with some models: directories list one entry per intent and set of modalities. */
export interface NodeCapability {
  /** The intent, one of the node's. */
  intent?: string | undefined;
  /** Models that serve it, at most 64. */
  models?: readonly string[] | undefined;
  /** Most tokens of one answer; by default the node's `max_tokens`. */
  maxTokens?: number | undefined;
  /** What the models take. Default: `["text"]`. */
  inputModalities?: readonly ("text" | "image" | "audio" | "video")[] | undefined;
  /** What the models give; an empty list leaves it unsaid. */
  outputModalities?: readonly ("text" | "image" | "audio" | "video")[] | undefined;
  /** Profiles that are kept, as `urn:iicp:profile:…`, at most 16. */
  supportedProfiles?: readonly string[] | undefined;
}

/** What the core calls the options of `NodeCapability`. */
export const NODECAPABILITY_NAMES: ReadonlyMap<string, string> = new Map([
  ["intent", "intent"],
  ["models", "models"],
  ["maxTokens", "max_tokens"],
  ["inputModalities", "input_modalities"],
  ["outputModalities", "output_modalities"],
  ["supportedProfiles", "supported_profiles"],
]);

/** How a node lends its address to workers that nobody can reach. */
export interface RelayServerOptions {
  /** Address on which workers are accepted; by default the node's host. One that stands for all addresses of the machine, or for the machine itself, is listened on in IPv4 and in IPv6. */
  host?: string | undefined;
  /** Port on which workers are accepted; 0 lets the system choose. Directories tell nobody about another one than 9485. Default: `9485`. */
  port?: number | undefined;
  /** Whether workers need a ticket of the directory; by default they do unless they are accepted on this machine only. */
  ticketRequired?: boolean | undefined;
  /** Key that tickets are verified with, 64 hex digits; by default the directory's, which is asked for and followed when it changes. */
  ticketKey?: string | undefined;
  /** Whether workers with a connection are taken over TLS only. By default plain text is taken too: published workers speak nothing else. The port takes both; a relay's key is made once, kept in `state_dir`, and known by its hash. Default: `false`. */
  tlsRequired?: boolean | undefined;
  /** Workers that may be bound at the same time. Default: `10000`. */
  maxWorkers?: number | undefined;
  /** The same for one source: an IPv4 /24 or an IPv6 /48. Default: `1024`. */
  maxWorkersPerSource?: number | undefined;
  /** Binds in a minute: of one worker, and of one source for workers without a ticket; 0: any number. Default: `30`. */
  bindsPerMinute?: number | undefined;
  /** Calls that may be under way at the same time. Default: `16384`. */
  maxCalls?: number | undefined;
  /** The same for one source of callers. Default: `1024`. */
  maxCallsPerSource?: number | undefined;
  /** The same for one worker. Default: `256`. */
  maxCallsPerWorker?: number | undefined;
  /** Bytes of tasks that may be under way at the same time, and as many of answers. Default: `268435456`. */
  maxBytes?: number | undefined;
  /** Bytes of tasks under way for one source of callers. Default: `67108864`. */
  maxBytesPerSource?: number | undefined;
  /** Bytes of tasks under way for one worker. A task that is alone may be larger. Default: `4194304`. */
  maxBytesPerWorker?: number | undefined;
  /** How long a worker may be bound, in milliseconds, before it has to prove again who it is; 0: any time. Our own workers bind anew beside what is under way; others are let go when nothing is, and come again. Default: `86400000`. */
  maxSessionMs?: number | undefined;
  /** Bytes of tasks and answers that a worker may carry before the same; 0: any number. Default: `0`. */
  maxSessionBytes?: number | undefined;
  /** Longest wait for a worker's answer, in milliseconds; a task that asks for less gets less. Default: `120000`. */
  callTimeoutMs?: number | undefined;
  /** Silence after which a worker is asked whether it is there, in milliseconds. Default: `15000`. */
  pingIntervalMs?: number | undefined;
  /** Wait for its answer, in milliseconds. Default: `5000`. */
  pongTimeoutMs?: number | undefined;
  /** Silence after which a worker of the published kind, which never answers, is taken for gone, in milliseconds. Default: `90000`. */
  silenceTimeoutMs?: number | undefined;
}

/** What the core calls the options of `RelayServerOptions`. */
export const RELAYSERVER_NAMES: ReadonlyMap<string, string> = new Map([
  ["host", "host"],
  ["port", "port"],
  ["ticketRequired", "ticket_required"],
  ["ticketKey", "ticket_key"],
  ["tlsRequired", "tls_required"],
  ["maxWorkers", "max_workers"],
  ["maxWorkersPerSource", "max_workers_per_source"],
  ["bindsPerMinute", "binds_per_minute"],
  ["maxCalls", "max_calls"],
  ["maxCallsPerSource", "max_calls_per_source"],
  ["maxCallsPerWorker", "max_calls_per_worker"],
  ["maxBytes", "max_bytes"],
  ["maxBytesPerSource", "max_bytes_per_source"],
  ["maxBytesPerWorker", "max_bytes_per_worker"],
  ["maxSessionMs", "max_session_ms"],
  ["maxSessionBytes", "max_session_bytes"],
  ["callTimeoutMs", "call_timeout_ms"],
  ["pingIntervalMs", "ping_interval_ms"],
  ["pongTimeoutMs", "pong_timeout_ms"],
  ["silenceTimeoutMs", "silence_timeout_ms"],
]);

/** How a node that nobody can reach is reached through a relay. */
export interface RelayWorkerOptions {
  /** Where a relay accepts workers, as `host:port` or a host alone; by default relays are asked of the directory, and the one with the least load is taken. Who names one gets no other. */
  relay?: string | undefined;
  /** Key that the relay of the option `relay` is known by, 64 hex digits (SHA-256 of its `SubjectPublicKeyInfo`): it is called over TLS then. By default such a relay is called in plain text; one that the directory names is known by the key that stands there, and called over TLS if there is one. */
  relayKey?: string | undefined;
  /** Relays to be bound at, 1 or 2: with 2, tasks go on at once when the first is lost. Needs relays that the directory names. Default: `1`. */
  relays?: number | undefined;
  /** Silence after which the relay is asked whether it is there, in milliseconds. Default: `15000`. */
  pingIntervalMs?: number | undefined;
  /** Wait for its answer, in milliseconds. Default: `5000`. */
  pongTimeoutMs?: number | undefined;
}

/** What the core calls the options of `RelayWorkerOptions`. */
export const RELAYWORKER_NAMES: ReadonlyMap<string, string> = new Map([
  ["relay", "relay"],
  ["relayKey", "relay_key"],
  ["relays", "relays"],
  ["pingIntervalMs", "ping_interval_ms"],
  ["pongTimeoutMs", "pong_timeout_ms"],
]);

/** How a node finds a way to be reached from outside: its own address, a port or a pinhole that its gateway opens, a relay. What is found is advertised only once it was seen from outside, and looked after until the node stops. */
export interface NatOptions {
  /** Whether a way is looked for. Default: `"auto"`. */
  mode?: "auto" | "off" | undefined;
  /** Whether the gateway is asked to map a port (UPnP, NAT-PMP, PCP). Default: `true`. */
  mapping?: boolean | undefined;
  /** Whether IPv6 is tried, and its firewall asked to be opened. Default: `true`. */
  ipv6?: boolean | undefined;
  /** Whether a tunnel of somebody else is opened while nothing before it leads here; rather than a relay, if both may be. Default: `"off"`. */
  tunnel?: "off" | "quick" | undefined;
  /** The program that opens it: a name that is looked for in `PATH`, or a path. It is never fetched, sees none of this process's secrets, and is stopped with the node. Default: `"cloudflared"`. */
  tunnelProgram?: string | undefined;
  /** Whether the node goes to a relay while nothing else does. Default: `true`. */
  relay?: boolean | undefined;
  /** For how long a gateway is asked to keep what it opens, in seconds; it is renewed after half of that. Default: `3600`. */
  leaseS?: number | undefined;
  /** How often it is looked whether the way is still good, in milliseconds. Default: `20000`. */
  checkIntervalMs?: number | undefined;
}

/** What the core calls the options of `NatOptions`. */
export const NAT_NAMES: ReadonlyMap<string, string> = new Map([
  ["mode", "mode"],
  ["mapping", "mapping"],
  ["ipv6", "ipv6"],
  ["tunnel", "tunnel"],
  ["tunnelProgram", "tunnel_program"],
  ["relay", "relay"],
  ["leaseS", "lease_s"],
  ["checkIntervalMs", "check_interval_ms"],
]);

/** What a node lets others' tasks do, and what it asks for them. */
export interface NodePolicy {
  /** Whether others may have their tasks run here as parts of larger ones. Default: `false`. */
  allowRemoteInference?: boolean | undefined;
  /** Whether a task may run tools. Default: `false`. */
  allowToolExecution?: boolean | undefined;
  /** Whether a task may read files. Default: `false`. */
  allowFileAccess?: boolean | undefined;
  /** Credits that 1,000 tokens cost, 0 to 1,000. */
  pricingCreditsPer1000?: number | undefined;
}

/** What the core calls the options of `NodePolicy`. */
export const NODEPOLICY_NAMES: ReadonlyMap<string, string> = new Map([
  ["allowRemoteInference", "allow_remote_inference"],
  ["allowToolExecution", "allow_tool_execution"],
  ["allowFileAccess", "allow_file_access"],
  ["pricingCreditsPer1000", "pricing_credits_per_1000"],
]);

/** A node's price, which is declared to the directory under the node's own signature. */
export interface NodePricing {
  /** How many times the usual credits a task costs, 0 to 1,000. Default: `1.0`. */
  creditCostMultiplier?: number | undefined;
  /** What it is counted by. Default: `"per_token"`. */
  pricingModel?: "per_token" | "per_request" | "flat" | undefined;
  /** From when on, such as `2026-01-31T00:00:00Z`. */
  effectiveFrom?: string | undefined;
  /** Until when, in the same form. */
  effectiveUntil?: string | undefined;
}

/** What the core calls the options of `NodePricing`. */
export const NODEPRICING_NAMES: ReadonlyMap<string, string> = new Map([
  ["creditCostMultiplier", "credit_cost_multiplier"],
  ["pricingModel", "pricing_model"],
  ["effectiveFrom", "effective_from"],
  ["effectiveUntil", "effective_until"],
]);

/** Whether and how a node is shown to people. */
export interface PublicListing {
  /** Whether it is shown in public lists. Default: `false`. */
  publicListing?: boolean | undefined;
  /** Where its operator tells more, at most 256 bytes. */
  operatorUrl?: string | undefined;
  /** How its operator is reached, at most 256 bytes. */
  operatorContact?: string | undefined;
}

/** What the core calls the options of `PublicListing`. */
export const PUBLICLISTING_NAMES: ReadonlyMap<string, string> = new Map([
  ["publicListing", "public_listing"],
  ["operatorUrl", "operator_url"],
  ["operatorContact", "operator_contact"],
]);

/** A part of the day, and how much of the node is given to others in it. Both ends belong to it; one that ends before it begins goes over midnight. */
export interface AvailabilityWindow {
  /** First minute, `HH:MM` by the clock of the place where the node is. Default: `"00:00"`. */
  start?: string | undefined;
  /** Last minute, in the same form. Default: `"23:59"`. */
  end?: string | undefined;
  /** Share of `max_concurrent`, 0 to 1; above 0 it is at least one task, at 0 none. Default: `1.0`. */
  share?: number | undefined;
}

/** What the core calls the options of `AvailabilityWindow`. */
export const AVAILABILITYWINDOW_NAMES: ReadonlyMap<string, string> = new Map([
  ["start", "start"],
  ["end", "end"],
  ["share", "share"],
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
  /** File for what must outlive the process: registrations and the directory's keys. It is made if it is not there, for its owner alone. By default nothing is kept. Needs a build with SQLite; any other refuses it as `UNSUPPORTED`. */
  path?: string | undefined;
  /** Certificates of authorities that are trusted beside the system's when nodes are asked for their health: path of a PEM file, or its text. */
  trustedCa?: string | undefined;
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
  ["path", "path"],
  ["trustedCa", "trusted_ca"],
]);

/** Options that hold options of their own, by what the core calls them. */
export const NESTED: ReadonlyMap<string, ReadonlyMap<string, string>> = new Map([
  ["availability", AVAILABILITYWINDOW_NAMES],
  ["backend", BACKEND_NAMES],
  ["capabilities", NODECAPABILITY_NAMES],
  ["listing", PUBLICLISTING_NAMES],
  ["nat", NAT_NAMES],
  ["policy", NODEPOLICY_NAMES],
  ["pricing", NODEPRICING_NAMES],
  ["profile_request", PROFILEREQUEST_NAMES],
  ["relay_server", RELAYSERVER_NAMES],
  ["relay_worker", RELAYWORKER_NAMES],
  ["route", ROUTECONSTRAINTS_NAMES],
  ["routing_policy", ROUTINGPOLICY_NAMES],
  ["tls", TLS_NAMES],
]);

/** How a directory for development on this machine differs from a public one. */
export const LOOPBACK: DirectoryOptions = {
  limits: false,
  probe: false,
  qosGating: false,
};
