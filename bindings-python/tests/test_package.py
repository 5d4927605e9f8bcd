"""What importing does, and what it does not."""

from __future__ import annotations

import ast
import inspect
import tomllib
from importlib.metadata import files
from pathlib import Path
from typing import get_type_hints

import pytest
from conftest import child

import iicp_core
from iicp_core import sync

HERE = Path(__file__).parent


def test_every_public_name_is_found_and_type_checkers_see_the_same() -> None:
    tree = ast.parse(inspect.getsource(iicp_core))
    seen = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen - {"annotations", "import_module"} == set(iicp_core.__all__)
    for name in iicp_core.__all__:
        assert getattr(iicp_core, name) is not None
    assert dir(iicp_core) == sorted(iicp_core.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        iicp_core.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_what_is_public_says_that_it_is_the_packages_own_and_its_types_can_be_read() -> None:
    for name in iicp_core.__all__:
        made = getattr(iicp_core, name)
        if isinstance(made, type):
            assert made.__module__ == "iicp_core", name
            get_type_hints(made)
    assert repr(iicp_core.Client) == "<class 'iicp_core.Client'>"
    done = child("import iicp_core\niicp_core.Client(no_such_option=1)")
    assert "\niicp_core.ConfigError: options of a client: unknown option" in done.stderr, done.stderr


def test_the_licence_is_in_the_package() -> None:
    (licence,) = [file for file in files("iicp-core") or () if file.name == "LICENSE"]
    assert "Apache License" in licence.read_text()


def test_both_faces_have_the_same_methods() -> None:
    for mine, theirs in [(iicp_core.Client, sync.Client), (iicp_core.Directory, sync.Directory)]:
        mine_, theirs_ = ({name for name in vars(face) if not name.startswith("_")} for face in (mine, theirs))
        assert mine_ - theirs_ == set()
    for verb in (
        "discover",
        "submit",
        "chat",
        "complete",
        "embed",
        "transcribe",
        "speak",
        "moderate",
        "close",
        "__init__",
    ):
        ours, other = (inspect.signature(getattr(face, verb)) for face in (iicp_core.Client, sync.Client))
        assert list(ours.parameters.values()) == list(other.parameters.values())


def test_importing_starts_nothing_and_loads_little() -> None:
    done = child(
        """
import sys
before = set(sys.modules)
import os, threading
import iicp_core
heavy = {"asyncio", "dataclasses", "json", "logging", "typing", "inspect", "enum"} & (set(sys.modules) - before)
assert not heavy, heavy
assert len(os.listdir("/proc/self/task")) == 1
assert threading.active_count() == 1
import iicp_core.sync
iicp_core.Client, iicp_core.IicpError
assert len(os.listdir("/proc/self/task")) == 1
"""
    )
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_workspaces() -> None:
    workspace = tomllib.loads((HERE.parents[1] / "Cargo.toml").read_text())
    assert iicp_core.__version__ == workspace["workspace"]["package"]["version"]


def test_the_native_layer_stays_thin() -> None:
    lines = [line.strip() for path in (HERE.parent / "src").glob("*.rs") for line in path.read_text().splitlines()]
    assert len([line for line in lines if line and not line.startswith("//")]) < 800
