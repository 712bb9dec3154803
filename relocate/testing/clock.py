"""A clock that moves only when told, and a condition variable whose waiting moves it.

One thread does everything.  What would happen at the same time happens as *events*: functions that
are due at a moment, run by whoever moves the clock past it.  An event may itself make a call, and so
stand for another thread of the program; the call that it interrupts goes on when it has ended.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from types import TracebackType


class Stuck(AssertionError):
    """Something waits without a bound, and nothing is left that could happen."""


class Clock:
    """Virtual seconds, beginning at 0.

    >>> clock = Clock()
    >>> clock.after(2.0, lambda: print("at", clock.now()))
    >>> clock.advance(5.0)
    at 2.0
    >>> clock.now()
    5.0
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        """Seconds since the clock was made."""
        return self._now

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Run ``action`` when so many seconds have passed."""
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), action))

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, and run what becomes due, in order."""
        until = self._now + seconds
        while self.step(until):
            pass

    def step(self, until: float) -> bool:
        """Move to the next event that is due by ``until`` and run it; without one, move to ``until``.

        Returns:
            Whether there was an event.
        """
        if self._events and self._events[0][0] <= until:
            due, _, action = heapq.heappop(self._events)
            self._now = max(self._now, due)
            action()
            return True
        self._now = max(self._now, until)
        return False

    @property
    def idle(self) -> bool:
        """Whether no event is to come."""
        return not self._events


class Turn:
    """Stands in for `relocate.seating.Turn`: to wait is to let the clock run until notified.

    Args:
        clock: what waiting moves.
        shared: another turn, whose lock and record of waits this one shares.
    """

    under_way = 0
    """As there."""

    def __init__(self, clock: Clock, shared: Turn | None = None) -> None:
        self._clock = clock
        self.lock = self
        self._lock: list[None] = shared._lock if shared else []
        self._waiting: list[list[bool]] = []
        self.waits: list[float | None] = shared.waits if shared else []
        """The seconds that each `wait` was bounded by, in order."""

    def __enter__(self) -> bool:
        self._lock.append(None)
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.pop()

    def bell(self) -> Turn:
        """A condition of its own under the same lock."""
        return Turn(self._clock, self)

    def wait(self, timeout: float | None = None) -> bool:
        """Let time pass until notified, or for ``timeout`` seconds; whether it was notified.

        Raises:
            RuntimeError: the lock is not held.
            Stuck: there is no bound, and no event is left.
        """
        self._check()
        self.waits.append(timeout)
        until = float("inf") if timeout is None else self._clock.now() + timeout
        notified = [False]
        self._waiting.append(notified)
        try:
            while not notified[0]:
                if timeout is None and self._clock.idle:
                    raise Stuck("a wait without a bound, and nothing is left to happen")
                if not self._clock.step(until):
                    break
        finally:
            if notified in self._waiting:
                self._waiting = [w for w in self._waiting if w is not notified]
        return notified[0]

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Let time pass until ``predicate`` holds, or for ``timeout`` seconds; whether it holds."""
        self._check()
        until = None if timeout is None else self._clock.now() + timeout
        while not predicate():
            left = None if until is None else until - self._clock.now()
            if left is not None and left <= 0:
                return False
            self.wait(left)
        return True

    def notify(self, n: int = 1) -> None:
        """Wake those who wait longest."""
        self._check()
        for notified in self._waiting[:n]:
            notified[0] = True
        del self._waiting[:n]

    def notify_all(self) -> None:
        """Wake all."""
        self.notify(len(self._waiting))

    def _check(self) -> None:
        if not self._lock:
            raise RuntimeError("the lock is not held")
