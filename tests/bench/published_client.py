"""The published client as a process under test: submits as often as it is told to, and says what that cost."""

from __future__ import annotations

import json
import logging
import sys
import time

from iicp_client import ClientConfig, IicpClient, TaskRequest


def main() -> None:
    """Answers each line of input with a line of JSON, until the input ends."""
    # It warns of every task that it does not seal; on loopback that is so by intent.
    logging.disable(logging.WARNING)
    directory, intent, payload = sys.argv[1:]
    client = IicpClient(ClientConfig(directory_url=directory))
    say({})
    for line in sys.stdin:
        cpu, wall = time.process_time_ns(), time.monotonic_ns()
        for _ in range(int(line.removeprefix("run "))):
            reply = client.submit(TaskRequest(intent=intent, payload=json.loads(payload)))
            if reply.status not in {"success", "completed"}:
                sys.exit(f"the task ended as {reply.status}")
        say({"cpu_ns": time.process_time_ns() - cpu, "wall_ns": time.monotonic_ns() - wall})


def say(answer: dict[str, int]) -> None:
    """Writes one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
