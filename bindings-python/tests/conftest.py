"""What the tests share: event loops of every kind, a mesh of one node, programs in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

import iicp_core
from iicp_core import CHAT


class NoReaderLoop(asyncio.SelectorEventLoop):
    """A loop that cannot watch descriptors, like the one of Windows."""

    def add_reader(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    "no-reader": NoReaderLoop,
}

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def run_on(kind: str, main: Coroutine[Any, Any, Any], seconds: float = 60) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(seconds):
            return await main

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        return runner.run(bounded())


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end, on each kind of loop."""
    return lambda main: run_on(request.param, main)


@contextlib.asynccontextmanager
async def mesh(handler: iicp_core.Handler, **options: Any) -> AsyncIterator[tuple[iicp_core.Node, iicp_core.Client]]:
    """A directory, a node and a client that knows them."""
    options.setdefault("intents", [CHAT])
    async with (
        iicp_core.Directory.loopback() as directory,
        iicp_core.serve(handler, directory=directory.url, **options) as node,
        iicp_core.Client(directory=directory.url) as client,
    ):
        yield node, client


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)


def child(program: str, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own; it fails if the process hangs."""
    # Newer interpreters warn of every fork of a process with threads; what comes of it is tested here.
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        program,
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.fixture(autouse=True)
def no_thread_fails_unseen() -> Any:
    """A thread of the library that dies of an exception fails the test."""
    died: list[threading.ExceptHookArgs] = []
    old, threading.excepthook = threading.excepthook, died.append
    yield
    threading.excepthook = old
    assert not died
