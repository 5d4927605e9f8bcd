"""JSON by the short way and by Python's own are the same."""

from __future__ import annotations

import enum
import json
from typing import Any

import pytest

from iicp_core import Code
from iicp_core._errors import IicpError
from iicp_core._forms import from_json, to_json
from iicp_core._native import dumps, loads


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    0.5,
    -0.0,
    1e300,
    1e-300,
    "",
    'ü\U0001f600 " \\ / \x00\x1f\x7f \u2028',
    [],
    {},
    (1, (2,)),
    {"a": {"b": [1, None, {"c": "d"}]}, "": 0},
    nested(128),
]
# Left to Python's own encoder, or decoder.
OTHERS = [2**64, -(2**70), Number.ONE, Text("text"), {1: 2, None: 3, False: 4}, nested(129), [2**64, "x"]]


@pytest.mark.parametrize("value", PLAIN + OTHERS, ids=lambda value: repr(value)[:20])
def test_what_is_written_reads_back_as_python_would(value: Any) -> None:
    written = to_json(value, Code.PAYLOAD_INVALID, "it")
    assert json.loads(written) == json.loads(json.dumps(value))
    read = from_json(written)
    assert read == json.loads(written)
    assert repr(read) == repr(json.loads(written))


@pytest.mark.parametrize("value", PLAIN[:-1], ids=lambda value: repr(value)[:20])
def test_plain_values_take_the_short_way(value: Any) -> None:
    assert dumps(value) == to_json(value, Code.PAYLOAD_INVALID, "it")
    if not isinstance(value, float):
        loads(dumps(value))


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: repr(value)[:20])
def test_other_values_do_not(value: Any) -> None:
    with pytest.raises(ValueError, match="not a plain value"):
        dumps(value)


@pytest.mark.parametrize(
    "text", ["-0", "1e400", "123456789012345678901234567890", '"\\ud800"', '{"a":1,"a":2}', " [1 , 2]\n", "1.0", "1E2"]
)
def test_odd_texts_are_read_as_python_reads_them(text: str) -> None:
    assert repr(from_json(text.encode())) == repr(json.loads(text))


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nul", '{"a"}', "1 2", "\x80"])
def test_what_is_no_json_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever Python has for it
        from_json(text.encode("latin-1"))


@pytest.mark.parametrize(
    "value", [object(), float("nan"), float("inf"), "\ud800", {"\ud800": 1}, {(): 1}, {1, 2}, b"x"]
)
def test_what_has_no_json_form_is_refused_without_being_shown(value: Any) -> None:
    with pytest.raises(IicpError) as caught:
        to_json({"canary": value}, Code.PAYLOAD_INVALID, "the payload")
    assert caught.value.code == Code.PAYLOAD_INVALID
    assert "canary" not in str(caught.value)
    assert "d800" not in str(caught.value)
