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
8. Those that are ejected as they are slow, which are never more than half of a rank at first, get calls
   again when their peers have gone: a call that takes longer is better than one that runs elsewhere.

Nothing here reads a clock, draws a random number or does I/O.  A `Pool` remembers between decisions
which seats can be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .budget import Budget, Hedges
from .pool import NEVER, SCAN, SOON, Call, Place, Pool, Seat, has_room, is_doubtful

__all__ = [
    "DECISIONS",
    "NEVER",
    "SCAN",
    "SOON",
    "Call",
    "Decision",
    "Expired",
    "GiveUp",
    "Overloaded",
    "Place",
    "Pool",
    "Run",
    "RunHere",
    "Seat",
    "Wait",
    "decide",
    "hedge",
    "hedge_after",
]

COLD = 1.2
"""What counts as so many times slower: a seat that has not yet run a call of the module."""
NO_GPU = 10.0
"""The same for one without a GPU, of a module that uses one where there is one."""
BUSY = 1.5
"""The same for a seat that has a call: to wait behind it is certain, that an idle one is slow is not."""


@dataclass(slots=True)  # not frozen: to make one of those takes three times as long
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


@dataclass(frozen=True, slots=True)
class Overloaded:
    """All seats are full, and the line for them is too."""


@dataclass(frozen=True, slots=True)
class Expired:
    """Its deadline has passed, or will have before it can end."""


Decision = Run | RunHere | Wait | GiveUp | Overloaded | Expired
DECISIONS = frozenset((Run, RunHere, Wait, GiveUp, Overloaded, Expired))


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
    for pool in ranks:
        if pool.local:
            return RunHere()
        seat, full = (_drawn if pool.large else _looked_at)(call, pool, now, chance)
        if seat is not None:
            return _attempt(call, seat, left, now, budget) if call.tried else Run(seat)
        if full:
            return _wait(call, Wait(1.0, hopeful=True), left)
        if ejected := _ejected(call, pool, now):
            free = [seat for seat in ejected if seat.outstanding < seat.depth]
            if free:
                return _attempt(call, min(free, key=lambda seat: _cost(seat, call, now)), left, now, budget)
            return _wait(call, Wait(1.0, hopeful=True), left)
        soon = pool.starting or any(now < s.avoid_until <= now + SOON for s in pool.seats)
        if soon and call.waited < call.patience:
            return _wait(call, Wait(SOON / 4, hopeful=False), left)
    patient = call.waited < call.patience
    reserve = [seat for pool in ranks for seat in pool.seats]
    if reserve:
        last = min(reserve, key=lambda s: (s.avoid_until, s.outstanding))
        if last.avoid_until <= now:
            if has_room(last):
                return _attempt(call, last, left, now, budget)
            return _wait(call, Wait(1.0, hopeful=True), left)
        if patient:
            return _wait(call, Wait(last.avoid_until - now, hopeful=False), left)
    if patient and any(not pool.hopeless for pool in ranks):
        return _wait(call, Wait(SOON, hopeful=False), left)
    return GiveUp()


def _ejected(call: Call, pool: Pool, now: float) -> list[Seat]:
    """The seats that are avoided only as they were ejected, if those are more than half of the rank."""
    found = [seat for seat in pool.seats if now < seat.avoid_until <= seat.ejected_until and seat.id not in call.tried]
    return found if 2 * len(found) > len(pool.seats) else []


def _attempt(call: Call, seat: Seat, left: float, now: float, budget: Budget | None) -> Decision:
    """Run it there, if the budget allows that, as far as it is a further attempt."""
    if not call.tried or budget is None or budget.spend(now):
        return Run(seat)
    return _wait(call, Wait(max(budget.delay(now), 0.01), hopeful=True), left)


def _wait(call: Call, wait: Wait, left: float) -> Decision:
    """Wait, but not where there is no room for that, nor for longer than is left."""
    if wait.hopeful and not call.may_wait:
        return Overloaded()
    return Wait(left, wait.hopeful) if left < wait.seconds else wait


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
            load = _cost(seat, call, now)
            if load < least:
                best, least = seat, load
    if best is None and full and 2 * avoided > count:
        best = min((s for s in seats if is_doubtful(s, call, now)), key=lambda s: s.avoid_until, default=None)
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
    return min(drawn, key=lambda seat: _cost(seat, call, now)), False


def _cost(seat: Seat, call: Call, now: float) -> float:
    cost = seat.load(now)
    if call.module not in seat.modules:
        cost *= COLD if seat.gpus or not call.gpu else NO_GPU
    return cost * BUSY if seat.outstanding else cost


def hedge_after(call: Call, *, behind: bool) -> float:
    """Seconds after which to look for a seat for a second attempt; `NEVER` where ``call.hedge_after`` is.

    Args:
        call: its history.
        behind: whether it waits behind another call: as long as that one, then; longer, and it is worth to look.
    """
    after = call.hedge_after
    return min(after, call.typical) if behind and after < NEVER else after


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
            return min(idle, key=lambda seat: _cost(seat, call, now)) if not begun or budget.spend(now) else None
    return None
