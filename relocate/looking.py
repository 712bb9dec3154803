"""To look for an answer that should come at once, before the thread sleeps until it has come; and whether that pays.

That depends on who else needs the processors, and where the system lets threads run, so that it is found out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

LOOK = 0.00015
"""Seconds to look for a result that should come at once, before the thread sleeps.  To be woken takes a good part of a
small call, and who has slept finds cold caches."""
BRIEF = 0.00015
"""Seconds: for results of calls that usually take no more it may pay to look."""
TRIAL = 16
"""Each so many moments it is looked again whether it pays."""
WEIGHT = 0.25
"""Of the last moment in the average of all."""


_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_give_way: Callable[[], object] | None = getattr(os, "sched_yield", None) if _cores > 1 else None


def look(has_come: Callable[[], object]) -> None:
    """Look for something that should come at once, and give way to others in between."""
    if _give_way is not None:
        end = time.monotonic() + LOOK
        while not has_come():
            _give_way()  # which may take long, if others need the processor, or Python
            if time.monotonic() > end:
                return


class Looking:
    """Whether it pays to look for the answers to one function's brief calls.

    Both ways are tried, and the one is taken in which calls took less.
    """

    __slots__ = ("_taken", "_turn")

    def __init__(self) -> None:
        self._taken = [0.0, 0.0]
        """Seconds that a call takes without and with it; 0: not known."""
        self._turn = 0

    def choose(self) -> bool:
        """Whether to look in the next moment."""
        self._turn += 1
        without, looked = self._taken
        if not without or not looked:
            return not looked
        return (looked < without) is not (self._turn % TRIAL == 0)

    def learn(self, looked: bool, seconds: float) -> None:
        """Note what a call took."""
        before = self._taken[looked]
        self._taken[looked] = before + (seconds - before) * WEIGHT if before else seconds
