"""The seats of one rank, and what the policy knows of seats, places and calls.

Nothing here reads a clock, draws a random number or does I/O.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

SCAN = 8
"""Up to this many seats are all looked at; of more, two drawn at random."""
SOON = 0.25
"""Seconds: a seat to be avoided for no longer than this is worth waiting for."""
DRAWS = 8
"""How often it is drawn again when a call draws seats that it has tried, before all are looked at."""
NEVER = float("inf")


class Seat(Protocol):
    """One executor as a client sees it; `health.Health` has most of it."""

    @property
    def id(self) -> str: ...
    @property
    def outstanding(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def suspect(self) -> bool: ...
    @property
    def avoid_until(self) -> float: ...
    @property
    def ejected_until(self) -> float: ...
    @property
    def gpus(self) -> int:
        """Of its worker's machine."""

    @property
    def modules(self) -> Collection[str]:
        """Of which modules it has run calls."""

    def load(self, now: float) -> float:
        """How long a call more would take there, in units of what it usually takes."""


class Place(Protocol):
    """A worker, or the local copy, as a client sees it."""

    @property
    def name(self) -> str:
        """Under which it is mounted."""

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
    def name(self) -> str:
        """Of its function, with that of its module."""

    @property
    def module(self) -> str:
        """Where its function is found."""

    @property
    def gpu(self) -> bool:
        """Whether that computes on a GPU where there is one."""

    @property
    def tried(self) -> Collection[str]:
        """Ids of the seats on which its outcome became unknown."""

    @property
    def waited(self) -> float:
        """Seconds since it last had anybody to wait for."""

    @property
    def patience(self) -> float:
        """Seconds it may wait while nobody is up."""

    @property
    def deadline(self) -> float:
        """When nobody wants the answer any more; `NEVER`."""

    @property
    def queued(self) -> bool:
        """Whether it has waited for a seat."""

    @property
    def may_wait(self) -> bool:
        """Whether the line for seats has room for it."""

    @property
    def typical(self) -> float:
        """Seconds that such a call usually takes; 0 if that is not known."""

    @property
    def hedge_after(self) -> float:
        """Seconds that it seldom takes, see `cost.Quantiles.p95`; `NEVER` if that is not known."""


class Pool:
    """The places of one rank, and their seats in one row.

    It is made anew when a place changes.  Of more than `SCAN` seats it keeps those that can be drawn
    apart from those that are full or avoided, so that a decision costs the same whatever their number;
    so whoever raises or lowers a seat's counter says so (`changed`), and who notes that a seat has run
    a module for the first time, too (`warmed`).
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.places = tuple(places)
        self.local = any(place.local for place in self.places)
        self.starting = any(place.state == "starting" for place in self.places)
        self.hopeless = all(place.state == "refused" for place in self.places)
        self.seats: list[Seat] = [
            seat for place in self.places if place.state not in ("down", "refused") for seat in place.seats
        ]
        self.ejected: list[Seat] = []
        """For `health.eject`."""
        self._narrowed: dict[Callable[[Place], bool], Pool] = {}
        self._warm: dict[str, list[Seat]] = {}
        self._free: list[Seat] = []
        self._at: dict[int, int] = {}
        """Where in `_free` a seat is, by its id(); -1 if it is not."""
        self._parked: list[tuple[float, int, Seat]] = []
        """Seats that are avoided, those first that are so for the shortest time."""
        self._parkings = 0
        self.large = len(self.seats) > SCAN
        """Whether seats are drawn, not all looked at."""
        if self.large:
            self._at = {id(seat): -1 for seat in self.seats}
            for seat in self.seats:
                self.changed(seat)

    def only(self, places: Callable[[Place], bool]) -> Pool:
        """Those of its places of which ``places`` says yes, and the local copy."""
        found = self._narrowed.get(places)
        if found is None:
            found = self._narrowed[places] = Pool(p for p in self.places if p.local or places(p))
        return found

    def changed(self, seat: Seat) -> None:
        """The seat's counter, or its health, is another one."""
        for narrowed in self._narrowed.values():
            narrowed.changed(seat)
        at = self._at.get(id(seat))
        if at is None:
            return
        if not has_room(seat):
            if at >= 0:
                self._remove(at)
        elif at < 0:
            self._at[id(seat)] = len(self._free)
            self._free.append(seat)

    def warmed(self, module: str, seat: Seat) -> None:
        """The seat has run a call of the module for the first time."""
        for narrowed in self._narrowed.values():
            narrowed.warmed(module, seat)
        known = self._warm.get(module)
        if known is not None and id(seat) in self._at:
            known.append(seat)

    def warm(self, module: str, chance: float) -> Seat | None:
        """One of the seats that have run a call of the module."""
        known = self._warm.get(module)
        if known is None:
            known = self._warm[module] = [seat for seat in self.seats if module in seat.modules]
        return known[int(chance * len(known))] if known else None

    def draw(self, call: Call, now: float, chance: float) -> list[Seat]:
        """Two seats that can run the call now, or one, or none."""
        parked = self._parked
        while parked and parked[0][0] <= now:
            self.changed(heapq.heappop(parked)[2])
        drawn: list[Seat] = []
        for _ in range(DRAWS):
            free = self._free
            count = len(free)
            if count < 2:
                break
            pair = int(chance * count * (count - 1))
            first, second = pair // (count - 1), pair % (count - 1)
            second += second >= first
            usable = [seat for seat in (free[first], free[second]) if self._drawable(seat, now)]
            drawn = [seat for seat in usable if seat.id not in call.tried]
            if drawn:
                return drawn
            chance = (chance * 48_271.0 + 0.618) % 1.0  # another number in [0, 1), drawn as blindly
        for seat in list(self._free):
            if self._drawable(seat, now) and seat.id not in call.tried:
                drawn.append(seat)
                if len(drawn) == 2:
                    break
        return drawn

    def standing(self, call: Call, now: float) -> bool:
        """After a fruitless `draw`: whether there is a seat that is nothing but full."""

        def stands(seat: Seat) -> bool:
            return seat.avoid_until <= now and not seat.suspect and seat.id not in call.tried

        return any(map(stands, self.seats[:: -(-len(self.seats) // SCAN)])) or any(map(stands, self.seats))

    @property
    def panics(self) -> bool:
        """After a fruitless `draw`: whether more than half of the seats are avoided."""
        return 2 * len(self._parked) > len(self.seats)

    def doubtful(self, call: Call, now: float) -> Seat | None:
        """After a fruitless `draw`: of seats that are avoided, one to be used in a panic."""
        for _, _, seat in self._parked[-DRAWS:]:
            if is_doubtful(seat, call, now):
                return seat
        return None

    def _drawable(self, seat: Seat, now: float) -> bool:
        if seat.avoid_until > now:
            self._remove(self._at[id(seat)])
            self._parkings += 1  # so that of equals the order is the same in each run
            heapq.heappush(self._parked, (seat.avoid_until, self._parkings, seat))
            return False
        return has_room(seat)

    def _remove(self, at: int) -> None:
        seat, last = self._free[at], self._free.pop()
        self._at[id(seat)] = -1
        if last is not seat:
            self._free[at] = last
            self._at[id(last)] = at


def has_room(seat: Seat) -> bool:
    """Whether the seat takes one more call of this client."""
    return seat.outstanding < (1 if seat.suspect else seat.depth)


def is_doubtful(seat: Seat, call: Call, now: float) -> bool:
    """Whether the seat is avoided, but may be used in a panic."""
    return seat.avoid_until > now + SOON and has_room(seat) and seat.id not in call.tried
