"""What comes out: frozen, and never showing content in its ``repr``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
    load: float | None = None
    """Share of the node's slots in use, 0 to 1."""
    reputation_score: float | None = None
    """0 to 1."""
    cx_public_key: Any = field(default=None, repr=False)
    """The key to seal tasks to, as the directory shows it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a chat used, as the provider counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Where the time of a submit went, in seconds."""

    discover: float
    """Asking the directory; zero if a known route was used."""
    total: float


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


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The answer to a chat."""

    text: str = field(repr=False)
    usage: Usage | None
    """None if the provider did not count."""
    model: str | None
    """The model that answered, if the provider says."""
    node_id: str
    task: TaskResult
    """The finished task; its result is the provider's whole reply."""


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
