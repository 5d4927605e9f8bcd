"""The exceptions."""

from __future__ import annotations

import copy
import pickle

import pytest

import iicp_core
from iicp_core import Code, IicpError
from iicp_core._errors import error


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_every_code_has_a_class_and_survives_pickling(code: Code) -> None:
    made = error(code, "what happened", True, 1.5, 503, "capacity_exceeded")
    for same in (made, pickle.loads(pickle.dumps(made)), copy.copy(made)):
        assert type(same) is type(made)
        assert type(same) is not IicpError
        known = (same.code, same.name, same.message, same.retryable, same.retry_after, same.http_status, same.wire_code)
        assert known == (code, code.name, "what happened", True, 1.5, 503, "capacity_exceeded")
        assert str(same) == f"what happened ({code.name} {code.value})"


def test_a_code_of_a_later_version_is_still_an_error() -> None:
    made = error(9001, "news")
    assert type(made) is IicpError
    assert (made.code, made.name) == (9001, "UNKNOWN")


def test_the_classes_are_also_those_of_python_where_they_fit() -> None:
    def bases(code: Code) -> list[bool]:
        made = error(code, "x")
        return [isinstance(made, kind) for kind in (TimeoutError, ConnectionError, ValueError)]

    assert bases(Code.TIMEOUT) == bases(Code.TASK_TIMEOUT) == [True, False, False]
    assert bases(Code.CONNECT) == bases(Code.DIRECTORY_UNREACHABLE) == [False, True, False]
    assert bases(Code.CONFIG_INVALID) == bases(Code.INVALID_ARG) == [False, False, True]
    assert bases(Code.CAPACITY) == bases(Code.NO_NODES) == bases(Code.CLOSED) == [False, False, False]


def test_a_thousand_of_codes_is_a_class() -> None:
    for code, kind in [
        (Code.CANCELLED, iicp_core.LibraryError),
        (Code.INTENT_INVALID, iicp_core.ConfigError),
        (Code.NO_NODES, iicp_core.DirectoryError),
        (Code.LOST, iicp_core.TransportError),
        (Code.BACKEND, iicp_core.TaskError),
        (Code.BIND, iicp_core.ServingError),
        (Code.RELAY_REFUSED, iicp_core.RelayError),
    ]:
        assert type(error(code, "x")) is kind
