"""What calls cost, learned from calls: per function and size class, here and there; and where to run them.

* `Quantiles`: how long such calls take.  A histogram whose buckets are an eighth of an octave wide, as
  in Gil Tene's HdrHistogram; old calls are forgotten by halving it.
* `Estimate`: one function called with arguments of one size class (`size_of`, a power of two), here
  and there.
* `Estimate.here` says where the next such call costs less.  Who has never tried the other side does not
  know, so it is tried, but only as often as costs at most `TRIALS` of all the time that is spent: what
  the trial may lose is first earned.  A call of which a run here takes less than any trip is never
  sent.

What nobody has tried yet is worked out from the link (`Route`), and from how fast the worker is.

Nothing here reads a clock, draws a random number or does I/O.
"""

from __future__ import annotations

from math import frexp, ldexp
from typing import Any

WINDOW = 4096
"""Calls after which all counts are halved."""
ENOUGH = 20
"""Calls from which on a 95th percentile means something."""
TRIALS = 0.02
"""Share of the time that may be lost by trying the other side."""
WEIGHT = 0.1
"""Of the last call in an average."""
COLD = 0.1
"""Seconds: a first run here of less than this is not counted."""
PEAK = 8.0
"""How many times the average a single call counts at most."""
THRIFT = 1.5
"""On battery a second here counts as so many, as what is computed elsewhere does not drain it."""
THRIFT_LOW = 3.0
"""The same when the battery is low."""
LOW = 0.2
"""Of a battery's charge."""
MOST = 10_000
"""Functions and size classes that are remembered."""
NEVER = float("inf")


class Quantiles:
    """The median and the 95th percentile of durations, to an eighth of an octave (9 %)."""

    __slots__ = ("_buckets", "_due", "count", "median", "p95")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._due = 1
        self.count = 0
        self.median = 0.0
        """Seconds; 0 before the first call."""
        self.p95 = NEVER
        """Seconds; infinite before `ENOUGH` calls."""

    def add(self, seconds: float) -> None:
        """Note one duration."""
        fraction, octave = frexp(seconds if seconds > 1e-9 else 1e-9)
        bucket = (octave << 3) + int(fraction * 16.0) - 8
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        if self.count >= self._due:
            self._settle()

    def _settle(self) -> None:
        # Not at each call: a quantile moves little while an eighth more calls come in.
        if self.count > WINDOW:
            self._buckets = {bucket: half for bucket, n in list(self._buckets.items()) if (half := n >> 1)}
            self.count = sum(self._buckets.values())
        found = sorted(list(self._buckets.items()))  # noqa: C414 -- other threads add to it
        total = sum(n for _, n in found)
        self.median = _edge(_rank(found, total * 0.5))
        self.p95 = _edge(_rank(found, total * 0.95) + 1) if total >= ENOUGH else NEVER
        self._due = self.count + 1 + (self.count >> 3)


def _rank(found: list[tuple[int, int]], rank: float) -> int:
    for bucket, n in found:
        rank -= n
        if rank <= 0:
            return bucket
    return found[-1][0]


def _edge(bucket: int) -> float:
    return ldexp(8 + (bucket & 7), (bucket >> 3) - 4)


def thrift(battery: tuple[float, bool] | None) -> float:
    """How many times as dear as elsewhere a second of work is here, for the battery's sake.

    Args:
        battery: how full it is, from 0 to 1, and whether this machine runs on it; None: it has none.
    """
    if battery is None or not battery[1]:
        return 1.0
    return THRIFT if battery[0] >= LOW else THRIFT_LOW


class Route:
    """What a trip to the workers costs, apart from the run there: a fixed part, and one per byte.

    Both start from what a local network offers.  The fixed part is the least that was seen, and rises
    slowly, as the network may have changed.
    """

    __slots__ = ("overhead", "rate", "slowness", "thrift")

    def __init__(self, overhead: float = 0.0003, rate: float = 100e6, slowness: float = 1.0) -> None:
        self.overhead = overhead
        """Seconds of the shortest trip there and back."""
        self.rate = rate
        """Bytes per second, of both ways together."""
        self.slowness = slowness
        """Of the workers, in units of this machine, see `health.Capability`."""
        self.thrift = 1.0
        """How many times as dear a second is here, see `thrift`."""

    def learn(self, seconds: float, run: float, size: int) -> None:
        """Note a trip.

        Args:
            seconds: that it took, with the run.
            run: seconds that the run took of them, as far as is known.
            size: bytes that were sent and received.
        """
        if run > seconds / 2:
            return  # what is left would be the error of what is taken off
        trip = seconds - run
        if size < 1 << 16:
            self.overhead = trip if trip < self.overhead else min(self.overhead * 1.01, trip)
        elif trip > self.overhead:
            self.rate += WEIGHT * (size / (trip - self.overhead) - self.rate)

    def predict(self, run: float, size: int) -> float:
        """Seconds that a call is expected to take there that takes ``run`` here."""
        return self.overhead + size / self.rate + run * self.slowness


class Estimate:
    """What is known of one function called with arguments of one size class."""

    __slots__ = (
        "_earned",
        "_here",
        "_odds",
        "_stretch",
        "_there",
        "_was_here",
        "here",
        "size",
        "there",
        "tried_here",
        "tried_there",
    )

    def __init__(self, size: int = 0, like: Estimate | None = None) -> None:
        self.size = size
        """Bytes of the arguments, about."""
        self.there = Quantiles()
        """Durations of trips."""
        self._here = self._there = 0.0
        self.tried_here = self.tried_there = 0
        self._was_here = True
        self._stretch = 0
        """Calls in a row on that side.  What was known of a side before is old: its average begins anew."""
        self._earned = 0.0
        """Seconds spent since the last trial."""
        self._odds = max(like._here / like._there, 1.0) if like is not None and like._here and like._there else 4.0
        """How many times longer a run here may take that was never tried."""
        self.here: bool = like is None or like.here
        """Whether the next call should run here."""

    def ran_here(self, seconds: float, route: Route) -> None:
        """Note that a call ran here, and how long that took."""
        self.tried_here += 1
        if self.tried_here == 1 and seconds < COLD:
            return  # it may have imported or built something: again here, which costs as little
        if not self._was_here:
            self._was_here, self._stretch = True, 0
        self._here = self._average(self._here, seconds)
        self._earned += seconds
        if self.tried_there:
            self._weigh(route)
        elif self._here * route.thrift > route.predict(0.0, self.size):  # or else no trip can pay
            self.here = self._earned * TRIALS < route.predict(self._here, self.size) - self._here * route.thrift

    def ran_there(self, seconds: float, route: Route, size: int) -> None:
        """Note that a call ran there, how long that took, and how many bytes went both ways."""
        self.there.add(seconds)
        self.tried_there += 1
        self._earned += seconds
        if self.tried_there == 1:
            # It may have started a worker, or imported a module there: that is not counted, but tried again.
            self.here = False
            return
        if self._was_here:
            self._was_here, self._stretch = False, 0
        self._there = self._average(self._there, seconds)
        if self.tried_here:
            route.learn(seconds, self._here * route.slowness, size)
            self._weigh(route)
        else:
            self.here = self._earned * TRIALS >= self._there * self._odds

    def _average(self, before: float, seconds: float) -> float:
        self._stretch += 1
        if self._stretch <= 10:
            return before + (seconds - before) / self._stretch
        # A single call may have been interrupted for longer than it takes.
        return before + WEIGHT * (min(seconds, PEAK * before) - before)

    def _weigh(self, route: Route) -> None:
        here = self._here * route.thrift
        self.here = here <= self._there
        if self._earned * TRIALS >= abs(self._there - here):
            self._earned = 0.0
            self.here = not self.here

    @property
    def typical(self) -> float:
        """Seconds that such a call usually takes there; 0 if that is not known."""
        return self.there.median


class Costs:
    """The estimates of all functions."""

    def __init__(self) -> None:
        self.route = Route()
        self._known: dict[tuple[str, int], Estimate] = {}

    def of(self, name: str, size: int) -> Estimate:
        """The estimate for calls of function ``name`` with about so many bytes of arguments."""
        key = (name, size.bit_length())
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST:
                self._known.clear()
            # At first where the next smaller ones run, or else the next larger ones.
            known = list(self._known)  # other threads add to it
            near = [abs(other - key[1]) * 2 + (other > key[1]) for named, other in known if named == name]
            like = None
            if near:
                step = min(near)
                like = self._known.get((name, key[1] + (step >> 1) * (1 if step & 1 else -1)))
            found = self._known.setdefault(key, Estimate(size, like))
        return found


def size_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """About how much work arguments stand for, as far as that can be told in a microsecond.

    Bytes of what has a buffer, items of containers, bits of integers.
    """
    size = 0
    for value in args:
        kind = type(value)
        if kind is int:
            size += value.bit_length()
        elif kind is not float and kind is not bool and value is not None:
            size += _extent(value)
    if kwargs:
        for value in kwargs.values():
            size += value.bit_length() if type(value) is int else _extent(value)
    return size


def _extent(value: Any) -> int:
    try:
        extent = value.nbytes if hasattr(value, "nbytes") else 8 * len(value)
        return int(extent)
    except Exception:  # no length: a number, an object of the program's
        return 0
