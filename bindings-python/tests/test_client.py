"""The client on asyncio."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from typing import Any

import pytest
from conftest import Run, mesh, run_on, until

import iicp_core
from iicp_core import CHAT, Code, IicpError, Inbound


async def echo(task: Inbound) -> Any:
    return task.payload


def test_a_client_discovers_submits_and_chats(run: Run) -> None:
    async def main() -> None:
        async with mesh(echo, models=["m"], region="eu-central") as (node, client):
            (found,) = await client.discover(intent=CHAT, region="eu-central", limit=5)
            assert (found.node_id, found.endpoint, found.models) == (node.node_id, node.url, ("m",))

            done = await client.submit(intent=CHAT, payload={"n": [1, 2.5, None, "ü"]}, timeout=30.0)
            assert done.result == {"n": [1, 2.5, None, "ü"]}
            assert (done.node_id, done.attempts) == (node.node_id, 1)
            spent = done.timings
            parts = (spent.discover, spent.select, spent.connect, spent.first_byte, spent.overhead)
            assert min(parts) >= 0
            assert 0 < spent.first_byte <= spent.total < 30
            assert done.sealed
            assert done.receipt.receipt_version == "iicp-routing-receipt-v1"
            assert done.receipt.selected_node_id_prefix == node.node_id[:8]
            assert done.receipt.eligible_candidate_count == 1

    run(main())


def test_a_chat_takes_a_text_or_messages(run: Run) -> None:
    async def answer(task: Inbound) -> iicp_core.Reply:
        said = ", ".join(f"{message['role']}: {message['content']}" for message in task.payload["messages"])
        return iicp_core.Reply.chat(said, tokens_used=7)

    async def main() -> None:
        async with mesh(answer) as (node, client):
            reply = await client.chat("Hello")
            # Before it, the model is told how the request reached it.
            assert reply.text.startswith("system: [IICP-RUNTIME-CONTEXT/1]")
            assert reply.text.endswith("user: Hello")
            assert (reply.node_id, reply.usage, reply.finish_reason) == (node.node_id, None, "stop")
            messages: list[iicp_core.ChatMessage] = [
                {"role": "system", "content": "Be brief"},
                {"role": "user", "content": "Hi"},
            ]
            reply = await client.chat(messages, temperature=0.5, runtime_identity="disabled")
            assert reply.text == "system: Be brief, user: Hi"
            assert reply.task.result["choices"][0]["finish_reason"] == "stop"

    run(main())


def test_each_of_many_calls_gets_its_own_answer(run: Run) -> None:
    async def main() -> None:
        async with mesh(echo, max_concurrent=256) as (_, client):
            done = await asyncio.gather(*(client.submit(intent=CHAT, payload=n) for n in range(200)))
            assert [result.result for result in done] == list(range(200))

    run(main())


def test_a_payload_may_be_json_text(run: Run) -> None:
    async def main() -> None:
        async with mesh(echo) as (_, client):
            assert (await client.submit(intent=CHAT, payload=b' {"n": 1} ')).result == {"n": 1}
            with pytest.raises(iicp_core.ConfigError, match="PAYLOAD_INVALID"):
                await client.submit(intent=CHAT, payload=b"{")

    run(main())


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), "\ud800", {"deep": [b"bytes"]}])
def test_a_payload_without_json_form_is_refused_and_not_shown(value: object) -> None:
    async def main() -> None:
        async with iicp_core.Client() as client:
            with pytest.raises(iicp_core.ConfigError) as caught:
                await client.submit(intent=CHAT, payload={"canary": value})
            assert caught.value.code == Code.PAYLOAD_INVALID
            assert "canary" not in str(caught.value)

    run_on("asyncio", main())


def test_a_payload_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)

    async def main() -> None:
        async with iicp_core.Client() as client:
            with pytest.raises(iicp_core.ConfigError, match="PAYLOAD_INVALID"):
                await client.submit(intent=CHAT, payload=loop)

    run_on("asyncio", main())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout": 121}, r"option timeout is 121 s; .* at most 120 s"),
        ({"timeout": -1}, "seconds"),
        ({"timeout": float("nan")}, "seconds"),
        ({"timeout": "30"}, "seconds"),
        ({"timeout": True}, "option timeout must be a number of seconds"),
        ({"timeout_ms": 5}, "there is no option timeout_ms; give timeout, in seconds"),
        ({"timeout": 0}, r"option timeout of a task is 0 s; it must be 0\.001 to 120 s"),
        ({"colour": "red"}, "colour"),
        ({"region": object()}, "region"),
        ({"region": "\ud800"}, "region"),
        ({"intent": "chat"}, "urn:iicp:intent"),
    ],
)
def test_a_bad_option_is_refused_with_a_helpful_sentence(options: dict[str, Any], says: str) -> None:
    task: dict[str, Any] = {"intent": CHAT, "payload": 1, **options}

    async def main() -> None:
        async with iicp_core.Client() as client:
            with pytest.raises(iicp_core.ConfigError, match=says):
                await client.submit(**task)

    run_on("asyncio", main())


def test_times_are_seconds() -> None:
    with pytest.raises(iicp_core.ConfigError, match=r"option timeout is 120\.5 s"):
        iicp_core.Client(timeout=120.5)
    with pytest.raises(iicp_core.ConfigError, match="give route_ttl, in seconds"):
        iicp_core.Client(route_ttl_ms=1)  # type: ignore[call-arg]
    with pytest.raises(iicp_core.ConfigError, match="no_such_option"):
        iicp_core.Client(no_such_option=1)  # type: ignore[call-arg]


def test_a_cancelled_call_is_cancelled_at_the_far_end(run: Run) -> None:
    seen: list[str] = []

    async def hang(_: Inbound) -> None:
        seen.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main() -> None:
        async with mesh(hang) as (node, client):
            call = asyncio.create_task(client.submit(intent=CHAT, payload=1))
            await until(lambda: seen == ["began"])
            assert node.status().active_jobs == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: seen == ["began", "cancelled"] and node.status().active_jobs == 0)
            assert node.status().overrunning == 0

    run(main())


def test_a_call_that_the_client_closes_fails_and_is_not_cancelled(run: Run) -> None:
    began = asyncio.Event()

    async def hang(_: Inbound) -> None:
        began.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with mesh(hang) as (_, client):
            call = asyncio.create_task(client.submit(intent=CHAT, payload=1))
            await began.wait()
            await client.close()
            with pytest.raises(IicpError) as caught:
                await call
            assert caught.value.code == Code.CLOSED
            with pytest.raises(IicpError) as caught:
                await client.submit(intent=CHAT, payload=1)
            assert caught.value.code == Code.CLOSED
            assert repr(client) == "<iicp_core.Client closed>"

    run(main())


def test_the_callers_timeout_ends_the_call(run: Run) -> None:
    async def hang(_: Inbound) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with mesh(hang) as (node, client):
            with pytest.raises(TimeoutError) as caught:
                await client.submit(intent=CHAT, payload=1, timeout=0.2)
            assert isinstance(caught.value, IicpError)
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.2):
                    await client.submit(intent=CHAT, payload=1)
            assert not isinstance(caught.value, IicpError)
            await until(lambda: node.status().active_jobs == 0)

    run(main())


def test_nobody_there_is_a_connection_error_that_says_where() -> None:
    async def main() -> None:
        async with iicp_core.Client(directory="http://127.0.0.1:1") as client:
            with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1") as caught:
                await client.discover(intent=CHAT)
            assert isinstance(caught.value, iicp_core.DirectoryUnreachableError)
            assert caught.value.retryable

    run_on("asyncio", main())


def test_a_result_that_python_does_not_read_is_an_error(run: Run) -> None:
    async def digits(_: Inbound) -> iicp_core.Reply:
        return iicp_core.Reply.json_bytes(b"1" * 5000)

    async def main() -> None:
        async with mesh(digits) as (node, client):
            with pytest.raises(iicp_core.TransportError, match=node.node_id) as caught:
                await client.submit(intent=CHAT, payload=1)
            assert caught.value.code == Code.MALFORMED

    run(main())


def test_a_client_may_be_used_by_loops_of_several_threads() -> None:
    failures: list[BaseException] = []

    async def use(client: iicp_core.Client, base: int) -> None:
        done = await asyncio.gather(*(client.submit(intent=CHAT, payload=base + n) for n in range(20)))
        assert [result.result for result in done] == list(range(base, base + 20))

    def work(client: iicp_core.Client, base: int) -> None:
        try:
            asyncio.run(use(client, base))
        except BaseException as e:
            failures.append(e)

    async def main() -> None:
        async with mesh(echo, max_concurrent=64) as (_, client):
            threads = [threading.Thread(target=work, args=(client, 100 * n)) for n in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join)

    run_on("asyncio", main())
    assert not failures


def test_one_loop_after_the_other_leaves_nothing_behind(run: Run) -> None:
    async def main() -> None:
        async with mesh(echo) as (_, client):
            assert (await client.submit(intent=CHAT, payload=1)).result == 1

    run(main())
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(main())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_loop_that_is_closed_with_calls_outstanding_does_no_harm() -> None:
    client = iicp_core.Client(directory="http://127.0.0.1:1")

    async def start() -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(client.discover(intent=CHAT))
        await asyncio.sleep(0)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(start())
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # dropping it is the point
    del task
    gc.collect()

    async def again() -> None:
        with pytest.raises(iicp_core.DirectoryUnreachableError):
            await client.discover(intent=CHAT)

    run_on("asyncio", again())


def test_what_comes_out_is_frozen_and_shows_no_content() -> None:
    async def main() -> None:
        async with mesh(echo) as (_, client):
            done = await client.submit(intent=CHAT, payload="canary")
            assert "canary" not in repr(done)
            with pytest.raises(AttributeError):
                done.attempts = 2  # type: ignore[misc]

    run_on("asyncio", main())


def test_the_reply_of_a_chat_shows_no_content() -> None:
    async def bare(_: Inbound) -> str:
        return "canary"

    async def main() -> None:
        async with mesh(bare) as (_, client):
            reply = await client.chat("Hi")
            assert reply.text == "canary"
            assert "canary" not in repr(reply)

    run_on("asyncio", main())
