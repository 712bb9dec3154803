"""Deadlines: the moment from which on nobody wants a call's answer any more.

Absolute, by `time.monotonic`, and kept in a context variable: what is called inside has it too, in a
generator that was lent to a call, in a coroutine, and in a thread that runs in a copy of the context.  It travels
with calls: the function has it on its worker, too.  An inner deadline can only be nearer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token

from .policy import NEVER

_current: ContextVar[float] = ContextVar("relocate_deadline", default=NEVER)
current = _current.get
"""The deadline of what runs now, or infinity."""


class deadline:
    """Let the calls inside end within so many seconds, together.

        with relocate.deadline(2.5):
            first = ndimage.gaussian_filter(image, 3)
            second = ndimage.median_filter(first, 5)

    A call that does not is interrupted on its worker, and raises `DeadlineExceeded`.  Code that runs
    here is not interrupted.

    Args:
        seconds: from when the ``with`` statement is entered.

    Raises:
        ValueError: that is no time.
    """

    def __init__(self, seconds: float) -> None:
        if not (isinstance(seconds, (int, float)) and 0 < seconds < math.inf):
            raise ValueError(f"deadline: {seconds!r} is not a number of seconds, more than 0; write for example 2.5")
        self._seconds = seconds
        self._tokens: list[Token[float]] = []

    def __enter__(self) -> float:
        """The moment, by `time.monotonic`."""
        moment = min(_current.get(), time.monotonic() + self._seconds)
        self._tokens.append(_current.set(moment))
        return moment

    def __exit__(self, *_: object) -> None:
        _current.reset(self._tokens.pop())

    @staticmethod
    def left() -> float:
        """Seconds until the deadline of what runs now, also in a function that runs on a worker; infinity without."""
        return _current.get() - time.monotonic()


@contextmanager
def until(moment: float) -> Iterator[None]:
    """Let what is called inside have this deadline, by `time.monotonic`, if it has no nearer one."""
    token = _current.set(min(_current.get(), moment))
    try:
        yield
    finally:
        _current.reset(token)


class Limits:
    """Deadlines by configuration: of functions, modules and packages, by their dotted names."""

    def __init__(self, configured: Mapping[str, float]) -> None:
        self._configured = configured
        self._known: dict[str, float] = {}

    def seconds(self, name: str) -> float:
        """What a call of the function ``name`` may take: as the longest name that covers it says."""
        found = self._known.get(name)
        if found is None:
            covering = [n for n in self._configured if name == n or name.startswith(n + ".")]
            found = self._configured[max(covering, key=len)] if covering else NEVER
            self._known[name] = found
        return found
