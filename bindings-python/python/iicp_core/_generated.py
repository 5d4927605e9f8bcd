"""Written by `cargo gen` from the engine's own tables; change those instead."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Literal, Required, TypedDict

CHAT: Final = "urn:iicp:intent:llm:chat:v1"
"""The intent of a chat with a language model."""


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
    HANDLER = 6001
    """The handler returned something that is not a reply."""
    BIND = 6002
    """The address to serve on could not be bound."""


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


SECONDS: Final = frozenset(
    {
        "default_timeout",
        "header_timeout",
        "heartbeat",
        "idle_timeout",
        "node_ttl",
        "route_ttl",
        "timeout",
        "transfer_grace",
    }
)
"""Options in seconds; the engine calls them the same with ``_ms`` behind."""

DEFAULT_MAX_CONCURRENT: Final = 4


class ChatMessage(TypedDict):
    """One message of a chat."""

    role: str
    """``system``, ``user``, ``assistant`` or ``tool``."""
    content: str
    """The text."""


class ClientOptions(TypedDict, total=False):
    """How a client finds nodes and how long it waits for them."""

    directory: str
    """Base URL of the directory; ``/v1/...`` is appended. An ``/api`` at the end belongs to it. Default: ``"http://127.0.0.1:9480"``."""
    timeout: float
    """Time for one whole submit, all attempts included, in seconds; at most 120. Default: 30.0."""
    region: str | None
    """Preferred region of the nodes, unless a call names one."""
    max_attempts: int
    """Times a task may be sent to the same node, where sending again is allowed at all. Default: ``3``."""
    route_ttl: float
    """How long a list of nodes is used before the directory is asked again, in seconds. Default: 30.0."""
    max_response_bytes: int
    """The largest answer that is read from a node, in bytes. Default: ``33554432``."""
    max_request_bytes: int
    """The largest task that is sent, in bytes. Default: ``16777216``."""
    idle_timeout: float
    """Longest silence between two pieces of an answer that has begun, in seconds. Default: 10.0."""


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
    model: str | None
    """The model that must serve the task."""
    min_reputation: float | None
    """Least reputation of the node, 0 to 1."""
    traceparent: str | None
    """W3C trace context of the caller; by default a fresh one."""
    source_node_id: str | None
    """Id of the node on whose behalf the task is sent, if there is one."""


class Chat(TypedDict, total=False):
    """A chat task: messages and the usual knobs of inference."""

    model: str | None
    """The model that must answer."""
    max_tokens: int | None
    """Most tokens of the answer."""
    temperature: float | None
    """Sampling temperature, 0 to 2."""
    timeout: float | None
    """Time for the whole call, in seconds, at most 120; by default the client's."""
    idempotent: bool
    """Whether the chat may be sent again when it may have run already; it harms no one, so by default yes. Default: True."""
    region: str | None
    """Preferred region, by default the client's."""
    qos: Literal["realtime", "interactive", "batch", "best-effort"] | None
    """Quality of service."""
    min_reputation: float | None
    """Least reputation of the node, 0 to 1."""
    traceparent: str | None
    """W3C trace context of the caller; by default a fresh one."""


class NodeOptions(TypedDict, total=False):
    """What a serving node offers and how much of it."""

    intents: Required[Sequence[str]]
    """Intents that the handler serves."""
    models: Sequence[str]
    """Models that the handler serves, as discovery shows them. Default: ``[]``."""
    directory: str
    """Base URL of the directory to register with; empty: serve without registering. Default: ``""``."""
    node_id: str | None
    """Id of the node, at most 36 letters, digits, ``.``, ``_``, ``:`` or ``-``; by default a fresh UUID."""
    region: str
    """Region as the directory shows it: a letter, then letters, digits, ``-`` or ``_``. Default: ``"unknown"``."""
    host: str
    """Address to listen on. Default: ``"127.0.0.1"``."""
    port: int
    """Port to listen on; 0 lets the system choose. Default: ``0``."""
    endpoint: str | None
    """URL under which callers reach the node; by default the address it listens on."""
    max_concurrent: int
    """Tasks that may run at the same time; one more is answered with ``capacity_exceeded``. Default: ``4``."""
    tokens_per_min: int
    """Token rate that is advertised to the directory. Default: ``10000``."""
    max_tokens: int
    """Most tokens of one answer, as advertised to the directory. Default: ``8192``."""
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
    replay_bytes: int
    """Memory for remembering task ids, in bytes; the oldest are forgotten first. Default: ``67108864``."""
    result_bytes: int
    """Memory for stored answers of finished tasks, in bytes; the oldest are dropped first. Default: ``67108864``."""


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
