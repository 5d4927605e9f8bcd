"""The typed calls of the well-known intents, against a node in the same language; and the options that route them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from conftest import Run, mesh, run_on

import iicp_core
from iicp_core import CHAT, COMPLETION, EMBEDDING, MODERATION, SPEECH, TRANSCRIPTION, Code, IicpError, Inbound, sync

INTENTS = [CHAT, COMPLETION, EMBEDDING, MODERATION, SPEECH, TRANSCRIPTION]


async def model(task: Inbound) -> Any:
    """Answers every model task with what it was asked."""
    asked = task.payload
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    if task.intent == COMPLETION:
        choice = {"text": asked["prompt"] + ", there was", "finish_reason": "stop"}
        return {"choices": [choice], "usage": usage, "model": asked.get("model")}
    if task.intent == EMBEDDING:
        size = asked.get("dimensions", 2)
        vectors = [{"index": at, "embedding": [len(text) + 0.5] * size} for at, text in enumerate(asked["input"])]
        return {"data": vectors[::-1], "usage": usage, "model": "vectors"}
    if task.intent == TRANSCRIPTION:
        return {"text": base64.b64decode(asked["audio"]).decode(), "language": asked.get("language")}
    if task.intent == SPEECH:
        sound = base64.b64encode(asked["input"].encode()).decode()
        return {"audio": sound, "content_type": "audio/wav", "format": asked.get("response_format")}
    if task.intent == MODERATION:
        return {
            "results": [
                {"flagged": "bad" in text, "categories": {"rude": True}, "category_scores": {"rude": 0.25}}
                for text in asked["input"]
            ],
            "model": "judge",
        }
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "said": asked}]}
    return {"choices": [{"message": message, "finish_reason": "tool_calls"}], "model": "chat"}


def test_every_model_task_has_a_typed_call_and_a_typed_reply(run: Run) -> None:
    async def main() -> None:
        async with mesh(model, intents=INTENTS) as (node, client):
            completed = await client.complete("Once", max_tokens=5, stop=["."])
            assert (completed.text, completed.finish_reason) == ("Once, there was", "stop")
            assert completed.usage == iicp_core.Usage(1, 2, 3)

            assert (await client.embed("one")).vectors == ((3.5, 3.5),)
            embedded = await client.embed(["one", "three"], dimensions=1)
            assert (embedded.vectors, embedded.model) == (((3.5,), (5.5,)), "vectors")
            assert embedded.usage == iicp_core.Usage(1, 2, 3)

            for sound in (b"a word", bytearray(b"a word"), memoryview(b"a word")):
                heard = await client.transcribe(sound, language="en", filename="a.mp3")
                assert (heard.text, heard.language) == ("a word", "en")

            spoken = await client.speak("Aloud", response_format="wav", speed=2)
            assert (spoken.audio, spoken.content_type, spoken.format) == (b"Aloud", "audio/wav", "wav")
            assert spoken.task.result is None

            judged = await client.moderate(["good", "bad"])
            assert [result.flagged for result in judged.results] == [False, True]
            assert judged.results[0].categories == {"rude": True}
            assert (judged.results[1].category_scores, judged.model) == ({"rude": 0.25}, "judge")

            for reply in (completed, embedded, heard, spoken, judged):
                assert (reply.task.node_id, reply.task.sealed) == (node.node_id, True)
                assert reply.task.receipt.eligible_candidate_count == 1

    run(main())


def test_the_typed_calls_work_without_a_loop() -> None:
    with (
        sync.Directory.loopback() as directory,
        sync.serve(model, intents=INTENTS, directory=directory.url),
        sync.Client(directory=directory.url) as client,
    ):
        assert client.complete("Once").text == "Once, there was"
        assert client.embed("one", dimensions=3).vectors == ((3.5, 3.5, 3.5),)
        assert client.transcribe(b"a word").text == "a word"
        assert client.speak("Aloud").audio == b"Aloud"
        assert client.moderate("bad").results[0].flagged


def test_parts_and_tools_of_a_chat_reach_the_handler_and_calls_of_tools_come_back() -> None:
    parts: list[iicp_core.ContentPart] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    tool = {"type": "function", "function": {"name": "look"}}

    async def main() -> None:
        async with mesh(model) as (_, client):
            reply = await client.chat(
                [{"role": "user", "content": parts}],
                tools=[tool],
                tool_choice="auto",
                stop=["END"],
                extra={"seed": 7},
            )
            (call,) = reply.tool_calls
            said = call["said"]
            assert (reply.text, reply.finish_reason, reply.model) == ("", "tool_calls", "chat")
            assert said["messages"][-1] == {"role": "user", "content": parts}
            assert (said["tools"], said["tool_choice"], said["stop"], said["seed"]) == ([tool], "auto", ["END"], 7)

    run_on("asyncio", main())


def test_what_a_typed_call_brings_shows_no_content() -> None:
    async def main() -> None:
        async with mesh(model, intents=INTENTS) as (_, client):
            replies: list[Any] = [
                await client.complete("canary"),
                await client.embed("canary"),
                await client.transcribe(b"canary"),
                await client.speak("canary"),
                await client.moderate("canary"),
                await client.chat("canary"),
            ]
            for reply in replies:
                assert "canary" not in repr(reply)
                assert "6.5, 6.5" not in repr(reply)
                with pytest.raises(AttributeError):
                    reply.task = None

    run_on("asyncio", main())


def test_a_reply_of_the_wrong_form_names_the_node_and_not_what_it_said() -> None:
    async def wrong(_: Inbound) -> Any:
        return {"canary": 1}

    async def main() -> None:
        async with mesh(wrong, intents=INTENTS) as (node, client):
            calls = [client.complete("x"), client.embed("x"), client.transcribe(b"x"), client.speak("x")]
            for call in [*calls, client.moderate("x"), client.chat("x")]:
                with pytest.raises(iicp_core.TransportError, match=node.node_id) as caught:
                    await call
                assert caught.value.code == Code.MALFORMED
                assert "canary" not in str(caught.value)

    run_on("asyncio", main())


WRONG: list[tuple[Any, str]] = [
    (lambda client: client.complete(""), "prompt"),
    (lambda client: client.embed([]), "input"),
    (lambda client: client.embed("x", dimensions=0), "dimensions"),
    (lambda client: client.transcribe(b""), "audio"),
    (lambda client: client.transcribe("words"), "audio of a transcription must be bytes, not str"),
    (lambda client: client.transcribe(5), "audio of a transcription must be bytes, not int"),
    (lambda client: client.speak("x", speed=9), "speed"),
    (lambda client: client.moderate(""), "input"),
    (lambda client: client.moderate("x", colour="red"), "colour"),
    (lambda client: client.chat("x", routing_policy={"profile": "lenient"}), "routing_policy: expected one of"),
    (lambda client: client.chat("x", route={"limit": 0}), "limit"),
    (lambda client: client.chat("x", consensus="all"), "consensus: expected one of"),
    (lambda client: client.chat(None), "a chat: it takes a text or a list of messages, not NoneType"),
    (lambda client: client.chat({"role": "user"}), "a list of messages, not dict"),
    (lambda client: client.chat(b"x"), "a list of messages, not bytes"),
    (lambda client: client.chat([{"role": "oracle", "content": "x"}]), "role"),
]


@pytest.mark.parametrize(("call", "says"), WRONG)
def test_what_is_wrong_with_a_typed_call_is_named_before_anything_is_sent(call: Any, says: str) -> None:
    with sync.Client(directory="http://127.0.0.1:1") as client:
        with pytest.raises(iicp_core.ConfigError, match=says) as caught:
            call(client)
        assert caught.value.code == Code.CONFIG_INVALID


def test_a_policy_of_a_client_arrives_with_all_that_is_in_it() -> None:
    with pytest.raises(iicp_core.ConfigError, match="routing_policy: expected one of"):
        sync.Client(routing_policy={"profile": "lenient"})  # type: ignore[typeddict-item]
    with pytest.raises(iicp_core.ConfigError, match="allowed_regions"):
        sync.Client(routing_policy={"allowed_regions": [""]})

    async def main() -> None:
        async with (
            iicp_core.Directory.loopback() as directory,
            iicp_core.serve(model, intents=INTENTS, directory=directory.url, region="us-east") as node,
            iicp_core.Client(directory=directory.url, routing_policy={"allowed_regions": ["eu"]}) as client,
        ):
            with pytest.raises(IicpError) as caught:
                await client.embed("x")
            assert caught.value.code == Code.POLICY_REFUSED
            # A call says otherwise.
            reply = await client.embed("x", routing_policy={"allowed_regions": ["us"]})
            assert reply.task.node_id == node.node_id

    run_on("asyncio", main())


@pytest.mark.parametrize("token", ["canary-token", "canary token", 5, ["canary"]])
def test_the_callers_credential_is_never_shown(token: Any) -> None:
    try:
        client = sync.Client(directory="http://127.0.0.1:1", node_token=token)
    except IicpError as e:
        shown = [str(e), repr(e), repr(e.args)]
    else:
        with pytest.raises(IicpError) as caught:
            client.chat("Hello")
        shown = [str(caught.value), repr(caught.value), repr(client)]
    assert "canary" not in "".join(shown)


def test_a_token_must_be_there_if_it_is_required() -> None:
    with pytest.raises(iicp_core.ConfigError, match="node_token"):
        iicp_core.Client(consumer_auth="required")
