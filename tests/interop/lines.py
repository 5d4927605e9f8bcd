"""One JSON object per line: commands on standard input, answers on standard output.

Every command has an ``id`` and a ``do``; its answer has the same ``id`` and either ``ok`` or ``error``. Commands run
side by side. The end of the input ends the program, so a test that dies takes its peers along.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

Json = dict[str, Any]
Command = Callable[[Json], Awaitable[Any]]
Describe = Callable[[Exception], Json]


def say(line: Json) -> None:
    """Writes one line at once."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def unexpected(error: Exception) -> Json:
    """What is told about an error that the peer does not declare."""
    return {"type": type(error).__name__, "message": str(error), "trace": traceback.format_exc(limit=-3)}


async def _answer(commands: dict[str, Command], line: bytes, describe: Describe) -> None:
    command: Json = json.loads(line)
    try:
        say({"id": command["id"], "ok": await commands[command["do"]](command)})
    except Exception as error:  # noqa: BLE001 - whatever the peer raises is the test's to judge
        say({"id": command["id"], "error": describe(error)})


async def serve(commands: dict[str, Command], ready: Json, describe: Describe = unexpected) -> None:
    """Says ``ready``, then answers commands until the input ends."""
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say({"ready": ready})
    running: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(commands, line, describe))
        running.add(task)
        task.add_done_callback(running.discard)
    for task in running:
        task.cancel()
