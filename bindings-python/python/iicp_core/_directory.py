"""The embedded directory for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _forms
from ._loop import current
from ._open import Opening
from ._public import public

if TYPE_CHECKING:
    from typing import Unpack

    from ._generated import DirectoryOptions

LOOPBACK = {"probe": False, "limits": False, "qos_gating": False}
"""What a directory for development on this machine does not do."""

CLOSE_SECONDS = 5.0


class Directory:
    """A directory inside this process.

    ``async with Directory.loopback() as mesh:`` or ``mesh = await Directory.loopback()``.
    """

    def __init__(self, handle: int, url: str) -> None:
        self._handle = handle
        self.url = url
        """What clients and nodes take as their ``directory``."""

    @staticmethod
    def loopback(**options: Unpack[DirectoryOptions]) -> Opening[Directory]:
        """A directory for development on this machine: nothing is probed, limited or gated."""
        return Opening(lambda: _bind(_forms.options({**LOOPBACK, **options})))

    @staticmethod
    def bind(**options: Unpack[DirectoryOptions]) -> Opening[Directory]:
        """A directory as strict as its options say."""
        return Opening(lambda: _bind(_forms.options(options)))

    async def close(self, grace: float = CLOSE_SECONDS) -> None:
        """Closes the directory; requests that it is answering have ``grace`` seconds to end."""
        seconds = _forms.grace(grace)
        handle, self._handle = self._handle, 0
        if handle:
            queue = current()
            await queue.call(queue.engine.directory_close, handle, queue.id, seconds)

    def __repr__(self) -> str:
        return f"<iicp_core.Directory {self.url if self._handle else 'closed'}>"


async def _bind(options: bytes) -> Directory:
    queue = current()
    engine = queue.engine

    def undo(handle: int) -> object:
        return engine.directory_close(handle, queue.id, 0.0, queue.new_tag())

    event = await queue.call(engine.directory_bind, queue.id, options, undo=undo)
    return Directory(event.handle, _forms.from_json(event.json)["url"])


public(globals())
