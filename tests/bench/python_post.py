"""Bare POSTs of a task as a child of the benches: ``python_post.py httpx|aiohttp STUB IN_FLIGHT PAYLOAD``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

import aiohttp
import httpx
from iicp_core import CHAT
from python_child import obey

Post = Callable[[], Awaitable[object]]
Close = Callable[[], Awaitable[object]]


async def many(count: int, in_flight: int, post: Post) -> None:
    """Sends so many, so many at a time."""

    async def lane(share: int) -> None:
        for _ in range(share):
            await post()

    await asyncio.gather(*(lane((count + lane_) // in_flight) for lane_ in range(in_flight)))


async def httpx_post(url: str, task: object, in_flight: int) -> tuple[Post, Close]:
    """A POST with httpx."""
    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=in_flight), trust_env=False)

    async def post() -> object:
        return (await client.post(url, json=task)).raise_for_status().json()

    return post, client.aclose


async def aiohttp_post(url: str, task: object, in_flight: int) -> tuple[Post, Close]:
    """A POST with aiohttp."""
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight), raise_for_status=True)

    async def post() -> object:
        async with session.post(url, json=task) as answer:
            return await answer.json()

    return post, session.close


async def closed(close: Close) -> None:
    """Closes a client."""
    await close()


def main() -> None:
    """Answers the benches until the input ends."""
    how, stub, in_flight, payload = sys.argv[1:]
    task = {"task_id": "2f1e1f3a-9d0c-4c5e-8b7a-5d2f6a1b3c4d", "intent": CHAT, "payload": json.loads(payload)}
    make = httpx_post if how == "httpx" else aiohttp_post
    with asyncio.Runner() as runner:
        post, close = runner.run(make(f"{stub}/v1/task", task, int(in_flight)))
        obey({}, lambda count: runner.run(many(count, int(in_flight), post)))
        runner.run(closed(close))


if __name__ == "__main__":
    main()
