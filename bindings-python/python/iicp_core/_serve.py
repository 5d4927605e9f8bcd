"""Serving nodes for asyncio: inbound tasks become coroutines on the loop, or calls on threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import AsyncIterable, Callable, Iterator
from typing import TYPE_CHECKING, cast

from . import _forms
from ._engine import refused
from ._errors import IicpError, Rejected, error
from ._generated import DEFAULT_MAX_CONCURRENT, Code
from ._loop import LoopQueue, current
from ._native import Event, Failure
from ._open import Opening
from ._public import public
from ._task import Inbound, Reply, part
from ._types import NatReport, NodeStatus
from ._workers import Workers

if TYPE_CHECKING:
    from typing import Unpack

    from ._generated import NodeOptions

Handler = Callable[[Inbound], object]
"""A coroutine function, or a plain one that runs on a thread; returns a JSON value or a :class:`Reply`.

A generator function, async or plain, gives its caller part by part what it yields: a text is what a chat says next,
any other JSON value or a :class:`Chunk` a part as it is. It is closed when its caller leaves, and waits for a slow one.
"""

CLOSE_SECONDS = 10.0

_MOST_AT_ONCE = 64
"""Parts of one generator between two turns of the loop."""

_LOOK_AGAIN = 1.0
"""Longest wait of a thread for room, in seconds."""


def serve(handler: Handler | None = None, **options: Unpack[NodeOptions]) -> Opening[Node]:
    """Serves tasks with a handler, or with the inference server that the option ``backend`` names.

    ``async with serve(handler, intents=[CHAT], directory=url) as node:`` or ``node = await serve(...)``. An exception
    of the handler is logged here and answered without its text; raise :class:`Rejected` to tell the caller something.

    ``serve(backend={"url": "http://127.0.0.1:8000/v1"}, directory=url)`` takes no handler: tasks go to the backend and
    never come to Python. Intents and models are the backend's, unless the options name them.
    """
    if (handler is None) == (options.get("backend") is None):
        wrong = "nothing that serves" if handler is None else "both a handler and a backend"
        raise error(Code.INVALID_ARG, f"the node has {wrong}; give serve either a handler or the option backend")
    is_async = handler is not None and check_function(handler, "handler", may_yield=True)
    return Opening(lambda: _start(handler, is_async, _forms.options(options), options.get("max_concurrent")))


def check_function(given: object, what: str, *, may_yield: bool = False) -> bool:
    """Whether a handler or a ranker runs on the loop; refuses what can be neither."""
    call = getattr(given, "__call__", None)  # noqa: B004 - the method of an object counts as well
    forms = (given, call)
    if not may_yield and any(inspect.isasyncgenfunction(form) or inspect.isgeneratorfunction(form) for form in forms):
        raise error(Code.INVALID_ARG, f"the {what} is a generator; it must return one value")
    if call is None:
        raise error(Code.INVALID_ARG, f"the {what} must be a function, not {type(given).__name__}")
    return any(inspect.iscoroutinefunction(form) or inspect.isasyncgenfunction(form) for form in forms)


async def _start(handler: Handler | None, is_async: bool, options: bytes, max_concurrent: int | None) -> Node:
    queue = current()
    engine, tag = queue.engine, queue.new_tag()
    # Whatever is no good number the engine refuses.
    limit = max_concurrent if isinstance(max_concurrent, int) else DEFAULT_MAX_CONCURRENT
    server: Coroutines | Threads | None = None
    if handler is not None:
        server = Coroutines(queue, handler, limit) if is_async else Threads(queue, handler, limit)
        queue.serving[tag] = server

    def undo(handle: int) -> None:
        engine.node_close(handle, queue.id, 0.0, queue.new_tag())

    try:
        event = await queue.call(engine.node_serve, queue.id, options, tag=tag, undo=undo)
    except BaseException:
        queue.serving.pop(tag, None)
        raise
    return Node(queue, server, tag, event)


class Node:
    """A node that serves. Leave its ``async with`` block, or call :meth:`close`, to stop it."""

    def __init__(self, queue: LoopQueue, server: Server | None, tag: int, event: Event) -> None:
        about = _forms.from_json(event.json)
        self.node_id: str = about["node_id"]
        self.url: str = about["url"]
        """Where callers reach the node."""
        self._queue = queue
        self._server = server
        self._tag = tag
        self._handle = event.handle
        self._ending: asyncio.Task[bool] | None = None
        self._ended = asyncio.Event()

    def status(self) -> NodeStatus:
        """How the node is just now."""
        try:
            about = _forms.from_json(self._queue.engine.node_status(self._handle))
        except Failure as failure:
            raise refused(failure) from None
        return NodeStatus(
            about["node_id"],
            about["url"],
            about["registered"],
            about["active_jobs"],
            self._server.overrunning() if self._server is not None else 0,
            about["effective_max_concurrent"],
            tuple(about["models"]),
            about["backend_state"],
            about["backend_reason"],
        )

    def nat_report(self) -> NatReport:
        """How the node can be reached from outside: what was tried, what came back, what to do about it."""
        try:
            report = _forms.from_json(self._queue.engine.node_nat_report(self._handle))
        except Failure as failure:
            raise refused(failure) from None
        return _forms.read_nat_report(report)

    async def close(self, grace: float = CLOSE_SECONDS) -> bool:
        """Leaves the directory, takes no new task and gives the running ones ``grace`` seconds.

        True if all ended in time; the others are cancelled.
        """
        seconds = _forms.grace(grace)
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._close(seconds))
        return await asyncio.shield(self._ending)

    async def closed(self) -> None:
        """Waits until the node is closed."""
        await self._ended.wait()

    async def _close(self, grace: float) -> bool:
        queue = self._queue
        try:
            event = await queue.call(queue.engine.node_close, self._handle, queue.id, grace)
        finally:
            queue.serving.pop(self._tag, None)
            if self._server is not None:
                self._server.stop()
            self._ended.set()
        return bool(_forms.from_json(event.json)["in_time"])

    async def __aenter__(self) -> Node:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<iicp_core.Node {self.node_id} {'closed' if self._ending else self.url}>"


class Server:
    """What coroutines and threads have in common: how a task is answered, and which ones overrun."""

    def __init__(self, queue: LoopQueue, handler: Handler) -> None:
        self._engine = queue.engine
        self._rooms = queue.rooms
        self._handler = handler
        self._context = contextvars.copy_context()
        self._late: set[int] = set()

    def overrunning(self) -> int:
        """Handlers that still run although their task is over."""
        return len(self._late)

    def stop(self) -> None:
        """Lets go of what was kept for the tasks."""

    def _answer(self, task: Inbound, value: object) -> None:
        try:
            reply = value if isinstance(value, Reply) else Reply(value)
            about, body = reply.about(), reply.body
        except IicpError as e:
            if inspect.iscoroutine(value):
                value.close()
            self._fail(task, e)
            return
        try:
            self._engine.task_finish(task.id, about, body)
        except Failure as failure:
            self._not_taken(task, failure)

    def _begin_parts(self, task: Inbound, go_on: Callable[[], object]) -> None:
        """From here on the answer comes in parts; ``go_on`` is called when there is room for more of them."""
        self._rooms[task.id] = go_on
        with contextlib.suppress(Failure):
            self._engine.task_chunk(task.id, b"", b"")

    def _give(self, task: Inbound, reply: Reply) -> bool:
        """Gives the caller a part; false if there is no room for it yet. If nobody waits any more, the task says so."""
        try:
            self._engine.task_chunk(task.id, reply.about(), reply.body)
        except Failure as failure:
            if failure.args[0] == Code.QUEUE_FULL:
                return False
            self._not_taken(task, failure)
            task.cancelled = True
        return True

    def _end_parts(self, task: Inbound) -> None:
        with contextlib.suppress(Failure):
            self._engine.task_finish(task.id, b"", b"")

    def _fail(self, task: Inbound, e: BaseException) -> None:
        """Answers with a failure; what it says leaves this process only if it was raised to be shown."""
        code, text = Code.BACKEND, ""
        if isinstance(e, Rejected):
            code, text = Code.TASK_REJECTED, str(e).encode(errors="replace").decode()
        elif not isinstance(e, asyncio.CancelledError):
            import logging

            what = "the handler failed on task %s"
            if isinstance(e, IicpError) and e.code == Code.HANDLER:
                code, what = Code.HANDLER, "the handler returned what cannot be sent for task %s"
            logging.getLogger("iicp_core").error(what, task.task_id, exc_info=e)
        with contextlib.suppress(Failure):
            self._engine.task_fail(task.id, code, text)

    def _not_taken(self, task: Inbound, failure: Failure) -> None:
        # Nobody waits any more, and was told so.
        if failure.args[0] == Code.HANDLER:
            import logging

            logging.getLogger("iicp_core").error("the reply to task %s was refused: %s", task.task_id, failure.args[1])

    def _refuse(self, event: Event) -> None:
        """Sends the caller to another node: every slot is kept by a handler that overruns."""
        with contextlib.suppress(Failure):
            self._engine.task_fail(event.id, Code.CAPACITY, "handlers that overran their deadline keep the slots")


class Coroutines(Server):
    """Runs every task as a coroutine of the loop."""

    def __init__(self, queue: LoopQueue, handler: Handler, limit: int) -> None:
        super().__init__(queue, handler)
        self._loop = asyncio.get_running_loop()
        # Those that were cancelled just now need a turn of the loop to end, and their slots may be taken already.
        self._most = 2 * limit
        self._running: dict[int, tuple[asyncio.Task[None], Inbound]] = {}

    def begin(self, event: Event) -> None:
        """Starts the coroutine."""
        if len(self._running) >= self._most:
            self._refuse(event)
            return
        task = Inbound(event)
        run = self._loop.create_task(self._run(task), context=self._context.copy())
        self._running[task.id] = run, task

    async def _run(self, task: Inbound) -> None:
        try:
            value = self._handler(task)
            if inspect.isawaitable(value):
                value = await value
            in_parts = hasattr(value, "__aiter__")
            if in_parts:
                await self._run_parts(task, cast("AsyncIterable[object]", value))
        except Exception as e:  # noqa: BLE001 - a handler may raise anything
            self._leave(task)
            self._fail(task, e)
        except BaseException as e:
            self._leave(task)
            self._fail(task, e)
            raise
        else:
            self._leave(task)
            if in_parts:
                self._end_parts(task)
            else:
                self._answer(task, value)

    async def _run_parts(self, task: Inbound, values: AsyncIterable[object]) -> None:
        room, given = asyncio.Event(), 0
        self._begin_parts(task, room.set)
        try:
            async for value in values:
                reply = part(value)
                room.clear()
                while not self._give(task, reply):
                    await room.wait()
                    room.clear()
                if task.cancelled:
                    return
                given += 1
                if given % _MOST_AT_ONCE == 0:
                    # A generator that never waits must not keep the loop to itself.
                    await asyncio.sleep(0)
        finally:
            if (close := getattr(values, "aclose", None)) is not None:
                await close()

    def _leave(self, task: Inbound) -> None:
        self._running.pop(task.id, None)
        self._rooms.pop(task.id, None)
        self._late.discard(task.id)

    def withdraw(self, task: int) -> None:
        """Cancels the coroutine."""
        if (found := self._running.get(task)) is not None:
            run, inbound = found
            inbound.cancelled = True
            self._late.add(task)
            # One that did not begin yet never gets to its own end.
            run.add_done_callback(lambda _: self._leave(inbound))
            run.cancel()


class Threads(Server):
    """Runs every task on a thread. Nothing can stop it there, so one that overruns keeps its place."""

    def __init__(self, queue: LoopQueue, handler: Handler, limit: int) -> None:
        super().__init__(queue, handler)
        self._workers = Workers(limit)
        self._running: dict[int, Inbound] = {}

    def begin(self, event: Event) -> None:
        """Hands the task to a thread."""
        task = Inbound(event)
        self._running[task.id] = task
        if not self._workers.start(lambda: self._run(task)):
            del self._running[task.id]
            self._refuse(event)

    def _run(self, task: Inbound) -> None:
        context = self._context.copy()
        try:
            value = context.run(self._handler, task)
            in_parts = hasattr(value, "__next__")
            if in_parts:
                context.run(self._run_parts, task, cast("Iterator[object]", value))
        except BaseException as e:  # noqa: BLE001 - not even SystemExit may end the thread
            self._leave(task)
            self._fail(task, e)
        else:
            self._leave(task)
            if in_parts:
                self._end_parts(task)
            else:
                self._answer(task, value)

    def _run_parts(self, task: Inbound, values: Iterator[object]) -> None:
        room = threading.Event()
        self._begin_parts(task, room.set)
        try:
            for value in values:
                reply = part(value)
                # The room is told of on another thread, so maybe before the wait for it begins.
                room.clear()
                while not task.cancelled and not self._give(task, reply):
                    # Not for ever: a loop that was closed tells of nothing.
                    room.wait(_LOOK_AGAIN)
                    room.clear()
                if task.cancelled:
                    return
        finally:
            if (close := getattr(values, "close", None)) is not None:
                close()

    def _leave(self, task: Inbound) -> None:
        # Before the answer: with it the node may let the next task in.
        self._running.pop(task.id, None)
        self._rooms.pop(task.id, None)
        self._late.discard(task.id)
        self._workers.leave()

    def withdraw(self, task: int) -> None:
        """Tells the function that nobody waits; whether it listens is up to it."""
        if (inbound := self._running.get(task)) is not None:
            inbound.cancelled = True
            self._late.add(task)
            if task not in self._running:
                self._late.discard(task)
            if (go_on := self._rooms.get(task)) is not None:
                go_on()

    def stop(self) -> None:
        """Ends the threads as they become free."""
        self._workers.stop()


public(globals())
