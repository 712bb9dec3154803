"""What is known of a seat: how slow it is, what waits there, whether it fails; and when that puts it out.

A seat is *alive*, *suspect* or *ejected*.

* A failure makes it suspect: it is avoided for a while, which grows with each failure in a row, and is
  then probed with one call at a time until one is answered in time.
* Answers that come late, several in a row and far off those of its peers, eject it, for a time that
  doubles (Envoy, "Outlier detection").  Never more than half of a rank are ejected: if all look bad, it
  is the detector that is bad.  What comes back from an ejection is suspect, and probed.

*Slowness* is a call's time on the seat in units of the function's own median, so that who has run a long
function is not taken for slow.  It is averaged as latency is in Finagle's "Peak EWMA" balancer: a peak
counts at once and in full, and fades with time and better answers; without news it fades to what the
worker's capabilities promise, so that a seat that was slow is tried again.  But what is within the function's own 95th
percentile is no peak (but for `LATE`, as that may come from slow seats), and a single one beyond it may be
the call's doing: peaks count from the second in a row on.

Nothing here reads a clock, draws a random number or does I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, sqrt
from typing import TypeVar

import msgspec

FADE = 2.0
"""Seconds in which a peak of slowness fades to a third.  Finagle takes ten, but it has many peers to go to meanwhile;
here a worker may have two executors, and a busy machine makes peaks of its own."""
KEPT = 0.8
"""How much of a peak is kept at most with each answer that is none."""
EACH = 7
"""Of ordinary answers of an ordinary seat only each eighth is looked at, as calls may be very short."""
LEVEL = (2 / 3, 1.5)
"""Slowness between these counts as 1: less is noise, and would send all clients to the same seat."""
LATE = 3.0
"""How many times slower than its peers a seat must be to be ejected."""
LATE_BY = 0.005
"""Seconds that its answers must come late by, too: a busy scheduler is no fault of the seat's."""
LATE_ANSWERS = 5
"""Late answers in a row that eject (Envoy's default for failures in a row)."""
EJECTED = 5.0
"""Seconds of a first ejection; each further one is twice as long."""
EJECTED_MOST = 60.0
AVOIDED = 0.2
"""Seconds that a seat is avoided after a failure; after each further one in a row five times as long."""
AVOIDED_MOST = 10.0
NEVER = float("inf")
PEERS = 33
"""Of so many peers the median is taken, at most."""


class Health:
    """The health of one seat, to be inherited by what else a seat is.

    Args:
        prior: the slowness that its worker's capabilities promise, see `Capability`.
        gpus: that its worker has.
    """

    __slots__ = (
        "_others",
        "_others_until",
        "_slowness",
        "_stamp",
        "answered_at",
        "answers",
        "avoid_until",
        "ejected_until",
        "ejections",
        "failures",
        "gpus",
        "late",
        "outstanding",
        "prior",
        "suspect",
    )

    def __init__(self, prior: float = 1.0, gpus: int = 0) -> None:
        self.prior = self._slowness = prior
        self.gpus = gpus
        self._stamp = 0.0
        self._others = 0
        self._others_until = 0.0
        self.outstanding = 0
        """Calls of this client that it holds."""
        self.answers = 0
        self.answered_at = 0.0
        """When it gave the last one."""
        self.avoid_until = 0.0
        self.ejected_until = 0.0
        self.failures = 0
        """In a row."""
        self.late = 0
        """Late answers in a row."""
        self.ejections = 0
        self.suspect = False
        """Whether it is probed with one call at a time."""

    def run(self, now: float, sent: float) -> float:
        """Seconds that a call has run that was sent then: since the answer before, if it had to wait for that."""
        return now - (sent if sent > self.answered_at else self.answered_at)

    def answered(self, now: float, seconds: float, typical: float, usual: float = NEVER, waiting: int = 0) -> bool:
        """Note an answer.

        Args:
            now: seconds on the clock of ``avoid_until``.
            seconds: that the call took, there and back, see `run`.
            typical: seconds that such a call usually takes; 0 if that is not known.
            usual: seconds that it seldom takes, the 95th percentile; infinite if that is not known.
            waiting: calls in the executor's queue behind this one.

        Returns:
            Whether it may be an outlier, see `eject`.
        """
        self.failures = 0
        self.answers += 1
        self.answered_at = now
        self._others = waiting - max(self.outstanding - 1, 0)
        if self._others > 0:
            self._others_until = now + self._others * (typical or seconds)
        return self.took(now, seconds, typical, usual)

    def took(self, now: float, seconds: float, typical: float, usual: float = NEVER) -> bool:
        """Note how long a call took, or has taken when another seat's answer came first; see `answered`."""
        slow = seconds / typical if typical > 0.0 else self.prior
        expected = self.prior if self.prior > 1.0 else 1.0
        if (
            typical > 0.0
            and slow > expected
            and slow > expected * (LATE if usual > LATE * typical else usual / typical)
        ):
            self.late += 1
            if self.late == 1 and not self.suspect:
                return False  # a single one may be the call's doing
        else:
            self.late = 0
            if self.answers & EACH and not (self.suspect or self.ejections) and self._is_level():
                return False
            slow = min(slow, expected)
        if slow >= self._slowness:
            self._slowness = slow
        else:
            weight = min(exp((self._stamp - now) / FADE), KEPT)
            self._slowness = self._slowness * weight + slow * (1.0 - weight)
        self._stamp = now
        if self.late and slow > LATE * expected and seconds - typical > LATE_BY:
            return self.late >= LATE_ANSWERS or self.suspect
        if not self.late:
            self.suspect = False
            if self.ejections and now > self.ejected_until + ejection(self.ejections):
                self.ejections -= 1
        return False

    def cancelled(self, now: float, *, begun: bool) -> None:
        """Note that a call is taken back: those behind it begin sooner."""
        self.answers += 1
        if begun:
            self.answered_at = now

    def failed(self, now: float, chance: float = 0.5) -> None:
        """Note that a call was lost.

        Args:
            now: seconds on the clock of ``avoid_until``.
            chance: uniform in [0, 1): clients that learn of a death at once do not all come back at once.
        """
        if self.avoid_until <= now:  # several calls lost at one time are one failure
            self.failures += 1
            self.suspect = True
            back_off = min(AVOIDED * 5.0 ** (self.failures - 1), AVOIDED_MOST)
            self.avoid_until = now + back_off * (0.75 + chance / 2)

    def _is_level(self) -> bool:
        return LEVEL[0] < self._slowness < LEVEL[1]

    def slowness(self, now: float) -> float:
        """How slow it is, as far as is known: 1 is usual, 2 takes twice as long."""
        if LEVEL[0] < self._slowness < LEVEL[1]:
            return 1.0
        return self.prior + (self._slowness - self.prior) * exp((self._stamp - now) / FADE)

    def load(self, now: float) -> float:
        """How long a call more would take here: the calls it would be among, times the slowness.

        The calls of other clients are known from the queue that the last reply told of, for as long as
        that queue will last.
        """
        calls = self.outstanding + 1
        if self._others > 0 and now < self._others_until:
            calls += self._others
        if LEVEL[0] < self._slowness < LEVEL[1]:
            return calls
        return calls * self.slowness(now)


H = TypeVar("H", bound=Health)


def eject(seat: H, peers: Sequence[H], ejected: list[H], now: float) -> bool:
    """Put an outlier out for a while, if its peers are faster and at most half of them are out.

    Args:
        seat: one of which `Health.answered` says that it may be an outlier.
        peers: the seats of its rank, itself among them.
        ejected: those of them that were ejected; kept up to date here.
        now: seconds on the clock of ``avoid_until``.

    Returns:
        Whether it was ejected.
    """
    ejected[:] = [other for other in ejected if other.ejected_until > now]
    if seat in ejected or 2 * (len(ejected) + 1) > len(peers):
        return False
    sample = sorted(peer.slowness(now) for peer in peers[:: -(-len(peers) // PEERS)] if peer is not seat)
    if not sample or seat.slowness(now) < LATE * max(seat.prior, 1.0) * sample[(len(sample) - 1) // 2]:
        return False
    seat.ejections += 1
    seat.late = 0
    seat.suspect = True
    seat.ejected_until = now + ejection(seat.ejections)
    seat.avoid_until = max(seat.avoid_until, seat.ejected_until)
    ejected.append(seat)
    return True


def ejection(times: int) -> float:
    """Seconds that a seat is out when it is ejected for so many times."""
    return min(EJECTED * 2.0 ** (times - 1), EJECTED_MOST)


class Capability(msgspec.Struct, frozen=True):
    """What a worker has to offer."""

    cores: int = 0
    """That it may use; 0 if that is not known."""
    memory: int = 0
    """Bytes; 0 if that is not known."""
    speed: float = 0.0
    """Measured, of one core, in units of the client's own; 0 if that is not known."""

    def slowness(self, executors: int, *, memory: int = 256 << 20) -> float:
        """The slowness to expect of each of so many executors, before any call has shown it.

        Args:
            executors: that share the worker.
            memory: bytes that an executor should have; with less it will be kept waiting by the disk.
        """
        slow = 1.0 / self.speed if self.speed > 0 else 1.0
        if 0 < self.cores < executors:
            slow *= executors / self.cores
        if 0 < self.memory < executors * memory:
            slow *= sqrt(executors * memory / self.memory)
        return slow
