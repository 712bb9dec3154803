"""Which call gets which seat, and when: the decisions, the line of those that wait, what attempts say of a seat.

Rules:

* One lock, the `Turn`, guards the seats' counters and is held for microseconds.  Every seat is given and
  taken back under it; nobody is told of an event under it.
* The policy decides.  What it chooses among comes from `ranks`, and what attempts have shown (an answer, a
  refusal, a loss) is noted here before the next decision.
* Threads that find all seats full wait in a line, and a free seat is handed to the first of them that the
  policy gives it to.  Names and places may change meanwhile: then it is decided anew for all in the line.
"""

from __future__ import annotations

import sys
import threading
from bisect import insort
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import budget, events, health, policy, wire
from .errors import DeadlineExceeded, NoWorkerLeft, Overloaded, PolicyError, RelocateError
from .namespace import Namespace
from .places import Link, Local, Part, Seat
from .ranks import Ranks, usable

if TYPE_CHECKING:
    from .channel import Channel
    from .cost import Estimate
    from .links import Links
    from .policies import Policy
    from .shortcut import Attempt, Shortcut
    from .trip import Trip

Answered = wire.Returned | wire.Raised | wire.Rejected
SHORT = 0.002
"""Seconds: of calls that seldom take more only some are looked at, as that costs a part of them."""
EACH = 7
"""Of those, each eighth of a seat."""
LONG = 0.1
"""Seconds: of calls that may take more nobody notices what a shortcut saves."""


class Turn(threading.Condition):
    """The driver's lock, and what is waited for under it."""

    under_way = 0
    """Attempts that hold a seat."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        super().__init__(self.lock)

    def bell(self) -> threading.Condition:
        """A condition of its own under the same lock, to wake one thread and no other."""
        return threading.Condition(self.lock)


class Waiting:
    """A call in the line for a seat, and the seat when it is given one."""

    def __init__(self, trip: Trip, bell: threading.Condition) -> None:
        self.trip = trip
        self.bell = bell
        self.seat: Seat | None = None


def _began(waiting: Waiting) -> float:
    return waiting.trip.began


class Seating(Ranks):
    """Gives the seats of one handle's workers to its calls."""

    queue = -1
    """Calls that may wait for each executor; -1: all."""

    def __init__(
        self, namespace: Namespace, turn: Turn | None, clock: Callable[[], float], chance: Callable[[], float]
    ) -> None:
        super().__init__(namespace)
        self.turn = turn or Turn()
        self.clock = clock
        self._chance = chance
        self._line: list[Waiting] = []
        self.links: Links | None = None
        self.lending: list[int] = []
        """The threads, by their ids, in which a generator that was lent to a call is asked for items now."""
        self.delayed: Callable[[], object] = lambda: None
        """Told, by its thread, of a call that had to wait for its executor to start or to import its module."""
        self.policy: Policy = policy.decide
        self._retries = budget.retries()
        self._hedges = budget.Hedges()

    # Places ----------------------------------------------------------------------------------------

    def place(self, links: dict[str, Link | Local], gone: Iterable[str] = ()) -> None:
        """Let names lead to these places and no more to those of ``gone``; decide anew for who waits in line."""
        with self.turn.lock:
            self.places.update(links)
            for name in gone:
                self.places.pop(name, None)
            self._ranks = (None, {})
            self._forget_pools()
            self.places_changed()

    def places_changed(self) -> None:
        """Executors came or went; called with the lock held."""
        self._forget_pools()
        self.turn.notify_all()
        self._serve()

    def detach(self) -> Links | None:
        """Part with the links, and wake whoever waits for a seat: nobody will be given one any more."""
        with self.turn.lock:
            links, self.links = self.links, None
            for waiting in self._line:
                waiting.bell.notify_all()
            self.turn.notify_all()
        return links

    def forked(self) -> None:
        """In a forked child: leave the links and the lock behind, and forget what was worked out from them."""
        self.links = None
        self.turn = Turn()
        self._ranks = (None, {})
        self._forget_pools()
        self._line = []

    def waiting(self) -> int:
        """How many calls stand in line for an executor."""
        return len(self._line)

    # The line --------------------------------------------------------------------------------------

    def lease(self, trip: Trip) -> Seat | None:
        """A seat for the next attempt, its counter raised; None for the local copy, or if the links are gone.

        The seat is noted in ``trip.seat`` at once: the interpreter lets no interrupt in between two
        plain assignments.

        Raises:
            RelocateError: nobody is left.
        """
        waiting: Waiting | None = None
        with self.turn.lock:
            if self.queue >= 0:
                seats = sum(len(pool.seats) for pool in self.pools(trip, False))
                trip.may_wait = trip.attempts > 0 or len(self._line) < self.queue * seats
            try:
                while self.links is not None:
                    if trip.cancelled:
                        raise RelocateError(f"{trip.name} was cancelled")
                    now = self.clock()
                    decision = self._decide(trip, now)
                    if type(decision) is policy.Run:
                        seat: Seat = decision.seat  # type: ignore[assignment]
                        trip.seat = seat
                        seat.outstanding += 1
                        self.turn.under_way += 1
                        if self._large:
                            self._changed(seat)
                        return seat
                    if (refusal := self._refusal(trip)) is not None:
                        trip.refusal = refusal
                        return None
                    if isinstance(decision, policy.RunHere):
                        return None
                    if not isinstance(decision, policy.Wait):
                        raise self._why_not(trip, decision)
                    if waiting is None:
                        trip.queued = trip.may_wait = True
                        waiting = Waiting(trip, self.turn.bell())
                        insort(self._line, waiting, key=_began)  # a lost attempt's call is not the youngest
                    waiting.bell.wait(decision.seconds)
                    if waiting.seat is not None and not trip.cancelled:
                        trip.seat, waiting.seat = waiting.seat, None
                        return trip.seat
                    trip.waited = 0.0 if decision.hopeful else trip.waited + self.clock() - now
                return None
            finally:
                if waiting is not None:
                    if waiting in self._line:
                        self._line.remove(waiting)
                    if waiting.seat is not None:  # given just when this thread was interrupted
                        waiting.seat.outstanding -= 1
                        self.turn.under_way -= 1
                        self._changed(waiting.seat)
                        self._serve()

    def resume(self, shortcut: Shortcut, holder: Attempt) -> Channel | None:
        """The same seat again, noted in ``holder.seat``, its counter raised: an open channel to it.

        None if it is not the same any more, or not idle.
        """
        seat = shortcut.seat
        with self.turn.lock:
            if (
                shortcut.pools is not self.pools_of
                or shortcut.snapshot is not self.namespace.snapshot
                or seat.suspect
                or seat.outstanding
                or self.links is None
                or self.lending
            ):
                return None
            try:  # the channel that was used last, if it can be used as it is
                path = seat.idle[-1].path
                if path is not None and path != sys.path:
                    return None
                opened = seat.idle.pop()
            except IndexError:
                return None
            holder.seat = seat
            seat.outstanding += 1
            self.turn.under_way += 1
            if self._large:
                self._changed(seat)
            return opened

    def awake(self, trip: Trip) -> None:
        """Let a call that may wait in the line look whether it still should."""
        with self.turn.lock:
            for waiting in self._line:
                if waiting.trip is trip:
                    waiting.bell.notify()

    def release(self, seat: Seat, kept: Channel | None, failed: bool, holder: Trip | Attempt | None = None) -> None:
        """Give a seat back, with the channel if it can be used again."""
        with self.turn.lock:
            if holder is not None and seat is holder.spare:
                holder.spare = None
            elif holder is not None:
                holder.seat = None
            seat.outstanding -= 1
            if self.turn.under_way:  # after a fork in the midst of a call there is none
                self.turn.under_way -= 1
            if kept is not None:
                if seat.gone:
                    kept.close()
                else:
                    seat.idle.append(kept)
            if failed:
                seat.failed(self.clock(), self._chance())
            if self._large:
                self._changed(seat)
            if self._line:
                self._serve(one=True)

    def _serve(self, *, one: bool = False) -> None:
        """Give free seats to those who wait, longest first.

        Handed over, not announced: a thread that comes back at once with its next call would always
        be there first, and those in the line would starve.
        """
        now = self.clock()
        for waiting in list(self._line):
            try:
                decision = self._decide(waiting.trip, now)
            except PolicyError:
                waiting.bell.notify()  # it will find out itself
                continue
            if isinstance(decision, policy.Wait):
                continue
            if isinstance(decision, policy.Run):
                seat: Seat = decision.seat  # type: ignore[assignment]
                waiting.seat = seat
                seat.outstanding += 1
                self.turn.under_way += 1
                self._changed(seat)
                self._line.remove(waiting)
            waiting.bell.notify()
            if one and isinstance(decision, policy.Run):
                return

    # Decisions -------------------------------------------------------------------------------------

    def _decide(self, trip: Trip, now: float) -> policy.Decision:
        if now >= self._ask_again and not trip.attempts:
            self._forgive(now)
        pools = self.pools(trip, trip.here) if trip.ordinary else self._narrowed(trip, idle=trip.nested)
        decision = self._ask(trip, pools, now)
        if trip.ordinary and (type(decision) is policy.Run or not self.lending):
            return decision
        if type(decision) is policy.Wait and decision.hopeful and self.lending and not trip.nested:
            busy = sum(seat.outstanding for rank in self.ranks(trip.path) for place in rank for seat in place.seats)
            if len(self.lending) >= busy:  # all that run wait for the program, which may be waiting for this call
                other = self._ask(trip, self._narrowed(trip, idle=True), now)
                decision = other if type(other) is policy.RunHere else decision
        if trip.course is not None and not trip.piece and type(decision) is policy.Run:
            trip.course.since = self.namespace.snapshot
        return decision

    def _narrowed(self, trip: Trip, *, idle: bool) -> list[policy.Pool]:
        """What the policy chooses among for a call that is not ordinary; with ``idle`` executors that do nothing."""
        path = trip.path
        course = trip.course if trip.piece else None
        since = None if course is None else course.since
        if since is not None:
            aims = since.resolve(path)
            if not aims or aims[0].place not in self.places:  # it was unmounted
                since = None
        if trip.starved is None and not idle and since is None:
            return self.pools(trip, trip.here)
        ranks: list[list[Any]]
        if trip.starved is not None:
            ranks = [self._roomiest(trip, trip.starved)]
        else:
            ranks = self.ranks(path) if since is None else self._ranked(since, path)
        ranks = usable(ranks, trip.here, trip.version)
        if idle:
            ranks = [[Part(place, lambda seat: not seat.outstanding) for place in rank] for rank in ranks]
        return [policy.Pool(rank) for rank in ranks]

    def _ask(self, trip: Trip, pools: list[policy.Pool], now: float) -> policy.Decision:
        try:
            decision = self.policy(trip, pools, now, self._chance(), self._retries)
        except Exception as error:
            raise PolicyError(f"{trip.name}: the policy failed: {type(error).__name__}: {error}") from error
        if type(decision) not in policy.DECISIONS:
            raise PolicyError(f"{trip.name}: the policy gave {decision!r}, which is no decision")
        return decision

    def _why_not(self, trip: Trip, decision: policy.Decision) -> RelocateError:
        if isinstance(decision, policy.Overloaded):
            waiting = "1 call waits" if len(self._line) == 1 else f"{len(self._line)} calls wait"
            return Overloaded(f"{trip.name}: all executors are busy, and {waiting} for them already")
        if isinstance(decision, policy.Expired):
            return DeadlineExceeded(f"{trip.name} could not be run before its deadline")
        return self._nobody(trip)

    def _nobody(self, trip: Trip) -> RelocateError:
        places = [p for rank in self.ranks(trip.path) for p in rank if not p.local]
        if places and all(p.state == "refused" and p.error for p in places) and places[0].error:
            return places[0].error
        if trip.nested and any(place.seats for place in places):
            return NoWorkerLeft(
                f"{trip.name}: no executor is idle; a generator or function that a call was given calls it, and that "
                "call waits on its executor meanwhile; use more executors"
            )
        return NoWorkerLeft(f"{trip.name}: {self._left(trip.path, trip.version)}")

    def _left(self, path: tuple[str, ...], version: tuple[str, bytes] = ("", b"")) -> str:
        """`troubles` of places among which the policy has chosen: it may have left none of those that are up."""
        places = [place for rank in self.ranks(path) for place in rank if not place.local]
        if self.policy is not policy.decide and any(place.error is None and place.state != "down" for place in places):
            return f"the policy leaves none of {', '.join(place.name for place in places)}"
        return self.troubles(path, version)

    def hedge(self, trip: Trip, *, begun: bool) -> Seat | None:
        """A seat for a second attempt, noted in ``trip.spare``, its counter raised; None if there is none.

        Args:
            trip: the call.
            begun: whether it runs on the seat that it holds, or still waits there.
        """
        with self.turn.lock:
            if self.links is None or trip.seat is None:
                return None
            pools = self.pools(trip, trip.here)
            found = policy.hedge(trip, pools, self.clock(), self._chance(), self._hedges, trip.seat, begun=begun)
            if found is not None:
                seat: Seat = found  # type: ignore[assignment]
                trip.spare = seat
                seat.outstanding += 1
                self.turn.under_way += 1
                self._changed(seat)
            return trip.spare

    # What attempts say -----------------------------------------------------------------------------

    def refused(self, trip: Trip, seat: Seat, reply: wire.Rejected, sent: float) -> None:
        """Note that a seat has not the version of a module that a call, sent then, is of: for that it is not there."""
        events.emit("call rejected", function=trip.name, executor=seat.label, code=reply.code, reason=reply.text)
        with self.turn.lock:
            self._lacks(seat, trip.version, reply, sent, self.clock())
            for waiting in self._line:
                waiting.bell.notify()

    def answered(self, trip: Trip, seat: Seat, sent: float, estimate: Estimate, reply: Answered) -> None:
        """Note what the answer to a call that was sent then says of the seat, and of what such calls take."""
        now = self.clock()
        trip.short = None
        usual = estimate.there.p95
        if usual < LONG and not seat.suspect and trip.module in seat.modules:
            if type(reply) is wire.Returned and now - sent < max(usual, SHORT) and not reply.waiting:
                trip.short = seat
            if usual < SHORT:
                seat.passed += 1
                if seat.passed & EACH:
                    seat.answers += 1
                    seat.answered_at = now
                    return
        if seat.link.doubted:
            with self.turn.lock:
                seat.link.trust()
                self.places_changed()
        there = estimate.there
        calls = EACH + 1 if there.p95 < SHORT else 1
        seat.timed(now - sent)
        self._retries.deposit(calls)
        if type(reply) is wire.Rejected or trip.module not in seat.modules:
            seat.answered(now, 0.0, 0.0)  # it has not run, or has imported its module first
            if type(reply) is not wire.Rejected:
                self.delayed()
                seat.imported_at = now
                seat.modules.add(trip.module)
                with self.turn.lock:
                    for pool in self._large:
                        pool.warmed(trip.module, seat)
            return
        if seat.imported_at > trip.began:
            self.delayed()
        seconds = seat.run(now, sent)
        if seat.answered(now, seconds, there.median, there.p95, reply.waiting):
            with self.turn.lock:
                self._eject(trip, seat, now)
        there.add(seconds)
        self._hedges.ran(seconds, calls)

    def ran(self, calls: int, seconds: float) -> None:
        """Note so many calls that took a shortcut, and the seconds of all together."""
        self._retries.deposit(calls)
        self._hedges.ran(seconds / calls, calls)

    def outrun(self, trip: Trip, seat: Seat, sent: float) -> None:
        """Note that another seat's answer came first to a call that was sent to this one then."""
        now = self.clock()
        seconds = seat.run(now, sent)
        seat.cancelled(now, begun=True)
        with self.turn.lock:
            self._hedges.wasted(seconds)
            if trip.typical and seat.took(now, seconds, trip.typical, trip.hedge_after):
                self._eject(trip, seat, now)

    def doubt(self, trip: Trip, link: Link) -> None:
        """Note that a call was lost on a worker with no word on why: the worker may be cut off, all of it.

        So the call goes to another worker, if there is one, not to another executor of the same.
        """
        with self.turn.lock:
            places = [place for rank in self.ranks(trip.path) for place in rank]
            if any(place is not link and place.seats for place in places):
                link.doubt()
                trip.tried = [*trip.tried, *(seat.id for seat in link.seats if seat.id not in trip.tried)]
                self.places_changed()

    def _eject(self, trip: Trip, seat: Seat, now: float) -> None:
        for pool in self.pools(trip, trip.here):
            if seat in pool.seats:
                health.eject(seat, pool.seats, pool.ejected, now)  # type: ignore[type-var]
