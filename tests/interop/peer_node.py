"""The published node as a program: serves with a handler that a task's payload commands, and tells what it did."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import iicp_client.node
import lines
from iicp_client import IicpNode, NodeConfig, __version__
from iicp_client.concurrency import ConcurrencyGate
from iicp_client.iicp_tcp import IicpTcpServer


class Answers(logging.Handler):
    """Keeps the status of every answer: the node's HTTP server logs the request's line, the status and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[int] = []
        logger = logging.getLogger("iicp_client.node")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Takes the lines of the server and leaves all others."""
        match record.args:
            case (str(), str(status), str()) if status.isdigit():
                self.statuses.append(int(status))


class Peer:
    """One node, and what went between it and its directory."""

    def __init__(self) -> None:
        self.node: IicpNode | None = None
        self.native: IicpTcpServer | None = None
        self.serving: asyncio.Task[None] | None = None
        self.calls: list[lines.Json] = []
        self.answers = Answers()
        self.tasks: list[lines.Json] = []
        self.holding = 0
        self.release = asyncio.Event()

    async def serve(self, command: lines.Json) -> lines.Json:
        """Registers, then listens and reports at the given pace; the order of the published quick start."""
        iicp_client.node._HEARTBEAT_INTERVAL = command["heartbeat_s"]
        port: int = command["port"]
        config = NodeConfig(
            node_id=command["node_id"],
            endpoint=command.get("endpoint", f"http://127.0.0.1:{port}"),
            intent=command["intent"],
            model=command["model"],
            region="eu-lab",
            directory_url=command["directory"],
            max_concurrent=command["max_concurrent"],
            enable_idempotency=command["enable_idempotency"],
            relay_capable=command.get("relay_capable", False),
            relay_accept_port=command.get("relay_accept_port", 9485),
            relay_worker_endpoint=command.get("relay_worker_endpoint"),
            transport_endpoint=command.get("transport_endpoint"),
        )
        self.node = IicpNode(config)
        if command.get("keyless"):
            # As where its cryptography is not installed.
            self.node._cx_public_key = None  # type: ignore[assignment]
        self.node._http.event_hooks = {"response": [self.note_call]}
        token = await self.node.register()
        self.serving = asyncio.create_task(self.node.serve(self.handle, "127.0.0.1", port, token))
        await listening(port, self.serving)
        return {"endpoint": config.endpoint}

    async def serve_native(self, command: lines.Json) -> None:
        """Listens for native frames alone, with parts and a bound, which the node itself installs neither of."""
        self.native = IicpTcpServer(
            host="127.0.0.1",
            port=command["port"],
            node_id=command["node_id"],
            handler=self.handle,
            streaming_handler=self.stream,
            concurrency_gate=ConcurrencyGate(command["max_concurrent"]),
        )
        await self.native.start()

    async def stream(self, task: lines.Json) -> AsyncIterator[lines.Json]:
        """Gives parts, and ends as the payload says."""
        payload: Any = task["payload"]
        self.tasks.append({"task_id": task["task_id"], "call_id": task["call_id"]})
        for n in range(payload["parts"]):
            yield {"status": "partial", "result": {"n": n, "bytes": b"b"}, "tokens_used": n + 1}
            if payload.get("act") == "hold" and n == 0:
                self.holding += 1
                await self.release.wait()
        match payload.get("act"):
            case "fail":
                raise ValueError("the secret of the handler")
            case "nothing":
                return
            case "timeout":
                yield {"status": "timeout", "error_code": "too_slow", "error_message": "took too long"}
            case _:
                yield {"status": "success", "tokens_used": 9}

    async def note_call(self, response: httpx.Response) -> None:
        """Keeps what the node asked its directory and what it was answered, without the credentials."""
        request = response.request
        await response.aread()
        asked: lines.Json = json.loads(request.content) if request.content else {}
        answered: lines.Json = response.json() if response.content else {}
        taken = asked.get("metrics_batch_id") == answered.get("metrics_batch_accepted")
        self.calls.append(
            {
                "call": f"{request.method} {request.url.path}",
                "status": response.status_code,
                # Our directory's own judgement of the answer to its last challenge.
                "challenge_verified": answered.get("challenge_verified"),
                "metrics": asked.get("metrics"),
                "metrics_taken": "metrics" in asked and taken,
            }
        )

    async def handle(self, task: lines.Json) -> lines.Json:
        """Does what the payload says."""
        payload: Any = task["payload"]
        # Natively there are no constraints.
        constraints = task.get("constraints")
        self.tasks.append({"task_id": task["task_id"], "trace": task.get("_trace"), "constraints": constraints})
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
                return {"result": {"held": payload.get("n")}}
        if "messages" in payload:
            text = f"echo: {payload['messages'][-1]['content']}"
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
            return {"result": {"choices": [choice], "usage": usage, "model": "m-peer"}, "usage": usage}
        return {"result": {"echo": payload}}

    async def seen(self, _: lines.Json) -> lines.Json:
        """What happened until now."""
        return {"calls": self.calls, "tasks": self.tasks, "answers": self.answers.statuses, "holding": self.holding}

    async def let_go(self, _: lines.Json) -> None:
        """Lets the held tasks finish."""
        self.release.set()

    async def token(self, _: lines.Json) -> str:
        """The credential that the directory gave, for a client that shows it there."""
        assert self.node is not None
        return self.node._node_token

    async def deregister(self, _: lines.Json) -> None:
        """Leaves the directory but goes on serving; its reports end first, or it would register again."""
        assert self.node is not None
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__name__", "") == "_heartbeat_loop":
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self.node.deregister()

    async def stop(self, _: lines.Json) -> None:
        """Stops serving; the node deregisters on its way out."""
        assert self.serving is not None
        self.serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.serving


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
    # Only its own task refers to a native connection of the published node while that waits for a frame, so that the
    # collector ends such connections now and then, with what was just sent over them. No test is about that.
    gc.disable()
    peer = Peer()
    commands: dict[str, lines.Command] = {
        "serve": peer.serve,
        "serve_native": peer.serve_native,
        "seen": peer.seen,
        "let_go": peer.let_go,
        "token": peer.token,
        "deregister": peer.deregister,
        "stop": peer.stop,
    }
    asyncio.run(lines.serve(commands, {"version": __version__}))
