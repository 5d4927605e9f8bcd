"""Results in parts: what a part says, and the stream of them on a loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from . import _forms
from ._errors import error
from ._generated import Code
from ._native import Event, Failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ._client import Handle
    from ._loop import LoopQueue
    from ._types import TaskResult, Usage


class Chunk:
    """A part of a result, in the order in which the provider made it."""

    __slots__ = ("body", "sequence", "text", "tokens_used")

    def __init__(self, sequence: int, text: str, tokens_used: int | None, body: bytes) -> None:
        self.sequence = sequence
        """Its place among the parts, from 0."""
        self.text = text
        """What a chat says next; empty if this part says nothing."""
        self.tokens_used = tokens_used
        """Tokens that the task has used so far, if the provider counts them."""
        self.body = body
        """The part as JSON text, as the handler gave it; from a provider that does not stream, the whole result."""

    @property
    def payload(self) -> Any:
        """The part, as the handler gave it."""
        return _forms.from_json(self.body)

    def __repr__(self) -> str:
        return f"<iicp_core.Chunk {self.sequence} {len(self.body)} bytes>"


class Streaming:
    """What is known of a task whose result comes in parts; the same for both faces."""

    task_id: str | None = None
    """Id of the task; None before the first part."""
    node_id: str | None = None
    """The node that runs it; None before the first part."""
    tokens_used: int | None = None
    """Tokens as of the last part, and in the end of the whole task, if the provider counts them."""
    finish_reason: str | None = None
    """Why the answer ended: ``stop``, ``length``, …; None before the end."""
    usage: Usage | None = None
    """None before the end, and if the provider does not count."""
    model: str | None = None
    """The model that answered, if the provider says; None before the end."""
    task: TaskResult | None = None
    """The finished task, once the stream has ended. Its result is None: the parts were it."""

    def _part(self, event: Event) -> Chunk:
        about = _forms.from_json(event.json)
        self.task_id, self.node_id = about["task_id"], about["node_id"]
        self.tokens_used = about["tokens_used"] or self.tokens_used
        return Chunk(about["sequence"], about["text"], about["tokens_used"], event.body)

    def _finish(self, event: Event) -> None:
        if (failed := event.error) is not None:
            raise error(*failed)
        about = _forms.from_json(event.json)
        self.task_id, self.node_id = about["task_id"], about["node_id"]
        self.tokens_used, self.usage = about["tokens_used"], _forms.usage(about)
        self.finish_reason, self.model = about["finish_reason"], about["model"]
        self.task = _forms.finished(event, None)


class Parts:
    """The events of one stream that its reader has not yet taken. Used by the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.events: deque[Event] = deque()
        self.end: Event | None = None
        self._reader: asyncio.Future[None] | None = None

    def add(self, event: Event) -> None:
        """Takes a part."""
        self.events.append(event)
        self._wake()

    def finish(self, event: Event) -> None:
        """Takes the end."""
        self.end = event
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def ready(self) -> None:
        """Waits until there is something to take."""
        if self._reader is not None:
            raise error(Code.INVALID_ARG, "the stream is read by two at once; give each part to one reader")
        while not self.events and self.end is None:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None


class TaskStream(Streaming):
    """The parts of a result as the provider makes them: ``async for chunk in client.stream(...)``.

    Nothing is sent before the first part is asked for. Leaving the loop, :meth:`close` or ``async with`` cancel the
    task at the provider, whose handler stops. A slow reader slows the provider down: nothing is lost, little is kept.
    """

    def __init__(self, handle: Handle, queue: Callable[[], LoopQueue], ask: bytes, body: bytes) -> None:
        self._handle = handle
        self._queue = queue
        self._ask = ask, body
        self._parts: Parts | None = None
        self._operation = 0
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        """The next part. After an error the result stays incomplete, and nothing more comes."""
        if self._over:
            raise StopAsyncIteration
        parts = self._parts or self._start()
        await parts.ready()
        # Taken out and let go of at once: what is kept of a part counts against its stream.
        if parts.events:
            return self._part(parts.events.popleft())
        self._over = True
        if parts.end is not None:
            self._finish(parts.end)
        raise StopAsyncIteration

    def _start(self) -> Parts:
        handle, queue = self._handle, self._queue()
        parts = Parts(asyncio.get_running_loop())
        ranking = handle.ranking.of_call() if handle.ranking is not None else None
        self._operation = queue.stream(parts, ranking, handle.engine.stream, handle.id, queue.id, *self._ask)
        self._parts = parts
        return parts

    def _cancel(self) -> None:
        self._over = True
        operation, self._operation = self._operation, 0
        if operation and self._parts is not None:
            self._parts.events.clear()
            if self._parts.end is None:
                with contextlib.suppress(Failure):
                    self._handle.engine.cancel(operation)

    async def close(self) -> None:
        """Cancels the task, if it still runs."""
        self._cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cancel()

    def __del__(self) -> None:
        if getattr(self, "_operation", 0):
            self._cancel()

    def __repr__(self) -> str:
        return f"<iicp_core.TaskStream {self.task_id} {'over' if self._over else 'open'}>"
