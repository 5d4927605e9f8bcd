"""One queue of the engine per event loop: operations become futures, inbound tasks go to who serves them.

The loop itself watches the queue's descriptor, so that no thread has to hand events over. Only where a loop cannot
watch descriptors does a thread wait for events.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from ._engine import engine, on_fork, refused
from ._errors import error
from ._generated import Code, EventKind
from ._native import Engine, Event, Failure

_DONE = EventKind.DONE.value
_TASK = EventKind.TASK.value
_TASK_CANCEL = EventKind.TASK_CANCEL.value
_RANK = EventKind.RANK.value
_CHUNK = EventKind.CHUNK.value
_TASK_ROOM = EventKind.TASK_ROOM.value
_MOST_AT_ONCE = 256


class Serves(Protocol):
    """Who takes the inbound tasks, or answers the rankings, of one tag."""

    def begin(self, event: Event) -> None:
        """Starts on a task."""

    def withdraw(self, task: int, /) -> None:
        """Stops working on a task that nobody waits for."""


class Follows(Protocol):
    """Who takes the parts of a stream."""

    def add(self, event: Event) -> None:
        """Takes a part."""

    def finish(self, event: Event) -> None:
        """Takes the end."""


class LoopQueue:
    """The queue of one running loop. Used by that loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.engine: Engine = engine()
        self.serving: dict[int, Serves] = {}
        self.streams: dict[int, Follows] = {}
        self.rooms: dict[int, Callable[[], object]] = {}
        """What is called when a task that answers in parts may go on."""
        self._loop = loop
        self._tags = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Event]] = {}
        self._unwanted: dict[int, Callable[[int], object]] = {}
        self._watched: int | None = None
        try:
            self.id: int = self.engine.queue_new(b"")
            self._watch()
        except Failure as failure:
            raise refused(failure) from None

    def _watch(self) -> None:
        try:
            descriptor = self.engine.queue_fd(self.id)
            self._loop.add_reader(descriptor, self._drain)
        except (NotImplementedError, Failure) as e:
            if isinstance(e, Failure) and e.args[0] != Code.UNSUPPORTED:
                raise
            threading.Thread(target=self._carry, name="iicp-queue", daemon=True).start()
        else:
            self._watched = descriptor

    def new_tag(self) -> int:
        """A number that no operation of this queue had before."""
        return next(self._tags)

    async def call(
        self, verb: Callable[..., int], *arguments: object, tag: int = 0, undo: Callable[[int], object] | None = None
    ) -> Event:
        """Starts an operation and waits for its end. Cancelled, it cancels the operation.

        What the operation made all the same when nobody waits any more is handed to ``undo``.
        """
        tag = tag or next(self._tags)
        future: asyncio.Future[Event] = self._loop.create_future()
        self._waiting[tag] = future
        try:
            operation = verb(*arguments, tag)
        except BaseException as e:
            del self._waiting[tag]
            if isinstance(e, Failure):
                raise refused(e) from None
            raise
        try:
            event = await future
        except BaseException:
            # Also when the coroutine is closed because its loop is gone.
            if self._waiting.pop(tag, None) is not None and undo is not None:
                self._unwanted[tag] = undo
            with contextlib.suppress(Failure):
                self.engine.cancel(operation)
            raise
        if (failed := event.error) is not None:
            raise error(*failed)
        return event

    async def call_ranked(self, ranking: Serves, verb: Callable[..., int], *arguments: object) -> Event:
        """A call whose candidates the application ranks."""
        tag = self.new_tag()
        self.serving[tag] = ranking
        try:
            return await self.call(verb, *arguments, tag=tag)
        finally:
            del self.serving[tag]
            ranking.withdraw(0)

    def stream(self, parts: Follows, ranking: Serves | None, verb: Callable[..., int], *arguments: object) -> int:
        """Starts an operation that comes in parts."""
        tag = self.new_tag()
        self.streams[tag] = parts
        if ranking is not None:
            self.serving[tag] = ranking
        try:
            return verb(*arguments, tag)
        except BaseException as e:
            del self.streams[tag]
            self.serving.pop(tag, None)
            if isinstance(e, Failure):
                raise refused(e) from None
            raise

    def _drain(self) -> None:
        try:
            events = self.engine.queue_drain(self.id, _MOST_AT_ONCE)
        except Failure:
            # Shut down, or this is a forked child that inherited the loop.
            self._unwatch()
            return
        self._dispatch(events)

    def _dispatch(self, events: Iterable[tuple[int, int, Event]]) -> None:
        for kind, tag, event in events:
            if kind == _DONE:
                self._finish(tag, event)
            elif kind == _CHUNK:
                if (parts := self.streams.get(tag)) is not None:
                    parts.add(event)
            elif kind == _TASK:
                server = self.serving.get(tag)
                if server is not None:
                    server.begin(event)
                else:
                    with contextlib.suppress(Failure):
                        self.engine.task_fail(event.id, Code.CLOSED, "the node is closed")
            else:
                self._tell(kind, tag, event)

    def _finish(self, tag: int, event: Event) -> None:
        future = self._waiting.pop(tag, None)
        if future is not None and not future.done():
            future.set_result(event)
        elif (parts := self.streams.pop(tag, None)) is not None:
            parts.finish(event)
            if (ranking := self.serving.pop(tag, None)) is not None:
                ranking.withdraw(0)
        else:
            self._give_back(tag, event)

    def _tell(self, kind: int, tag: int, event: Event) -> None:
        if kind == _TASK_ROOM:
            if (go_on := self.rooms.get(event.id)) is not None:
                go_on()
        elif (server := self.serving.get(tag)) is not None:
            if kind == _TASK_CANCEL:
                server.withdraw(event.id)
            elif kind == _RANK:
                server.begin(event)

    def _give_back(self, tag: int, event: Event) -> None:
        undo = self._unwanted.pop(tag, None)
        if undo is not None and event.handle:
            with contextlib.suppress(Failure):
                undo(event.handle)

    def _carry(self) -> None:
        """Waits for events on behalf of a loop that cannot watch a descriptor; one batch at a time is on its way."""
        while not self._loop.is_closed():
            try:
                first = self.engine.queue_next(self.id, 0.5)
                if first is None:
                    continue
                events = [first, *self.engine.queue_drain(self.id, _MOST_AT_ONCE)]
                taken = threading.Event()
                self._loop.call_soon_threadsafe(self._take, events, taken)
            except (Failure, RuntimeError):
                # The queue or the loop was closed.
                return
            while not taken.wait(0.5) and not self._loop.is_closed():
                pass

    def _take(self, events: Iterable[tuple[int, int, Event]], taken: threading.Event) -> None:
        taken.set()
        self._dispatch(events)

    def _unwatch(self) -> None:
        if self._watched is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._watched)
        self._watched = None

    def free(self) -> None:
        """Gives the queue back; what its operations bring is dropped."""
        self._unwatch()
        with contextlib.suppress(Failure):
            self.engine.queue_free(self.id)


_queues: dict[asyncio.AbstractEventLoop, LoopQueue] = {}


def current() -> LoopQueue:
    """The queue of the running loop."""
    loop = asyncio.get_running_loop()
    return _queues.get(loop) or _open(loop)


def _open(loop: asyncio.AbstractEventLoop) -> LoopQueue:
    for old in [old for old in list(_queues) if old.is_closed()]:
        gone = _queues.pop(old, None)
        if gone is not None:
            gone.free()
    queue = _queues[loop] = LoopQueue(loop)
    return queue


async def release() -> None:
    """Gives the running loop's queue back, before the loop is closed by who owns it."""
    queue = _queues.pop(asyncio.get_running_loop(), None)
    if queue is not None:
        queue.free()


on_fork(_queues.clear)
