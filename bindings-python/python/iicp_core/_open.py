"""What is opened: ``async with`` closes it again, ``await`` leaves that to you."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar


class Closes(Protocol):
    """What has to be closed."""

    async def close(self) -> Any:
        """Closes it."""


T = TypeVar("T", bound=Closes)


class Opening(Generic[T]):
    """Something that opens when it is awaited or entered."""

    __slots__ = ("_open", "_opened")

    def __init__(self, open_: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._open = open_

    def __await__(self) -> Generator[Any, None, T]:
        return self._open().__await__()

    async def __aenter__(self) -> T:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(self, *_: object) -> None:
        await self._opened.close()
