"""A node of the Python package with a coroutine that does nothing, as a child of the benches."""

from __future__ import annotations

import asyncio
import threading

import iicp_core
from python_child import obey


async def nothing(_: iicp_core.Inbound) -> None:
    """Serves a task."""


def refuse(_: int) -> None:
    """A server runs nothing by itself."""
    raise NotImplementedError


async def main() -> None:
    """Serves until the input ends."""
    async with iicp_core.serve(nothing, intents=[iicp_core.CHAT], max_concurrent=256) as node:
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def answer() -> None:
            obey({"url": node.url}, refuse)
            loop.call_soon_threadsafe(over.set)

        threading.Thread(target=answer).start()
        await over.wait()


if __name__ == "__main__":
    asyncio.run(main())
