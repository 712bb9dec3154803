"""Ways of balancing: relocate's own code, and what it is compared with."""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import Any

from relocate import budget
from relocate.cost import Costs
from relocate.health import Health, eject
from relocate.policy import Expired, GiveUp, Overloaded, Pool, Run, Wait, decide, hedge, hedge_after

from .world import Attempt, Call, Worker, World

AGAIN = 0.01
"""Seconds after which one who knows of no worker looks again."""


class Seat(Health):
    """A worker as relocate's client sees it."""

    __slots__ = ("depth", "id", "modules", "worker")

    def __init__(self, worker: Worker, life: int, depth: int) -> None:
        super().__init__()
        self.worker = worker
        self.id = f"{worker.number}.{life}"
        self.depth = depth
        self.modules: set[str] = set()


class Place:
    """One worker; `relocate.policy.Place`."""

    local = False

    def __init__(self, seat: Seat, rank: int) -> None:
        self.seat: Seat | None = seat
        self.rank = rank

    @property
    def state(self) -> str:
        """Up, or down."""
        return "down" if self.seat is None else "up"

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The one, if it is there."""
        return () if self.seat is None else (self.seat,)


class Relocate:
    """A client that decides as relocate does, with the same code.

    Args:
        world: where the workers are.
        workers: those that it knows.
        seed: of its choices.
        depth: calls that it lets one worker hold.
        line: calls that may wait in it.
        spares: how many of the workers are of the second rank.
    """

    def __init__(
        self, world: World, workers: list[Worker], seed: int, *, depth: int = 2, line: int = 1 << 40, spares: int = 0
    ) -> None:
        self._world = world
        self._chance = random.Random(seed).random
        self._depth = depth
        self._limit = line
        first = len(workers) - spares
        self._places = {w.number: Place(Seat(w, 0, depth), int(i >= first)) for i, w in enumerate(workers)}
        self._lives = dict.fromkeys(self._places, 0)
        self._ranks: list[Pool] = []
        self._line: deque[Call] = deque()
        self._costs = Costs()
        self._retries = budget.retries()
        self._hedges = budget.Hedges()

    def submit(self, call: Call) -> None:
        """A new call."""
        self._retries.deposit()
        call.estimate = self._costs.of("f", 0)
        call.may_wait = len(self._line) < self._limit
        self._decide(call)

    def _pools(self) -> list[Pool]:
        if not self._ranks:
            places = self._places.values()
            self._ranks = [pool for rank in (0, 1) if (pool := Pool([p for p in places if p.rank == rank])).places]
        return self._ranks

    def _decide(self, call: Call) -> bool:
        """Whether it was sent, or has ended."""
        now = self._world.now
        estimate = call.estimate
        assert estimate is not None
        call.typical, call.hedge_after = estimate.there.median, estimate.there.p95
        decision = decide(call, self._pools(), now, self._chance(), self._retries)
        if isinstance(decision, Run):
            self._send(call, decision.seat, hedge_after(call, behind=decision.seat.outstanding > 0))
            return True
        if isinstance(decision, (Expired, GiveUp, Overloaded)):
            self._world.fail(call)
            return True
        assert isinstance(decision, Wait)
        call.waited = 0.0 if decision.hopeful else call.waited + decision.seconds
        if not call.in_line:
            call.in_line = call.queued = call.may_wait = True
            self._line.append(call)
            self._world.tally.longest_line = max(self._world.tally.longest_line, len(self._line))
        self._world.at(now + decision.seconds, self._again, call)
        return False

    def _again(self, call: Call) -> None:
        if call.in_line and not call.done and self._decide(call):
            call.in_line = False

    def _send(self, call: Call, seat: Any, hedge_after: float) -> None:
        seat.outstanding += 1
        for pool in self._ranks:
            pool.changed(seat)
        attempt = self._world.send(call, seat.worker, seat)
        attempt.after = seat.answers + seat.outstanding - 1
        if hedge_after < 1e9 and not call.hedged:
            self._world.at(self._world.now + hedge_after, self._hedge, attempt)

    def _hedge(self, attempt: Attempt) -> None:
        call, now = attempt.call, self._world.now
        if attempt.gone or call.done or call.hedged:
            return
        begun = self._begun(attempt)
        if begun and (left := call.hedge_after - attempt.seat.run(now, attempt.sent)) > 1e-6:
            self._world.at(now + left, self._hedge, attempt)
            return
        seat: Any = hedge(call, self._pools(), now, self._chance(), self._hedges, attempt.seat, begun=begun)
        if seat is not None:
            call.hedged = begun
            if not begun:
                if not attempt.begun:
                    self._world.tally.attempts -= 1  # it never ran
                self._take_back(attempt)
            self._send(call, seat, call.hedge_after)

    def _begun(self, attempt: Attempt) -> bool:
        """Whether what was before it has been answered."""
        return bool(attempt.seat.answers >= attempt.after)

    def answered(self, attempt: Attempt) -> None:
        """An answer has come."""
        seat, now, estimate = attempt.seat, self._world.now, attempt.call.estimate
        assert estimate is not None
        seconds = seat.run(now, attempt.sent)
        waiting = len(attempt.worker.queue)
        median, p95 = estimate.there.median, estimate.there.p95
        if seat.answered(now, seconds, median, p95, waiting):
            self._eject(seat)
        self._hedges.ran(seconds)
        estimate.ran_there(seconds, self._costs.route, 200)
        if "m" not in seat.modules:
            seat.modules.add("m")
            for pool in self._ranks:
                pool.warmed("m", seat)
        for other in attempt.call.attempts:
            if not other.gone:
                if self._begun(other):
                    wasted = other.seat.run(now, other.sent)
                    self._hedges.wasted(wasted)
                    if other.seat.took(now, wasted, median, p95):
                        self._eject(other.seat)
                self._take_back(other)
        self._give_back(seat)

    def _take_back(self, attempt: Attempt) -> None:
        attempt.seat.cancelled(self._world.now, begun=self._begun(attempt))
        self._world.cancel(attempt)
        self._give_back(attempt.seat)

    def _eject(self, seat: Seat) -> None:
        for pool in self._pools():
            if seat in pool.seats:
                eject(seat, pool.seats, pool.ejected, self._world.now)

    def lost(self, attempt: Attempt) -> None:
        """Its outcome is unknown."""
        attempt.seat.failed(self._world.now, self._chance())
        call = attempt.call
        call.tried.append(attempt.seat.id)
        self._give_back(attempt.seat)
        if not call.done and all(other.gone for other in call.attempts) and not self._decide_first(call):
            return

    def _decide_first(self, call: Call) -> bool:
        call.may_wait = True  # it was let in before
        return self._decide(call)

    def _give_back(self, seat: Seat) -> None:
        seat.outstanding -= 1
        for pool in self._ranks:
            pool.changed(seat)
        line = self._line
        while line:
            call = line[0]
            if call.done or not call.in_line:
                line.popleft()
            elif self._decide(call):
                call.in_line = False
                line.popleft()
                return
            else:
                return

    def heard(self, worker: Worker, up: bool) -> None:
        """A worker has come or gone."""
        place = self._places.get(worker.number)
        if place is not None:
            if up:
                self._lives[worker.number] += 1
                place.seat = Seat(worker, self._lives[worker.number], self._depth)
            else:
                place.seat = None
            self._ranks = []


class Simple:
    """A client that sends each call at once, to a worker that it is said is there; and again when it is lost."""

    def __init__(self, world: World, workers: list[Worker], seed: int, **_: Any) -> None:
        self._world = world
        self._chance = random.Random(seed).random
        self._mine = frozenset(workers)
        self._known = dict.fromkeys(workers)
        self._row = list(workers)
        self._turn = int(self._chance() * len(workers))

    def submit(self, call: Call) -> None:
        """A new call."""
        if call.deadline <= self._world.now:
            self._world.fail(call)
        elif (worker := self.choose(call)) is None:
            self._world.at(self._world.now + AGAIN, self.submit, call)
        else:
            self._world.send(call, worker)

    def choose(self, call: Call) -> Worker | None:
        """Where it goes."""
        raise NotImplementedError

    def answered(self, attempt: Attempt) -> None:
        """An answer has come."""

    def lost(self, attempt: Attempt) -> None:
        """Its outcome is unknown."""
        self.submit(attempt.call)

    def heard(self, worker: Worker, up: bool) -> None:
        """A worker has come or gone."""
        if worker in self._mine:
            if up:
                self._known[worker] = None
            else:
                self._known.pop(worker, None)
            self._row = list(self._known)


class RoundRobin(Simple):
    """One after the other."""

    def choose(self, call: Call) -> Worker | None:
        """The next one."""
        self._turn += 1
        return self._row[self._turn % len(self._row)] if self._row else None


class Random(Simple):
    """Any."""

    def choose(self, call: Call) -> Worker | None:
        """One drawn by chance."""
        return self._row[int(self._chance() * len(self._row))] if self._row else None


class Perfect(Simple):
    """The bound: knows how long each call will take, what waits where, and who is a black hole.

    All clients share what it knows, in one heap for each speed that workers have.
    """

    def __init__(self, world: World, workers: list[Worker], seed: int, **rest: Any) -> None:
        super().__init__(world, workers, seed, **rest)
        self._heaps: dict[float, list[tuple[float, int]]] = {}
        for worker in workers:
            self._push(worker)

    def _push(self, worker: Worker) -> None:
        heapq.heappush(self._heaps.setdefault(worker.slow, []), (self._free_at(worker), worker.number))

    def _free_at(self, worker: Worker) -> float:
        return worker.runs_until + worker.extra if worker.running is not None else 0.0

    def choose(self, call: Call) -> Worker | None:
        """Where it ends first."""
        best: Worker | None = None
        soonest = float("inf")
        now = self._world.now
        for slow, heap in self._heaps.items():
            while heap:
                said, number = heap[0]
                worker = self._world.workers[number]
                true = self._free_at(worker)
                if worker.slow != slow or worker not in self._known or worker.hole or worker.mute or not worker.up:
                    heapq.heappop(heap)
                elif true > said + 1e-9:
                    heapq.heapreplace(heap, (true, number))
                else:
                    end = max(true, now) + call.work * slow
                    if end < soonest:
                        best, soonest = worker, end
                    break
        return best

    def heard(self, worker: Worker, up: bool) -> None:
        """A worker has come or gone."""
        super().heard(worker, up)
        if up:
            self._push(worker)


WAYS: dict[str, type[Any]] = {
    "relocate": Relocate,
    "least loaded (perfect)": Perfect,
    "round robin": RoundRobin,
    "random": Random,
}
