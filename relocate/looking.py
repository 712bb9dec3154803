"""Whether to look for an answer that should come at once, or to sleep until it has come; see `channel.look`.

That depends on who else needs the processors, and where the system lets threads run, so that it is found out.
"""

from __future__ import annotations

BRIEF = 0.00015
"""Seconds: for results of calls that usually take no more it may pay to look."""
TRIAL = 16
"""Each so many moments it is looked again whether it pays."""
WEIGHT = 0.25
"""Of the last moment in the average of all."""


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
