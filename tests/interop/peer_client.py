"""The published client as a program: discovers, submits and chats as it is told, and answers what it got."""

from __future__ import annotations

import asyncio
import os
import socket

import lines
from iicp_client import (
    ChatMessage,
    ChatOptions,
    ClientConfig,
    DiscoverOptions,
    IicpClient,
    IicpError,
    TaskConstraints,
    TaskRequest,
    __version__,
)
from iicp_client.iicp_tcp import IicpTcpClient, IicpTcpClientError

# A name that a certificate can be for, and that leads here: the peer's file of hosts, as it were.
HERE = os.environ.get("IICP_PEER_NAME_OF_LOOPBACK")
resolve = socket.getaddrinfo


def getaddrinfo(host: str, *more: object, **named: object) -> list[tuple[object, ...]]:
    """Resolves as the system does, but for that name."""
    asked = host.decode() if isinstance(host, bytes) else host
    return resolve("127.0.0.1" if HERE and asked == HERE else host, *more, **named)  # type: ignore[arg-type,return-value]


socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]

clients: dict[tuple[str, str, str | None], IicpClient] = {}


def client(command: lines.Json) -> IicpClient:
    """One client per directory, route mode and credential, kept as an application would keep it."""
    key = (command["directory"], command["mode"], command.get("node_token"))
    if key not in clients:
        config = ClientConfig(directory_url=key[0], route_discovery_mode=key[1], node_token=key[2])
        if key[2] is not None:
            config.consumer_auth_mode = "required"
        clients[key] = IicpClient(config)
    return clients[key]


async def discover(command: lines.Json) -> list[lines.Json]:
    """Asks the directory, without tickets."""
    options = DiscoverOptions(model=command.get("model"))
    found = await client(command).discover_async(command["intent"], options)
    return [{"node_id": node.node_id, "endpoint": node.endpoint, "models": node.models} for node in found.nodes]


async def submit(command: lines.Json) -> lines.Json:
    """Sends one task."""
    constraints = TaskConstraints(timeout_ms=command.get("timeout_ms", 30_000))
    request = TaskRequest(intent=command["intent"], payload=command["payload"], constraints=constraints)
    reply = await client(command).submit_async(request)
    return {
        "task_id": reply.task_id,
        "status": reply.status,
        "result": reply.result,
        "node_id": reply.metrics.node_id,
        "ticket": reply.dispatch_ticket_id_prefix,
    }


async def chat(command: lines.Json) -> lines.Json:
    """Sends one message of a user."""
    options = ChatOptions(model=command.get("model"), max_tokens=command.get("max_tokens"))
    reply = await client(command).chat_async([ChatMessage(role="user", content=command["content"])], options)
    choice = reply.choices[0]
    return {
        "role": choice.message.role,
        "content": choice.message.content,
        "finish_reason": choice.finish_reason,
        "total_tokens": reply.usage.total_tokens,
        "model": reply.model,
        "node_id": reply.iicp_node_id,
    }


async def native(command: lines.Json) -> lines.Json:
    """Talks to a node natively: every request that their client has, one after the other on one connection."""
    async with IicpTcpClient("127.0.0.1", command["port"]) as peer:
        await peer.handshake()
        echo = await peer.ping(b"abc")
        nodes = await peer.discover(command["intent"])
        answers: list[lines.Json] = []
        for at, payload in enumerate(command["payloads"]):
            try:
                result = await peer.call(command["intent"], payload, call_id=f"call-{at}")
                answers.append({"result": result})
            except IicpTcpClientError as error:
                answers.append({"error": str(error)})
        events = [
            {"status": event["status"], "result": event["result"], "final": event["is_final"], "error": event["error"]}
            async for event in peer.stream_call(
                command["intent"], command["followed"], task_id="their-task", idempotency_key="their-task"
            )
        ]
        return {
            "node_id": peer.peer_node_id,
            "version": peer.framing_version,
            "echo": echo.decode() if echo else None,
            "nodes": nodes,
            "answers": answers,
            "events": events,
        }


def describe(error: Exception) -> lines.Json:
    """The fields of the client's declared error; anything else is a fault that the test must see as such."""
    if not isinstance(error, IicpError):
        return lines.unexpected(error)
    return {
        "type": "IicpError",
        "code": error.code,
        "message": str(error.message),
        "retryable": error.retryable,
        "http_status": error.http_status,
    }


if __name__ == "__main__":
    commands: dict[str, lines.Command] = {"discover": discover, "submit": submit, "chat": chat, "native": native}
    asyncio.run(lines.serve(commands, {"version": __version__}, describe))
