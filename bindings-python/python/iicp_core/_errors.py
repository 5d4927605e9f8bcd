"""The exceptions: one class per thousand of the codes, and Python's own classes beside them where they fit."""

from __future__ import annotations

from ._generated import Code
from ._public import public

ErrorTuple = tuple[int, str, bool, float | None, int | None, str | None]


class IicpError(Exception):
    """What went wrong, what it was about and what to do next.

    Never holds a token, a key, a payload or a handler's argument.
    """

    code: int
    """The stable number; compare it with a member of :class:`Code`."""
    message: str
    """One or two sentences."""
    retryable: bool
    """Whether the same call may succeed later without a change by the caller."""
    retry_after: float | None
    """Seconds that the peer asked to wait."""
    http_status: int | None
    """The HTTP status that the peer answered, if the error came as an HTTP answer."""
    wire_code: str | None
    """The protocol's own code as the peer wrote it, such as ``capacity_exceeded``."""

    def __init__(
        self,
        code: int,
        message: str,
        retryable: bool = False,
        retry_after: float | None = None,
        http_status: int | None = None,
        wire_code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after
        self.http_status = http_status
        self.wire_code = wire_code

    @property
    def name(self) -> str:
        """The name of the code, the same in every language, such as ``NO_NODES``."""
        return _name(self.code)

    def __str__(self) -> str:
        return f"{self.message} ({self.name} {self.code})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name} {self.code}: {self.message!r})"

    def __reduce__(self) -> tuple[object, ...]:
        known = (self.code, self.message, self.retryable, self.retry_after, self.http_status, self.wire_code)
        return type(self), known


class LibraryError(IicpError):
    """1xxx: the library itself, or how it was called."""


class ArgumentError(LibraryError, ValueError):
    """An argument has the wrong type or form."""


class DeadlineError(LibraryError, TimeoutError):
    """The caller's deadline passed before there was a result."""


class ConfigError(IicpError, ValueError):
    """2xxx: an option, a payload or a policy; nothing was sent."""


class DirectoryError(IicpError):
    """3xxx: the directory."""


class DirectoryUnreachableError(DirectoryError, ConnectionError):
    """The directory could not be reached, or could not answer."""


class TransportError(IicpError, ConnectionError):
    """4xxx: the way to a node."""


class TaskError(IicpError):
    """5xxx: the task, as the provider judged it."""


class TaskTimeoutError(TaskError, TimeoutError):
    """The provider did not finish within the task's time."""


class ServingError(IicpError):
    """6xxx: serving."""


class RelayError(IicpError):
    """7xxx: relays, and being reached through one."""


class Rejected(Exception):  # noqa: N818 - raised as a verdict, as HTTPException is elsewhere
    """Raised by a handler to refuse a task. Its text is shown to the caller; that of any other exception never is."""


_THOUSANDS: dict[int, type[IicpError]] = {
    1: LibraryError,
    2: ConfigError,
    3: DirectoryError,
    4: TransportError,
    5: TaskError,
    6: ServingError,
    7: RelayError,
}

_CODES: dict[int, type[IicpError]] = {
    Code.NULL_ARG: ArgumentError,
    Code.INVALID_ARG: ArgumentError,
    Code.TIMEOUT: DeadlineError,
    Code.DIRECTORY_UNREACHABLE: DirectoryUnreachableError,
    Code.TASK_TIMEOUT: TaskTimeoutError,
}


def _name(code: int) -> str:
    try:
        return Code(code).name
    except ValueError:
        return "UNKNOWN"


def error(code: int, message: str, *known: object) -> IicpError:
    """The exception for an error of the engine, made where the call was made so that its trace is the caller's."""
    kind = _CODES.get(code) or _THOUSANDS.get(code // 1000, IicpError)
    return kind(code, message, *known)  # type: ignore[arg-type]


public(globals())
