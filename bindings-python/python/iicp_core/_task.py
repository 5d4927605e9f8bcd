"""What a handler gets and gives."""

from __future__ import annotations

import time
from typing import Any

from . import _forms
from ._errors import error
from ._generated import Code
from ._native import Event
from ._public import public
from ._types import Chunk


class Inbound:
    """A task as the handler sees it. Nothing of it is parsed before it is looked at."""

    __slots__ = ("_about", "_event", "_payload", "_received", "cancelled", "id")

    def __init__(self, event: Event) -> None:
        self.id = event.id
        self._event = event
        self._received = time.monotonic()
        self.cancelled = False
        """Whether nobody waits any more. A coroutine is cancelled then; a plain function looks here and returns."""

    @property
    def body(self) -> bytes:
        """The payload as JSON text."""
        return self._event.body

    @property
    def payload(self) -> Any:
        """The payload."""
        try:
            return self._payload
        except AttributeError:
            self._payload: Any = _forms.value(self._event)
            return self._payload

    def _known(self, name: str) -> Any:
        try:
            return self._about[name]
        except AttributeError:
            self._about: dict[str, Any] = _forms.from_json(self._event.json)
            return self._about[name]

    @property
    def task_id(self) -> str:
        """Id of the task, as the caller chose it."""
        return str(self._known("task_id"))

    @property
    def intent(self) -> str:
        """The intent, one of those that the node serves."""
        return str(self._known("intent"))

    @property
    def qos(self) -> str:
        """Quality of service that the caller asked for."""
        return str(self._known("qos"))

    @property
    def traceparent(self) -> str | None:
        """The caller's W3C trace context, if it sent one."""
        found: str | None = self._known("traceparent")
        return found

    @property
    def tracestate(self) -> str | None:
        """What the systems on the way wrote beside the trace context (W3C ``tracestate``), as it came."""
        found: str | None = self._known("tracestate")
        return found

    @property
    def priority(self) -> str:
        """How the task stands among others of its class: ``critical``, ``high``, ``normal`` or ``low``."""
        return str(self._known("priority"))

    @property
    def model(self) -> str | None:
        """The model that the caller asked for outside of the payload."""
        found: str | None = self._known("model")
        return found

    @property
    def max_tokens(self) -> int | None:
        """Most tokens of the answer, as the caller asked outside of the payload."""
        found: int | None = self._known("max_tokens")
        return found

    @property
    def takes_events(self) -> bool:
        """Whether the caller takes the parts of a generator as they come; for others they are put together."""
        return bool(self._known("takes_events"))

    @property
    def peer(self) -> str:
        """Address of the caller's connection."""
        return str(self._known("peer"))

    @property
    def source_node_id(self) -> str | None:
        """The node that the caller says it is; nothing proves it."""
        found: str | None = self._known("source_node_id")
        return found

    @property
    def verified(self) -> bool:
        """Whether the caller has shown a good consumer token, or a token of this node."""
        return bool(self._known("verified"))

    @property
    def verified_node_id(self) -> str | None:
        """The node that the caller is, by the word of the directory that signed its consumer token."""
        found: str | None = self._known("verified_node_id")
        return found

    @property
    def deadline(self) -> float:
        """When the answer must be there, as ``time.monotonic()`` counts."""
        return self._received + float(self._known("deadline_ms")) / 1000

    @property
    def time_left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(self.deadline - time.monotonic(), 0.0)

    def __repr__(self) -> str:
        return f"<iicp_core.Inbound {self.task_id} {self.intent} {len(self.body)} bytes>"


class Reply:
    """What a handler returns when a bare JSON value does not say enough."""

    __slots__ = ("body", "tokens_used")

    def __init__(self, value: object, *, tokens_used: int = 0) -> None:
        self.body: bytes = _forms.to_json(value, Code.HANDLER, "the reply")
        """The reply as JSON text."""
        self.tokens_used = tokens_used
        """Tokens that the task took, for the metrics."""

    @classmethod
    def json_bytes(cls, body: bytes, *, tokens_used: int = 0) -> Reply:
        """JSON text that is passed on as it is."""
        reply = cls.__new__(cls)
        reply.body, reply.tokens_used = bytes(body), tokens_used
        return reply

    @classmethod
    def chat(cls, text: str, *, tokens_used: int = 0) -> Reply:
        """The answer to a chat, in the form that chat clients read."""
        message = {"role": "assistant", "content": text}
        return cls({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}, tokens_used=tokens_used)

    def about(self) -> bytes:
        """What is said beside the body."""
        if self.tokens_used == 0:
            return b""
        tokens: Any = self.tokens_used
        if not isinstance(tokens, int) or tokens < 0:
            raise error(Code.HANDLER, "tokens_used of the reply must be a number of tokens")
        return b'{"tokens_used":%d}' % self.tokens_used

    def __repr__(self) -> str:
        return f"<iicp_core.Reply {len(self.body)} bytes>"


def part(value: object) -> Reply:
    """A part, as a handler yields it."""
    if isinstance(value, Reply):
        return value
    if isinstance(value, str):
        value = Chunk.delta(value)
    if isinstance(value, Chunk):
        return Reply(value.result, tokens_used=value.tokens_used or 0)
    return Reply(value)


public(globals())
