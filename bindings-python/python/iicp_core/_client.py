"""The client for asyncio."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from . import _forms
from ._engine import engine, refused
from ._errors import error
from ._generated import Code, Inference
from ._loop import current
from ._native import Failure, NotPlain
from ._public import public
from ._stream import TaskStream
from ._types import (
    ChatReply,
    CompletionReply,
    EmbeddingReply,
    ModerationReply,
    NodeInfo,
    SpeechReply,
    TaskResult,
    TranscriptionReply,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Self, Unpack

    from ._generated import (
        Chat,
        ChatMessage,
        ClientOptions,
        Completion,
        Discover,
        Embedding,
        Moderation,
        Speech,
        TaskOptions,
        Transcription,
    )
    from ._native import Event
    from ._ranker import Ranker, Ranking


class Handle:
    """A client of the engine by its id; the same for both faces."""

    def __init__(self, options: Mapping[str, object], ranker: Ranker | None, *, plain_only: bool = False) -> None:
        self.engine = engine()
        self.ranking: Ranking | None = None
        if ranker is not None:
            from ._ranker import Ranking

            self.ranking = Ranking(ranker, plain_only=plain_only)
            options = {**options, "external_ranker": True}
        elif options.get("external_ranker"):
            raise error(Code.CONFIG_INVALID, "option external_ranker of a client: give it a ranker instead")
        try:
            self.id: int = self.engine.client_new(_forms.options(options))
        except Failure as failure:
            raise refused(failure) from None
        self.closed = False

    def close(self) -> None:
        """Closes the client; what it is doing ends with ``CLOSED``."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(Failure):
                self.engine.client_close(self.id)
            if self.ranking is not None:
                self.ranking.close()

    def __del__(self) -> None:
        # Not there if the options were refused.
        if getattr(self, "closed", True) is False:
            self.close()


class Client:
    """Finds nodes and sends tasks to them.

    May be used from any event loop; every call belongs to the loop it is made on. Cancelling a call cancels it at the
    far end. Options are those of :class:`ClientOptions`; nothing is sent before the first call. A ``ranker`` is asked
    before every task which candidate goes first.
    """

    def __init__(self, *, ranker: Ranker | None = None, **options: Unpack[ClientOptions]) -> None:
        self._handle = Handle(options, ranker)

    async def discover(self, **query: Unpack[Discover]) -> list[NodeInfo]:
        """Asks the directory for nodes that serve an intent, best first."""
        return _forms.read_nodes(await self._call(self._handle.engine.discover, _forms.options(query)))

    async def submit(self, *, payload: object, **task: Unpack[TaskOptions]) -> TaskResult:
        """Sends a task to the best node that serves its intent, and waits for the result.

        The payload is any JSON value, or JSON text as bytes.
        """
        submit, options = self._handle.engine.submit, _forms.options(task)
        try:
            event = await self._call(submit, options, payload)
        except NotPlain:
            event = await self._call(submit, options, _forms.payload(payload))
        return _forms.read_task(event)

    async def chat(self, messages: str | Sequence[ChatMessage], /, **options: Unpack[Chat]) -> ChatReply:
        """Chats with a language model: one user's message, or a whole conversation."""
        chat = _forms.options({**options, "messages": _forms.messages(messages)})
        return _forms.read_chat(await self._call(self._handle.engine.chat, chat))

    @overload
    def stream(self, messages: str | Sequence[ChatMessage], /, **options: Unpack[Chat]) -> TaskStream: ...

    @overload
    def stream(self, messages: None = None, /, *, payload: object, **task: Unpack[TaskOptions]) -> TaskStream: ...

    def stream(self, messages: str | Sequence[ChatMessage] | None = None, /, **options: Any) -> TaskStream:
        """A chat, or any task, whose result comes in parts: ``async for chunk in client.stream("Hello"): ...``.

        A chat is given as for :meth:`chat`, a task as for :meth:`submit`; its time is for the whole stream. Leaving the
        loop cancels the task at the provider. One that does not stream gives its whole result as one part.

        ``async with client.stream("Hello") as stream:`` keeps the stream at hand: once its parts are read,
        ``stream.result`` tells the usage, the node and more.
        """
        return TaskStream(self._handle, *_forms.ask(messages, options))

    async def complete(self, prompt: str, /, **options: Unpack[Completion]) -> CompletionReply:
        """Completes a text."""
        ask = _forms.options({**options, "prompt": prompt})
        return _forms.read_completion(await self._infer(Inference.COMPLETION, ask))

    async def embed(self, input: str | Sequence[str], /, **options: Unpack[Embedding]) -> EmbeddingReply:  # noqa: A002
        """Turns a text, or several, into vectors."""
        ask = _forms.options({**options, "input": input})
        return _forms.read_embedding(await self._infer(Inference.EMBEDDING, ask))

    async def transcribe(
        self, audio: bytes | bytearray | memoryview, /, **options: Unpack[Transcription]
    ) -> TranscriptionReply:
        """Writes down what is said in a sound file."""
        ask, sound = _forms.options(options), _forms.sound(audio)
        return _forms.read_transcription(await self._infer(Inference.TRANSCRIPTION, ask, sound))

    async def speak(self, input: str, /, **options: Unpack[Speech]) -> SpeechReply:  # noqa: A002
        """Speaks a text. The result of the reply's task is None: the sound is in the reply itself."""
        ask = _forms.options({**options, "input": input})
        return _forms.read_speech(await self._infer(Inference.SPEECH, ask))

    async def moderate(self, input: str | Sequence[str], /, **options: Unpack[Moderation]) -> ModerationReply:  # noqa: A002
        """Judges a text, or several."""
        ask = _forms.options({**options, "input": input})
        return _forms.read_moderation(await self._infer(Inference.MODERATION, ask))

    async def close(self) -> None:
        """Closes the client; what it is doing ends with ``CLOSED``."""
        self._handle.close()

    def _call(self, verb: Callable[..., int], *arguments: object) -> Coroutine[Any, Any, Event]:
        queue, handle = current(), self._handle
        if handle.ranking is None:
            return queue.call(verb, handle.id, queue.id, *arguments)
        return queue.call_ranked(handle.ranking.of_call(), verb, handle.id, queue.id, *arguments)

    def _infer(self, kind: Inference, ask: bytes, sound: bytes = b"") -> Coroutine[Any, Any, Event]:
        return self._call(self._handle.engine.infer, kind, ask, sound)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<iicp_core.Client {'closed' if self._handle.closed else 'open'}>"


public(globals())
