"""How time is taken: contestants take turns within one run, so that a busy machine is busy for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Rounds = dict[str, list[float]]
"""Of each contestant, the median of each round."""


@dataclass(frozen=True)
class Ratio:
    """The ratio of two contestants: median over the rounds, and the quartiles around it."""

    middle: float
    low: float
    high: float


def take_turns(contestants: Mapping[str, Callable[[], object]], *, rounds: int, calls: int, first: int = 1) -> Rounds:
    """Seconds of one call of each contestant.

    In every round each contestant makes ``calls`` calls in a row; every other round goes backward.
    The first ``first`` calls in a row are not counted: they find cold caches and sleeping threads.
    """
    taken: Rounds = {name: [] for name in contestants}
    order = list(contestants.items())
    for _ in range(rounds):
        for name, call in order:
            for _ in range(first):
                call()
            samples = []
            for _ in range(calls):
                began = time.perf_counter()
                call()
                samples.append(time.perf_counter() - began)
            taken[name].append(statistics.median(samples))
        order.reverse()
    return taken


def ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Of ``ours`` to ``theirs``, round by round."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    if len(ratios) < 2:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(middle, low, high)
