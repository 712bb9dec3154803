"""Where a call runs next: a pure function of (call, ranks, now, chance).

Rules, in order:

1. A call whose deadline has passed is not begun, nor one that has waited until too little is left.
2. Ranks: a place of a lower rank is preferred; the next rank serves only when no seat of the lower
   ones can, now or soon.
3. Within a rank, least load (`health`): outstanding calls, times how slow the seat is; among many
   seats, the better of two drawn at random (Mitzenmacher, "The power of two choices in randomized
   load balancing", 2001), so that the cost does not grow with their number and clients that know
   little do not all choose the same.  Of seats with about the same load, one that has run a call of
   the module before: it has imported it.
4. A seat takes at most its ``depth`` calls at a time from one client, one that is suspect one.  When
   all seats of a rank are full the caller waits for one: a call that waits here can still go
   anywhere, one that is queued on an executor cannot.  Or it hears at once that all are full.
5. Move on when unknown: a seat on which this call's outcome became unknown is tried again only when
   nothing else is left, and a seat that failed lately is avoided for a while.  Further attempts
   have a budget (`budget`); without one they wait.
6. A seat that failed a moment ago is waited for: by the time it may be used again its worker has
   said whether the executor died (its replacement takes its place) or the worker itself is down.
7. Panic: if more than half of a rank are avoided and the others are full, that they failed is
   doubtful (Envoy's panic threshold), and they get calls too; but for those of rule 6.

Nothing here reads a clock, draws a random number or does I/O.  A `Pool` remembers between decisions
which seats can be drawn.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .budget import Budget, Hedges

SCAN = 8
"""Up to this many seats are all looked at; of more, two drawn at random."""
SOON = 0.25
"""Seconds: a seat to be avoided for no longer than this is worth waiting for."""
COLD = 1.2
"""What counts as so many times slower: a seat that has not yet run a call of the module."""
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


@dataclass(slots=True)  # not frozen: to make one of those takes three times as long
class Run:
    """Send it to this seat now."""

    seat: Seat
    hedge_after: float = NEVER
    """Seconds after which to look for a seat for a second attempt, see `hedge`."""


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


@dataclass(frozen=True, slots=True)
class Overloaded:
    """All seats are full, and the line for them is too."""


@dataclass(frozen=True, slots=True)
class Expired:
    """Its deadline has passed, or will have before it can end."""


Decision = Run | RunHere | Wait | GiveUp | Overloaded | Expired
DECISIONS = frozenset((Run, RunHere, Wait, GiveUp, Overloaded, Expired))


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
            if _is_doubtful(seat, call, now):
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


def _is_doubtful(seat: Seat, call: Call, now: float) -> bool:
    return seat.avoid_until > now + SOON and has_room(seat) and seat.id not in call.tried


def decide(call: Call, ranks: Sequence[Pool], now: float, chance: float, budget: Budget | None = None) -> Decision:
    """Where ``call`` goes.

    Args:
        call: its history.
        ranks: the places that its name resolves to, best rank first.
        now: seconds on the clock that ``avoid_until`` and ``deadline`` use.
        chance: uniform in [0, 1).
        budget: of attempts beyond a call's first.
    """
    left = call.deadline - now
    if left < NEVER and (left <= 0 or (call.queued and left < call.typical)):
        return Expired()
    decision = _choose(call, ranks, now, chance)
    if type(decision) is Run:
        if not call.tried or budget is None or budget.spend(now):
            return decision
        decision = Wait(max(budget.delay(now), 0.01), hopeful=True)
    if isinstance(decision, Wait):
        if decision.hopeful and not call.may_wait:
            return Overloaded()
        if left < decision.seconds:
            return Wait(left, decision.hopeful)
    return decision


def _choose(call: Call, ranks: Sequence[Pool], now: float, chance: float) -> Decision:
    patient = call.waited < call.patience
    for pool in ranks:
        if pool.local:
            return RunHere()
        seat, full = (_drawn if pool.large else _looked_at)(call, pool, now, chance)
        if seat is not None:
            # Behind another call it waits as long as that one; longer, and it is worth to look elsewhere.
            return Run(seat, min(call.hedge_after, call.typical or NEVER) if seat.outstanding else call.hedge_after)
        if full:
            return Wait(1.0, hopeful=True)
        if (pool.starting or any(now < s.avoid_until <= now + SOON for s in pool.seats)) and patient:
            return Wait(SOON / 4, hopeful=False)
    reserve = [seat for pool in ranks for seat in pool.seats]
    if reserve:
        last = min(reserve, key=lambda s: (s.avoid_until, s.outstanding))
        if last.avoid_until <= now:
            return Run(last, call.hedge_after) if has_room(last) else Wait(1.0, hopeful=True)
        if patient:
            return Wait(last.avoid_until - now, hopeful=False)
    if patient and any(not pool.hopeless for pool in ranks):
        return Wait(SOON, hopeful=False)
    return GiveUp()


def _looked_at(call: Call, pool: Pool, now: float, chance: float) -> tuple[Seat | None, bool]:
    """The best of few seats; if there is none, whether one that is not avoided is full."""
    seats = pool.seats
    count = len(seats)
    best: Seat | None = None
    least = NEVER
    full = avoided = 0
    # Ties are broken by chance, not by position: the first seat is not everybody's favourite.
    start = int(chance * count)
    for i in range(start, start + count):
        seat = seats[i if i < count else i - count]
        if seat.avoid_until > now:
            avoided += 1
        elif call.tried and seat.id in call.tried:
            continue
        elif seat.outstanding >= (1 if seat.suspect else seat.depth):
            full += not seat.suspect  # one that is being probed is nobody to wait for
        elif count == 1:
            return seat, False
        else:
            load = _cost(seat, call.module, now)
            if load < least:
                best, least = seat, load
    if best is None and full and 2 * avoided > count:
        best = min((s for s in seats if _is_doubtful(s, call, now)), key=lambda s: s.avoid_until, default=None)
    return best, full > 0


def _drawn(call: Call, pool: Pool, now: float, chance: float) -> tuple[Seat | None, bool]:
    """The same of many seats, of which few are looked at."""
    drawn = pool.draw(call, now, chance)
    if not drawn:
        full = pool.standing(call, now)
        return pool.doubtful(call, now) if full and pool.panics else None, full
    warm = pool.warm(call.module, chance)
    if warm is not None and warm.avoid_until <= now and has_room(warm) and warm.id not in call.tried:
        drawn.append(warm)
    return min(drawn, key=lambda seat: _cost(seat, call.module, now)), False


def _cost(seat: Seat, module: str, now: float) -> float:
    return seat.load(now) * (1.0 if module in seat.modules else COLD)


def hedge(
    call: Call,
    ranks: Sequence[Pool],
    now: float,
    chance: float,
    budget: Hedges,
    on: Seat,
    *,
    begun: bool = True,
) -> Seat | None:
    """Where a second attempt of a call runs that takes longer than its ``hedge_after``; None: nowhere.

    The first answer wins (Dean and Barroso, "The Tail at Scale", 2013).  An idle seat only: one that is
    busy would make others wait.  A call that has not begun, as it waits behind a long one, costs
    nothing more elsewhere, as it is taken back, so that it needs no budget.

    Args:
        call: its history.
        ranks: as for `decide`.
        now: seconds on the clock that ``avoid_until`` uses.
        chance: uniform in [0, 1).
        budget: of hedges.
        on: the seat where it is now.
        begun: whether it runs there, as far as is known.
    """
    for pool in ranks:
        if pool.local:
            return None
        candidates: list[Seat] = pool.draw(call, now, chance) if pool.large else pool.seats
        idle = [
            seat
            for seat in candidates
            if seat is not on
            and not seat.outstanding
            and not seat.suspect
            and seat.avoid_until <= now
            and seat.id not in call.tried
        ]
        if idle:
            return min(idle, key=lambda seat: _cost(seat, call.module, now)) if not begun or budget.spend(now) else None
    return None
