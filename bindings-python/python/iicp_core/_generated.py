"""Written by `cargo gen` from the engine's own tables; change those instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, Literal, Required, TypedDict

from ._public import public

CHAT: Final = "urn:iicp:intent:llm:chat:v1"
"""The intent of a chat with a language model."""

COMPLETION: Final = "urn:iicp:intent:llm:completion:v1"
"""The intent of a text completion."""

EMBEDDING: Final = "urn:iicp:intent:llm:embedding:v1"
"""The intent of turning texts into vectors."""

TRANSCRIPTION: Final = "urn:iicp:intent:audio:transcribe:v1"
"""The intent of writing down speech."""

SPEECH: Final = "urn:iicp:intent:audio:speech:v1"
"""The intent of speaking a text."""

MODERATION: Final = "urn:iicp:intent:safety:moderate:v1"
"""The intent of judging a text."""


class Code(IntEnum):
    """The stable error codes, the same in every language."""

    OK = 0
    """Success; never carried by an error."""
    INTERNAL = 1001
    """A fault of this library; please report it."""
    PANIC = 1002
    """Code of this library or of a handler panicked; the panic was contained."""
    NULL_ARG = 1003
    """A required argument was null."""
    INVALID_ARG = 1004
    """An argument has the wrong type or form."""
    CLOSED = 1005
    """The object was closed, or is shutting down."""
    CANCELLED = 1006
    """The operation was cancelled by its owner."""
    TIMEOUT = 1007
    """The caller's deadline passed before there was a result."""
    FORKED = 1008
    """The object was made before a fork(); make a new one in the child."""
    ABI_MISMATCH = 1009
    """Header and library speak different versions of the C interface."""
    STALE_ID = 1010
    """The id names nothing that is alive: it was freed, finished or never given out."""
    QUEUE_FULL = 1011
    """The event queue has no room for another operation; take events first."""
    UNSUPPORTED = 1012
    """This build or this platform cannot do what was asked."""
    CONFIG_INVALID = 2001
    """An option is unknown, has the wrong type or a value out of range."""
    INTENT_INVALID = 2002
    """The intent is not a well-formed urn:iicp:intent URN."""
    TIMEOUT_TOO_LARGE = 2003
    """The timeout is over the cap of 120,000 ms."""
    POLICY_REFUSED = 2004
    """A routing policy refused the task before anything was sent."""
    ENDPOINT_REFUSED = 2005
    """The endpoint is not one that may be called."""
    CONFIDENTIALITY_REQUIRED = 2006
    """The prompt would leave this machine unsealed."""
    PAYLOAD_INVALID = 2007
    """The payload is not valid JSON."""
    PAYLOAD_TOO_LARGE = 2008
    """The payload is over the size limit."""
    CONSUMER_AUTH_REQUIRED = 2009
    """The client wants a consumer token for the provider, and the directory gave none."""
    RANKER_REFUSED = 2010
    """The application's ranker failed, or chose what is no candidate."""
    PROFILE_UNSUPPORTED = 2011
    """The directory does not support the profile that the call requires."""
    DIRECTORY_UNREACHABLE = 3001
    """The directory could not be reached, or could not answer."""
    DIRECTORY_REJECTED = 3002
    """The directory refused the request."""
    NO_NODES = 3003
    """No available node serves the intent with these constraints."""
    DIRECTORY_UNAUTHORIZED = 3004
    """The directory did not accept the credential."""
    DIRECTORY_RATE_LIMITED = 3005
    """The directory asks for a pause."""
    DIRECTORY_MALFORMED = 3006
    """The directory's answer is not one of this protocol."""
    TICKET_REFUSED = 3007
    """The directory's dispatch ticket could not be verified."""
    TICKETS_UNAVAILABLE = 3008
    """The directory has no dispatch tickets, and the client accepts nothing else."""
    CONNECT = 4001
    """No connection to the node; the task was not sent."""
    TLS = 4002
    """The TLS handshake failed; the task was not sent."""
    LOST = 4003
    """The connection broke after the task was sent; it may have run."""
    MALFORMED = 4004
    """The node's answer is not one of this protocol; the task may have run."""
    RESPONSE_TOO_LARGE = 4005
    """The node's answer is over the size limit; the task may have run."""
    REPLY_UNSEALED = 4006
    """The node's answer is not sealed as agreed, or does not open."""
    TASK_REJECTED = 5001
    """The provider refused the task."""
    CAPACITY = 5002
    """Every provider that was asked is at capacity or draining."""
    TASK_TIMEOUT = 5003
    """The provider did not finish within the task's time."""
    BACKEND = 5004
    """The provider's handler or backend failed."""
    DUPLICATE = 5005
    """The provider has seen this task id with other content, or no longer holds its result."""
    UNKNOWN_INTENT = 5006
    """The provider does not serve the intent."""
    NO_CONSENSUS = 5007
    """Not enough providers gave the same answer."""
    HANDLER = 6001
    """The handler returned something that is not a reply."""
    BIND = 6002
    """The address to serve on could not be bound."""
    NODE_LOCKED = 6003
    """Another process, or another node of this one, serves with the same id and state folder."""
    RELAY_UNREACHABLE = 7001
    """The relay could not be reached, or does not speak the protocol."""
    RELAY_REFUSED = 7002
    """The relay did not bind this node."""


class EventKind(IntEnum):
    """What an event of a queue says."""

    DONE = 1
    """The last event of an operation: its result or its error. Every operation has exactly one."""
    CHUNK = 2
    """A part of an operation's result; more events of the operation follow."""
    TASK = 3
    """An inbound task that waits for an answer."""
    TASK_CANCEL = 4
    """An inbound task needs no answer any more: its caller left, its deadline passed or its node closed."""
    RANK = 5
    """An operation asks the application which candidate goes first; it waits for an answer."""
    TASK_ROOM = 6
    """An inbound task whose part was refused with QUEUE_FULL has room for it now."""


class Inference(IntEnum):
    """Which model task a call runs."""

    COMPLETION = 1
    """Completes a text."""
    EMBEDDING = 2
    """Turns texts into vectors."""
    TRANSCRIPTION = 3
    """Writes down what is said in a sound file."""
    SPEECH = 4
    """Speaks a text."""
    MODERATION = 5
    """Judges texts."""


SECONDS: Final = frozenset(
    {
        "breaker_open",
        "call_timeout",
        "check_interval",
        "default_timeout",
        "header_timeout",
        "heartbeat",
        "idle_timeout",
        "max_session",
        "node_ttl",
        "ping_interval",
        "pong_timeout",
        "probe_interval",
        "queue_wait",
        "route_ttl",
        "silence_timeout",
        "timeout",
        "transfer_grace",
    }
)
"""Options in seconds; the engine calls them the same with ``_ms`` behind."""

HOLD_SECONDS: Final = frozenset({"backend", "nat", "relay_server", "relay_worker"})
"""Options that hold such options."""

DEFAULT_MAX_CONCURRENT: Final = 4


class TextPart(TypedDict):
    """Text in a message."""

    type: Literal["text"]
    text: str


class ImageUrl(TypedDict, total=False):
    """Where a picture is."""

    url: Required[str]
    """An ``https:`` or a ``data:`` URL; the provider fetches it."""
    detail: Literal["auto", "low", "high"]
    """How closely it is looked at."""


class ImagePart(TypedDict):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class InputAudio(TypedDict):
    """A sound, base64, and its format."""

    data: str
    format: str


class AudioPart(TypedDict):
    """Sound in a message."""

    type: Literal["input_audio"]
    input_audio: InputAudio


ContentPart = TextPart | ImagePart | AudioPart
"""A part of a message."""


class ClientOptions(TypedDict, total=False):
    """How a client finds nodes, whom it trusts and how long it waits for them."""

    directory: str
    """Base URL of the directory; ``/v1/...`` is appended. An ``/api`` at the end belongs to it. Default: ``"http://127.0.0.1:9480"``."""
    timeout: float
    """Time for one whole submit, all attempts included, in seconds; at most 120. Default: 30.0."""
    region: str | None
    """Preferred region of the nodes, unless a call names one."""
    max_attempts: int
    """Times a task may be sent to the same node, where sending again is allowed at all. Default: ``3``."""
    route_ttl: float
    """How long a list of nodes is used before the directory is asked again, in seconds. A ticketed route is used until ten seconds before its ticket ends. Default: 30.0."""
    max_response_bytes: int
    """The largest answer that is read from a node, in bytes. Default: ``33554432``."""
    max_request_bytes: int
    """The largest task that is sent, in bytes. Default: ``16777216``."""
    idle_timeout: float
    """Longest silence between two pieces of an answer that has begun, in seconds. Default: 10.0."""
    route_discovery: Literal["auto", "ticketed", "legacy"]
    """Where routes come from. Default: ``"auto"``."""
    routing_strategy: Literal["deterministic", "epsilon", "softmax_top_k", "weighted_v1"]
    """In which order nodes are asked. Default: ``"weighted_v1"``."""
    routing_epsilon: float
    """How often ``epsilon`` begins with a node at random, 0 to 1. Default: ``0.05``."""
    routing_top_k: int
    """From how many of the best nodes ``softmax_top_k`` and ``weighted_v1`` choose. Default: ``3``."""
    routing_softmax_tau: float
    """How much ``softmax_top_k`` cares for the score; the smaller the more, at least 0.001. Default: ``0.04``."""
    routing_policy: RoutingPolicy
    """Who may be sent a task, unless a call says otherwise."""
    profile_request: ProfileRequest | None
    """A profile that the directory is to take into account, unless a call names one."""
    consumer_auth: Literal["optional", "required", "disabled"]
    """Whether providers are shown a token that names the caller; takes ``node_token``. Default: ``"optional"``."""
    node_token: str | None
    """The caller's own credential at the directory; goes nowhere else."""
    node_id: str | None
    """Id of the node that ``node_token`` belongs to, where the directory wants to be told."""
    trusted_ca: str | None
    """Certificates of authorities that are trusted beside the system's: path of a PEM file, or its text. For directories and nodes, over HTTPS and native connections; read once."""
    allow_private_endpoints: bool
    """Whether nodes on private, loopback and other addresses that are not public may be called. A directory that is itself on this machine may name nodes on this machine. Default: False."""
    native: Literal["auto", "any", "off"]
    """Whether nodes that take native frames are sent them. A node's place is tried once before; who does not answer there is sent his tasks over HTTP. Default: ``"auto"``."""
    punch: Literal["auto", "off"]
    """Whether a direct path (QUIC over UDP) is looked for to nodes that are behind a relay, by which both learn each other's address. Tasks go through the relay until there is one, and again when it dies. Not with ``native`` off. Default: ``"auto"``."""
    breaker_failures: int
    """Failures in a row after which a node is left alone for a while. Default: ``5``."""
    breaker_open: float
    """How long such a node is left alone before it is tried again, in seconds. Default: 30.0."""


class Discover(TypedDict, total=False):
    """What to ask the directory for."""

    intent: Required[str]
    """The intent that the nodes must serve."""
    region: str | None
    """Preferred region; a preference, not a filter."""
    qos: Literal["realtime", "interactive", "batch", "best-effort"] | None
    """Quality of service that the nodes must be fit for."""
    model: str | None
    """A model that the nodes must serve."""
    min_reputation: float | None
    """Least reputation of the nodes, 0 to 1."""
    limit: int
    """Most nodes to return, 1 to 50. Default: ``10``."""
    browser_usable_only: bool
    """Whether only nodes that a browser can call are returned. Default: False."""
    profile_request: ProfileRequest | None
    """A profile that the directory is to take into account."""


class TaskOptions(TypedDict, total=False):
    """A task apart from its payload."""

    intent: Required[str]
    """The intent of the task."""
    task_id: str | None
    """Id of the task; by default a fresh UUIDv4. Visible ASCII without ``|``, at most 128 characters."""
    timeout: float | None
    """Time for the whole submit, in seconds, at most 120; by default the client's."""
    idempotent: bool
    """Whether running the task twice does no harm, so that it may be sent again when it may have run already. Default: False."""
    region: str | None
    """Preferred region, by default the client's."""
    qos: Literal["realtime", "interactive", "batch", "best-effort"] | None
    """Quality of service."""
    priority: Literal["critical", "high", "normal", "low"] | None
    """How the task stands among others of its class, told to the provider; by default nothing is said, which is ``normal``."""
    model: str | None
    """The model that must serve the task."""
    min_reputation: float | None
    """Least reputation of the node, 0 to 1."""
    traceparent: str | None
    """W3C trace context of the caller; by default a fresh one."""
    tracestate: str | None
    """What the caller's tracing system adds to ``traceparent`` (W3C ``tracestate``), passed on as it is; at most 512 visible ASCII characters. Without ``traceparent`` it means nothing and is not sent."""
    source_node_id: str | None
    """Id of the node on whose behalf the task is sent, if there is one."""
    routing_policy: RoutingPolicy | None
    """Who may be sent the task; by default as the client says."""
    route: RouteConstraints | None
    """What is asked of the route and never told to a provider; what it does not give is taken from the task."""
    consensus: Literal["first_completed", "majority_of_3", "majority_of_5"] | None
    """How many nodes run the task and must agree; by default one, whose result counts."""


class RoutingPolicy(TypedDict, total=False):
    """Who may be sent a task: a profile, and what is to differ from it."""

    profile: Literal["standard", "sensitive", "eu_restricted", "strict_policy", "debug_override"]
    """The rules to begin with. Default: ``"standard"``."""
    require_encryption: bool | None
    """Whether nodes without a key to seal to are refused."""
    allow_remote_executor: bool | None
    """Whether nodes that are not the caller's own may run the task."""
    allowed_regions: Sequence[str] | None
    """Regions that nodes must be in: equal, or beginning with one of these and a dash; ``eea`` also takes ``eu-…``. An empty list allows every region."""
    require_policy_manifest: bool | None
    """Whether nodes without a policy manifest are refused."""
    require_no_payload_retention: bool | None
    """Whether nodes whose manifest does not rule out keeping the task are refused."""
    known_operator_only: bool | None
    """Whether only nodes of operators whom the directory knows are taken; the same as the highest identity level."""
    required_manifest_identity_level: (
        Literal["self_attested", "signed_valid", "operator_bound", "known_operator"] | None
    )
    """The least level of identity that a node's manifest must have."""


class RouteConstraints(TypedDict, total=False):
    """What is asked of the route and never told to a provider. What is not given here is taken from the task."""

    region: str | None
    """Preferred region of the node."""
    qos: Literal["realtime", "interactive", "batch", "best-effort"] | None
    """Quality of service that the node must be fit for."""
    model: str | None
    """A model that the node must serve."""
    min_reputation: float | None
    """Least reputation of the node, 0 to 1."""
    browser_usable_only: bool
    """Whether only nodes that a browser can call are taken. Default: False."""
    limit: int | None
    """Most nodes to choose from, 1 to 50; by default 10."""
    profile_request: ProfileRequest | None
    """A profile that the directory is to take into account; asks by discovery, not for a ticket."""


class ProfileRequest(TypedDict, total=False):
    """A version of a profile that discovery is to take into account."""

    profile_id: Required[str]
    """Id of the profile."""
    profile_version: Required[str]
    """Its version."""
    profile_fixture_sha256: Required[str]
    """SHA-256 of the profile's fixture, 64 lower-case hex digits."""
    required: bool
    """Whether nothing is sent unless the directory supports it. Default: False."""


class Chat(TypedDict, total=False):
    """A chat: messages, the tools that may be called, and the usual knobs of inference."""

    max_tokens: int | None
    """Most tokens of the answer."""
    temperature: float | None
    """Sampling temperature, 0 to 2."""
    stop: Sequence[str] | None
    """Texts at which the answer ends."""
    tools: Sequence[Mapping[str, Any]] | None
    """Tools that the model may call, passed through as they are."""
    tool_choice: Any | None
    """Which of them it must call, passed through as it is."""
    runtime_identity: Literal["auto", "required", "disabled"]
    """Whether the model is told that the request reached it through IICP, by one system message after leading instructions. Default: ``"auto"``."""
    model: str | None
    """The model that must answer."""
    timeout: float | None
    """Time for the whole call, in seconds, at most 120; by default the client's."""
    idempotent: bool
    """Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: True."""
    region: str | None
    """Preferred region, by default the client's."""
    qos: Literal["realtime", "interactive", "batch", "best-effort"] | None
    """Quality of service."""
    min_reputation: float | None
    """Least reputation of the node, 0 to 1."""
    traceparent: str | None
    """W3C trace context of the caller; by default a fresh one."""
    routing_policy: RoutingPolicy | None
    """Who may be sent it; by default as the client says."""
    route: RouteConstraints | None
    """What is asked of the route and never told to a provider; what it does not give is taken from the call."""
    consensus: Literal["first_completed", "majority_of_3", "majority_of_5"] | None
    """How many nodes are asked and must agree; by default one, whose answer counts."""
    extra: Mapping[str, Any] | None
    """More fields of the payload, passed through as they are."""


class ChatMessage(TypedDict, total=False):
    """One message of a chat."""

    role: Required[str]
    """``system``, ``developer``, ``user``, ``assistant`` or ``tool``."""
    content: str | Sequence[ContentPart] | None
    """What it says; an assistant's message that only calls tools says nothing."""
    name: str | None
    """Who says it, where several have the same role."""
    tool_calls: Sequence[Mapping[str, Any]] | None
    """The tools that the assistant called, as it wrote them."""
    tool_call_id: str | None
    """The call that a tool's message answers."""


class Completion(TypedDict, total=False):
    """A text to be completed."""

    max_tokens: int | None
    """Most tokens of the answer."""
    temperature: float | None
    """Sampling temperature, 0 to 2."""
    stop: Sequence[str] | None
    """Texts at which the answer ends."""
    model: str | None
    """The model that must answer."""
    timeout: float | None
    """Time for the whole call, in seconds, at most 120; by default the client's."""
    idempotent: bool
    """Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: True."""
    region: str | None
    """Preferred region, by default the client's."""
    qos: Literal["realtime", "interactive", "batch", "best-effort"] | None
    """Quality of service."""
    min_reputation: float | None
    """Least reputation of the node, 0 to 1."""
    traceparent: str | None
    """W3C trace context of the caller; by default a fresh one."""
    routing_policy: RoutingPolicy | None
    """Who may be sent it; by default as the client says."""
    route: RouteConstraints | None
    """What is asked of the route and never told to a provider; what it does not give is taken from the call."""
    consensus: Literal["first_completed", "majority_of_3", "majority_of_5"] | None
    """How many nodes are asked and must agree; by default one, whose answer counts."""
    extra: Mapping[str, Any] | None
    """More fields of the payload, passed through as they are."""


class Embedding(TypedDict, total=False):
    """Texts to be turned into vectors."""

    dimensions: int | None
    """The length of the vectors, where the model lets one choose."""
    model: str | None
    """The model that must answer."""
    timeout: float | None
    """Time for the whole call, in seconds, at most 120; by default the client's."""
    idempotent: bool
    """Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: True."""
    region: str | None
    """Preferred region, by default the client's."""
    qos: Literal["realtime", "interactive", "batch", "best-effort"] | None
    """Quality of service."""
    min_reputation: float | None
    """Least reputation of the node, 0 to 1."""
    traceparent: str | None
    """W3C trace context of the caller; by default a fresh one."""
    routing_policy: RoutingPolicy | None
    """Who may be sent it; by default as the client says."""
    route: RouteConstraints | None
    """What is asked of the route and never told to a provider; what it does not give is taken from the call."""
    consensus: Literal["first_completed", "majority_of_3", "majority_of_5"] | None
    """How many nodes are asked and must agree; by default one, whose answer counts."""
    extra: Mapping[str, Any] | None
    """More fields of the payload, passed through as they are."""


class Transcription(TypedDict, total=False):
    """Speech to be written down."""

    filename: str | None
    """Its name, whose ending tells the format; ``audio.wav`` if nothing is said."""
    language: str | None
    """The language that is spoken, such as ``en``."""
    prompt: str | None
    """Words that help the model to spell."""
    temperature: float | None
    """Sampling temperature, 0 to 1."""
    model: str | None
    """The model that must answer."""
    timeout: float | None
    """Time for the whole call, in seconds, at most 120; by default the client's."""
    idempotent: bool
    """Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: True."""
    region: str | None
    """Preferred region, by default the client's."""
    qos: Literal["realtime", "interactive", "batch", "best-effort"] | None
    """Quality of service."""
    min_reputation: float | None
    """Least reputation of the node, 0 to 1."""
    traceparent: str | None
    """W3C trace context of the caller; by default a fresh one."""
    routing_policy: RoutingPolicy | None
    """Who may be sent it; by default as the client says."""
    route: RouteConstraints | None
    """What is asked of the route and never told to a provider; what it does not give is taken from the call."""
    consensus: Literal["first_completed", "majority_of_3", "majority_of_5"] | None
    """How many nodes are asked and must agree; by default one, whose answer counts."""
    extra: Mapping[str, Any] | None
    """More fields of the payload, passed through as they are."""


class Speech(TypedDict, total=False):
    """Text to be spoken."""

    voice: str | None
    """The voice, by the backend's name for it."""
    response_format: str | None
    """The sound's format, such as ``wav`` or ``mp3``."""
    speed: float | None
    """How fast, 0.25 to 4."""
    model: str | None
    """The model that must answer."""
    timeout: float | None
    """Time for the whole call, in seconds, at most 120; by default the client's."""
    idempotent: bool
    """Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: True."""
    region: str | None
    """Preferred region, by default the client's."""
    qos: Literal["realtime", "interactive", "batch", "best-effort"] | None
    """Quality of service."""
    min_reputation: float | None
    """Least reputation of the node, 0 to 1."""
    traceparent: str | None
    """W3C trace context of the caller; by default a fresh one."""
    routing_policy: RoutingPolicy | None
    """Who may be sent it; by default as the client says."""
    route: RouteConstraints | None
    """What is asked of the route and never told to a provider; what it does not give is taken from the call."""
    consensus: Literal["first_completed", "majority_of_3", "majority_of_5"] | None
    """How many nodes are asked and must agree; by default one, whose answer counts."""
    extra: Mapping[str, Any] | None
    """More fields of the payload, passed through as they are."""


class Moderation(TypedDict, total=False):
    """Texts to be judged."""

    model: str | None
    """The model that must answer."""
    timeout: float | None
    """Time for the whole call, in seconds, at most 120; by default the client's."""
    idempotent: bool
    """Whether it may be sent again when it may have run already; it harms no one, so by default yes. Default: True."""
    region: str | None
    """Preferred region, by default the client's."""
    qos: Literal["realtime", "interactive", "batch", "best-effort"] | None
    """Quality of service."""
    min_reputation: float | None
    """Least reputation of the node, 0 to 1."""
    traceparent: str | None
    """W3C trace context of the caller; by default a fresh one."""
    routing_policy: RoutingPolicy | None
    """Who may be sent it; by default as the client says."""
    route: RouteConstraints | None
    """What is asked of the route and never told to a provider; what it does not give is taken from the call."""
    consensus: Literal["first_completed", "majority_of_3", "majority_of_5"] | None
    """How many nodes are asked and must agree; by default one, whose answer counts."""
    extra: Mapping[str, Any] | None
    """More fields of the payload, passed through as they are."""


class NodeOptions(TypedDict, total=False):
    """What a serving node offers and how much of it."""

    intents: Sequence[str]
    """Intents that the handler serves. With a ``backend``, by default those that it can serve. Default: ``[]``."""
    models: Sequence[str]
    """Models that the handler serves, as discovery shows them. With a ``backend``, by default those that it lists. Default: ``[]``."""
    backend: BackendOptions | None
    """The inference server that runs the tasks; by default there is none, and a handler serves them."""
    directory: str
    """Base URL of the directory to register with; empty: serve without registering. Default: ``""``."""
    node_id: str | None
    """Id of the node, at most 36 letters, digits, ``.``, ``_``, ``:`` or ``-``; by default a UUID, which is kept in ``state_dir``."""
    state_dir: str | None
    """Folder for what must outlive the process: the node's id, its sealing key, and what it needs to prove to the directory that it is the same node. By default nothing is kept, and every start makes another node. Of the nodes with one id, one at a time may use it."""
    region: str
    """Region as the directory shows it: a letter, then letters, digits, ``-`` or ``_``. Default: ``"unknown"``."""
    host: str
    """Address to listen on. Default: ``"127.0.0.1"``."""
    port: int
    """Port to listen on; 0 lets the system choose. Default: ``0``."""
    endpoint: str | None
    """URL under which callers reach the node; by default the address it listens on."""
    tls: TlsOptions | None
    """TLS on the node's port; by default it speaks HTTP, for what speaks TLS in front of it. With it, an ``endpoint`` begins with ``https``."""
    trusted_ca: str | None
    """Certificates of authorities that are trusted beside the system's: path of a PEM file, or its text. For the directory, and for the node's look at itself."""
    relay_server: RelayServerOptions | None
    """Lends the node's address to workers that nobody can reach: the node is a relay. By default it is none."""
    relay_worker: RelayWorkerOptions | None
    """Has the node reached through a relay, because nobody can reach it. By default it is called where it listens."""
    nat: NatOptions
    """How the node finds a way to be reached, if it listens on all addresses of its machine."""
    max_concurrent: int
    """Tasks that may run at the same time; one more waits if its class is ``realtime`` or ``interactive``, and is answered with ``capacity_exceeded`` otherwise. Default: ``4``."""
    queue_wait: float
    """How long a task of these classes may wait for its turn, in seconds; 0: none waits. Default: 2.0."""
    queue_length: int
    """Tasks that may wait at the same time, the more urgent first; of one more, the least urgent is refused. Default: ``64``."""
    auth: Literal["open", "token", "required"]
    """What callers have to prove. Default: ``"token"``."""
    access_token: str | None
    """A token that the operator gives to callers of his choice, who show it as ``auth.node_token``. The token that the directory gave the node counts as well, but whoever has that can also speak for the node there."""
    rate_per_origin: int
    """Tasks that one web page (``Origin``) may send in a minute; 0: any number. Default: ``120``."""
    rate_per_ip: int
    """Tasks that one address may send in a minute, an IPv6 network of 64 bits counting as one; 0: any number. Behind a tunnel or a proxy all callers have the same address. Default: ``0``."""
    tokens_per_min: int
    """Token rate that is advertised to the directory. Default: ``10000``."""
    max_tokens: int
    """Most tokens of one answer, as advertised to the directory. Default: ``8192``."""
    capabilities: Sequence[NodeCapability]
    """What is served by which models, where ``models`` alone does not say it; an intent without an entry has one with ``models`` and text. Directories list it as it stands here, also when a backend turns out to have other models. Default: ``[]``."""
    engine: Literal["ollama", "lmstudio", "vllm", "llamacpp", "meshllm", "anthropic", "custom"] | None
    """What runs the models, as the directory shows it; by default what a ``backend`` turns out to be."""
    policy: NodePolicy | None
    """What others' tasks may do here; by default nothing is declared, and tools are not run."""
    pricing: NodePricing | None
    """What tasks cost; by default nothing is declared, which directories take for the usual price."""
    node_hmac_key: str | None
    """Key for the proofs that a node gives its directory, at most 128 visible ASCII characters; by default the directory makes one."""
    transport_method: (
        Literal["direct", "upnp_mapped", "stun_hole_punch", "turn_relay", "external_tunnel", "unknown"] | None
    )
    """By which way the node is reached. With this and a known ``nat_type``, neither the directory nor the node itself tries whether the endpoint answers."""
    nat_type: Literal["full_cone", "restricted_cone", "port_restricted", "symmetric", "unknown"] | None
    """What kind of NAT the node is behind."""
    exposure_mode: (
        Literal[
            "outbound_only",
            "ipv4_public_direct",
            "ipv4_cgnat_blocked",
            "ipv6_direct_firewall_required",
            "ipv6_direct_pinhole_available",
            "relay_required",
            "tunnel_required",
            "dual_stack_available",
        ]
        | None
    )
    """How the node stands towards the Internet."""
    policy_manifest: Mapping[str, Any] | None
    """What the operator promises about tasks, as an object in the form of the specification; passed on as it is, so that its signature stays good. At most 16 KiB."""
    listing: PublicListing | None
    """Whether and how the node is shown to people."""
    operator_delegation: Mapping[str, Any] | None
    """The operator's signed word that the node is his: an object with ``node_id``, ``operator_pub``, ``not_after`` and ``sig``."""
    operator_display_name: str | None
    """Name of the operator, at most 64 bytes; directories show it only with a good ``operator_delegation``."""
    supported_receipt_profiles: Sequence[Literal["consumer_cosignature_v1"]]
    """Receipts that the node can give beside the directory's own. Default: ``[]``."""
    availability: Sequence[AvailabilityWindow]
    """How much of the node is given to others at which time of the day; the first window that fits counts, and outside of all of them it is half. By default everything, always. Default: ``[]``."""
    receipts: bool
    """Whether the directory is asked for credits after every task whose tokens are known. Default: False."""
    default_timeout: float
    """Time of a task that names none, in seconds. Default: 30.0."""
    max_body_bytes: int
    """The largest task body that is read, in bytes. Default: ``16777216``."""
    max_connections: int | None
    """Connections held at the same time; by default what the process's descriptor limit allows, at most 16,384."""
    header_timeout: float
    """Time to the end of a request's head, counted from its first byte (or from connecting), in seconds. Default: 10.0."""
    idle_timeout: float
    """How long a connection may wait for its next request, in seconds. Default: 75.0."""
    transfer_grace: float
    """Grace for a body or an answer to move on, in seconds; after it at least 1 KiB a second must pass. Default: 10.0."""
    native: Literal["auto", "any", "off"]
    """Whether the port also speaks the native framed transport, and to whom. Default: ``"auto"``."""
    punch: Literal["auto", "off"]
    """Whether callers of a node behind a relay may find a direct path to it (QUIC over UDP), by which both learn each other's address; and whether a relay helps them to find it. Not with ``native`` off. Default: ``"auto"``."""
    replay_bytes: int
    """Memory for remembering task ids, in bytes; the oldest are forgotten first. Nonces, which must not be forgotten, have as much again; when it is full, tasks with a nonce are refused. Default: ``67108864``."""
    result_bytes: int
    """Memory for stored answers of finished tasks, in bytes; the oldest are dropped first. Default: ``67108864``."""


class BackendOptions(TypedDict, total=False):
    """An inference server that a node hands its tasks to. The operator wrote its URL himself, so it may be on this machine or in a private network; no proxy of the environment is used and no redirect is followed."""

    kind: Literal["openai_compat", "vllm", "llamacpp", "ollama", "anthropic"]
    """Which interface it has. Default: ``"openai_compat"``."""
    url: str | None
    """Its base URL, with or without ``/v1`` at the end; by default the usual port of ``vllm``, ``llamacpp`` or ``ollama`` on this machine, or ``https://api.anthropic.com``. ``openai_compat`` has none."""
    api_key: str | None
    """The key that it wants; goes nowhere else and is never shown."""
    model: str | None
    """Model of the tasks that name none. If it is given, and the node's ``models`` are not, it is also the only one that is offered; without both, what the backend lists is offered, and the first of that is the default."""
    timeout: float
    """Longest time for one task in seconds, whatever the task allows; at most 120. Default: 120.0."""
    idle_timeout: float
    """Longest silence between two parts of an answer that comes in parts, in seconds. Default: 30.0."""
    max_response_bytes: int
    """The largest answer that is read from it, in bytes. Default: ``33554432``."""
    probe_interval: float
    """How often it is asked for its models and its health, in seconds. Default: 30.0."""
    breaker_failures: int
    """Failures in a row after which it is left alone for a while. Default: ``5``."""
    breaker_open: float
    """How long it is left alone before one task tries it again, in seconds. Default: 10.0."""


class TlsOptions(TypedDict, total=False):
    """The TLS of a serving node: its one port takes HTTPS and native frames over TLS 1.3, beside what comes in plain text from this machine. Files are looked at every few seconds: renewed ones are taken without a restart, and connections that are open stay open."""

    certificate: str
    """The certificate and those that lead from it to an authority, the node's own first: path of a PEM file, or its text. Default: ``""``."""
    key: str
    """The certificate's private key, not encrypted: path of a PEM file, or its text. Default: ``""``."""
    only: bool
    """Whether nothing is taken in plain text. By default callers on this machine may do without TLS, everybody may ask for the node's health, and a relay takes what is for its workers (unless its own ``tls_required``): published ones are called by ``http``. Whatever else comes in plain text is told to use ``https``. Default: False."""


class NodeCapability(TypedDict, total=False):
    """An intent as the node serves it with some models: directories list one entry per intent and set of modalities."""

    intent: str
    """The intent, one of the node's. Default: ``""``."""
    models: Sequence[str]
    """Models that serve it, at most 64. Default: ``[]``."""
    max_tokens: int | None
    """Most tokens of one answer; by default the node's ``max_tokens``."""
    input_modalities: Sequence[Literal["text", "image", "audio", "video"]]
    """What the models take. Default: ``["text"]``."""
    output_modalities: Sequence[Literal["text", "image", "audio", "video"]]
    """What the models give; an empty list leaves it unsaid. Default: ``[]``."""
    supported_profiles: Sequence[str]
    """Profiles that are kept, as ``urn:iicp:profile:…``, at most 16. Default: ``[]``."""


class RelayServerOptions(TypedDict, total=False):
    """How a node lends its address to workers that nobody can reach."""

    host: str | None
    """Address on which workers are accepted; by default the node's host. One that stands for all addresses of the machine, or for the machine itself, is listened on in IPv4 and in IPv6."""
    port: int
    """Port on which workers are accepted; 0 lets the system choose. Directories tell nobody about another one than 9485. Default: ``9485``."""
    ticket_required: bool | None
    """Whether workers need a ticket of the directory; by default they do unless they are accepted on this machine only."""
    ticket_key: str | None
    """Key that tickets are verified with, 64 hex digits; by default the directory's, which is asked for and followed when it changes."""
    tls_required: bool
    """Whether workers with a connection are taken over TLS only. By default plain text is taken too: published workers speak nothing else. The port takes both; a relay's key is made once, kept in ``state_dir``, and known by its hash. Default: False."""
    max_workers: int
    """Workers that may be bound at the same time. Default: ``10000``."""
    max_workers_per_source: int
    """The same for one source: an IPv4 /24 or an IPv6 /48. Default: ``1024``."""
    binds_per_minute: int
    """Binds in a minute: of one worker, and of one source for workers without a ticket; 0: any number. Default: ``30``."""
    max_calls: int
    """Calls that may be under way at the same time. Default: ``16384``."""
    max_calls_per_source: int
    """The same for one source of callers. Default: ``1024``."""
    max_calls_per_worker: int
    """The same for one worker. Default: ``256``."""
    max_bytes: int
    """Bytes of tasks that may be under way at the same time, and as many of answers. Default: ``268435456``."""
    max_bytes_per_source: int
    """Bytes of tasks under way for one source of callers. Default: ``67108864``."""
    max_bytes_per_worker: int
    """Bytes of tasks under way for one worker. A task that is alone may be larger. Default: ``4194304``."""
    max_session: float
    """How long a worker may be bound, in seconds, before it has to prove again who it is; 0: any time. Our own workers bind anew beside what is under way; others are let go when nothing is, and come again. Default: 86400.0."""
    max_session_bytes: int
    """Bytes of tasks and answers that a worker may carry before the same; 0: any number. Default: ``0``."""
    call_timeout: float
    """Longest wait for a worker's answer, in seconds; a task that asks for less gets less. Default: 120.0."""
    ping_interval: float
    """Silence after which a worker is asked whether it is there, in seconds. Default: 15.0."""
    pong_timeout: float
    """Wait for its answer, in seconds. Default: 5.0."""
    silence_timeout: float
    """Silence after which a worker of the published kind, which never answers, is taken for gone, in seconds. Default: 90.0."""


class RelayWorkerOptions(TypedDict, total=False):
    """How a node that nobody can reach is reached through a relay."""

    relay: str | None
    """Where a relay accepts workers, as ``host:port`` or a host alone; by default relays are asked of the directory, and the one with the least load is taken. Who names one gets no other."""
    relay_key: str | None
    """Key that the relay of the option ``relay`` is known by, 64 hex digits (SHA-256 of its ``SubjectPublicKeyInfo``): it is called over TLS then. By default such a relay is called in plain text; one that the directory names is known by the key that stands there, and called over TLS if there is one."""
    relays: int
    """Relays to be bound at, 1 or 2: with 2, tasks go on at once when the first is lost. Needs relays that the directory names. Default: ``1``."""
    ping_interval: float
    """Silence after which the relay is asked whether it is there, in seconds. Default: 15.0."""
    pong_timeout: float
    """Wait for its answer, in seconds. Default: 5.0."""


class NatOptions(TypedDict, total=False):
    """How a node finds a way to be reached from outside: its own address, a port or a pinhole that its gateway opens, a relay. What is found is advertised only once it was seen from outside, and looked after until the node stops."""

    mode: Literal["auto", "off"]
    """Whether a way is looked for. Default: ``"auto"``."""
    mapping: bool
    """Whether the gateway is asked to map a port (UPnP, NAT-PMP, PCP). Default: True."""
    ipv6: bool
    """Whether IPv6 is tried, and its firewall asked to be opened. Default: True."""
    tunnel: Literal["off", "quick"]
    """Whether a tunnel of somebody else is opened while nothing before it leads here; rather than a relay, if both may be. Default: ``"off"``."""
    tunnel_program: str
    """The program that opens it: a name that is looked for in ``PATH``, or a path. It is never fetched, sees none of this process's secrets, and is stopped with the node. Default: ``"cloudflared"``."""
    relay: bool
    """Whether the node goes to a relay while nothing else does. Default: True."""
    lease_s: int
    """For how long a gateway is asked to keep what it opens, in seconds; it is renewed after half of that. Default: ``3600``."""
    check_interval: float
    """How often it is looked whether the way is still good, in seconds. Default: 20.0."""


class NodePolicy(TypedDict, total=False):
    """What a node lets others' tasks do, and what it asks for them."""

    allow_remote_inference: bool
    """Whether others may have their tasks run here as parts of larger ones. Default: False."""
    allow_tool_execution: bool
    """Whether a task may run tools. Default: False."""
    allow_file_access: bool
    """Whether a task may read files. Default: False."""
    pricing_credits_per_1000: float | None
    """Credits that 1,000 tokens cost, 0 to 1,000."""


class NodePricing(TypedDict, total=False):
    """A node's price, which is declared to the directory under the node's own signature."""

    credit_cost_multiplier: float
    """How many times the usual credits a task costs, 0 to 1,000. Default: ``1.0``."""
    pricing_model: Literal["per_token", "per_request", "flat"]
    """What it is counted by. Default: ``"per_token"``."""
    effective_from: str | None
    """From when on, such as ``2026-01-31T00:00:00Z``."""
    effective_until: str | None
    """Until when, in the same form."""


class PublicListing(TypedDict, total=False):
    """Whether and how a node is shown to people."""

    public_listing: bool
    """Whether it is shown in public lists. Default: False."""
    operator_url: str | None
    """Where its operator tells more, at most 256 bytes."""
    operator_contact: str | None
    """How its operator is reached, at most 256 bytes."""


class AvailabilityWindow(TypedDict, total=False):
    """A part of the day, and how much of the node is given to others in it. Both ends belong to it; one that ends before it begins goes over midnight."""

    start: str
    """First minute, ``HH:MM`` by the clock of the place where the node is. Default: ``"00:00"``."""
    end: str
    """Last minute, in the same form. Default: ``"23:59"``."""
    share: float
    """Share of ``max_concurrent``, 0 to 1; above 0 it is at least one task, at 0 none. Default: ``1.0``."""


class DirectoryOptions(TypedDict, total=False):
    """The embedded directory."""

    host: str
    """Address to listen on. Default: ``"127.0.0.1"``."""
    port: int
    """Port to listen on; 0 lets the system choose. Default: ``0``."""
    probe: bool
    """Whether a node's health is asked before it is registered. Default: True."""
    limits: bool
    """Whether requests are rate limited as on the public directory. Default: True."""
    qos_gating: bool
    """Whether ``interactive`` and ``realtime`` tasks only see nodes with a record of finished tasks. Default: True."""
    heartbeat: float
    """How often nodes are asked to report, in seconds. Default: 30.0."""
    node_ttl: float
    """How long a silent node stays in discovery, in seconds. Default: 90.0."""
    max_nodes: int
    """Nodes that may be registered at the same time. Default: ``10000``."""
    path: str | None
    """File for what must outlive the process: registrations and the directory's keys. It is made if it is not there, for its owner alone. By default nothing is kept. Needs a build with SQLite; any other refuses it as ``UNSUPPORTED``."""
    trusted_ca: str | None
    """Certificates of authorities that are trusted beside the system's when nodes are asked for their health: path of a PEM file, or its text."""


public(globals())
