"""Virtual time, workers that run one call at a time, and calls.

A worker's queue is first come, first served.  What a call costs is drawn before, the same for all ways
of balancing; the trip there and back is a part of it.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from relocate.cost import Estimate
from relocate.policy import NEVER

TRIP = 0.0002
"""Seconds that messages take, there and back."""
STALLS = 0.002
"""Share of the attempts during which the worker's machine is busy with something else."""
STALL = 0.4
"""Seconds of that."""
SOON_LOST = 0.001
"""Seconds after which a client learns of a death: its connection is lost."""
CUT_OFF = 1.0
"""Seconds after which it learns of a peer that is silent: heartbeats are missing."""


class Worker:
    """One executor of the simulation."""

    __slots__ = ("busy", "extra", "hole", "mute", "number", "queue", "running", "runs_until", "served", "slow", "up")

    def __init__(self, number: int) -> None:
        self.number = number
        self.up = True
        self.slow = 1.0
        """A call takes so many times longer."""
        self.hole = False
        """It loses each call at once, and is still said to be there."""
        self.mute = False
        """It takes calls and answers none."""
        self.queue: deque[Attempt] = deque()
        self.running: Attempt | None = None
        self.runs_until = 0.0
        self.extra = 0.0
        """Seconds of work in the queue."""
        self.busy = 0.0
        self.served = 0


class Call:
    """One call, as `relocate.policy.Call` has it and more."""

    gpu = False
    __slots__ = (
        "arrived", "attempts", "client", "deadline", "done", "estimate", "hedge_after", "hedged", "in_line",
        "may_wait", "module", "patience", "queued", "tried", "typical", "waited", "work",
    )  # fmt: skip

    def __init__(self, arrived: float, work: float, deadline: float, client: Any) -> None:
        self.arrived = arrived
        self.work = work
        self.deadline = deadline
        self.client = client
        self.module = "m"
        self.tried: list[str] = []
        self.waited = 0.0
        self.patience = 30.0
        self.queued = self.in_line = False
        self.may_wait = True
        self.typical = 0.0
        self.hedge_after = NEVER
        self.hedged = False
        self.done = False
        self.attempts: list[Attempt] = []
        self.estimate: Estimate | None = None


class Attempt:
    """A call on its way to an answer by one worker."""

    __slots__ = ("after", "begun", "call", "gone", "seat", "sent", "worker")

    def __init__(self, call: Call, worker: Worker, sent: float, seat: Any = None) -> None:
        self.call = call
        self.worker = worker
        self.sent = sent
        self.seat = seat
        self.after = 0
        """For the client: it begins when the seat has given so many answers."""
        self.begun = self.gone = False


@dataclass
class Tally:
    """What came of the calls."""

    latencies: array[float]
    calls: int = 0
    attempts: int = 0
    lost: int = 0
    """Attempts whose worker died."""
    in_time: int = 0
    meanwhile: int = 0
    """Of those in time, the ones that were answered while calls still came."""
    failed: int = 0
    """Calls that were turned away, or whose deadline passed."""
    longest_line: int = 0


class World:
    """The clock, the workers, and what happens to them."""

    def __init__(self, workers: int, seed: int) -> None:
        self.now = 0.0
        self.chance = random.Random(seed).random
        self.workers = [Worker(i) for i in range(workers)]
        self.tally = Tally(array("d"))
        self.clients: list[Any] = []
        self.feeding = True
        self.arrivals: dict[int, list[float]] = {}
        """When attempts came to the workers that are watched, by their numbers."""
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = 0

    def at(self, when: float, action: Callable[[Any], None], what: Any = None) -> None:
        """Do ``action(what)`` then."""
        self._number += 1
        heapq.heappush(self._events, (when, self._number, action, what))

    def run(self) -> None:
        """Until nothing is left to happen."""
        events = self._events
        while events:
            self.now, _, action, what = heapq.heappop(events)
            action(what)

    def feed(self, calls: Iterable[Call]) -> None:
        """Let these calls come, in order of arrival."""
        source = iter(calls)

        def arrive(call: Call) -> None:
            self.tally.calls += 1
            call.client.submit(call)
            following = next(source, None)
            if following is not None:
                self.at(following.arrived, arrive, following)
            else:
                self.feeding = False

        first = next(source)
        self.at(first.arrived, arrive, first)

    # Attempts --------------------------------------------------------------------------------------

    def send(self, call: Call, worker: Worker, seat: Any = None) -> Attempt:
        """Let ``worker`` run the call."""
        attempt = Attempt(call, worker, self.now, seat)
        call.attempts.append(attempt)
        self.tally.attempts += 1
        if worker.number in self.arrivals:
            self.arrivals[worker.number].append(self.now)
        if not worker.up or worker.hole:
            self.at(self.now + SOON_LOST, self._lost, attempt)
        elif worker.mute:
            self.at(self.now + CUT_OFF, self._lost, attempt)
        elif worker.running is None:
            self._begin(attempt)
        else:
            worker.queue.append(attempt)
            worker.extra += call.work * worker.slow
        return attempt

    def cancel(self, attempt: Attempt) -> None:
        """Its answer is not wanted any more: it is not begun, or interrupted."""
        attempt.gone = True
        worker = attempt.worker
        if worker.running is attempt:
            worker.busy -= worker.runs_until - self.now
            self._next(worker)
        elif not attempt.begun:
            worker.extra = max(0.0, worker.extra - attempt.call.work * worker.slow)

    def _begin(self, attempt: Attempt) -> None:
        worker = attempt.worker
        attempt.begun = True
        worker.running = attempt
        seconds = attempt.call.work * worker.slow + TRIP
        if self.chance() < STALLS:
            seconds += STALL
        worker.busy += seconds
        worker.runs_until = self.now + seconds
        self.at(worker.runs_until, self._end, attempt)

    def _end(self, attempt: Attempt) -> None:
        worker = attempt.worker
        if attempt.gone or worker.running is not attempt:
            return  # cancelled, or its worker has died
        worker.served += 1
        attempt.gone = True
        self._next(worker)
        call = attempt.call
        if not call.done:
            call.done = True
            self.tally.latencies.append(self.now - call.arrived)
            if self.now <= call.deadline:
                self.tally.in_time += 1
                self.tally.meanwhile += self.feeding
        call.client.answered(attempt)

    def _next(self, worker: Worker) -> None:
        worker.running = None
        queue = worker.queue
        while queue:
            attempt = queue.popleft()
            if not attempt.gone:
                worker.extra = max(0.0, worker.extra - attempt.call.work * worker.slow)
                self._begin(attempt)
                return
        worker.extra = 0.0

    def _lost(self, attempt: Attempt) -> None:
        if not attempt.gone:
            attempt.gone = True
            self.tally.lost += 1
            attempt.call.client.lost(attempt)

    def fail(self, call: Call) -> None:
        """The caller hears that there will be no answer."""
        call.done = True
        self.tally.failed += 1

    # Workers ---------------------------------------------------------------------------------------

    def kill(self, worker: Worker, *, silent: bool = False, drain: bool = False) -> None:
        """End a worker.

        Args:
            worker: which one.
            silent: it is cut off, and nobody knows before heartbeats are missing.
            drain: it is asked to end: what runs is finished, the clients know at once.
        """
        worker.up = False
        known = CUT_OFF if silent else SOON_LOST
        if silent:
            worker.mute, worker.up = True, True
        left = [attempt for attempt in worker.queue if not attempt.gone]
        worker.queue.clear()
        worker.extra = 0.0
        if worker.running is not None and not drain:
            left.append(worker.running)
            worker.busy -= worker.runs_until - self.now
            worker.running = None
        for attempt in left:
            self.at(self.now + known, self._lost, attempt)
        self.at(self.now + (0.0 if drain else known), self._tell, (worker, False))

    def revive(self, worker: Worker) -> None:
        """Bring it back."""
        worker.up, worker.mute = True, False
        self._tell((worker, True))

    def _tell(self, news: tuple[Worker, bool]) -> None:
        for client in self.clients:
            client.heard(*news)
