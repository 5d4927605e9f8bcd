"""Serving on asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import logging
import threading
import time
import urllib.request
from typing import Any

import pytest
from conftest import Run, mesh, run_on, until

import iicp_core
from iicp_core import CHAT, Code, IicpError, Inbound, Reply


async def echo(task: Inbound) -> Any:
    return task.payload


def plain_echo(task: Inbound) -> Any:
    return task.payload


class Object:
    async def __call__(self, task: Inbound) -> Any:
        return task.payload


class PlainObject:
    def __call__(self, task: Inbound) -> Any:
        return task.payload


def partial_of(_: str, task: Inbound) -> Any:
    return task.payload


HANDLERS = [echo, plain_echo, Object(), PlainObject(), functools.partial(partial_of, "x"), lambda task: task.payload]


@pytest.mark.parametrize("handler", HANDLERS, ids=str)
def test_every_kind_of_function_serves(handler: iicp_core.Handler) -> None:
    async def main() -> None:
        async with mesh(handler) as (_, client):
            # The protocol has no task without a payload, so none is sent bare.
            values: list[Any] = [True, 1, -2.5, "ü", [], {"a": [1, {"b": None}]}]
            for value in values:
                assert (await client.submit(intent=CHAT, payload=value)).result == value

    run_on("asyncio", main())


def test_what_a_caller_asks_for_and_proves_reaches_the_handler() -> None:
    seen: list[Inbound] = []

    async def keep(task: Inbound) -> str:
        seen.append(task)
        return "kept"

    asked = {
        "task_id": "task-1",
        "intent": CHAT,
        "payload": {"messages": []},
        "constraints": {"timeout_ms": 9000, "priority": "high", "model": "small", "max_tokens": 12},
        "source_node_id": "node-9",
        "auth": {"node_token": "known to few"},
    }
    trace = {"traceparent": f"00-{'4b' * 16}-{'01' * 8}-01", "tracestate": "vendor=1"}

    async def main() -> None:
        async with mesh(keep, access_token="known to few") as (node, _):
            headers = {"content-type": "application/json", **trace}
            request = urllib.request.Request(f"{node.url}/v1/task", json.dumps(asked).encode(), headers)
            answer = await asyncio.to_thread(lambda: urllib.request.urlopen(request).read())
            assert b"kept" in answer

    run_on("asyncio", main())
    (task,) = seen
    assert (task.priority, task.model, task.max_tokens) == ("high", "small", 12)
    assert (task.source_node_id, task.verified, task.verified_node_id) == ("node-9", True, None)
    assert (task.traceparent or "").startswith(f"00-{'4b' * 16}-")
    assert task.tracestate == "vendor=1"
    assert 0 < task.time_left < 9


def test_a_task_knows_what_is_known_of_it(run: Run) -> None:
    seen: list[Inbound] = []

    async def keep(task: Inbound) -> str:
        seen.append(task)
        assert 0 < task.time_left <= 7
        assert task.deadline > time.monotonic()
        return "ok"

    async def main() -> None:
        async with mesh(keep) as (_, client):
            await client.submit(intent=CHAT, payload={"text": "canary"}, timeout=7, task_id="t-1", qos="batch")

    run(main())
    (task,) = seen
    assert (task.task_id, task.intent, task.qos, task.source_node_id) == ("t-1", CHAT, "batch", None)
    assert (task.body, task.payload) == (b'{"text":"canary"}', {"text": "canary"})
    assert task.payload is task.payload
    assert task.peer.startswith("127.0.0.1:")
    assert task.traceparent is not None
    assert not task.cancelled
    assert "canary" not in repr(task)


def test_a_reply_says_more_than_a_value() -> None:
    async def reply(task: Inbound) -> Reply:
        if task.payload == "chat":
            return Reply.chat("Hello", tokens_used=3)
        if task.payload == "bytes":
            return Reply.json_bytes(b' {"as": "is"}')
        return Reply({"n": 1}, tokens_used=12)

    async def main() -> None:
        async with mesh(reply) as (_, client):
            assert (await client.submit(intent=CHAT, payload="bytes")).result == {"as": "is"}
            assert (await client.submit(intent=CHAT, payload="value")).result == {"n": 1}
            done = await client.submit(intent=CHAT, payload="chat")
            assert done.result["choices"][0]["message"] == {"role": "assistant", "content": "Hello"}

    run_on("asyncio", main())


def failing(how: str) -> Any:
    if how == "reject":
        raise iicp_core.Rejected("only cats, please \ud800")
    if how == "wrong":
        return object()
    if how == "wrong-reply":
        return Reply(object())
    if how == "not-json":
        return Reply.json_bytes(b"{")
    if how == "bad-tokens":
        return Reply(1, tokens_used=-1)
    if how == "exit":
        raise SystemExit(3)
    raise RuntimeError("canary")


FAILURES = [
    ("reject", Code.TASK_REJECTED),
    ("raise", Code.BACKEND),
    ("wrong", Code.BACKEND),
    ("wrong-reply", Code.BACKEND),
    ("not-json", Code.BACKEND),
    ("bad-tokens", Code.BACKEND),
]


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(("how", "code"), FAILURES)
def test_a_failure_is_told_and_what_it_says_stays_here(
    is_async: bool, how: str, code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(task: Inbound) -> Any:
        return failing(task.payload)

    def plain_fails(task: Inbound) -> Any:
        return failing(task.payload)

    async def main() -> None:
        async with mesh(fails if is_async else plain_fails, max_concurrent=1) as (node, client):
            with pytest.raises(iicp_core.TaskError) as caught:
                await client.submit(intent=CHAT, payload=how)
            assert caught.value.code == code
            assert "canary" not in str(caught.value)
            assert ("only cats, please" in str(caught.value)) == (how == "reject")
            await until(lambda: node.status().active_jobs == 0)
            with pytest.raises(iicp_core.TaskError):
                await client.submit(intent=CHAT, payload="raise")

    with caplog.at_level(logging.ERROR, "iicp_core"):
        run_on("asyncio", main())
    assert "canary" in caplog.text
    assert len(caplog.records) == (1 if how == "reject" else 2)


def test_a_plain_handler_cannot_end_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    def exits(task: Inbound) -> Any:
        return failing(task.payload) if task.payload == "exit" else "served"

    async def main() -> None:
        async with mesh(exits, max_concurrent=1) as (_, client):
            with pytest.raises(iicp_core.TaskError):
                await client.submit(intent=CHAT, payload="exit")
            assert (await client.submit(intent=CHAT, payload="other")).result == "served"

    run_on("asyncio", main())
    assert "SystemExit" in caplog.text


def test_a_plain_handler_that_returns_a_coroutine_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with mesh(lambda task: echo(task)) as (_, client):  # noqa: PLW0108 - the mistake that is meant
            with pytest.raises(iicp_core.TaskError):
                await client.submit(intent=CHAT, payload=1)

    run_on("asyncio", main())
    assert "coroutine" in caplog.text


def test_what_cannot_be_called_is_no_handler() -> None:
    with pytest.raises(ValueError, match="INVALID_ARG"):
        iicp_core.serve("no function", intents=[CHAT])  # type: ignore[arg-type]


def test_a_coroutine_that_hangs_is_cancelled_at_its_deadline(run: Run) -> None:
    ended: list[bool] = []

    async def hang(task: Inbound) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(task.cancelled)

    async def main() -> None:
        async with mesh(hang, default_timeout=0.2) as (node, client):
            with pytest.raises(TimeoutError):
                await client.submit(intent=CHAT, payload=1, timeout=0.3)
            await until(lambda: ended == [True] and node.status().active_jobs == 0)
            assert node.status().overrunning == 0

    run(main())


def test_a_plain_function_that_overruns_keeps_its_slot_and_the_status_says_so(run: Run) -> None:
    release = threading.Event()
    seen: list[Inbound] = []

    def hang(task: Inbound) -> Any:
        if task.payload == "hang":
            seen.append(task)
            release.wait(30)
        return task.payload

    async def main() -> None:
        async with mesh(hang, max_concurrent=2) as (node, client):
            with pytest.raises(TimeoutError):
                await client.submit(intent=CHAT, payload="hang", timeout=0.3)
            await until(lambda: node.status().overrunning == 1)
            assert seen[0].cancelled
            assert node.status().active_jobs == 0
            # The other slot still serves.
            assert (await client.submit(intent=CHAT, payload="hi")).result == "hi"
            with pytest.raises(TimeoutError):
                await client.submit(intent=CHAT, payload="hang", timeout=0.3)
            await until(lambda: node.status().overrunning == 2)
            with pytest.raises(iicp_core.TaskError) as caught:
                await client.submit(intent=CHAT, payload="hi", timeout=2)
            assert caught.value.code == Code.CAPACITY
            release.set()
            await until(lambda: node.status().overrunning == 0)
            assert (await client.submit(intent=CHAT, payload="hi")).result == "hi"

    run(main())


def test_a_coroutine_that_ignores_its_end_is_counted_and_bounded() -> None:
    release = asyncio.Event()

    async def stubborn(_: Inbound) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async def main() -> None:
        async with mesh(stubborn, max_concurrent=1) as (node, client):
            for count in (1, 2):
                with pytest.raises(TimeoutError):
                    await client.submit(intent=CHAT, payload=count, timeout=0.3)
                await until(lambda: node.status().overrunning == count)  # noqa: B023 - used at once
            with pytest.raises(iicp_core.TaskError) as caught:
                await client.submit(intent=CHAT, payload=3, timeout=1)
            assert caught.value.code == Code.CAPACITY
            release.set()
            await until(lambda: node.status().overrunning == 0)

    run_on("asyncio", main())


def test_a_handler_may_close_its_own_node(run: Run) -> None:
    async def main() -> None:
        nodes: list[iicp_core.Node] = []

        async def close(_: Inbound) -> str:
            closing = asyncio.create_task(nodes[0].close(grace=5))
            await asyncio.sleep(0)
            assert not closing.done()
            return "the last one"

        async with iicp_core.Directory.loopback() as directory:
            node = await iicp_core.serve(close, intents=[CHAT], directory=directory.url)
            nodes.append(node)
            async with iicp_core.Client(directory=directory.url) as client:
                assert (await client.submit(intent=CHAT, payload=1)).result == "the last one"
                await node.closed()
                assert await node.close()
                with pytest.raises(IicpError) as caught:
                    node.status()
                assert caught.value.code == Code.CLOSED
                with pytest.raises(IicpError):
                    await client.submit(intent=CHAT, payload=1, timeout=1)

    run(main())


def test_closing_waits_for_what_runs_and_then_ends_it(run: Run) -> None:
    async def main() -> None:
        began, release = asyncio.Event(), asyncio.Event()

        async def wait(_: Inbound) -> str:
            began.set()
            await release.wait()
            return "done"

        async with mesh(wait) as (node, client):
            call = asyncio.create_task(client.submit(intent=CHAT, payload=1))
            await began.wait()
            closing = asyncio.create_task(node.close(grace=10))
            await asyncio.sleep(0)
            release.set()
            assert (await call).result == "done"
            assert await closing

        began.clear()
        release.clear()
        async with mesh(wait) as (node, client):
            call = asyncio.create_task(client.submit(intent=CHAT, payload=1, timeout=5))
            await began.wait()
            assert not await node.close(grace=0.1)
            with pytest.raises(IicpError):
                await call

    run(main())


def test_a_node_that_cannot_be_made_says_why() -> None:
    async def main() -> None:
        with pytest.raises(iicp_core.ConfigError, match="intents"):
            await iicp_core.serve(echo, intents=[])
        with pytest.raises(iicp_core.ConfigError, match="max_concurrent"):
            await iicp_core.serve(plain_echo, intents=[CHAT], max_concurrent=10**9)
        with pytest.raises(iicp_core.ConfigError):
            await iicp_core.serve(plain_echo, intents=[CHAT], max_concurrent="4")  # type: ignore[arg-type]
        async with (
            iicp_core.serve(echo, intents=[CHAT]) as node,
        ):
            port = int(node.url.rsplit(":", 1)[1])
            with pytest.raises(iicp_core.ServingError, match="BIND"):
                await iicp_core.serve(echo, intents=[CHAT], port=port)

    run_on("asyncio", main())


def test_a_handler_sees_the_context_of_serve() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def read(_: Inbound) -> str:
        found = variable.get()
        variable.set("of one task")
        return found

    def plain_read(_: Inbound) -> str:
        found = variable.get()
        variable.set("of one task")
        return found

    async def main() -> None:
        variable.set("of serve")
        for handler in (read, plain_read):
            async with mesh(handler) as (_, client):
                for _ in range(2):
                    assert (await client.submit(intent=CHAT, payload=1)).result == "of serve"

    run_on("asyncio", main())


def test_a_handler_may_use_a_client() -> None:
    async def main() -> None:
        async with mesh(echo) as (_, inner):

            async def forward(task: Inbound) -> Any:
                return (await inner.submit(intent=CHAT, payload=["through", task.payload])).result

            async with mesh(forward) as (_, client):
                assert (await client.submit(intent=CHAT, payload=1)).result == ["through", 1]

    run_on("asyncio", main())


def test_a_result_over_the_limit_fails_this_task_only() -> None:
    async def big(task: Inbound) -> str:
        return "x" * int(task.payload["bytes"])

    async def main() -> None:
        async with (
            iicp_core.Directory.loopback() as directory,
            iicp_core.serve(big, intents=[CHAT], directory=directory.url),
            iicp_core.Client(directory=directory.url, max_response_bytes=1 << 20) as client,
        ):
            with pytest.raises(iicp_core.TransportError) as caught:
                await client.submit(intent=CHAT, payload={"bytes": 100 << 20})
            assert caught.value.code == Code.RESPONSE_TOO_LARGE
            assert (await client.submit(intent=CHAT, payload={"bytes": 3})).result == "xxx"

    run_on("asyncio", main())


def test_a_serving_that_is_cancelled_before_it_began_leaves_no_node() -> None:
    async def main() -> None:
        async with iicp_core.Directory.loopback() as directory:
            for _ in range(5):
                opening = asyncio.ensure_future(_opened(directory.url))
                await asyncio.sleep(0)
                opening.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await opening
            async with iicp_core.Client(directory=directory.url, route_ttl=0) as client:

                async def gone() -> bool:
                    try:
                        return not await client.discover(intent=CHAT)
                    except iicp_core.DirectoryError as e:
                        return e.code == Code.NO_NODES

                async with asyncio.timeout(10):
                    while not await gone():
                        await asyncio.sleep(0.02)

    run_on("asyncio", main())


async def _opened(directory: str) -> iicp_core.Node:
    return await iicp_core.serve(echo, intents=[CHAT], directory=directory)


def test_what_the_engine_says_goes_to_logging(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with iicp_core.serve(echo, intents=[CHAT], directory="http://127.0.0.1:1") as node:
            await until(lambda: any(node.node_id in record.getMessage() for record in caplog.records))
            assert not node.status().registered

    with caplog.at_level(logging.WARNING, "iicp_core"):
        run_on("asyncio", main())
    (record,) = [record for record in caplog.records if "not registered" in record.getMessage()]
    assert (record.name, record.levelno) == ("iicp_core.node", logging.WARNING)
    assert "DIRECTORY_UNREACHABLE" in record.getMessage()
