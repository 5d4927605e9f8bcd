"""The process's one engine: made at first use, left behind by a forked child, stopped within a bound at exit."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from ._errors import IicpError, error
from ._generated import Code
from ._native import Engine, Failure

EXIT_SECONDS = 2.0
"""How long the end of the process waits for what still runs."""

_engine: Engine | None = None
_lock = threading.Lock()
_hooked = False
_teller: threading.Thread | None = None
_left_behind: list[Engine] = []
_forgetful: list[Callable[[], None]] = []


def engine() -> Engine:
    """The engine of this process."""
    return _engine or _start()


def _start() -> Engine:
    global _engine, _hooked  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _engine is not None:
            return _engine
        made = _engine = _make()
        if not _hooked:
            _hooked = True
            os.register_at_fork(after_in_child=_after_fork)
            atexit.register(_stop)
        return made


def _make() -> Engine:
    global _teller  # noqa: PLW0603
    made: SimpleQueue[Engine | None] = SimpleQueue()
    teller = threading.Thread(target=_tell, args=(made,), name="iicp-logs", daemon=True)
    try:
        teller.start()
    except RuntimeError as e:
        raise error(Code.UNSUPPORTED, f"the engine needs threads ({e}); use the main interpreter") from None
    try:
        engine = _without_sigpipe(lambda: Engine(b""))
    except Failure as failure:
        made.put(None)
        raise refused(failure) from None
    made.put(engine)
    _teller = teller
    return engine


def _without_sigpipe(start: Callable[[], Engine]) -> Engine:
    """Starts threads to which no SIGPIPE comes of a connection that a peer has broken off.

    It would end the program, were it one that has set the signal back to its default. What is blocked is inherited.
    """
    import signal

    mask = getattr(signal, "pthread_sigmask", None)
    if mask is None:
        return start()
    before = mask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        return start()
    finally:
        mask(signal.SIG_SETMASK, before)


def refused(failure: Failure) -> IicpError:
    """The exception for a verb that the engine refused."""
    if failure.args[0] == Code.STALE_ID:
        # Its ids are nothing that Python shows.
        return error(Code.CLOSED, "the client, node or directory was closed; make a new one")
    return error(*failure.args)


def on_fork(forget: Callable[[], None]) -> None:
    """Registers what a forked child has to forget beside the engine."""
    _forgetful.append(forget)


def _after_fork() -> None:
    global _engine, _lock  # noqa: PLW0603
    _lock = threading.Lock()
    if _engine is not None:
        # Handles of the parent still hold it and are told FORKED; nothing of it may ever be dropped here.
        _left_behind.append(_engine)
        _engine = None
    for forget in _forgetful:
        forget()


def _stop() -> None:
    if _engine is not None:
        with contextlib.suppress(Failure):
            _engine.shutdown(EXIT_SECONDS)
        if _teller is not None:
            _teller.join(EXIT_SECONDS)


def _tell(made: SimpleQueue[Engine | None]) -> None:
    """Hands what the engine says to ``logging``, under ``iicp_core``; on a thread, as a handler may take its time."""
    import logging

    engine = made.get()
    while engine is not None and (lines := engine.logs()):
        for level, target, text in lines:
            # A filter that raises must not silence the rest.
            with contextlib.suppress(Exception):
                logging.getLogger(target.replace("iicp::", "iicp_core.")).log(level, "%s", text)
