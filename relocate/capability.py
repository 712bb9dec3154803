"""What this machine has to offer, as far as that can be told in a few milliseconds."""

from __future__ import annotations

from functools import cache
from time import thread_time

from . import memory
from .config import cores
from .wire import Capability

STEPS = 20_000
ROUNDS = 5


def spin(steps: int = STEPS) -> int:
    """Work by which machines are compared: Python's own, and nothing but the processor."""
    total = 0
    for i in range(steps):
        total += i * i % 7
    return total


@cache
def speed() -> float:
    """Steps a second, the best of a few rounds: in this thread's processor time, so that neighbours do not count."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = thread_time()
        spin()
        best = min(best, thread_time() - began)
    return STEPS / max(best, 1e-6)


def offered(each: int = 0) -> Capability:
    """Of this machine.

    Args:
        each: bytes that each executor may take at most; 0: as many as there are.
    """
    import glob

    return Capability(cores(), memory.of_machine(), len(glob.glob("/dev/nvidia[0-9]*")), speed(), each)
