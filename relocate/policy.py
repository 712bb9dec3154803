"""Where a call runs next: a pure function of (call, places, now, chance).

Rules, in order:

1. Ranks: a place of a lower rank is preferred; the next rank serves only when no seat of the lower
   ones can, now or soon.
2. Within a rank, least outstanding calls; among many seats, the better of two drawn at random
   (Mitzenmacher, "The power of two choices in randomized load balancing", 2001), so that the cost
   does not grow with their number and clients that know little do not all choose the same.  Of
   seats with equally many, one that has run a call of the module before: it has imported it.
3. A seat takes at most its ``depth`` calls at a time from one client.  When all seats of a rank are
   full the caller waits for one: a call that waits here can still go anywhere, one that is queued
   on an executor cannot.
4. Move on when unknown: a seat on which this call's outcome became unknown is tried again only when
   nothing else is left, and a seat that failed lately is avoided for a while.
5. A seat that failed a moment ago is waited for: by the time it may be used again its worker has
   said whether the executor died (its replacement takes its place) or the worker itself is down.

Nothing here reads a clock, draws a random number or does I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

SCAN = 8
"""Up to this many seats are all looked at; of more, two drawn at random."""
SOON = 0.25
"""Seconds: a seat to be avoided for no longer than this is worth waiting for."""


class Seat(Protocol):
    """One executor as a client sees it."""

    @property
    def id(self) -> str: ...
    @property
    def outstanding(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def avoid_until(self) -> float: ...
    @property
    def modules(self) -> Collection[str]:
        """Of which modules it has run calls."""


class Place(Protocol):
    """A worker, or the local copy, as a client sees it."""

    @property
    def state(self) -> str:
        """How things stand with it.

        ``up``; ``starting`` (first contact, or up with its executors still to come); ``down`` (may
        come back); ``refused`` (will not come back by itself: a wrong key, another version).
        """

    @property
    def seats(self) -> Sequence[Seat]: ...
    @property
    def local(self) -> bool: ...


class Call(Protocol):
    """What the policy knows of a call."""

    @property
    def module(self) -> str:
        """Where its function is found."""

    @property
    def tried(self) -> Collection[str]:
        """Ids of the seats on which its outcome became unknown."""

    @property
    def waited(self) -> float:
        """Seconds since it last had anybody to wait for."""

    @property
    def patience(self) -> float:
        """Seconds it may wait while nobody is up."""


@dataclass(frozen=True, slots=True)
class Run:
    """Send it to this seat now."""

    seat: Seat


@dataclass(frozen=True, slots=True)
class RunHere:
    """Run the local copy."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Decide again when a seat is given back, a place changes, or after ``seconds``."""

    seconds: float
    hopeful: bool
    """Whether somebody is known to be alive; if not, the wait counts against the patience."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody is left."""


Decision = Run | RunHere | Wait | GiveUp


def decide(call: Call, ranks: Sequence[Sequence[Place]], now: float, chance: float) -> Decision:
    """Where ``call`` goes.

    Args:
        call: its history.
        ranks: the places that its name resolves to, best rank first.
        now: seconds on the clock that ``avoid_until`` uses.
        chance: uniform in [0, 1).
    """
    reserve: list[Seat] = []
    for places in ranks:
        fresh: list[Seat] = []
        soon = False
        for place in places:
            if place.local:
                return RunHere()
            if place.state in ("down", "refused"):
                continue
            soon = soon or place.state == "starting"
            for seat in place.seats:
                if seat.avoid_until <= now and seat.id not in call.tried:
                    fresh.append(seat)
                else:
                    reserve.append(seat)
                    soon = soon or now < seat.avoid_until <= now + SOON
        if fresh:
            seat = _least_loaded(fresh, call.module, chance)
            return Run(seat) if seat.outstanding < seat.depth else Wait(1.0, hopeful=True)
        if soon and call.waited < call.patience:
            return Wait(SOON / 4, hopeful=False)
    if reserve:
        seat = min(reserve, key=lambda s: (s.avoid_until, s.outstanding))
        if seat.avoid_until <= now:
            return Run(seat) if seat.outstanding < seat.depth else Wait(1.0, hopeful=True)
        if call.waited < call.patience:
            return Wait(seat.avoid_until - now, hopeful=False)
    if call.waited < call.patience and any(place.state != "refused" for places in ranks for place in places):
        return Wait(SOON, hopeful=False)
    return GiveUp()


def _least_loaded(seats: Sequence[Seat], module: str, chance: float) -> Seat:
    count = len(seats)
    if count > SCAN:
        pair = int(chance * count * (count - 1))
        first, second = pair // (count - 1), pair % (count - 1)
        second += second >= first
        drawn = [seats[first], seats[second]]
        if warm := [seat for seat in seats if module in seat.modules]:
            drawn.append(warm[int(chance * len(warm))])
        return min(drawn, key=lambda s: (s.outstanding, module not in s.modules))
    # Ties are broken by chance, not by position: the first seat is not everybody's favourite.
    start = int(chance * count)
    best = seats[start]
    for i in range(1, count):
        seat = seats[(start + i) % count]
        if seat.outstanding < best.outstanding or (
            seat.outstanding == best.outstanding and module in seat.modules and module not in best.modules
        ):
            best = seat
    return best
