"""From keyword arguments to the engine's JSON, and from its events to Python's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, TypeVar, cast

from ._errors import error
from ._generated import HOLD_SECONDS, SECONDS, Code
from ._native import Event, NotPlain, dumps, loads
from ._types import (
    ChatReply,
    Chunk,
    CompletionReply,
    EmbeddingReply,
    Judgement,
    ModerationReply,
    NatInterface,
    NatReport,
    NatRung,
    NodeInfo,
    RoutingReceipt,
    SpeechReply,
    StreamResult,
    TaskResult,
    Timings,
    TranscriptionReply,
    Usage,
)

T = TypeVar("T")
_new, _set = object.__new__, object.__setattr__
_MILLISECONDS = frozenset(f"{name}_ms" for name in SECONDS)
_OTHERWISE = SECONDS | _MILLISECONDS | HOLD_SECONDS
"""What cannot go to the engine as it is."""


def to_json(value: object, code: Code, what: str) -> bytes:
    """Writes JSON, or says why a value has no such form; the value itself is not shown."""
    try:
        return dumps(value)
    except NotPlain:
        import json
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as e:
        # Some messages of ValueError quote the value.
        why = str(e) if isinstance(e, TypeError) else type(e).__name__
        raise error(code, f"{what} has no JSON form: {why}") from None


def from_json(text: bytes) -> Any:
    """Reads JSON."""
    try:
        return loads(text)
    except NotPlain:
        import json
    return json.loads(text)


def options(given: Mapping[str, object]) -> bytes:
    """Writes options; times are seconds here and whole milliseconds there."""
    if not _OTHERWISE.isdisjoint(given):
        given = _engines(given)
    try:
        return dumps(given)
    except ValueError:
        return to_json(given, Code.CONFIG_INVALID, f"one of the options {', '.join(given)}")


def _engines(given: Mapping[str, object]) -> dict[str, object]:
    """The options as the engine has them, those that options hold as well."""
    made: dict[str, object] = {}
    for name, value in given.items():
        if name in SECONDS:
            made[f"{name}_ms"] = _milliseconds(name, value)
        elif name in _MILLISECONDS:
            # The engine would take it.
            raise error(Code.CONFIG_INVALID, f"there is no option {name}; give {name[:-3]}, in seconds")
        else:
            holds = name in HOLD_SECONDS and isinstance(value, Mapping)
            made[name] = _engines(cast("Mapping[str, object]", value)) if holds else value
    return made


def _milliseconds(name: str, value: object) -> int | None:
    if value is None:
        return None
    if _is_number(value) and 0 <= value < 1e12:
        # No time at all is refused, a short one is not.
        return max(round(value * 1000), 1 if value else 0)
    raise error(Code.CONFIG_INVALID, f"option {name} must be a number of seconds, and not negative")


def _is_number(value: object) -> TypeGuard[float]:
    # True is an int as well.
    return isinstance(value, int | float) and not isinstance(value, bool)


def grace(value: object) -> float:
    """Checks a time to end in."""
    if _is_number(value) and value >= 0:
        return min(float(value), 1e9)
    raise error(Code.INVALID_ARG, "grace must be a number of seconds, and not negative")


def ask(messages_: object, given: Mapping[str, object]) -> tuple[bytes, bytes]:
    """What a stream asks: a chat, or a task and its payload."""
    if messages_ is not None:
        return options({**given, "messages": messages(messages_)}), b""
    if "payload" not in given:
        raise error(Code.INVALID_ARG, "a stream takes the messages of a chat, or an intent and a payload")
    body = given["payload"]
    task = {name: value for name, value in given.items() if name != "payload"}
    return options(task), body if isinstance(body, bytes) and body else payload(body)


def payload(value: object) -> bytes:
    """Writes a payload that is not plain."""
    return to_json(value, Code.PAYLOAD_INVALID, "the payload")


def messages(given: object) -> object:
    """The messages of a chat; a text alone is what the user says."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    is_what = type(given).__name__
    if isinstance(given, bytes | bytearray | memoryview) or not isinstance(given, Sequence):
        wrong = f"options of a chat: it takes a text or a list of messages, not {is_what}"
        raise error(Code.CONFIG_INVALID, f'{wrong}; try chat("Hello")')
    return cast("object", given)


def sound(given: object) -> bytes:
    """The bytes of a sound file."""
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(cast("bytes", given))
    raise error(Code.CONFIG_INVALID, f"option audio of a transcription must be bytes, not {type(given).__name__}")


def value(event: Event) -> Any:
    """What the body of an event says."""
    try:
        return event.value()
    except NotPlain:
        return from_json(event.body)


def read_nodes(event: Event) -> list[NodeInfo]:
    """What a discovery found."""
    found: list[dict[str, Any]] = from_json(event.json)
    return [NodeInfo(models=tuple(node.pop("models")), **node) for node in found]


def read_chat(event: Event) -> ChatReply:
    """What a chat brought."""
    about = from_json(event.json)
    return ChatReply(
        text=about["text"],
        tool_calls=tuple(about["tool_calls"]),
        finish_reason=about["finish_reason"],
        usage=_usage(about),
        model=about["model"],
        node_id=about["node_id"],
        task=read_task(event),
    )


def read_completion(event: Event) -> CompletionReply:
    """What a completion brought."""
    about = from_json(event.json)
    return CompletionReply(about["text"], about["finish_reason"], _usage(about), about["model"], task=read_task(event))


def read_embedding(event: Event) -> EmbeddingReply:
    """What an embedding brought."""
    about = from_json(event.json)
    vectors: list[list[float]] = about["vectors"]
    return EmbeddingReply(tuple(map(tuple, vectors)), _usage(about), about["model"], task=read_task(event))


def read_transcription(event: Event) -> TranscriptionReply:
    """What a transcription brought."""
    about = from_json(event.json)
    return TranscriptionReply(about["text"], about["language"], task=read_task(event))


def read_speech(event: Event) -> SpeechReply:
    """What a speech brought: the body is the sound."""
    about = from_json(event.json)
    return SpeechReply(event.body, about["content_type"], about["format"], task=_finished(event, None))


def read_moderation(event: Event) -> ModerationReply:
    """What a moderation brought."""
    about = from_json(event.json)
    results = tuple(Judgement(**judgement) for judgement in about["results"])
    return ModerationReply(results, about["model"], task=read_task(event))


def read_nat_report(about: dict[str, Any]) -> NatReport:
    """How a node can be reached."""
    about["interfaces"] = tuple(NatInterface(**interface) for interface in about["interfaces"])
    about["rungs"] = tuple(NatRung(lines=tuple(rung.pop("lines")), **rung) for rung in about["rungs"])
    about["gateways"] = tuple(about["gateways"])
    return NatReport(**about)


def _usage(about: Mapping[str, Any]) -> Usage | None:
    usage = about["usage"]
    return Usage(**usage) if usage else None


def read_task(event: Event) -> TaskResult:
    """What a submit brought."""
    return _finished(event, _result(event))


def read_chunk(event: Event) -> Chunk:
    """A part of a stream."""
    return Chunk(_result(event), **from_json(event.json))


def read_stream(event: Event) -> StreamResult:
    """The end of a stream."""
    if (failed := event.error) is not None:
        raise error(*failed)
    about = from_json(event.json)
    return StreamResult(
        finish_reason=about["finish_reason"],
        usage=_usage(about),
        model=about["model"],
        tokens_used=about["tokens_used"],
        task_id=about["task_id"],
        node_id=about["node_id"],
        task=_finished(event, None),
    )


def _result(event: Event) -> Any:
    try:
        return value(event)
    except (ValueError, RecursionError) as e:
        # The engine found it to be JSON, but Python reads no number of more than 4300 digits.
        node = from_json(event.json)["node_id"]
        why = f"node {node} answered with JSON that Python does not read ({type(e).__name__}); ask its operator"
        raise error(Code.MALFORMED, why) from None


def _finished(event: Event, result: object) -> TaskResult:
    fields, timings, receipt = event.finished(result)
    fields["timings"] = _made(Timings, timings)
    fields["receipt"] = _made(RoutingReceipt, receipt)
    return _made(TaskResult, fields)


def _made(kind: type[T], fields: dict[str, Any]) -> T:
    """An instance of a frozen class, whose own ``__init__`` sets field by field and takes several times as long."""
    made = _new(kind)
    _set(made, "__dict__", fields)
    return made
