"""One half of every pair, a node and a client told by lines what to do: ``mate.py DIRECTORY_URL INTENT``."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from iicp_core import Client, IicpError, Inbound, Rejected, TaskStream, serve

# What the handler saw.
seen = {"seen": 0, "cancelled": 0}


async def handle(task: Inbound) -> Any:
    seen["seen"] += 1
    told = task.payload
    match told["do"]:
        case "echo":
            return {"echo": told["value"]}
        case "fail":
            raise Rejected("the piano is out of tune")
        case "throw":
            raise RuntimeError("as told")
        case "count":
            return count(told["to"])
        case "drip":
            return drip()
        case "slow":
            await sleep(told["ms"] / 1000)
            return {"slept": told["ms"]}
        case "wait":
            await sleep(60)
            raise Rejected("nobody cancelled")
        case _:
            raise Rejected("nobody told what to do")


async def count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


async def drip() -> AsyncIterator[int]:
    yield 0
    await sleep(60)


async def sleep(seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        raise


def say(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)


def ours(engines: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's options, as Python has them."""
    made: dict[str, Any] = {}
    for name, value in engines.items():
        if isinstance(value, dict):
            made[name] = ours(cast("dict[str, Any]", value))
        else:
            made[name.removesuffix("_ms")] = value / 1000 if name.endswith("_ms") else value
    return made


async def take(stream: TaskStream, most: int) -> list[Any]:
    taken: list[Any] = []
    async for chunk in stream:
        taken.append(chunk.result)
        if len(taken) == most:
            break
    return taken


async def submit(client: Client, command: dict[str, Any]) -> None:
    known: dict[str, object]
    timeout = command.get("timeout_ms", 5_000) / 1000
    try:
        if "take" in command:
            stream = client.stream(intent=command["intent"], payload=command["payload"], timeout=timeout)
            known = {"payload": await take(stream, command["take"])}
        else:
            done = await client.submit(intent=command["intent"], payload=command["payload"], timeout=timeout)
            known = {"payload": done.result}
    except IicpError as e:
        known = {"error": e.name, "wire_code": e.wire_code}
    except asyncio.CancelledError:
        known = {"error": "CANCELLED", "wire_code": None}
    say({"id": command["id"], **known})


async def main() -> None:
    directory, intent, *more = sys.argv[1:]
    options = ours(json.loads(more[0])) if more else {}
    # Told to fail, it need not say how.
    logging.getLogger("iicp_core").setLevel(logging.CRITICAL)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    running: dict[int, asyncio.Task[None]] = {}
    node = await serve(handle, intents=[intent], directory=directory, max_concurrent=2, **options)
    async with Client(directory=directory) as client:
        say({"ready": node.node_id})
        async for line in lines:
            command = json.loads(line)
            if "cancel" in command:
                running[command["cancel"]].cancel()
            elif "status" in command:
                say({"id": command["id"], **seen})
            else:
                running[command["id"]] = asyncio.create_task(submit(client, command))
    await node.close(grace=2)


asyncio.run(main())
