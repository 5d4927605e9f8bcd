"""Results in parts: the stream of them on a loop, and what both faces have in common."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from . import _forms
from ._errors import error
from ._generated import Code
from ._loop import current
from ._native import Event, Failure
from ._public import public

if TYPE_CHECKING:
    from typing import Self

    from ._client import Handle
    from ._types import Chunk, StreamResult


class Streaming:
    """What is known of a task whose result comes in parts."""

    def __init__(self, handle: Handle, ask: bytes, body: bytes) -> None:
        self._handle = handle
        self._ask = ask, body
        self._over = False
        self._end: Event | None = None

    @property
    def result(self) -> StreamResult:
        """What is known of the task once the last part was read; until then there is none, and asking is refused.

        If the stream failed, this raises the same error again.
        """
        if self._end is None:
            raise error(Code.INVALID_ARG, "the stream was not read to its end, so it has no result yet")
        return _forms.read_stream(self._end)

    def _finish(self, event: Event) -> None:
        self._end = event
        if (failed := event.error) is not None:
            raise error(*failed)

    def __repr__(self) -> str:
        name = "sync.TaskStream" if type(self).__module__.endswith("sync") else "TaskStream"
        return f"<iicp_core.{name} {'over' if self._over else 'open'}>"


class Parts:
    """The events of one stream that its reader has not yet taken. Used by the loop's thread only."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
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
            raise error(Code.INVALID_ARG, "two readers wait for the next part; give each stream to one")
        while not self.events and self.end is None:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None


class TaskStream(Streaming):
    """The parts of a result as the provider makes them: ``async for chunk in client.stream(...)``.

    Nothing is sent before the first part is asked for. Leaving the loop in any way cancels the task at the provider,
    whose handler stops; so do :meth:`close`, the end of ``async with``, and forgetting the stream. A slow reader slows
    the provider down: nothing is lost, and a megabyte is kept at most.
    """

    def __init__(self, handle: Handle, ask: bytes, body: bytes) -> None:
        super().__init__(handle, ask, body)
        self._parts: Parts | None = None
        self._operation = 0

    def __aiter__(self) -> Reading:
        return Reading(self)

    async def __anext__(self) -> Chunk:
        """The next part. After an error the result stays incomplete, and nothing more comes."""
        if self._over:
            raise StopAsyncIteration
        parts = self._parts or self._start()
        await parts.ready()
        if parts.events:
            # Taken out and let go of at once: what is kept of a part counts against its stream.
            return _forms.read_chunk(parts.events.popleft())
        self._over = True
        if parts.end is not None:
            self._finish(parts.end)
        raise StopAsyncIteration

    def _start(self) -> Parts:
        handle, queue, parts = self._handle, current(), Parts()
        ranking = handle.ranking.of_call() if handle.ranking is not None else None
        self._operation = queue.stream(parts, ranking, handle.engine.stream, handle.id, queue.id, *self._ask)
        self._parts = parts
        return parts

    def cancel(self) -> None:
        """What :meth:`close` does, for where nothing can be awaited."""
        self._over = True
        parts = self._parts
        if parts is not None and parts.end is None:
            parts.events.clear()
            with contextlib.suppress(Failure):
                self._handle.engine.cancel(self._operation)

    async def close(self) -> None:
        """Cancels the task, if it still runs."""
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        # Not there if the arguments were refused.
        if getattr(self, "_operation", 0):
            self.cancel()


class Reading:
    """One loop over a stream. It ends with the loop, though somebody may still hold the stream."""

    __slots__ = ("_stream",)

    def __init__(self, stream: TaskStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        """The next part."""
        return await self._stream.__anext__()

    def __del__(self) -> None:
        self._stream.cancel()


public(globals())
