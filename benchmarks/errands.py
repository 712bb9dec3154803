"""The functions that are called while faults happen: their answers say for which call they are."""

from __future__ import annotations

import ctypes
import os
import time
import zlib
from pathlib import Path

SLOWNESS = float(os.environ.get("ERRANDS_SLOWNESS", "1"))
"""How many times as long everything takes; a slow worker has more than 1 in its environment."""

Answer = tuple[int, int]
"""The number of the call, and its checksum."""


def errand(number: int, seconds: float) -> Answer:
    """A call that takes ``seconds`` and no processor."""
    time.sleep(seconds * SLOWNESS)
    return number, zlib.crc32(b"%d" % number)


def marked(number: int, seconds: float, mark: str) -> Answer:
    """The same, and the file ``mark`` gets the id of the process that runs it as soon as it runs."""
    draft = Path(f"{mark}.{os.getpid()}")
    draft.write_text(str(os.getpid()))
    draft.rename(mark)
    return errand(number, seconds)


def weigh(number: int, load: bytes) -> Answer:
    """The checksum of ``load`` stands in for that of the number."""
    return number, zlib.crc32(load)


def deaf(number: int) -> Answer:
    """A call that hears no interrupt and does not end."""
    return number, sum(range(10**15))


def hold(number: int, seconds: int) -> Answer:
    """A call that does not let go of the interpreter for whole ``seconds``: no other thread of it runs."""
    ctypes.PyDLL(None).sleep(seconds)
    return errand(number, 0)
