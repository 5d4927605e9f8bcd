"""The same client, node and directory for programs without an event loop.

Every wait lets signals through within a tenth of a second, so Ctrl-C works as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeVar, overload

from . import _forms, _loop
from ._client import Handle
from ._directory import CLOSE_SECONDS as DIRECTORY_CLOSE_SECONDS
from ._directory import LOOPBACK
from ._engine import engine, refused
from ._errors import error
from ._generated import Code, EventKind, Inference
from ._native import Engine, Event, Failure, NotPlain
from ._open import Opening
from ._serve import CLOSE_SECONDS, Handler
from ._serve import Node as AsyncNode
from ._serve import serve as serve_async
from ._stream import Streaming
from ._types import (
    ChatReply,
    Chunk,
    CompletionReply,
    EmbeddingReply,
    ModerationReply,
    NatReport,
    NodeInfo,
    NodeStatus,
    SpeechReply,
    TaskResult,
    TranscriptionReply,
)

if TYPE_CHECKING:
    from typing import Self, Unpack

    from ._generated import (
        Chat,
        ChatMessage,
        ClientOptions,
        Completion,
        DirectoryOptions,
        Discover,
        Embedding,
        Moderation,
        NodeOptions,
        Speech,
        TaskOptions,
        Transcription,
    )
    from ._ranker import CallRanking, Ranker

__all__ = ["Client", "Directory", "Node", "TaskStream", "serve"]

_SLICE = 0.1
_CHUNK = EventKind.CHUNK.value
_DONE = EventKind.DONE.value
_RANK = EventKind.RANK.value
T = TypeVar("T")


class Mailbox:
    """The queue of one thread."""

    def __init__(self) -> None:
        self.engine: Engine = engine()
        self._tags = itertools.count(1)
        try:
            self.id: int = self.engine.queue_new(b"")
        except Failure as failure:
            raise refused(failure) from None

    def call(self, verb: Callable[..., int], *arguments: object, ranking: CallRanking | None = None) -> Event:
        """Starts an operation and waits for its end. Interrupted, it cancels the operation."""
        tag = next(self._tags)
        try:
            operation = verb(*arguments, tag)
            try:
                found = self.engine.queue_next(self.id, _SLICE)
                # Also past what interrupted calls left behind.
                while found is None or found[1] != tag or found[0] != _DONE:
                    if ranking is not None and found is not None and found[1] == tag:
                        ranking.begin(found[2])
                    found = self.engine.queue_next(self.id, _SLICE)
            except BaseException:
                with contextlib.suppress(Failure):
                    self.engine.cancel(operation)
                raise
        except Failure as failure:
            raise refused(failure) from None
        event = found[2]
        if (failed := event.error) is not None:
            raise error(*failed)
        return event

    def free(self) -> None:
        """Gives the queue back; what still runs in it is cancelled."""
        with contextlib.suppress(Failure):
            self.engine.queue_free(self.id)

    def __del__(self) -> None:
        if hasattr(self, "id"):
            self.free()


class _Mine(threading.local):
    mailbox: Mailbox | None = None


_mine = _Mine()


def _mailbox() -> Mailbox:
    found = _mine.mailbox
    if found is None or found.engine is not engine():
        found = _mine.mailbox = Mailbox()
    return found


class TaskStream(Streaming):
    """The parts of a result as the provider makes them: ``for chunk in client.stream(...)``.

    Nothing is sent before the first part is asked for. Leaving the loop in any way, Ctrl-C included, cancels the task
    at the provider, whose handler stops; so do :meth:`close`, the end of ``with``, and forgetting the stream. A slow
    reader slows the provider down: nothing is lost, and a megabyte is kept at most.
    """

    def __init__(self, handle: Handle, ask: bytes, body: bytes) -> None:
        super().__init__(handle, ask, body)
        self._ranking: CallRanking | None = None
        # Its own, so that other calls may be made between two parts. Given back, it cancels what runs.
        self._mailbox: Mailbox | None = None

    def __iter__(self) -> Iterator[Chunk]:
        # It ends with its loop, though somebody may still hold the stream.
        try:
            while True:
                try:
                    chunk = next(self)
                except StopIteration:
                    return
                yield chunk
        finally:
            self.close()

    def __next__(self) -> Chunk:
        """The next part. After an error the result stays incomplete, and nothing more comes."""
        if self._over:
            raise StopIteration
        mailbox = self._mailbox or self._start()
        while True:
            try:
                found = mailbox.engine.queue_next(mailbox.id, _SLICE)
            except Failure as failure:
                self.close()
                raise refused(failure) from None
            if found is None:
                continue
            kind, _, event = found
            if kind == _CHUNK:
                return _forms.read_chunk(event)
            if kind == _DONE:
                self.close()
                self._finish(event)
                raise StopIteration
            if kind == _RANK and self._ranking is not None:
                self._ranking.begin(event)

    def _start(self) -> Mailbox:
        handle, mailbox = self._handle, Mailbox()
        self._ranking = handle.ranking.of_call() if handle.ranking is not None else None
        try:
            handle.engine.stream(handle.id, mailbox.id, *self._ask, 1)
        except Failure as failure:
            raise refused(failure) from None
        self._mailbox = mailbox
        return mailbox

    def close(self) -> None:
        """Cancels the task, if it still runs."""
        self._over = True
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None:
            mailbox.free()

    def __del__(self) -> None:
        # Not there if the arguments were refused.
        if getattr(self, "_mailbox", None) is not None:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """Finds nodes and sends tasks to them. May be shared by threads.

    A ``ranker``, a plain function, is asked before every task which candidate goes first.
    """

    def __init__(self, *, ranker: Ranker | None = None, **options: Unpack[ClientOptions]) -> None:
        self._handle = Handle(options, ranker, plain_only=True)

    def discover(self, **query: Unpack[Discover]) -> list[NodeInfo]:
        """Asks the directory for nodes that serve an intent, best first."""
        return _forms.read_nodes(self._call(self._handle.engine.discover, _forms.options(query)))

    def submit(self, *, payload: object, **task: Unpack[TaskOptions]) -> TaskResult:
        """Sends a task to the best node that serves its intent, and waits for the result.

        The payload is any JSON value, or JSON text as bytes.
        """
        submit, options = self._handle.engine.submit, _forms.options(task)
        try:
            event = self._call(submit, options, payload)
        except NotPlain:
            event = self._call(submit, options, _forms.payload(payload))
        return _forms.read_task(event)

    def chat(self, messages: str | Sequence[ChatMessage], /, **options: Unpack[Chat]) -> ChatReply:
        """Chats with a language model: one user's message, or a whole conversation."""
        chat = _forms.options({**options, "messages": _forms.messages(messages)})
        return _forms.read_chat(self._call(self._handle.engine.chat, chat))

    @overload
    def stream(self, messages: str | Sequence[ChatMessage], /, **options: Unpack[Chat]) -> TaskStream: ...

    @overload
    def stream(self, messages: None = None, /, *, payload: object, **task: Unpack[TaskOptions]) -> TaskStream: ...

    def stream(self, messages: str | Sequence[ChatMessage] | None = None, /, **options: Any) -> TaskStream:
        """A chat, or any task, whose result comes in parts: ``for chunk in client.stream("Hello"): ...``.

        A chat is given as for :meth:`chat`, a task as for :meth:`submit`; its time is for the whole stream. Leaving the
        loop cancels the task at the provider. One that does not stream gives its whole result as one part.

        ``with client.stream("Hello") as stream:`` keeps the stream at hand: once its parts are read,
        ``stream.result`` tells the usage, the node and more.
        """
        return TaskStream(self._handle, *_forms.ask(messages, options))

    def complete(self, prompt: str, /, **options: Unpack[Completion]) -> CompletionReply:
        """Completes a text."""
        ask = _forms.options({**options, "prompt": prompt})
        return _forms.read_completion(self._infer(Inference.COMPLETION, ask))

    def embed(self, input: str | Sequence[str], /, **options: Unpack[Embedding]) -> EmbeddingReply:  # noqa: A002
        """Turns a text, or several, into vectors."""
        ask = _forms.options({**options, "input": input})
        return _forms.read_embedding(self._infer(Inference.EMBEDDING, ask))

    def transcribe(
        self, audio: bytes | bytearray | memoryview, /, **options: Unpack[Transcription]
    ) -> TranscriptionReply:
        """Writes down what is said in a sound file."""
        ask, sound = _forms.options(options), _forms.sound(audio)
        return _forms.read_transcription(self._infer(Inference.TRANSCRIPTION, ask, sound))

    def speak(self, input: str, /, **options: Unpack[Speech]) -> SpeechReply:  # noqa: A002
        """Speaks a text. The result of the reply's task is None: the sound is in the reply itself."""
        ask = _forms.options({**options, "input": input})
        return _forms.read_speech(self._infer(Inference.SPEECH, ask))

    def moderate(self, input: str | Sequence[str], /, **options: Unpack[Moderation]) -> ModerationReply:  # noqa: A002
        """Judges a text, or several."""
        ask = _forms.options({**options, "input": input})
        return _forms.read_moderation(self._infer(Inference.MODERATION, ask))

    def close(self) -> None:
        """Closes the client; what it is doing on other threads ends with ``CLOSED``."""
        self._handle.close()

    def _call(self, verb: Callable[..., int], *arguments: object) -> Event:
        mailbox, handle = _mailbox(), self._handle
        ranking = handle.ranking.of_call() if handle.ranking is not None else None
        return mailbox.call(verb, handle.id, mailbox.id, *arguments, ranking=ranking)

    def _infer(self, kind: Inference, ask: bytes, sound: bytes = b"") -> Event:
        return self._call(self._handle.engine.infer, kind, ask, sound)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<iicp_core.sync.Client {'closed' if self._handle.closed else 'open'}>"


class Directory:
    """A directory inside this process: ``with Directory.loopback() as mesh:``."""

    def __init__(self, options: bytes) -> None:
        mailbox = _mailbox()
        event = mailbox.call(mailbox.engine.directory_bind, mailbox.id, options)
        self._engine = mailbox.engine
        self._id = event.handle
        self.url: str = _forms.from_json(event.json)["url"]
        """What clients and nodes take as their ``directory``."""

    @classmethod
    def loopback(cls, **options: Unpack[DirectoryOptions]) -> Directory:
        """A directory for development on this machine: nothing is probed, limited or gated."""
        return cls(_forms.options({**LOOPBACK, **options}))

    @classmethod
    def bind(cls, **options: Unpack[DirectoryOptions]) -> Directory:
        """A directory as strict as its options say."""
        return cls(_forms.options(options))

    def close(self, grace: float = DIRECTORY_CLOSE_SECONDS) -> None:
        """Closes the directory; requests that it is answering have ``grace`` seconds to end."""
        seconds = _forms.grace(grace)
        directory, self._id = self._id, 0
        if directory:
            mailbox = _mailbox()
            mailbox.call(self._engine.directory_close, directory, mailbox.id, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<iicp_core.sync.Directory {self.url if self._id else 'closed'}>"


class Node:
    """A node that serves on a thread of its own. Leave its ``with`` block, or call :meth:`close`, to stop it."""

    def __init__(self, handler: Handler | None, options: NodeOptions) -> None:
        opening = serve_async(handler, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._turn, name="iicp-serve", daemon=True)
        self._thread.start()
        self._in_time: bool | None = None
        try:
            self._node = self._wait(_opened(opening))
        except BaseException:
            self._stop()
            raise
        self.node_id = self._node.node_id
        self.url = self._node.url
        """Where callers reach the node."""

    def _turn(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(_loop.release())
        self._loop.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread:
            work.close()
            raise error(Code.INVALID_ARG, "a coroutine of the handler would wait for itself; use a plain function")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            # A signal that comes just before a lock is waited for does not end that wait.
            while not futures.wait((future,), _SLICE).done:
                pass
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def status(self) -> NodeStatus:
        """How the node is just now."""
        return self._node.status()

    def nat_report(self) -> NatReport:
        """How the node can be reached from outside: what was tried, what came back, what to do about it."""
        return self._node.nat_report()

    def close(self, grace: float = CLOSE_SECONDS) -> bool:
        """Leaves the directory, takes no new task and gives the running ones ``grace`` seconds.

        True if all ended in time; the others are cancelled.
        """
        if self._in_time is None:
            self._in_time = self._wait(self._node.close(grace))
            self._stop()
        return self._in_time

    def closed(self) -> None:
        """Waits until the node is closed, or Ctrl-C is pressed."""
        if self._in_time is None:
            self._wait(self._node.closed())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._node).replace("iicp_core", "iicp_core.sync", 1)


async def _opened(opening: Opening[AsyncNode]) -> AsyncNode:
    return await opening


def serve(handler: Handler | None = None, **options: Unpack[NodeOptions]) -> Node:
    """Serves tasks with a handler, on threads that belong to the node, or with the option ``backend``.

    ``with serve(handler, intents=[CHAT], directory=url) as node:``. An exception of the handler is logged here and
    answered without its text; raise :class:`iicp_core.Rejected` to tell the caller something.

    ``serve(backend={"url": "http://127.0.0.1:8000/v1"}, directory=url)`` takes no handler: tasks go to that inference
    server and never come to Python.
    """
    return Node(handler, options)
