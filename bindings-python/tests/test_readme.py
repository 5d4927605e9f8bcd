"""The programs of the README, each run as a reader would."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import child
from quickstart import programs

PROGRAMS = [program for folder in (1, 2) for program in programs(Path(__file__).parents[folder] / "README.md")]
PRINTED = [
    "True\nYou said: Hello, mesh.\nYou said: Hi 1\n",
    "Hello!\n",
    "Hello, mesh.\n3 3 True\nHello, mesh.\n",
    "((5.0, 0.5), (4.0, 0.5))\nexternal_ranker/least-loaded/normal True\nPOLICY_REFUSED\n",
    "DIRECTORY_UNREACHABLE True\n",
    "Hello!\n",
]


@pytest.mark.parametrize(("program", "printed"), list(zip(PROGRAMS, PRINTED, strict=True)))
def test_every_program_of_the_readme_does_what_it_says(program: str, printed: str) -> None:
    done = child(program)
    assert (done.returncode, done.stdout) == (0, printed), done.stderr
