"""The Python client as a child of the benches: ``python_client.py DIRECTORY IN_FLIGHT PAYLOAD [sync]``."""

from __future__ import annotations

import asyncio
import json
import sys

import iicp_core
from iicp_core import CHAT, sync
from python_child import obey


async def many(count: int, in_flight: int, client: iicp_core.Client, payload: object) -> None:
    """Submits so many tasks, so many at a time."""

    async def lane(share: int) -> None:
        for _ in range(share):
            await client.submit(intent=CHAT, payload=payload)

    await asyncio.gather(*(lane((count + lane_) // in_flight) for lane_ in range(in_flight)))


def main() -> None:
    """Answers the benches until the input ends."""
    directory, in_flight, text, *face = sys.argv[1:]
    payload = json.loads(text)
    if face:
        waiting = sync.Client(directory=directory, routing_policy={"require_encryption": False})

        def one_after_the_other(count: int) -> None:
            for _ in range(count):
                waiting.submit(intent=CHAT, payload=payload)

        obey({}, one_after_the_other)
        return
    client = iicp_core.Client(directory=directory, routing_policy={"require_encryption": False})
    with asyncio.Runner() as runner:
        obey({}, lambda count: runner.run(many(count, int(in_flight), client, payload)))


if __name__ == "__main__":
    main()
