"""This thread's output dropped for a while; that of other threads is not touched.

`contextlib.redirect_stdout` would take the other threads' output too.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_mine = threading.local()
_lock = threading.Lock()
_held: list[tuple[str, Any, _Sieve]] = []
_sieves: list[_Sieve] = []
"""All that were ever made.  `print` holds no reference to the stream that it writes to, so that one
which another thread puts away meanwhile must not be freed (cpython#130163)."""
_users = 0


class _Sieve:
    """A stream that drops what a quiet thread writes, and is the stream below in all else."""

    def __init__(self, below: Any) -> None:
        self.below = below

    def write(self, text: Any) -> int:
        """Write to the stream below, unless this thread is quiet."""
        if getattr(_mine, "depth", 0):
            return len(text)
        written: int = self.below.write(text)
        return written

    def writelines(self, lines: Any) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> _Sieve:
        """The stream of bytes below, as quiet."""
        return _Sieve(self.below.buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what this thread writes to `sys.stdout` and `sys.stderr`."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            for name in ("stdout", "stderr"):
                below = getattr(sys, name)
                if below is not None:
                    sieve = next((s for s in _sieves if s.below is below), None)
                    if sieve is None:
                        sieve = _Sieve(below)
                        _sieves.append(sieve)
                    _held.append((name, below, sieve))
                    setattr(sys, name, sieve)
    _mine.depth = getattr(_mine, "depth", 0) + 1
    try:
        yield
    finally:
        _mine.depth -= 1
        with _lock:
            _users -= 1
            if _users == 0:
                for name, below, sieve in _held:
                    if getattr(sys, name) is sieve:  # else somebody has exchanged it meanwhile
                        setattr(sys, name, below)
                _held.clear()
