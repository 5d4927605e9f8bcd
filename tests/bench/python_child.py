"""How a child of the benches answers: one line of JSON when it is ready, then one for each line that it gets."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping


def obey(ready: Mapping[str, object], run: Callable[[int], object]) -> None:
    """Answers ``cpu`` with the CPU time of this process so far, ``run N`` with what N operations took."""
    say(ready)
    for line in sys.stdin:
        if not line.startswith("run "):
            say({"cpu_ns": time.process_time_ns()})
            continue
        cpu, wall = time.process_time_ns(), time.monotonic_ns()
        try:
            run(int(line.removeprefix("run ")))
        except Exception as e:  # noqa: BLE001 - whatever it is, the benches report it
            say({"failure": repr(e)})
        else:
            say({"cpu_ns": time.process_time_ns() - cpu, "wall_ns": time.monotonic_ns() - wall})


def say(answer: Mapping[str, object]) -> None:
    """Writes one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
