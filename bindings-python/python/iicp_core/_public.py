"""Under which name users know what the parts of the package make."""

from __future__ import annotations

from . import __all__ as _names


def public(part: dict[str, object]) -> None:
    """Tells what a part makes for users that it is the package's own, as tracebacks and ``repr`` say it."""
    for name in _names:
        made = part.get(name)
        if getattr(made, "__module__", None) == part["__name__"]:
            setattr(made, "__module__", __package__)  # noqa: B010 - whatever it is
