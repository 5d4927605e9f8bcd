"""The application's own ranking: who could serve a task, and which of them goes first."""

import asyncio
import contextlib
import contextvars
import inspect
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from . import _forms
from ._engine import engine
from ._errors import error
from ._generated import Code
from ._native import Event, Failure, dumps
from ._public import public
from ._serve import check_function
from ._workers import Workers


@dataclass(frozen=True, slots=True)
class CandidateEvidence:
    """What a ranker is told of one candidate."""

    schema_version: str
    """Always ``iicp-candidate-evidence-v0``."""
    candidate_ref: str
    """The name under which a choice names the candidate: a digest, not the node's id."""
    models: tuple[str, ...]
    """Models that the node serves."""
    directory_score: float
    """The directory's score, 0 to 1."""
    load: float
    """Share of the node's slots in use, 0 to 1; 0 if nobody says."""
    health_label: str | None = None
    """How well the node is, in the directory's words."""
    directory_observed_reachable: bool | None = None
    """Whether the directory has reached the node itself."""


@dataclass(frozen=True, slots=True)
class RankRequest:
    """What a ranker is asked, without anything by which a node or a prompt could be told."""

    request_ref: str
    """Names the task: the same for every question about it."""
    intent: str
    """The intent of the task."""
    candidates: tuple[CandidateEvidence, ...]
    """Who could serve it, in the order in which they would be asked."""


@dataclass(frozen=True, slots=True)
class RankChoice:
    """The candidate that goes first."""

    candidate_ref: str
    """As the candidate is named in the request."""
    policy_id: str
    """Which policy chose; the receipt names it. 1 to 64 ASCII letters, digits, dots, dashes or underscores."""
    mode: Literal["normal", "exploration"] = "normal"
    """Whether it is the best, or chosen to learn about it."""


Ranker = Callable[[RankRequest], RankChoice | Awaitable[RankChoice | None] | None]
"""A coroutine function, or a plain one that runs on a thread. None keeps the order; an exception refuses the task."""


class Ranking:
    """A client's ranker, and the threads that it runs on if it is a plain function."""

    def __init__(self, ranker: Ranker, *, plain_only: bool) -> None:
        self.is_async = check_function(ranker, "ranker")
        if self.is_async and plain_only:
            raise error(Code.INVALID_ARG, "the ranker of a client without a loop must be a plain function")
        self.ranker = ranker
        # There are never more of them than calls that wait for one.
        self.workers = Workers(sys.maxsize, "iicp-ranker")

    def of_call(self) -> "CallRanking":
        """The ranking of one call, in the context of who makes it."""
        return CallRanking(self)

    def close(self) -> None:
        """Ends the threads as they become free."""
        self.workers.stop()


class CallRanking:
    """The ranking of one call. A late answer is not heard by anyone."""

    def __init__(self, ranking: Ranking) -> None:
        self._ranking = ranking
        self._engine = engine()
        self._context = contextvars.copy_context()
        self._running: asyncio.Task[None] | None = None

    def begin(self, event: Event) -> None:
        """Asks the ranker."""
        if self._ranking.is_async:
            loop = asyncio.get_running_loop()
            self._running = loop.create_task(self._wait(event), context=self._context)
        else:
            self._ranking.workers.start(lambda: self._call(event))

    def withdraw(self, _: int = 0) -> None:
        """The call is over: nobody waits for the choice any more."""
        if self._running is not None:
            self._running.cancel()

    async def _wait(self, event: Event) -> None:
        ranker = cast("Callable[[RankRequest], Awaitable[object]]", self._ranking.ranker)
        try:
            self._answer(event, await ranker(_request(event)))
        except Exception as e:  # noqa: BLE001 - a ranker may raise anything
            self._refuse(event, e)
        except BaseException as e:
            self._refuse(event, e)
            raise

    def _call(self, event: Event) -> None:
        try:
            self._answer(event, self._context.run(self._ranking.ranker, _request(event)))
        except BaseException as e:  # noqa: BLE001 - not even SystemExit may end the thread
            self._refuse(event, e)
        self._ranking.workers.leave()

    def _answer(self, event: Event, choice: object) -> None:
        if choice is None:
            answer = b""
        elif isinstance(choice, RankChoice):
            said = {"candidate_ref": choice.candidate_ref, "policy_id": choice.policy_id, "mode": choice.mode}
            answer = dumps(said)
        else:
            if inspect.iscoroutine(choice):
                choice.close()
            raise TypeError(f"it answered with {type(choice).__name__}, not with a RankChoice or None")
        # What is no choice, such as an unknown mode, the engine refuses by itself.
        with contextlib.suppress(Failure):
            self._engine.rank_finish(event.id, answer)

    def _refuse(self, event: Event, e: BaseException) -> None:
        why = (str(e) or type(e).__name__).encode(errors="replace").decode()
        with contextlib.suppress(Failure):
            self._engine.rank_finish(event.id, dumps({"error": why}))


def _request(event: Event) -> RankRequest:
    asked: dict[str, Any] = _forms.from_json(event.json)
    candidates = [CandidateEvidence(models=tuple(one.pop("models")), **one) for one in asked["candidates"]]
    return RankRequest(asked["request_ref"], asked["intent"], tuple(candidates))


public(globals())
