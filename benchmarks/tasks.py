"""The functions that are benchmarked.  Contestants run copies of this file, so that only one of them is relocated."""

from __future__ import annotations

import time
from typing import Any


def add(a: int, b: int) -> int:
    """The smallest call."""
    return a + b


def echo(value: Any) -> Any:
    """What came, back again."""
    return value


def nap(seconds: float) -> None:
    """A call that needs time but no processor."""
    time.sleep(seconds)


def spin(steps: int) -> int:
    """A call that needs a processor: a fixed amount of work, so that a processor shared shows."""
    total = 0
    for i in range(steps):
        total += i * i
    return total
