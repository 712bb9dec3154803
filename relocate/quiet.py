"""What this thread says dropped for a while: text, warnings, log records; other threads are not touched.

What they go through is exchanged for a sieve as long as anybody is quiet.  `contextlib`'s
redirection, `warnings.catch_warnings` and `logging.disable` would take what other threads say too.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PLACES: tuple[tuple[Any, str], ...] = (
    (sys, "stdout"),
    (sys, "stderr"),
    (warnings, "showwarning"),
    (logging.Logger, "handle"),
)

_mine = threading.local()
_lock = threading.Lock()
_held: list[tuple[Any, str, Any, Any]] = []
_sieves: list[tuple[Any, Any]] = []
"""All that were ever made, with what is below them.  `print` holds no reference to the stream that it
writes to, so that one which another thread puts away meanwhile must not be freed (cpython#130163)."""
_users = 0


class _Stream:
    """A stream that drops what a quiet thread writes, and is the stream below in all else."""

    def __init__(self, below: Any) -> None:
        self.below = below

    def write(self, text: Any) -> int:
        """Write to the stream below, unless this thread is quiet."""
        if _is_quiet():
            return len(text)
        written: int = self.below.write(text)
        return written

    def writelines(self, lines: Any) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> _Stream:
        """The stream of bytes below, as quiet."""
        return _Stream(self.below.buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


def _is_quiet() -> bool:
    return getattr(_mine, "depth", 0) > 0


def _sieve(below: Any) -> Any:
    """What stands in front of ``below``; always the same one."""
    for known, made in _sieves:
        if known is below:
            return made
    made = _function(below) if hasattr(below, "__code__") else _Stream(below)
    _sieves.append((below, made))
    return made


def _function(below: Any) -> Any:
    def said(*args: Any, **kwargs: Any) -> Any:
        return None if _is_quiet() else below(*args, **kwargs)

    return said


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what this thread writes to `sys.stdout` and `sys.stderr`, warns of, and logs."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            for holder, name in PLACES:
                below = getattr(holder, name)
                if below is not None:
                    made = _sieve(below)
                    _held.append((holder, name, below, made))
                    setattr(holder, name, made)
    _mine.depth = getattr(_mine, "depth", 0) + 1
    try:
        yield
    finally:
        _mine.depth -= 1
        with _lock:
            _users -= 1
            if _users == 0:
                for holder, name, below, made in _held:
                    if getattr(holder, name) is made:  # else somebody has exchanged it meanwhile
                        setattr(holder, name, below)
                _held.clear()
