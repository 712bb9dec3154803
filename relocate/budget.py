"""Budgets for calls beyond the first attempt: retries and hedges must not turn trouble into a storm.

A token bucket, as in Finagle's ``RetryBudget`` and, for retries and hedges alike, in gRPC's throttling
(gRFC A6, "gRPC Retry Design"): each call puts a share of a token in, each further attempt takes one out,
and a floor per second lets programs that call seldom retry all the same.
"""

from __future__ import annotations

RETRY_SHARE = 0.2
RETRY_FLOOR = 10.0
HEDGE_SHARE = 0.03
"""Dean and Barroso, "The Tail at Scale" (2013), find most of the gain with 2 to 5 per cent more calls."""

HEDGED_MOST = 10.0
"""Seconds of wasted work that may be saved up."""


class Budget:
    """A token bucket.

    Args:
        share: tokens that each call puts in.
        floor: tokens that each second puts in.
        most: tokens that it holds at most.
        first: tokens that it holds at first.
    """

    __slots__ = ("_at", "floor", "most", "share", "tokens")

    def __init__(self, share: float, floor: float = 0.0, *, most: float = 100.0, first: float = 0.0) -> None:
        self.share = share
        self.floor = floor
        self.most = most
        self.tokens = first
        self._at = 0.0

    def deposit(self, calls: int = 1) -> None:
        """Note so many calls."""
        self.tokens = min(self.most, self.tokens + self.share * calls)

    def spend(self, now: float) -> bool:
        """Take a token, if there is one."""
        self._fill(now)
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def delay(self, now: float) -> float:
        """Seconds until the floor alone will have filled in a token; infinite without a floor."""
        self._fill(now)
        lacking = max(1.0 - self.tokens, 0.0)
        return lacking / self.floor if self.floor else float("inf")

    def _fill(self, now: float) -> None:
        if self.floor and now > self._at:
            self.tokens = min(self.most, self.tokens + self.floor * (now - self._at))
        self._at = max(self._at, now)


def retries() -> Budget:
    """The budget for retries: 20 % of the calls, and 10 a second."""
    return Budget(RETRY_SHARE, RETRY_FLOOR, first=100.0)


class Hedges:
    """The budget for hedges: 3 % of the calls, and 3 % of the time that calls run.

    The second, as calls that take long by themselves are hedged, too, and take as long again.  What a
    hedge costs is known when the first answer has come, so this may go into debt.
    """

    __slots__ = ("calls", "seconds")

    def __init__(self) -> None:
        self.calls = Budget(HEDGE_SHARE, most=20.0)
        self.seconds = 0.0

    def ran(self, seconds: float, calls: int = 1) -> None:
        """Note so many calls, and how long each ran where its answer was the first."""
        self.calls.deposit(calls)
        if self.seconds < HEDGED_MOST:
            self.seconds += HEDGE_SHARE * seconds * calls

    def wasted(self, seconds: float) -> None:
        """Note how long an attempt ran whose answer is not wanted any more."""
        self.seconds -= seconds

    def spend(self, now: float) -> bool:
        """Whether one more attempt may be made, which is then noted."""
        return self.seconds > 0.0 and self.calls.spend(now)
