"""Results in parts, on asyncio and without a loop: what is yielded arrives, and who leaves stops who yields."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from conftest import Run, child, mesh, run_on, until

import iicp_core
from iicp_core import CHAT, Chunk, Code, IicpError, Inbound, Rejected, Reply, StreamResult, TaskStream, Usage, sync

WORDS = ["Hello", ", ", "mesh", "."]
CUSTOM = "urn:iicp:intent:custom:count:v1"


async def words(_: Inbound) -> AsyncGenerator[Any]:
    for number, word in enumerate(WORDS):
        yield Chunk.delta(word, tokens_used=number + 1)


def plain_words(_: Inbound) -> Generator[str]:
    yield from WORDS


async def returns_a_generator(task: Inbound) -> Any:
    return words(task)


class Speaker:
    async def __call__(self, _: Inbound) -> AsyncGenerator[str]:
        for word in WORDS:
            yield word


async def read(stream: TaskStream, into: list[Chunk]) -> None:
    async for chunk in stream:
        into.append(chunk)


HANDLERS: list[iicp_core.Handler] = [
    words,
    plain_words,
    returns_a_generator,
    Speaker(),
    lambda _: (word for word in WORDS),
]


@pytest.mark.parametrize("handler", HANDLERS, ids=["async", "plain", "returned", "object", "lambda"])
def test_what_a_generator_yields_arrives_part_by_part(run: Run, handler: iicp_core.Handler) -> None:
    counts = handler in (words, returns_a_generator)

    async def main() -> None:
        async with mesh(handler) as (node, client):
            stream = client.stream("Hi")
            chunks = [chunk async for chunk in stream]
            assert [chunk.text for chunk in chunks] == WORDS
            assert [chunk.sequence for chunk in chunks] == [0, 1, 2, 3]
            assert chunks[0].result == {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}
            assert [chunk.tokens_used for chunk in chunks] == ([1, 2, 3, 4] if counts else [None] * 4)
            assert {chunk.node_id for chunk in chunks} == {node.node_id}
            result = stream.result
            assert (result.node_id, result.task_id) == (node.node_id, chunks[0].task_id)
            assert result.task.sealed
            assert result.task.attempts == 1
            assert result.tokens_used == (4 if counts else None)
            # A caller who takes no parts gets them together.
            assert (await client.chat("Hi")).text == "".join(WORDS)

    run(main())


def test_the_result_tells_what_the_last_part_said() -> None:
    async def answers(_: Inbound) -> AsyncGenerator[Any]:
        yield "Hello"
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        yield {"model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}

    async def main() -> None:
        async with mesh(answers) as (_, client), client.stream("Hi") as stream:
            with pytest.raises(IicpError, match="INVALID_ARG"):
                _ = stream.result
            assert [chunk.text async for chunk in stream] == ["Hello", ""]
            result = stream.result
            assert isinstance(result, StreamResult)
            assert (result.finish_reason, result.model, result.usage) == ("stop", "m", Usage(1, 2, 3))
            assert result.task.result is None

    run_on("asyncio", main())


def test_a_part_is_frozen_and_shows_no_content() -> None:
    chunk = Chunk.delta("secret", tokens_used=1)
    assert "secret" not in repr(chunk)
    with pytest.raises(dataclasses.FrozenInstanceError):
        chunk.text = ""  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_stream_is_passed_on_part_by_part(run: Run) -> None:
    """A handler yields the parts of another stream, or returns that stream."""

    async def main() -> None:
        async with mesh(words) as (_, inner):

            async def passes_on(_: Inbound) -> AsyncGenerator[Chunk]:
                async for chunk in inner.stream("Hi"):
                    yield chunk

            async def hands_over(_: Inbound) -> Any:
                return inner.stream("Hi")

            for handler in (passes_on, hands_over):
                async with mesh(handler) as (_, outer):
                    chunks = [chunk async for chunk in outer.stream("Hi")]
                    assert [(chunk.text, chunk.tokens_used) for chunk in chunks] == [
                        *zip(WORDS, range(1, 5), strict=True)
                    ]

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
            async for chunk in client.stream(intent=CHAT, payload={}):
                seen.append(chunk.result)
                go_on.set()
            assert seen == [0, 1, 2]

    run(main())


@pytest.mark.parametrize("kind", ["async", "busy", "plain"])
def test_leaving_the_loop_stops_the_handler(run: Run, kind: str) -> None:  # noqa: PLR0915
    stopped: list[str] = []

    async def waits(_: Inbound) -> AsyncGenerator[str]:
        try:
            yield "x"
            await asyncio.sleep(60)
        finally:
            stopped.append(kind)

    async def busy(_: Inbound) -> AsyncGenerator[str]:
        # Never waits for anything by itself, and does not keep the loop for itself all the same.
        try:
            while True:
                yield "x"
        finally:
            stopped.append(kind)

    def plain(_: Inbound) -> Generator[str]:
        try:
            while True:
                yield "x"
        finally:
            stopped.append(kind)

    async def breaks(client: iicp_core.Client) -> None:
        stream = client.stream("Hi")
        async for _ in stream:
            break
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def raises(client: iicp_core.Client) -> None:
        with contextlib.suppress(ZeroDivisionError):
            async for _ in client.stream("Hi"):
                raise ZeroDivisionError

    async def leaves_the_block(client: iicp_core.Client) -> None:
        async with client.stream("Hi") as stream:
            await anext(stream)
        with pytest.raises(IicpError, match="INVALID_ARG"):
            _ = stream.result

    async def closes(client: iicp_core.Client) -> None:
        stream = client.stream("Hi")
        await anext(stream)
        await stream.close()

    async def forgets(client: iicp_core.Client) -> None:
        await anext(client.stream("Hi"))
        gc.collect()

    async def is_cancelled(client: iicp_core.Client) -> None:
        begun = asyncio.Event()

        async def reads() -> None:
            async for _ in client.stream("Hi"):
                begun.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(reads())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main() -> None:
        handler: iicp_core.Handler = {"async": waits, "busy": busy, "plain": plain}[kind]
        async with mesh(handler) as (node, client):
            for leave in (breaks, raises, leaves_the_block, closes, forgets, is_cancelled):
                await leave(client)
                await until(lambda: bool(stopped))
                assert stopped.pop() == kind
                await until(lambda: node.status().active_jobs == 0)

    run(main())


def test_a_deadline_ends_the_stream_and_closes_its_generator(run: Run) -> None:
    stopped: list[str] = []

    async def slow(_: Inbound) -> AsyncGenerator[str]:
        try:
            while True:
                yield "x"
                await asyncio.sleep(0.02)
        finally:
            stopped.append("closed")

    async def main() -> None:
        async with mesh(slow) as (_, client):
            seen: list[Chunk] = []
            stream = client.stream("Hi", timeout=0.5)
            with pytest.raises(TimeoutError):
                await read(stream, seen)
            with pytest.raises(TimeoutError):
                _ = stream.result
            assert len(seen) > 1
            await until(lambda: bool(stopped))

    run(main())


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_ten_thousand_parts_and_a_slow_reader_keep_little(kind: str) -> None:
    count, made, part = 10_000, 0, "x" * 4096

    async def fast(_: Inbound) -> AsyncGenerator[str]:
        nonlocal made
        while made < count:
            made += 1
            yield part

    def plain(_: Inbound) -> Generator[str]:
        nonlocal made
        while made < count:
            made += 1
            yield part

    async def main() -> None:
        handler: iicp_core.Handler = fast if kind == "async" else plain
        async with (
            iicp_core.Directory.loopback() as directory,
            iicp_core.serve(handler, directory=directory.url, intents=[CHAT]) as node,
            iicp_core.Client(directory=directory.url, max_response_bytes=1 << 28) as client,
        ):
            stream = client.stream("Hi", timeout=60.0)
            first = await anext(stream)
            # Nothing more is taken until nothing more is made.
            quiet = 0
            while quiet < 20:
                before = made
                await asyncio.sleep(0.02)
                quiet = quiet + 1 if made == before else 0
            assert made < count / 2, "two megabytes of forty wait, and what the sockets hold"
            read = 1
            async for chunk in stream:
                assert chunk.sequence == read
                read += 1
                assert made - read < count / 2
            assert (first.sequence, read) == (0, count)
            await until(lambda: node.status().active_jobs == 0)

    run_on("asyncio", main())


def test_a_failure_in_the_middle_is_told_after_the_parts_before_it(run: Run) -> None:
    async def fails(task: Inbound) -> AsyncGenerator[Any]:
        yield "one"
        if task.payload == "reject":
            raise Rejected("no more")
        if task.payload == "raise":
            raise RuntimeError("secret")
        yield {1, 2}

    def plain(task: Inbound) -> Generator[Any]:
        yield "one"
        if task.payload == "reject":
            raise Rejected("no more")
        if task.payload == "raise":
            raise RuntimeError("secret")
        yield Reply.json_bytes(b"no JSON")

    endings = {"reject": Code.TASK_REJECTED, "raise": Code.BACKEND, "no JSON": Code.BACKEND}

    async def main() -> None:
        for handler in (fails, plain):
            async with mesh(handler) as (_, client):
                for payload, code in endings.items():
                    seen: list[Chunk] = []
                    stream = client.stream(intent=CHAT, payload=payload)
                    with pytest.raises(IicpError) as failed:
                        await read(stream, seen)
                    assert (failed.value.code, [chunk.text for chunk in seen]) == (code, ["one"])
                    assert "secret" not in str(failed.value)
                    assert ("no more" in str(failed.value)) == (payload == "reject")
                    with pytest.raises(StopAsyncIteration):
                        await anext(stream)

    run(main())


def test_a_node_that_answers_once_gives_one_part(run: Run) -> None:
    def whole(_: Inbound) -> Reply:
        return Reply.chat("".join(WORDS))

    async def main() -> None:
        async with mesh(whole) as (_, client):
            chunks = [chunk async for chunk in client.stream("Hi")]
            assert [chunk.text for chunk in chunks] == ["".join(WORDS)]
            assert chunks[0].result["choices"][0]["message"]["role"] == "assistant"

    run(main())


def test_a_generator_that_yields_nothing_gives_no_part(run: Run) -> None:
    async def nothing(_: Inbound) -> AsyncGenerator[str]:
        return
        yield

    async def main() -> None:
        async with mesh(nothing) as (_, client):
            assert [chunk async for chunk in client.stream("Hi")] == []

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


def test_closing_the_client_ends_its_streams(run: Run) -> None:
    async def endless(_: Inbound) -> AsyncGenerator[str]:
        yield "x"
        await asyncio.sleep(60)

    async def main() -> None:
        async with mesh(endless) as (node, client):
            streams = [client.stream("Hi"), client.stream("Hi")]
            for stream in streams:
                assert (await anext(stream)).text == "x"
            waiting = asyncio.ensure_future(anext(streams[0]))
            await asyncio.sleep(0)
            with pytest.raises(IicpError, match="INVALID_ARG"):
                await anext(streams[0])
            await client.close()
            for coming in (waiting, anext(streams[1])):
                with pytest.raises(IicpError, match="CLOSED"):
                    await coming
            await until(lambda: node.status().active_jobs == 0)

    run(main())


def test_bad_questions_fail_before_the_network() -> None:
    async def main() -> None:
        async with iicp_core.Client(directory="http://127.0.0.1:1") as client:
            with pytest.raises(IicpError, match="INVALID_ARG"):
                client.stream()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
            with pytest.raises(IicpError, match="CONFIG_INVALID"):
                client.stream("Hi", timeout=-1)
            with pytest.raises(IicpError, match="PAYLOAD_INVALID"):
                client.stream(intent=CHAT, payload={1})
            with pytest.raises(IicpError, match="CONFIG_INVALID"):
                await anext(client.stream("Hi", tmieout=1))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
            with pytest.raises(IicpError, match="DIRECTORY_UNREACHABLE"):
                await anext(client.stream("Hi"))

    run_on("asyncio", main())


def test_streams_of_many_readers_do_not_mix() -> None:
    async def echo(task: Inbound) -> AsyncGenerator[Any]:
        for number in range(50):
            yield f"{task.payload}-{number}"
            await asyncio.sleep(0)

    async def main() -> None:
        async with mesh(echo, max_concurrent=32) as (_, client):

            async def read(name: str) -> None:
                seen = [chunk.text async for chunk in client.stream(intent=CHAT, payload=name)]
                assert seen == [f"{name}-{number}" for number in range(50)]

            await asyncio.gather(*(read(f"s{number}") for number in range(30)))

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
        sync.serve(counts, intents=[CUSTOM], directory=directory.url) as node,
        sync.Client(directory=directory.url) as client,
    ):
        with client.stream(intent=CUSTOM, payload=3) as stream:
            # Other calls may be made between two parts.
            seen = [(chunk.result, client.submit(intent=CUSTOM, payload=1).result) for chunk in stream]
        assert seen == [(0, 0), (1, 0), (2, 0)]
        assert stream.result.node_id == node.node_id
        assert list(stream) == []
        stopped.clear()
        stream = client.stream(intent=CUSTOM, payload=10_000_000)
        for _ in stream:
            break
        assert stopped.wait(10)
        with pytest.raises(StopIteration):
            next(stream)
        with pytest.raises(IicpError, match="INVALID_ARG"):
            _ = stream.result
        stopped.clear()
        next(client.stream(intent=CUSTOM, payload=10_000_000))
        gc.collect()
        assert stopped.wait(10)


def test_ctrl_c_ends_a_wait_for_a_part_and_the_task() -> None:
    program = """
import os, signal, threading
from iicp_core import CHAT, sync

stopped = threading.Event()

def waits(task):
    try:
        yield "x"
        while not task.cancelled:
            stopped.wait(0.01)
    finally:
        stopped.set()

with (
    sync.Directory.loopback() as mesh,
    sync.serve(waits, intents=[CHAT], directory=mesh.url),
    sync.Client(directory=mesh.url) as client,
):
    try:
        for chunk in client.stream("Hi"):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    except KeyboardInterrupt:
        print("interrupted", stopped.wait(10))
"""
    done = child(program)
    assert (done.stdout, done.returncode) == ("interrupted True\n", 0), done.stderr


def test_a_process_ends_though_streams_are_open() -> None:
    program = """
import asyncio, iicp_core as iicp

async def endless(task):
    while True:
        yield "x"
        await asyncio.sleep(0.01)

async def main():
    mesh = await iicp.Directory.loopback()
    await iicp.serve(endless, intents=[iicp.CHAT], directory=mesh.url)
    global client, stream
    client = iicp.Client(directory=mesh.url)
    stream = client.stream("Hi")
    print((await anext(stream)).text)

asyncio.run(main())
"""
    done = child(program, seconds=20)
    assert (done.stdout, done.returncode) == ("x\n", 0), done.stderr


def test_a_program_that_wants_sigpipe_survives_streams_that_break_off() -> None:
    program = """
import asyncio, signal, iicp_core as iicp

signal.signal(signal.SIGPIPE, signal.SIG_DFL)

async def endless(task):
    while True:
        yield "x" * 10_000

async def main():
    async with (
        iicp.Directory.loopback() as mesh,
        iicp.serve(endless, intents=[iicp.CHAT], directory=mesh.url),
        iicp.Client(directory=mesh.url) as client,
    ):
        for _ in range(20):
            async for chunk in client.stream("Hi"):
                break

asyncio.run(main())
assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
print("alive")
"""
    done = child(program)
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr
