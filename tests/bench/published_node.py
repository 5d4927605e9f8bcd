"""The published node as a process under test: an echo node that says its CPU time when it is asked."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from typing import Any

from iicp_client import IicpNode, NodeConfig


async def echo(task: dict[str, Any]) -> dict[str, Any]:
    """Gives the payload back."""
    return {"result": task["payload"]}


def free_port() -> int:
    """A port that is free now; the published node cannot be asked which one it was given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answer(port: int) -> None:
    """Says that the node listens, then answers each line of input with the CPU time so far."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.01)
    say({"url": f"http://127.0.0.1:{port}"})
    for _ in sys.stdin:
        say({"cpu_ns": time.process_time_ns()})


def say(answer: dict[str, str] | dict[str, int]) -> None:
    """Writes one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Serves until the input ends. Without a token it reports to no directory, which is its cheapest way to serve."""
    port = free_port()
    config = NodeConfig(
        node_id="published", endpoint=f"http://127.0.0.1:{port}", intent=sys.argv[1], model="echo-1", max_concurrent=64
    )
    serving = asyncio.create_task(IicpNode(config).serve(echo, "127.0.0.1", port))
    asked = threading.Thread(target=answer, args=(port,))
    asked.start()
    while asked.is_alive() and not serving.done():
        await asyncio.sleep(0.2)
    serving.cancel()


if __name__ == "__main__":
    asyncio.run(main())
