"""The threads of plain handlers and rankers. They never keep the process alive: a handler that hangs must not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Workers:
    """At most ``limit`` jobs at a time, each on a thread of its own; what does not fit is refused, never queued."""

    def __init__(self, limit: int, name: str = "iicp-handler") -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._limit = limit
        self._name = name
        self._busy = 0
        self._threads = 0

    def start(self, job: Callable[[], object]) -> bool:
        """Starts a job; false if every thread is busy."""
        with self._lock:
            if self._busy == self._limit:
                return False
            self._busy += 1
            if self._busy > self._threads:
                self._threads += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        self._jobs.put(job)
        return True

    def leave(self) -> None:
        """Gives the place of the calling job back: from now on its thread only returns."""
        with self._lock:
            self._busy -= 1

    def stop(self) -> None:
        """Ends the threads, each as soon as its job is done."""
        with self._lock:
            for _ in range(self._threads):
                self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            # Neither the task nor its frame may outlive the job here.
            del job
