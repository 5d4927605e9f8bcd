"""The published node as a program: serves with a handler that a task's payload commands, and tells what it did."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import httpx
import iicp_client.node
import lines
from iicp_client import IicpNode, NodeConfig, __version__


class Peer:
    """One node, and what went between it and its directory."""

    def __init__(self) -> None:
        self.node: IicpNode | None = None
        self.serving: asyncio.Task[None] | None = None
        self.calls: list[lines.Json] = []
        self.tasks: list[lines.Json] = []
        self.holding = 0
        self.release = asyncio.Event()

    async def serve(self, command: lines.Json) -> lines.Json:
        """Registers, then listens and reports at the given pace; the order of the published quick start."""
        iicp_client.node._HEARTBEAT_INTERVAL = command["heartbeat_s"]
        port = free_port()
        config = NodeConfig(
            node_id=command["node_id"],
            endpoint=f"http://127.0.0.1:{port}",
            intent=command["intent"],
            model=command["model"],
            region="eu-lab",
            directory_url=command["directory"],
            max_concurrent=command["max_concurrent"],
            enable_idempotency=True,
        )
        self.node = IicpNode(config)
        self.node._http.event_hooks = {"response": [self.note_call]}
        token = await self.node.register()
        self.serving = asyncio.create_task(self.node.serve(self.handle, "127.0.0.1", port, token))
        await listening(port, self.serving)
        return {"endpoint": config.endpoint}

    async def note_call(self, response: httpx.Response) -> None:
        """Keeps what the node asked its directory and what it was answered, without the credentials."""
        request = response.request
        await response.aread()
        asked = json.loads(request.content) if request.content else {}
        answered = response.json() if response.content else {}
        self.calls.append(
            {
                "call": f"{request.method} {request.url.path}",
                "status": response.status_code,
                "challenge_response": asked.get("challenge_response"),
                "metrics": asked.get("metrics"),
                "metrics_batch_id": asked.get("metrics_batch_id"),
                "metrics_batch_accepted": answered.get("metrics_batch_accepted"),
                "challenge": answered.get("challenge"),
                "hmac_key": self.node.node_hmac_key if self.node else None,
            }
        )

    async def handle(self, task: lines.Json) -> lines.Json:
        """Does what the payload says."""
        payload: Any = task["payload"]
        self.tasks.append({"task_id": task["task_id"], "trace": task.get("_trace"), "constraints": task["constraints"]})
        match payload.get("act"):
            case "fail":
                raise ValueError("the secret of the handler")
            case "close":
                raise RuntimeError("the backend is closed")
            case "backend":
                return {"error_code": 502, "error_message": "the backend is down"}
            case "merge":
                return {"choices": [], "merged": True}
            case "nothing":
                return {}
            case "hold":
                self.holding += 1
                await self.release.wait()
                return {"result": {"held": True}}
        if "messages" in payload:
            text = f"echo: {payload['messages'][-1]['content']}"
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
            return {"result": {"choices": [choice], "usage": usage, "model": "m-peer"}, "usage": usage}
        return {"result": {"echo": payload}}

    async def seen(self, _: lines.Json) -> lines.Json:
        """What happened until now."""
        return {"calls": self.calls, "tasks": self.tasks, "holding": self.holding}

    async def let_go(self, _: lines.Json) -> None:
        """Lets the held tasks finish."""
        self.release.set()

    async def stop(self, command: lines.Json) -> None:
        """Deregisters by the node's own hand, or leaves it to the end of ``serve``."""
        assert self.node is not None
        assert self.serving is not None
        if command["deregister"]:
            await self.node.deregister()
        self.serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.serving


def free_port() -> int:
    """A port that nobody listens on; the published node cannot tell which one the system would choose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def listening(port: int, serving: asyncio.Task[None]) -> None:
    """Returns when the node accepts connections; raises what stopped it."""
    while not serving.done():
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
            continue
        writer.close()
        return
    serving.result()


if __name__ == "__main__":
    peer = Peer()
    commands: dict[str, lines.Command] = {
        "serve": peer.serve,
        "seen": peer.seen,
        "let_go": peer.let_go,
        "stop": peer.stop,
    }
    asyncio.run(lines.serve(commands, {"version": __version__}))
