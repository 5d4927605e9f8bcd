"""Runs the repository's case table, ``tests/cases``, on both clients. ``CASE=part-of-a-name`` runs some of it."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

import iicp_core
from iicp_core import IicpError, RankChoice, RankRequest, sync

ROOT = Path(__file__).parents[2]
# Stages, and so cases, that run at the same time.
WORKERS = 4
Json = dict[str, Any]


class Stage:
    """The program that hosts what is behind the network."""

    def __init__(self) -> None:
        path = os.environ.get("IICP_STAGE")
        assert path, "set IICP_STAGE to the program that `cargo build -p iicp-tests --bin stage` makes"
        self._process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, command: Json) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def close(self) -> None:
        self._process.communicate()


class Async:
    """The client for asyncio, on a loop of its own thread."""

    make = iicp_core.Client

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def start(self, call: Callable[[], Any]) -> tuple[Future[Any], Callable[[], object]]:
        coroutine: Coroutine[Any, Any, Any] = call()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future, future.cancel

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Sync:
    """The client without a loop; each call waits on a thread of its own, and is cancelled as by Ctrl-C."""

    make = sync.Client

    def start(self, call: Callable[[], Any]) -> tuple[Future[Any], Callable[[], object]]:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(call())
            except KeyboardInterrupt:
                future.set_exception(CancelledError())
            except BaseException as e:
                future.set_exception(e)

        thread = threading.Thread(target=work)
        thread.start()
        interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
        return future, lambda: interrupt(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt))

    def close(self) -> None:
        """Nothing to close."""


def table() -> list[Json]:
    cases = [case for path in sorted((ROOT / "tests/cases").glob("*.json")) for case in json.loads(path.read_text())]
    return [case for case in cases if os.environ.get("CASE", "") in case["name"]]


@pytest.mark.parametrize("face", [Async, Sync])
def test_every_case_keeps_its_promise(face: type[Async] | type[Sync]) -> None:
    cases: queue.SimpleQueue[Json] = queue.SimpleQueue()
    for case in table():
        cases.put(case)
    total, failures = cases.qsize(), list[str]()
    assert total

    def work() -> None:
        stage, side = Stage(), face()
        while not cases.empty():
            try:
                case = cases.get_nowait()
            except queue.Empty:
                break
            try:
                play(stage, side, case)
            except Exception as e:
                failures.append(f"{case['name']}: {case['promise']}\n    {type(e).__name__}: {e}")
        side.close()
        stage.close()

    workers = [threading.Thread(target=work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, f"{len(failures)} of {total} cases failed:\n" + "\n".join(failures)


def play(stage: Stage, side: Async | Sync, case: Json) -> None:
    scene = stage.call({"setup": case.get("setup", {})})
    ranks = Ranks() if any("rank" in step for step in case["do"]) else None
    made, client = new_client(side, case.get("client", {}), scene, ranks)
    running: dict[str, list[tuple[Future[Any], Callable[[], object]]]] = {}
    for number, step in enumerate(case["do"], 1):
        began = time.monotonic()
        if "stage" in step:
            answer = stage.call(step["stage"])
            scene = answer if "add_node" in step["stage"] else scene
            continue
        if "client_new" in step:
            made, client = new_client(side, step["client_new"], scene, ranks)
            outcomes = [made]
        elif name := step.get("join") or step.get("cancel"):
            calls = running.pop(name)
            for _, cancel in calls if "cancel" in step else []:
                cancel()
            outcomes = [outcome(future, scene) for future, _ in calls]
        else:
            assert client is not None, f"step {number}: there is no client: {made}"
            verb = prepare(client, step)
            if ranks is not None:
                ranks.answer = step.get("rank", "none")
            calls = [side.start(verb) for _ in range(step.get("parallel", 1))]
            if "as" in step:
                running[step["as"]] = calls
                continue
            outcomes = [outcome(future, scene) for future, _ in calls]
        for came in outcomes:
            check(step.get("expect", {}), came, time.monotonic() - began, f"step {number}")
    if "ledger" in case:
        stage.call({"await": {"ledger": case["ledger"], "within_ms": 10_000}})
    stage.call({"teardown": {}})


class Ranks:
    """A ranker that answers what the step says."""

    answer: Any = "none"

    def __call__(self, request: RankRequest) -> RankChoice | None:
        match self.answer:
            case "none":
                return None
            case "last":
                return RankChoice(request.candidates[-1].candidate_ref, "case-policy")
            case "unknown":
                return RankChoice("nobody", "case-policy")
            case {"error": text}:
                raise RuntimeError(text)
            case other:
                raise AssertionError(f"no ranker answers {other!r}")


def in_python(options: Json) -> Json:
    """The options as Python names them: times are seconds."""
    is_time = {name: name.endswith("_ms") and type(value) is int and value >= 0 for name, value in options.items()}
    return {
        name[:-3] if is_time[name] else name: value / 1000 if is_time[name] else value
        for name, value in options.items()
    }


def new_client(side: Async | Sync, options: Json, scene: Json, ranks: Ranks | None) -> tuple[Json, Any]:
    directory = options.get("directory", "$directory")
    if isinstance(directory, str):
        directory = directory.replace("$directory", scene["directory"])
    try:
        return {}, side.make(ranker=ranks, **in_python({**options, "directory": directory}))
    except IicpError as e:
        return failed(e), None


def prepare(client: Any, step: Json) -> Callable[[], Any]:
    if "submit" in step:
        payload = step.get("payload", {"text": "canary"})
        if "payload_bytes" in step:
            payload = {"pad": "x" * (step["payload_bytes"] - 10)}
        return lambda: client.submit(payload=payload, **in_python(step["submit"]))
    if "chat" in step:
        options = in_python(step["chat"])
        messages = options.pop("messages", [])
        return lambda: client.chat(messages, **options)
    if "stream" in step:
        return prepare_stream(client, step, in_python(step["stream"]))
    if "infer" in step:
        return prepare_inference(client, in_python(step["infer"]))
    return lambda: client.discover(**in_python(step["discover"]))


def prepare_stream(client: Any, step: Json, options: Json) -> Callable[[], Any]:
    asked = () if "payload" in step else (options.pop("messages", []),)
    if "payload" in step:
        options["payload"] = step["payload"]

    def taken(texts: list[str], part: Any) -> bool:
        texts.append(part.text)
        return len(texts) == step.get("take")

    async def follow() -> Json:
        texts: list[str] = []
        try:
            async with client.stream(*asked, **options) as stream:
                async for part in stream:
                    if taken(texts, part):
                        return {"texts": texts}
        except IicpError as e:
            return failed(e) | {"texts": texts}
        return {"texts": texts, "end": stream.result}

    def follow_without_a_loop() -> Json:
        texts: list[str] = []
        try:
            with client.stream(*asked, **options) as stream:
                for part in stream:
                    if taken(texts, part):
                        return {"texts": texts}
        except IicpError as e:
            return failed(e) | {"texts": texts}
        return {"texts": texts, "end": stream.result}

    return follow_without_a_loop if isinstance(client, sync.Client) else follow


def prepare_inference(client: Any, options: Json) -> Callable[[], Any]:
    match options.pop("kind"):
        case "completion":
            call, asked = client.complete, options.pop("prompt", "")
        case "embedding":
            call, asked = client.embed, options.pop("input", [])
        case "transcription":
            call, asked = client.transcribe, options.pop("audio_text", "").encode()
        case "speech":
            call, asked = client.speak, options.pop("input", "")
        case "moderation":
            call, asked = client.moderate, options.pop("input", [])
        case other:
            raise AssertionError(f"there is no model task {other!r}")
    return lambda: call(asked, **options)


def outcome(future: Future[Any], scene: Json) -> Json:
    places = {node["node_id"]: place for place, node in enumerate(scene["nodes"])}
    try:
        came = future.result()
    except IicpError as e:
        return failed(e)
    except CancelledError:
        return {"code": "CANCELLED"}
    if isinstance(came, list):
        return {"nodes": [places.get(node.node_id) for node in came]}
    if isinstance(came, dict):
        told: Json = came
        if (end := told.pop("end", None)) is None:
            return told
        told |= in_json(end)
    else:
        told = in_json(came)
    task = told.pop("task", told)
    if isinstance(came, iicp_core.TaskResult):
        told = {"result": came.result}
    known = {name: task[name] for name in ("attempts", "sealed", "receipt")}
    return told | known | {"node": places.get(task["node_id"])}


def in_json(value: Any) -> Any:
    """What comes out as JSON says it; a sound is text in the cases."""
    if dataclasses.is_dataclass(value):
        return {field.name: in_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return list(map(in_json, value))
    return value.decode() if isinstance(value, bytes) else value


def failed(e: IicpError) -> Json:
    known = {"code": e.name, "message": e.message, "retryable": e.retryable}
    more = {"http_status": e.http_status, "wire_code": e.wire_code}
    if e.retry_after is not None:
        more["retry_after_ms"] = round(e.retry_after * 1000)
    return known | {name: value for name, value in more.items() if value is not None}


def check(expect: Json, came: Json, took: float, at: str) -> None:
    expect = dict(expect)
    says, within = expect.pop("says", []), expect.pop("within_ms", None)
    message = came.get("message", "")
    as_expected = ("code" in expect) == ("code" in came) and holds(expect, came)
    assert as_expected, f"{at}: expected {expect}, got {came}"
    assert "canary" not in message, f"{at}: the message gives away what it must not: {message!r}"
    for part in says:
        assert part in message, f"{at}: {message!r} does not say {part!r}"
    assert within is None or took * 1000 <= within, f"{at}: it took {took:.3f} s, more than {within} ms"


def holds(expected: Any, actual: Any) -> bool:
    """Objects are compared by the fields that are expected, everything else exactly."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return all(name in actual and holds(value, actual[name]) for name, value in expected.items())
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(holds, expected, actual))
    if isinstance(expected, list) and isinstance(actual, str):
        return actual in expected
    return bool(expected == actual) and isinstance(expected, bool) == isinstance(actual, bool)
