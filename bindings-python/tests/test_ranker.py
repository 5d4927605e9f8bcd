"""The application's own ranking, on every kind of loop and without one."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Run, run_on, until

import iicp_core
from iicp_core import CHAT, EMBEDDING, Code, IicpError, Inbound, RankChoice, RankRequest, sync


async def echo(task: Inbound) -> Any:
    if task.intent == EMBEDDING:
        return {"data": [{"embedding": [1.0]}]}
    return {"text": "Hello"}


@contextlib.asynccontextmanager
async def two_nodes() -> AsyncIterator[str]:
    """A directory that knows two nodes, by which models they serve."""
    async with iicp_core.Directory.loopback() as directory:
        served: dict[str, Any] = {"intents": [CHAT, EMBEDDING], "directory": directory.url, "max_concurrent": 64}
        async with (
            iicp_core.serve(echo, models=["small"], node_id="small", **served),
            iicp_core.serve(echo, models=["large"], node_id="large", **served),
        ):
            yield directory.url


def ranked(url: str, ranker: Any) -> iicp_core.Client:
    """A client with a ranker, which a ticket of the directory would leave little to choose from."""
    return iicp_core.Client(directory=url, route_discovery="legacy", ranker=ranker)


def large(request: RankRequest) -> RankChoice:
    (found,) = (one for one in request.candidates if one.models == ("large",))
    return RankChoice(found.candidate_ref, "largest-first")


async def large_later(request: RankRequest) -> RankChoice:
    await asyncio.sleep(0)
    return large(request)


@pytest.mark.parametrize("ranker", [large, large_later])
def test_the_candidate_that_the_ranker_chooses_goes_first(run: Run, ranker: iicp_core.Ranker) -> None:
    async def main() -> None:
        async with two_nodes() as url, ranked(url, ranker) as client:
            for _ in range(5):
                done = await client.submit(intent=CHAT, payload=1)
                assert done.node_id == "large"
                assert done.receipt.selection_profile == "external_ranker/largest-first/normal"
            assert (await client.chat("Hello")).node_id == "large"
            assert (await client.embed("Hello")).task.node_id == "large"
            assert len(await client.discover(intent=CHAT)) == 2
            many = await asyncio.gather(*(client.submit(intent=CHAT, payload=n) for n in range(50)))
            assert {done.node_id for done in many} == {"large"}

    run(main())


def test_a_ranker_sees_who_is_eligible_and_nothing_by_which_one_could_call_them() -> None:
    asked: list[RankRequest] = []

    async def main() -> None:
        async with two_nodes() as url, ranked(url, asked.append) as client:
            await client.submit(intent=CHAT, payload="canary")
            (request,) = asked
            assert request.intent == CHAT
            assert sorted(one.models for one in request.candidates) == [("large",), ("small",)]
            assert all(0 <= one.directory_score <= 1 and one.load >= 0 for one in request.candidates)
            assert "canary" not in repr(request)
            assert "127.0.0.1" not in repr(request)

    run_on("asyncio", main())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_ranker_that_answers_nothing_keeps_the_order(run: Run, is_async: bool) -> None:
    def decline(_: RankRequest) -> None:
        return None

    async def decline_later(_: RankRequest) -> None:
        return None

    async def main() -> None:
        ranker = decline_later if is_async else decline
        async with two_nodes() as url, ranked(url, ranker) as client:
            done = await client.submit(intent=CHAT, payload=1)
            assert "external_ranker" not in done.receipt.selection_profile

    run(main())


class OutOfTuneError(Exception):
    pass


def fail(_: RankRequest) -> RankChoice:
    raise OutOfTuneError("the piano is out of tune")


async def fail_later(_: RankRequest) -> RankChoice:
    raise OutOfTuneError("the piano is out of tune")


def fail_silently(_: RankRequest) -> RankChoice:
    raise OutOfTuneError


def give_up(_: RankRequest) -> RankChoice:
    raise SystemExit("the piano is out of tune")


REFUSALS: list[tuple[Any, str]] = [
    (fail, "out of tune"),
    (fail_later, "out of tune"),
    (fail_silently, "OutOfTuneError"),
    (give_up, "out of tune"),
    (lambda _: RankChoice("nobody", "p"), "outside the eligible"),
    (lambda _: RankChoice("nobody", "no policy"), "policy_id"),
    (lambda _: RankChoice("nobody", "p", mode="best"), "not choose: .*candidate_ref"),  # type: ignore[arg-type]
    (lambda _: RankChoice(5, "p"), "not choose: .*candidate_ref"),  # type: ignore[arg-type]
    (lambda _: RankChoice(object(), "p"), "plain"),  # type: ignore[arg-type]
    (lambda _: "large", "RankChoice"),
    (lambda request: large_later(request), "coroutine"),  # noqa: PLW0108 - not seen to be a coroutine function
]


@pytest.mark.parametrize(("ranker", "says"), REFUSALS)
def test_a_ranker_that_fails_refuses_the_task_in_its_own_words(ranker: Any, says: str) -> None:
    async def main() -> None:
        async with two_nodes() as url, ranked(url, ranker) as client:
            with pytest.raises(iicp_core.ConfigError, match=says) as caught:
                await client.submit(intent=CHAT, payload=1)
            assert caught.value.code == Code.RANKER_REFUSED

    run_on("asyncio", main())


def test_a_ranker_that_never_answers_ends_with_the_calls_deadline_and_with_its_cancellation(run: Run) -> None:
    seen: list[str] = []

    async def hang(_: RankRequest) -> None:
        seen.append("asked")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    async def main() -> None:
        async with two_nodes() as url, ranked(url, hang) as client:
            with pytest.raises(TimeoutError) as caught:
                await client.submit(intent=CHAT, payload=1, timeout=0.3)
            assert isinstance(caught.value, IicpError)
            await until(lambda: seen == ["asked", "ended"])

            call = asyncio.create_task(client.submit(intent=CHAT, payload=1))
            await until(lambda: seen[2:] == ["asked"])
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: seen[2:] == ["asked", "ended"])

            call = asyncio.create_task(client.submit(intent=CHAT, payload=1))
            await until(lambda: seen[4:] == ["asked"])
            await client.close()
            with pytest.raises(IicpError) as closed:
                await call
            assert closed.value.code == Code.CLOSED
            await until(lambda: seen[4:] == ["asked", "ended"])

    run(main())


def test_a_plain_ranker_that_hangs_holds_up_nobody_and_its_late_answer_is_not_heard(run: Run) -> None:
    release = threading.Event()
    ended: list[str] = []

    def hang(request: RankRequest) -> RankChoice:
        release.wait(30)
        ended.append(request.request_ref)
        return large(request)

    async def main() -> None:
        async with two_nodes() as url, ranked(url, hang) as client:
            with pytest.raises(TimeoutError):
                await client.submit(intent=CHAT, payload=1, timeout=0.3)
            release.set()
            await until(lambda: len(ended) == 1)
            assert (await client.submit(intent=CHAT, payload=1)).node_id == "large"

    run(main())


def test_a_ranker_runs_in_the_context_of_the_call_and_on_no_thread_of_the_engine() -> None:
    who = contextvars.ContextVar("who", default="nobody")
    seen: list[tuple[str, str]] = []

    def plain(_: RankRequest) -> None:
        seen.append((who.get(), threading.current_thread().name))

    async def coroutine(request: RankRequest) -> None:
        plain(request)

    async def main() -> None:
        who.set("me")
        async with two_nodes() as url:
            for ranker in (plain, coroutine):
                async with ranked(url, ranker) as client:
                    await client.submit(intent=CHAT, payload=1)

    run_on("asyncio", main())
    assert seen == [("me", "iicp-ranker-1"), ("me", "MainThread")]


@contextlib.contextmanager
def on_a_thread(url: list[str]) -> Any:
    """The two nodes, for a client without a loop."""
    ready, over = threading.Event(), threading.Event()

    async def main() -> None:
        async with two_nodes() as found:
            url.append(found)
            ready.set()
            await asyncio.to_thread(over.wait)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_on, "asyncio", main())
        try:
            assert ready.wait(10)
            yield
        finally:
            over.set()
            running.result(30)


def test_a_client_without_a_loop_ranks_too() -> None:
    url: list[str] = []
    release = threading.Event()
    told: list[Callable[[RankRequest], RankChoice | None]] = [large]

    def as_told(request: RankRequest) -> RankChoice | None:
        return told[-1](request)

    with (
        on_a_thread(url),
        sync.Client(directory=url[0], route_discovery="legacy", ranker=as_told) as client,
    ):
        done = client.submit(intent=CHAT, payload=1)
        assert (done.node_id, done.receipt.selection_profile) == ("large", "external_ranker/largest-first/normal")
        assert client.chat("Hello").node_id == "large"

        told.append(lambda _: None)
        assert "external_ranker" not in client.submit(intent=CHAT, payload=1).receipt.selection_profile

        told.append(fail)
        with pytest.raises(iicp_core.ConfigError, match="out of tune"):
            client.embed("Hello")

        def hang(_: RankRequest) -> None:
            release.wait(30)

        told.append(hang)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            client.submit(intent=CHAT, payload=1, timeout=0.3)
        assert time.monotonic() - began < 10
        release.set()


def test_what_cannot_rank_is_refused_at_once() -> None:
    async def asynchronous(_: RankRequest) -> None:
        return None

    async def generator(_: RankRequest) -> AsyncIterator[None]:
        yield

    with pytest.raises(iicp_core.ArgumentError, match="plain function"):
        sync.Client(ranker=asynchronous)
    with pytest.raises(iicp_core.ArgumentError, match="ranker must be a function, not str"):
        iicp_core.Client(ranker="large")  # type: ignore[arg-type]
    with pytest.raises(iicp_core.ArgumentError, match="generator"):
        iicp_core.Client(ranker=generator)  # type: ignore[arg-type]
    with pytest.raises(iicp_core.ConfigError, match="external_ranker"):
        iicp_core.Client(external_ranker=True)  # type: ignore[call-arg]


def test_the_threads_of_a_ranker_end_with_its_client() -> None:
    async def main() -> None:
        async with two_nodes() as url, ranked(url, large) as client:
            await asyncio.gather(*(client.submit(intent=CHAT, payload=n) for n in range(20)))

    def rankers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("iicp-ranker")]

    run_on("asyncio", main())
    deadline = time.monotonic() + 10
    while rankers():
        assert time.monotonic() < deadline, rankers()
        time.sleep(0.01)
