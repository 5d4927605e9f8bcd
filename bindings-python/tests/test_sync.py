"""The client, the node and the directory without an event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import iicp_core
from iicp_core import CHAT, Code, IicpError, Inbound, sync


def plain_echo(task: Inbound) -> Any:
    return task.payload


async def echo(task: Inbound) -> Any:
    return task.payload


@pytest.mark.parametrize("handler", [plain_echo, echo])
def test_directory_node_and_client_work_without_a_loop(handler: iicp_core.Handler) -> None:
    with sync.Directory.loopback() as directory, sync.serve(handler, intents=[CHAT], directory=directory.url) as node:
        assert node.status().registered
        report = node.nat_report()
        assert (report.reached_by, report.rungs, str(report)) == (None, (), report.text)
        with sync.Client(directory=directory.url) as client:
            (found,) = client.discover(intent=CHAT)
            assert (found.node_id, found.endpoint) == (node.node_id, node.url)
            done = client.submit(intent=CHAT, payload={"n": 1}, timeout=30.0)
            assert (done.result, done.node_id) == ({"n": 1}, node.node_id)
    assert "closed" in repr(node)
    assert "closed" in repr(directory)
    assert "closed" in repr(client)


def test_a_chat_takes_a_text_or_messages() -> None:
    def answer(task: Inbound) -> iicp_core.Reply:
        return iicp_core.Reply.chat(task.payload["messages"][-1]["content"])

    with (
        sync.Directory.loopback() as directory,
        sync.serve(answer, intents=[CHAT], directory=directory.url),
        sync.Client(directory=directory.url) as client,
    ):
        assert client.chat("Hello").text == "Hello"
        assert client.chat([{"role": "user", "content": "Hi"}], max_tokens=5).text == "Hi"


def test_a_client_is_shared_by_threads_and_each_call_gets_its_own_answer() -> None:
    with (
        sync.Directory.loopback() as directory,
        sync.serve(plain_echo, intents=[CHAT], directory=directory.url, max_concurrent=64),
        sync.Client(directory=directory.url) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        results = pool.map(lambda n: client.submit(intent=CHAT, payload=n).result, range(200))
        assert list(results) == list(range(200))


def test_errors_are_those_of_the_async_client() -> None:
    with sync.Client(directory="http://127.0.0.1:1") as client:
        with pytest.raises(iicp_core.DirectoryUnreachableError):
            client.discover(intent=CHAT)
        with pytest.raises(iicp_core.ConfigError, match="PAYLOAD_INVALID"):
            client.submit(intent=CHAT, payload=object())
        with pytest.raises(iicp_core.ConfigError, match="colour"):
            client.submit(intent=CHAT, payload=1, colour="red")  # type: ignore[call-arg]
    with pytest.raises(IicpError) as caught:
        client.discover(intent=CHAT)
    assert caught.value.code == Code.CLOSED


def test_closing_the_client_ends_a_call_of_another_thread() -> None:
    began = threading.Event()
    release = threading.Event()

    def hang(_: Inbound) -> None:
        began.set()
        release.wait(30)

    with (
        sync.Directory.loopback() as directory,
        sync.serve(hang, intents=[CHAT], directory=directory.url) as node,
        ThreadPoolExecutor(1) as pool,
    ):
        client = sync.Client(directory=directory.url)
        call = pool.submit(client.submit, intent=CHAT, payload=1)
        assert began.wait(10)
        client.close()
        client.close()
        with pytest.raises(IicpError) as caught:
            call.result(10)
        assert caught.value.code == Code.CLOSED
        release.set()
        node.close(grace=5)


def test_a_node_that_cannot_be_made_leaves_no_thread() -> None:
    sync.Client().close()
    before = threading.active_count()
    with pytest.raises(iicp_core.ConfigError):
        sync.serve(plain_echo, intents=[])
    with pytest.raises(iicp_core.ArgumentError):
        sync.serve("no function", intents=[CHAT])  # type: ignore[arg-type]
    assert threading.active_count() == before


def test_a_handler_may_close_its_own_node() -> None:
    nodes: list[sync.Node] = []
    said: list[str] = []

    def close(_: Inbound) -> str:
        # It waits for this very handler, until the grace is over.
        assert not nodes[0].close(grace=0.1)
        said.append("closed")
        return "too late"

    async def close_and_wait(_: Inbound) -> str:
        with pytest.raises(iicp_core.ArgumentError, match="wait for itself"):
            nodes[0].close()
        return "refused"

    with sync.Directory.loopback() as directory, sync.Client(directory=directory.url) as client:
        nodes.append(sync.serve(close, intents=[CHAT], directory=directory.url))
        with pytest.raises(IicpError):
            client.submit(intent=CHAT, payload=1, timeout=5)
        nodes.pop().closed()
        deadline = time.monotonic() + 10
        while not said:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with sync.Directory.loopback() as directory, sync.Client(directory=directory.url) as client:
        nodes.append(sync.serve(close_and_wait, intents=[CHAT], directory=directory.url))
        assert client.submit(intent=CHAT, payload=1).result == "refused"
        assert nodes[0].close()
        assert nodes[0].close()
        nodes[0].closed()


def test_a_sync_call_inside_a_plain_handler_works() -> None:
    with (
        sync.Directory.loopback() as directory,
        sync.serve(plain_echo, intents=[CHAT], directory=directory.url),
        sync.Client(directory=directory.url) as inner,
        sync.Directory.loopback() as outer,
    ):

        def forward(task: Inbound) -> Any:
            return inner.submit(intent=CHAT, payload=["through", task.payload]).result

        with (
            sync.serve(forward, intents=[CHAT], directory=outer.url),
            sync.Client(directory=outer.url) as client,
        ):
            assert client.submit(intent=CHAT, payload=1).result == ["through", 1]


WRONG: list[tuple[Callable[[], object], Code, str]] = [
    (lambda: sync.Client(directory=5), Code.CONFIG_INVALID, "options of a client"),  # type: ignore[arg-type]
    (lambda: sync.Client(colour="red"), Code.CONFIG_INVALID, "colour"),  # type: ignore[call-arg]
    (lambda: sync.Directory.loopback(port="x"), Code.CONFIG_INVALID, "options of a directory"),  # type: ignore[arg-type]
    (lambda: sync.Directory.loopback(host=b"x"), Code.CONFIG_INVALID, "host"),  # type: ignore[arg-type]
    (lambda: sync.serve(plain_echo), Code.CONFIG_INVALID, "intents"),
    (lambda: sync.serve(plain_echo, intents=CHAT), Code.CONFIG_INVALID, "options of a node"),
    (lambda: sync.serve(plain_echo, intents=[CHAT], max_concurrent=True), Code.CONFIG_INVALID, "options of a node"),
    (lambda: sync.Client().discover(), Code.INTENT_INVALID, "urn:iicp:intent"),  # type: ignore[call-arg]
    (lambda: sync.Client().chat(123), Code.CONFIG_INVALID, "options of a chat"),  # type: ignore[arg-type]
    (lambda: sync.Client().chat([1]), Code.CONFIG_INVALID, "options of a chat"),  # type: ignore[list-item]
    (lambda: sync.Client().submit(intent=CHAT, payload={1, 2}), Code.PAYLOAD_INVALID, "set"),
    (lambda: sync.Client().submit(intent=CHAT, payload=b"\xff"), Code.PAYLOAD_INVALID, "JSON"),
    (lambda: sync.Client().submit(intent=CHAT, payload=1, timeout=10**400), Code.CONFIG_INVALID, "seconds"),
]


@pytest.mark.parametrize(("call", "code", "says"), WRONG)
def test_what_is_wrong_has_a_code_and_a_helpful_sentence(call: Callable[[], object], code: Code, says: str) -> None:
    with pytest.raises(IicpError, match=says) as caught:
        call()
    assert caught.value.code == code


@pytest.mark.parametrize("grace", ["x", -1, float("nan"), None])
def test_a_grace_that_is_no_time_is_refused_and_closes_nothing(grace: Any) -> None:
    with (
        sync.Directory.loopback() as directory,
        sync.serve(plain_echo, intents=[CHAT], directory=directory.url) as node,
        sync.Client(directory=directory.url) as client,
    ):
        for close in (node.close, directory.close):
            with pytest.raises(iicp_core.ArgumentError, match="grace"):
                close(grace=grace)
        assert client.submit(intent=CHAT, payload=1).result == 1


def test_what_is_closed_says_so() -> None:
    directory = sync.Directory.loopback()
    node = sync.serve(plain_echo, intents=[CHAT], directory=directory.url)
    client = sync.Client(directory=directory.url)
    for thing in (client, node, directory):
        thing.close()
        thing.close()
    calls: list[Callable[[], object]] = [
        node.status,
        node.nat_report,
        lambda: client.chat("Hello"),
        lambda: client.discover(intent=CHAT),
        lambda: client.submit(intent=CHAT, payload=1),
    ]
    for call in calls:
        with pytest.raises(iicp_core.LibraryError, match="was closed; make a new one") as caught:
            call()
        assert caught.value.code == Code.CLOSED
