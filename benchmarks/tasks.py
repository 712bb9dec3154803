"""The functions that are benchmarked.  Contestants run copies of this file, so that only one of them is relocated."""

from __future__ import annotations

import copy
import hashlib
import time
from typing import Any


def add(a: int, b: int) -> int:
    """The smallest call."""
    return a + b


_kept: dict[tuple[type, int], Any] = {}


def echo(value: Any) -> Any:
    """As much back as came: a copy that was made of the first value of this size.

    Not the value itself: a relocated function's result that is its argument does not travel back.
    """
    key = type(value), len(value)
    if key not in _kept:
        _kept[key] = copy.copy(value)
    return _kept[key]


def nap(seconds: float) -> None:
    """A call that needs time but no processor."""
    time.sleep(seconds)


def occupy(seconds: float) -> None:
    """A call that needs a processor, for so long, however fast the processor is at the moment.

    Time for which another process has the processor is not counted, so that the call takes longer then.
    """
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        stretch(100)


def spin(steps: int) -> int:
    """A call that needs a processor: a fixed amount of work, so that a processor shared shows."""
    total = 0
    for i in range(steps):
        total += i * i
    return total


def stretch(steps: int) -> bytes:
    """The same, as fast in every process, and in every thread of one.

    How fast `spin` is depends, by up to a tenth, on where in memory a process's objects happen to lie, for as long as
    the process lives.
    """
    return hashlib.pbkdf2_hmac("sha256", b"password", b"salt", steps)
