"""Nodes that hand their tasks to an inference server."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from conftest import Run

import iicp_core
from iicp_core import CHAT, Code, IicpError, Inbound, sync


class Inference(BaseHTTPRequestHandler):
    """Answers chats by what they said, in the form of OpenAI."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "parrot"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": f"{asked['model']}: {asked['messages'][-1]['content']}"}
        self.answer({"choices": [{"message": message, "finish_reason": "stop"}], "model": asked["model"]})

    def answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def inference() -> Iterator[iicp_core.BackendOptions]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Inference) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"url": f"http://127.0.0.1:{server.server_port}/v1"}
        server.shutdown()


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({"timeout": 0}, "option timeout of a backend is 0 s"),
        ({"timeout_ms": 5}, "no option timeout_ms; give timeout, in seconds"),
        ({"timeout": True}, "option timeout must be a number of seconds"),
    ],
)
def test_times_are_seconds_also_in_options_that_hold_options(held: Any, says: str) -> None:
    backend: Any = {"url": "http://127.0.0.1:1/v1", **held}
    with pytest.raises(iicp_core.ConfigError, match=says):
        sync.serve(backend=backend)


def test_a_backend_serves_without_a_handler(run: Run) -> None:
    async def main() -> None:
        with inference() as backend:
            async with (
                iicp_core.Directory.loopback() as directory,
                iicp_core.serve(backend=backend, directory=directory.url) as node,
                iicp_core.Client(directory=directory.url) as client,
            ):
                (found,) = await client.discover(intent=CHAT)
                assert found.models == ("parrot",)
                reply = await client.chat("Hello, mesh.", runtime_identity="disabled")
                assert (reply.text, reply.model) == ("parrot: Hello, mesh.", "parrot")
                status = node.status()
                assert (status.registered, status.overrunning) == (True, 0)

    run(main())


def test_a_backend_serves_without_a_loop() -> None:
    with (
        inference() as backend,
        sync.Directory.loopback() as directory,
        sync.serve(backend=backend, directory=directory.url),
        sync.Client(directory=directory.url) as client,
    ):
        assert client.chat("Hi", runtime_identity="disabled").text == "parrot: Hi"


def test_a_node_has_either_a_handler_or_a_backend() -> None:
    def answer(task: Inbound) -> Any:
        return task.payload

    serves: list[Any] = [iicp_core.serve, sync.serve]
    for serve in serves:
        with pytest.raises(iicp_core.ArgumentError, match="nothing that serves"):
            serve(intents=[CHAT])
        with pytest.raises(iicp_core.ArgumentError, match="both a handler and a backend"):
            serve(answer, backend={"url": "http://127.0.0.1:1"})
    unknown: Any = {"kind": "abacus"}
    with pytest.raises(IicpError, match="openai_compat") as wrong:
        sync.serve(backend=unknown)
    assert wrong.value.code == Code.CONFIG_INVALID
