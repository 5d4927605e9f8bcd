"""Results in parts, on asyncio and without a loop: what is yielded arrives, and who leaves stops who yields."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from conftest import Run, mesh, run_on, until

import iicp_core
from iicp_core import CHAT, Code, IicpError, Inbound, Rejected, Reply, sync

WORDS = ["Hello", ", ", "mesh", "."]


async def words(_: Inbound) -> AsyncGenerator[Any]:
    for number, word in enumerate(WORDS):
        yield Reply.delta(word, tokens_used=number + 1)


def plain_words(_: Inbound) -> Generator[str]:
    yield from WORDS


async def returns_a_generator(task: Inbound) -> Any:
    return words(task)


def whole(_: Inbound) -> Any:
    return Reply.chat("".join(WORDS))


@pytest.mark.parametrize(
    "handler", [words, plain_words, returns_a_generator, lambda _: (word for word in WORDS)], ids=str
)
def test_what_a_generator_yields_arrives_part_by_part(run: Run, handler: iicp_core.Handler) -> None:
    async def main() -> None:
        async with mesh(handler) as (node, client):
            stream = client.stream("Hi")
            parts = [part async for part in stream]
            assert [part.text for part in parts] == WORDS
            assert [part.sequence for part in parts] == [0, 1, 2, 3]
            assert stream.node_id == node.node_id
            assert stream.task is not None
            assert stream.task.task_id == stream.task_id
            assert stream.task.sealed
            assert stream.tokens_used == (4 if handler in (words, returns_a_generator) else None)
            # A caller who takes no parts gets them together.
            assert (await client.chat("Hi")).text == "".join(WORDS)

    run(main())


def test_a_part_arrives_before_the_next_is_made(run: Run) -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def stepwise(task: Inbound) -> AsyncGenerator[int]:
            assert task.takes_events
            for number in range(3):
                yield number
                await go_on.wait()
                go_on.clear()

        async with mesh(stepwise) as (_, client):
            seen = []
            async for part in client.stream(intent=CHAT, payload={}):
                seen.append(part.payload)
                go_on.set()
            assert seen == [0, 1, 2]

    run(main())


def test_leaving_the_loop_stops_the_handler(run: Run) -> None:
    stopped: list[str] = []

    async def endless(_: Inbound) -> AsyncGenerator[str]:
        try:
            while True:
                yield "x"
                await asyncio.sleep(0)
        finally:
            stopped.append("async")

    def plain(_: Inbound) -> Generator[str]:
        try:
            while True:
                yield "x"
        finally:
            stopped.append("plain")

    async def main() -> None:
        for handler in (endless, plain):
            async with mesh(handler) as (node, client):
                async for _ in client.stream("Hi"):
                    break
                await until(lambda: bool(stopped))
                assert stopped.pop()

                async def fails(client: iicp_core.Client = client) -> None:
                    async for _ in client.stream("Hi"):
                        raise ZeroDivisionError

                with pytest.raises(ZeroDivisionError):
                    await fails()
                await until(lambda: bool(stopped))
                assert stopped.pop()
                async with client.stream("Hi") as stream:
                    await anext(stream)
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)
                await until(lambda: bool(stopped))
                assert stopped.pop()
                while node.status().active_jobs:
                    await asyncio.sleep(0.005)

    run(main())


def test_a_slow_reader_slows_a_fast_handler_down() -> None:
    """What waits is bounded on the way, whatever the handler would yield."""
    made = 0
    part = "x" * 50_000

    async def fast(_: Inbound) -> AsyncGenerator[str]:
        nonlocal made
        while True:
            made += 1
            yield part
            if made == 1000:
                return

    def plain(_: Inbound) -> Generator[str]:
        nonlocal made
        while made < 1000:
            made += 1
            yield part

    async def main() -> None:
        nonlocal made
        for handler in (fast, plain):
            made = 0
            async with (
                iicp_core.Directory.loopback() as directory,
                iicp_core.serve(handler, directory=directory.url, intents=[CHAT]),
                iicp_core.Client(directory=directory.url, max_response_bytes=1 << 28) as client,
            ):
                stream = client.stream("Hi")
                await anext(stream)
                quiet = 0
                while quiet < 20:
                    before = made
                    await asyncio.sleep(0.02)
                    quiet = quiet + 1 if made == before else 0
                assert made < 400
                assert 1 + len([1 async for _ in stream]) == 1000

    run_on("asyncio", main())


def test_a_failure_in_the_middle_is_told_after_the_parts_before_it(run: Run) -> None:
    async def fails(task: Inbound) -> AsyncGenerator[Any]:
        yield "one"
        if task.payload == "reject":
            raise Rejected("no more")
        yield task.payload and {1, 2}

    async def main() -> None:
        async with mesh(fails) as (_, client):
            for payload, code in (("reject", Code.TASK_REJECTED), ("no JSON", Code.BACKEND)):
                seen: list[str] = []
                stream = client.stream(intent=CHAT, payload=payload)

                async def read(stream: iicp_core.TaskStream = stream, seen: list[str] = seen) -> None:
                    async for part in stream:
                        seen.append(part.text)

                with pytest.raises(IicpError) as failed:
                    await read()
                assert (failed.value.code, seen) == (code, ["one"])
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)

    run(main())


def test_a_node_that_answers_once_gives_one_part(run: Run) -> None:
    async def main() -> None:
        async with mesh(whole) as (_, client):
            parts = [part async for part in client.stream("Hi")]
            assert [part.text for part in parts] == ["".join(WORDS)]
            assert parts[0].payload["choices"][0]["message"]["role"] == "assistant"

    run(main())


def test_a_cancelled_wait_for_a_part_leaves_the_stream_usable(run: Run) -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def waits(_: Inbound) -> AsyncGenerator[str]:
            await go_on.wait()
            yield "late"

        async with mesh(waits) as (_, client):
            stream = client.stream("Hi")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(stream)
            go_on.set()
            assert (await anext(stream)).text == "late"

    run(main())


def test_bad_questions_fail_before_the_network() -> None:
    async def main() -> None:
        async with iicp_core.Client(directory="http://127.0.0.1:1") as client:
            with pytest.raises(IicpError) as failed:
                client.stream()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
            assert failed.value.code == Code.INVALID_ARG
            with pytest.raises(IicpError) as failed:
                await anext(client.stream("Hi", timeout=-1))
            assert failed.value.code == Code.CONFIG_INVALID
            with pytest.raises(IicpError) as failed:
                await anext(client.stream("Hi"))
            assert failed.value.code == Code.DIRECTORY_UNREACHABLE

    run_on("asyncio", main())


def test_without_a_loop_it_is_the_same() -> None:
    stopped = threading.Event()

    def counts(task: Inbound) -> Generator[int]:
        try:
            yield from range(int(task.payload))
        finally:
            stopped.set()

    with (
        sync.Directory.loopback() as directory,
        sync.serve(counts, intents=[CHAT], directory=directory.url) as node,
        sync.Client(directory=directory.url) as client,
    ):
        stream = client.stream(intent=CHAT, payload=3)
        # Other calls may be made between two parts.
        seen = [(part.payload, client.submit(intent=CHAT, payload=1).result) for part in stream]
        assert seen == [(0, 0), (1, 0), (2, 0)]
        assert stream.node_id == node.node_id
        assert list(stream) == []
        stopped.clear()
        for _ in client.stream(intent=CHAT, payload=10_000_000):
            break
        assert stopped.wait(10)


def test_streams_of_many_readers_do_not_mix() -> None:
    async def echo(task: Inbound) -> AsyncGenerator[Any]:
        for number in range(50):
            yield f"{task.payload}-{number}"
            await asyncio.sleep(0)

    async def main() -> None:
        async with mesh(echo, max_concurrent=32) as (_, client):

            async def read(name: str) -> None:
                seen = [part.text async for part in client.stream(intent=CHAT, payload=name)]
                assert seen == [f"{name}-{number}" for number in range(50)]

            await asyncio.gather(*(read(f"s{number}") for number in range(30)))

    run_on("asyncio", main())
