"""How long calls took, counted in buckets of a logarithmic scale.

As in Gil Tene's HdrHistogram, each doubling of time is divided into equal steps, so that a bucket is known
by the parts of a floating-point number, and its width is a small share of its value whatever that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import frexp

STEPS = 8
"""Buckets for each doubling: what is read from them is at most an eighth too much."""
OCTAVES = 32
LOWEST = -19
"""The exponent of the first octave, from about 1 µs on; the last one ends at about 4,000 s."""
BUCKETS = STEPS * OCTAVES


def bucket(seconds: float) -> int:
    """The number of the bucket in which a call of so many seconds is counted."""
    mantissa, exponent = frexp(seconds + 1e-9)  # of 0 the exponent is 0
    index = (exponent - LOWEST - 1) * STEPS + int(mantissa * (2 * STEPS))
    return 0 if index < 0 else index if index < BUCKETS else BUCKETS - 1


class Histogram:
    """Calls counted by how long they took, and the seconds of all together."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one call."""
        self.counts[bucket(seconds)] += 1
        self.total += seconds


def limit(index: int) -> float:
    """The seconds at which bucket ``index`` ends."""
    octave, step = divmod(index, STEPS)
    return float((STEPS + step + 1) / (2 * STEPS) * 2.0 ** (octave + LOWEST))


def quantile(counts: Sequence[int] | Mapping[int, int], share: float) -> float | None:
    """Seconds that so large a share of the calls took at most; None if there were none."""
    pairs = sorted(counts.items()) if isinstance(counts, Mapping) else list(enumerate(counts))
    total = sum(count for _, count in pairs)
    seen = 0
    for index, count in pairs:
        seen += count
        if count and seen >= share * total:
            return limit(index)
    return None
