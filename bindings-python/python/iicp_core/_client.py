"""The client for asyncio."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import _forms
from ._engine import engine, refused
from ._loop import current
from ._native import Failure, NotPlain
from ._types import ChatReply, NodeInfo, TaskResult

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, Self, Unpack

    from ._generated import Chat, ChatMessage, ClientOptions, Discover, TaskOptions
    from ._native import Event


class Handle:
    """A client of the engine by its id; the same for both faces."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self.engine = engine()
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

    def __del__(self) -> None:
        # Not there if the options were refused.
        if getattr(self, "closed", True) is False:
            self.close()


class Client:
    """Finds nodes and sends tasks to them.

    May be used from any event loop; every call belongs to the loop it is made on. Cancelling a call cancels it at the
    far end. Options are those of :class:`ClientOptions`; nothing is sent before the first call.
    """

    def __init__(self, **options: Unpack[ClientOptions]) -> None:
        self._handle = Handle(options)

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

    async def close(self) -> None:
        """Closes the client; what it is doing ends with ``CLOSED``."""
        self._handle.close()

    def _call(self, verb: Callable[..., int], *arguments: object) -> Coroutine[Any, Any, Event]:
        queue = current()
        return queue.call(verb, self._handle.id, queue.id, *arguments)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<iicp_core.Client {'closed' if self._handle.closed else 'open'}>"
