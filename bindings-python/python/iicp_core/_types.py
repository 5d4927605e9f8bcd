"""What comes out: frozen, and never showing content in its ``repr``."""

from dataclasses import dataclass, field
from typing import Any

from ._public import public


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A provider as the directory describes it. Everything but id and endpoint may be unknown."""

    node_id: str
    endpoint: str
    """Base URL of the node."""
    score: float = 0.0
    """The directory's score, 0 to 1; 0 if it gave none."""
    available: bool = True
    region: str | None = None
    models: tuple[str, ...] = ()
    transport_endpoint: str | None = None
    """Where the node takes native frames: ``iicp://`` or ``iicpsec://``, host and port."""
    load: float | None = None
    """Share of the node's slots in use, 0 to 1."""
    reputation_score: float | None = None
    """0 to 1."""
    cx_public_key: Any = field(default=None, repr=False)
    """The key to seal tasks to, as the directory shows it."""
    health_label: str | None = None
    """How well the node is, in the directory's words."""
    directory_observed_reachable: bool | None = None
    """Whether the directory has reached the node itself."""
    browser_usable: bool | None = None
    """Whether a browser can call the node."""
    node_policy_manifest: Any = field(default=None, repr=False)
    """What the node promises about the tasks it is given, and how firmly, as the directory states it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a model task used, as the provider counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Where the time of a submit went, in seconds."""

    discover: float
    """Asking the directory; zero if a known route was used."""
    select: float
    """Choosing among the candidates, the application's ranker included."""
    connect: float
    """Connecting to the node that answered; zero if a connection was there."""
    first_byte: float
    """From sending the task, over an open connection, to the first byte of the answer."""
    overhead: float
    """The engine's own work: what is left of the total after waiting for directory, ranker, nodes and pauses."""
    total: float
    """From the call of the submit to its result."""


@dataclass(frozen=True)
class RoutingReceipt:
    """How the node of a task was chosen, without anything private: no prompt, answer, endpoint or token."""

    receipt_version: str
    """Always ``iicp-routing-receipt-v1``."""
    selection_profile: str
    """What chose: a strategy, ``directory_ticket_v1/<strategy>``, or ``external_ranker/<policy>/<mode>``."""
    eligible_candidate_count: int
    """Nodes that the task could have been sent to."""
    selected_node_id_prefix: str
    """The first eight characters of the node's id."""
    dispatch_ticket_id_prefix: str | None
    """The first twelve characters of the ticket's id, if the route came with a ticket."""
    profile_negotiation: str | None
    """What the directory said about the profile that was asked for: ``compatible`` or ``unsupported``."""
    redaction: str
    """What was left out: always ``prompt_response_endpoint_token_excluded``."""


@dataclass(frozen=True)
class TaskResult:
    """A finished task."""

    task_id: str
    node_id: str
    """The node that ran it."""
    result: Any = field(repr=False)
    """What the handler returned."""
    attempts: int
    """How often the task was sent, at least once."""
    traceparent: str
    """The trace that all calls of this submit carried."""
    timings: Timings
    """Where the time went."""
    receipt: RoutingReceipt
    """How the node was chosen."""
    sealed: bool
    """Whether task and answer were sealed."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a result, in the order in which the provider made it; also what a handler may yield."""

    result: Any = field(repr=False)
    """The part: of a chat a delta in the OpenAI dialect, from a provider that does not stream the whole result."""
    text: str = field(default="", repr=False)
    """What a chat or a completion says next, or the part itself if it is a text; empty if it says nothing."""
    tokens_used: int | None = None
    """Tokens that the task has used so far, if the provider counts them."""
    sequence: int = 0
    """Its place among the parts, from 0."""
    task_id: str = ""
    """Id of the task."""
    node_id: str = ""
    """The node that runs it."""

    @classmethod
    def delta(cls, text: str, *, tokens_used: int | None = None) -> "Chunk":
        """The next words of a chat, as chat clients read them: what a text becomes that a handler yields."""
        return cls({"choices": [{"index": 0, "delta": {"content": text}}]}, text, tokens_used)


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What is known of a task whose parts were all read."""

    finish_reason: str | None
    """Why the answer ends: ``stop``, ``length``, ``tool_calls``, …"""
    usage: Usage | None
    """None if the provider did not count."""
    model: str | None
    """The model that answered, if the provider says."""
    tokens_used: int | None
    """Tokens that the task has used, if the provider counts them."""
    task_id: str
    node_id: str
    """The node that ran it."""
    task: TaskResult
    """The finished task. Its result is None, the parts were it, and its total the time until the first of them."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The answer to a chat."""

    text: str = field(repr=False)
    """Empty if the model only calls tools."""
    tool_calls: tuple[dict[str, Any], ...] = field(repr=False)
    """The tools that the model wants called, as it wrote them."""
    finish_reason: str | None
    """Why the answer ends: ``stop``, ``length``, ``tool_calls``, …"""
    usage: Usage | None
    """None if the provider did not count."""
    model: str | None
    """The model that answered, if the provider says."""
    node_id: str
    task: TaskResult
    """The finished task; its result is the provider's whole reply."""


@dataclass(frozen=True, slots=True)
class CompletionReply:
    """The answer to a completion."""

    text: str = field(repr=False)
    """The text that follows."""
    finish_reason: str | None
    """Why it ends: ``stop``, ``length``, …"""
    usage: Usage | None
    """None if the provider did not count."""
    model: str | None
    """The model that answered, if the provider says."""
    task: TaskResult
    """The finished task; its result is the provider's whole reply."""


@dataclass(frozen=True, slots=True)
class EmbeddingReply:
    """The vectors of texts."""

    vectors: tuple[tuple[float, ...], ...] = field(repr=False)
    """One vector for each text, in their order."""
    usage: Usage | None
    """None if the provider did not count."""
    model: str | None
    """The model that answered, if the provider says."""
    task: TaskResult
    """The finished task; its result is the provider's whole reply."""


@dataclass(frozen=True, slots=True)
class TranscriptionReply:
    """What was said in a sound file."""

    text: str = field(repr=False)
    """The words."""
    language: str | None
    """The language, if the provider says."""
    task: TaskResult
    """The finished task; its result is the provider's whole reply."""


@dataclass(frozen=True, slots=True)
class SpeechReply:
    """A spoken text."""

    audio: bytes = field(repr=False)
    """The sound file."""
    content_type: str | None
    """Its media type, such as ``audio/wav``, if the provider says."""
    format: str | None
    """Its format, such as ``wav``, if the provider says."""
    task: TaskResult
    """The finished task. Its result is None: the sound is not kept a second time."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How one text was judged."""

    flagged: bool
    """Whether it breaks a rule at all."""
    categories: dict[str, bool]
    """Which rules it breaks."""
    category_scores: dict[str, float]
    """How surely it breaks each."""


@dataclass(frozen=True, slots=True)
class ModerationReply:
    """How texts were judged."""

    results: tuple[Judgement, ...] = field(repr=False)
    """One judgement for each text, in their order."""
    model: str | None
    """The model that judged, if the provider says."""
    task: TaskResult
    """The finished task; its result is the provider's whole reply."""


@dataclass(frozen=True, slots=True)
class NatInterface:
    """An address of this machine."""

    name: str
    address: str
    public: bool
    """Whether it is an address of the open network."""
    temporary: bool
    """Whether the system will replace it by and by."""
    vpn: bool
    """Whether the interface looks like that of a VPN."""


@dataclass(frozen=True, slots=True)
class NatRung:
    """What was tried on a rung of the ladder."""

    rung: str
    """Which one, such as ``upnp`` or ``relay``."""
    state: str
    """``not_tried``, ``failed`` or ``reached``."""
    lines: tuple[str, ...]
    """What was done and what came back."""
    fix: str | None
    """What to do about it, if there is anything."""


@dataclass(frozen=True, slots=True)
class NatReport:
    """How a node can be reached from outside: what was tried, what came back, what to do about it."""

    text: str = field(repr=False)
    """The same for people."""
    reached_by: str | None
    """The rung that the node is reached by; None if nobody reaches it, or if the ladder was not asked."""
    endpoint: str | None
    """The URL that is advertised for it."""
    interfaces: tuple[NatInterface, ...]
    gateways: tuple[str, ...]
    """The gateways that lead outside."""
    container: str | None
    """By what a container was recognised, if this is one."""
    wan_address: str | None
    """The address that a gateway says it has outside."""
    double_nat: bool
    """Whether there is another NAT behind the gateway."""
    rungs: tuple[NatRung, ...]
    """What was tried, in the order of preference."""
    took_ms: int
    """How long the last climb took, in milliseconds."""
    climbs: int
    """How often the ladder was climbed."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """How a serving node is."""

    node_id: str
    url: str
    registered: bool
    """Whether the directory knows the node."""
    active_jobs: int
    """Tasks whose callers wait for an answer."""
    overrunning: int
    """Handlers that still run although their task is over. Each keeps one slot of the node from new tasks."""
    effective_max_concurrent: int
    """How many tasks may run now: fewer than ``max_concurrent`` where ``availability`` says so."""
    models: tuple[str, ...]
    """The models that the directory knows of."""
    backend_state: str
    """``ok``, ``degraded`` (it works, but slowly or nobody knows how) or ``draining`` (it takes no tasks)."""
    backend_reason: str
    """Why: ``ok``, ``backend_cold``, ``backend_loading``, ``backend_unstable`` or ``observer_error``."""


public(globals())
