"""The ledger: what became of each call, by the number that its answer carries.

A call is *lost* if it ended without answer and without exception, *doubled* if two answers carry its
number, or if the program's statistics count more calls than were made; *wrong* if its answer is not the
one that its number has; *hung* if it has not ended long after all others; *failed* if it raised.
"""

from __future__ import annotations

import collections
import importlib
import itertools
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import relocate
from relocate.testing.workers import Workers

HUNG = 120.0
"""Seconds without any answer after which the calls that are open count as hung."""


@dataclass
class Row:
    """What came of one scenario."""

    scenario: str
    case: str
    calls: int
    failed: int
    doubled: int
    wrong: int
    lost: int
    hung: int
    retried: int
    p50: float
    p99: float
    """Seconds that calls took, or what ``aim`` speaks of if that is a time."""
    aim: str
    figure: str
    met: bool
    note: str = ""


class Ledger:
    """Makes calls and keeps their outcomes.

    Args:
        call: makes the call with this number, and gives its answer: the number and its checksum.
        expected: the checksum that a number has.
    """

    def __init__(
        self, call: Callable[[int], tuple[int, int]], expected: Callable[[int], int] = lambda n: zlib.crc32(b"%d" % n)
    ) -> None:
        self._call = call
        self._expected = expected
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._made: set[int] = set()
        self._failed: set[int] = set()
        self.answers: collections.Counter[int] = collections.Counter()
        """How many answers carried each number."""
        self.errors: list[str] = []
        self.wrong = 0
        self.seconds: list[float] = []
        self.ended: dict[int, float] = {}
        """When each call had its answer, by `time.perf_counter`."""

    def make(self, number: int) -> None:
        """Make one call."""
        with self._lock:
            self._made.add(number)
            self._open.add(number)
        began = time.perf_counter()
        try:
            answer = self._call(number)
        except Exception as error:
            with self._lock:
                self._open.discard(number)
                self._failed.add(number)
                self.errors.append(f"{type(error).__name__}: {error}")
            return
        now = time.perf_counter()
        with self._lock:
            self._open.discard(number)
            self.ended[number] = now
            self.seconds.append(now - began)
            self.answers[answer[0]] += 1
            self.wrong += tuple(answer) != (number, self._expected(number))

    def run(self, calls: int, threads: int) -> None:
        """Make ``calls`` calls from so many threads, and wait for them, unless they hang."""
        _wait(self._threads(iter(range(calls)), threads), lambda: len(self.ended) + len(self.errors))

    @contextmanager
    def going_on(self, threads: int) -> Iterator[None]:
        """Make calls from so many threads until the block ends."""
        ending = threading.Event()
        started = self._threads(itertools.takewhile(lambda _: not ending.is_set(), itertools.count()), threads)
        try:
            yield
        finally:
            ending.set()
            _wait(started, lambda: len(self.ended) + len(self.errors))

    def _threads(self, numbers: Iterator[int], threads: int) -> list[threading.Thread]:
        taking = threading.Lock()

        def work() -> None:
            while True:
                with taking:
                    number = next(numbers, None)
                if number is None:
                    return
                self.make(number)

        # Daemons: a call that hangs must not keep the report from being written.
        started = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
        for thread in started:
            thread.start()
        return started

    def row(
        self, scenario: str, case: str, handle: relocate.Handle, *, times: list[float] | None = None, **more: Any
    ) -> Row:
        """The row of a scenario.

        Args:
            scenario: its name.
            case: what happened.
            handle: what made the calls; it has made no others, but for those of `relocated`.
            times: seconds, if not those that the calls took.
            **more: the other fields; ``met`` is None unless the counts alone decide, and is
                anded with them.
        """
        with self._lock:
            seen = handle.statistics()
            settled_twice = max(0, seen.calls - FIRST - len(self._made - self._open))
            lost = [n for n in self._made - self._open - self._failed if not self.answers[n]]
            counts = {
                "failed": len(self._failed),
                "doubled": sum(n - 1 for n in self.answers.values() if n > 1) + settled_twice,
                "wrong": self.wrong,
                "lost": len(lost),
                "hung": len(self._open),
            }
            met = more.pop("met", True) and not any(counts.values())
            if self.errors:
                more["note"] = f"{more.get('note', '')} {self.errors[0]}".strip()
            times = times if times is not None else self.seconds
            return Row(
                scenario,
                case,
                len(self._made),
                **counts,
                retried=seen.retried + seen.hedged,
                p50=quantile(times, 0.5),
                p99=quantile(times, 0.99),
                met=met,
                **more,
            )


FIRST = 1
"""Calls that `relocated` makes."""


@contextmanager
def relocated(workers: Workers, /, **config: Any) -> Iterator[tuple[Any, relocate.Handle]]:
    """The relocated module `errands`, which has made `FIRST` calls, and its handle."""
    sys.modules.pop("errands", None)
    handle = workers.enable(modules=["errands"], fallback=False, **config)
    try:
        errands = importlib.import_module("errands")
        errands.errand(0, 0.0)
        yield errands, handle
    finally:
        handle.disable()
        sys.modules.pop("errands", None)


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of all are not above; 0 without any."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0.0


def milliseconds(seconds: float) -> str:
    """For people."""
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _wait(threads: list[threading.Thread], progress: Callable[[], int]) -> None:
    """Until all threads have ended, or nothing has gone on for `HUNG` seconds."""
    seen, since = progress(), time.monotonic()
    while any(thread.is_alive() for thread in threads) and time.monotonic() - since < HUNG:
        next(thread for thread in threads if thread.is_alive() or thread is threads[-1]).join(0.5)
        if progress() != seen:
            seen, since = progress(), time.monotonic()
