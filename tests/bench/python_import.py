"""What an interpreter costs, with one import or with none, as a child of the benches: ``python_import.py [MODULE]``."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time


def main() -> None:
    """Answers ``run N`` with the CPU time of N interpreters."""
    program = f"import {sys.argv[1]}" if len(sys.argv) > 1 else "pass"
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        before, since = spent(), time.monotonic_ns()
        for _ in range(int(line.removeprefix("run "))):
            subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603 - our own program
        answer = {"cpu_ns": spent() - before, "wall_ns": time.monotonic_ns() - since}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def spent() -> int:
    """CPU time of all children that ended, in nanoseconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((usage.ru_utime + usage.ru_stime) * 1e9)


if __name__ == "__main__":
    main()
