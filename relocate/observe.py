"""Statistics: what was called, where it ran, what it moved.

A call counts once, however often it was tried.  It leaves a note, which is counted when somebody looks or
when there are many, mostly while a call is waited for.  Counting never breaks a call.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .config import outermost
from .difference import Difference
from .latency import Histogram, quantile


class Where(msgspec.Struct, frozen=True):
    """How many calls of a function ran on workers, and how many here."""

    remote: int
    local: int


class WorkerStatistics(msgspec.Struct, frozen=True):
    """What one executor's place did for this program.

    ``deaths`` are those that the supervisor told of; when a whole worker is lost, nobody tells.
    """

    calls: int
    deaths: int


class Latency(msgspec.Struct, frozen=True):
    """Seconds that half of a module's calls, and 99 of 100, took at most, waiting for a worker included."""

    p50: float
    p99: float


class Statistics(msgspec.Struct, frozen=True):
    """A record of what a handle did so far.

    ``calls = remote + local + failed = returned + raised + failed``; calls that are under way are not
    among them, those that were interrupted have failed.
    ``retried`` counts attempts beyond a call's first after that was lost, ``hedged`` those beside it,
    ``rerouted`` calls that ended elsewhere than where they were sent first; ``latencies`` has each
    module's; ``bytes_out`` and ``bytes_in`` what was sent to and received from executors.
    ``unrelocated`` has the designated modules of which the real one is used instead, each with the reason;
    calls of those are not counted.
    ``verified`` counts calls that ran here too and were compared, ``differing`` those of them whose
    outcome was not the same; ``differences`` has the first of each function.
    """

    calls: int
    remote: int
    local: int
    returned: int
    raised: int
    failed: int
    retried: int
    bytes_out: int
    bytes_in: int
    members: dict[str, Where]
    workers: dict[str, WorkerStatistics]
    verified: int = 0
    differing: int = 0
    differences: dict[str, Difference] = {}
    rerouted: int = 0
    hedged: int = 0
    latencies: dict[str, Latency] = {}
    unrelocated: dict[str, str] = {}


Note = tuple[str, str, str | None, int, int, int, bool, int, str, float]
"""One call, as `Counters.settled` is told of it: a tuple, as that is made in no time.

Its function's name; the outcome (returned, raised or failed; empty for what belongs to a call already counted); the
label of the executor's place, None if it ran here; bytes to executors, and from them; attempts beyond the first;
whether it ended elsewhere than where it was sent first; second attempts beside a first one that took long; its module,
if its latency is to be counted; seconds from the call to its outcome.
"""
MANY = 64
"""Notes that are better counted than kept."""
TOTALS = ("returned", "raised", "failed", "retried", "hedged", "rerouted", "bytes_out", "bytes_in")


class Counters:
    """The running counts behind `Statistics`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        """A signal's handler that makes calls may come while its thread has it."""
        self._counting = False
        """Whether notes are being counted by who has the lock."""
        self.notes: deque[Note] = deque()
        """Calls that are settled and not yet counted."""
        self.settled: Callable[[Note], None] = self.notes.append
        """Count one call: not at once, but when somebody looks, or `catch_up` is called, as there are `MANY`."""
        self._totals = dict.fromkeys(TOTALS, 0)
        self._latencies: dict[str, Histogram] = {}
        self._members: dict[str, list[int]] = {}
        self._calls: dict[str, int] = {}
        self._deaths: dict[str, int] = {}
        self._compared = {"verified": 0, "differing": 0}
        self._differences: dict[str, Difference] = {}
        self.unrelocated: dict[str, str] = {}
        """See `Statistics`."""

    def catch_up(self) -> None:
        """Count what has been settled, which is best done while an answer is waited for."""
        with self._lock:  # not tried first whether it is free: an interrupt just then would keep it
            self._count()

    def _count(self) -> None:
        """The same, with the lock held.  In a signal's handler that has interrupted it, that is left to it."""
        if self._counting:
            return
        self._counting = True
        try:
            self._count_notes()
        finally:
            self._counting = False

    def _count_notes(self) -> None:
        totals, notes = self._totals, self.notes
        while notes:
            name, outcome, seat, sent, received, retried, rerouted, hedged, module, seconds = notes.popleft()
            totals["bytes_out"] += sent
            totals["bytes_in"] += received
            if hedged:
                totals["hedged"] += hedged
            if retried:
                totals["retried"] += retried
                totals["rerouted"] += rerouted
            if not outcome:
                continue
            totals[outcome] += 1
            where = self._members.get(name)
            if where is None:
                where = self._members.setdefault(name, [0, 0])
            if outcome == "failed":
                continue
            if module:
                latency = self._latencies.get(module)
                if latency is None:
                    latency = self._latencies[module] = Histogram()
                latency.add(seconds)
            if seat is None:
                where[1] += 1
            else:
                where[0] += 1
                self._calls[seat] = self._calls.get(seat, 0) + 1

    def stayed(self, name: str, outcome: str) -> None:
        """Count a call that ran here without having been meant for a worker: as `settled`, in less time."""
        with self._lock:
            self._totals[outcome] += 1
            where = self._members.get(name)
            if where is None:
                where = self._members.setdefault(name, [0, 0])
            where[1] += 1

    def died(self, seat: str) -> None:
        """Count the death of the executor at ``seat``."""
        with self._lock:
            self._deaths[seat] = self._deaths.get(seat, 0) + 1

    def compared(self, name: str, difference: Difference | None) -> bool:
        """Count a call of ``name`` that ran here too; whether this is its function's first difference."""
        with self._lock:
            self._compared["verified"] += 1
            if difference is None:
                return False
            self._compared["differing"] += 1
            return self._differences.setdefault(name, difference) is difference

    def forked(self) -> None:
        """In a forked child: count from nothing, under a lock that nobody holds."""
        self.__init__()  # type: ignore[misc]

    def statistics(self) -> Statistics:
        """The record as of now."""
        with self._lock:
            self._count()
            members = list(self._members.values())  # to which such a handler may add
            remote = sum(w[0] for w in members)
            local = sum(w[1] for w in members)
            return Statistics(
                calls=remote + local + self._totals["failed"],
                remote=remote,
                local=local,
                members={name: Where(*w) for name, w in sorted(self._members.items())},
                workers={
                    seat: WorkerStatistics(self._calls.get(seat, 0), self._deaths.get(seat, 0))
                    for seat in self._seats()
                },
                differences=dict(sorted(self._differences.items())),
                unrelocated=dict(sorted(self.unrelocated.items())),
                latencies={
                    module: Latency(quantile(taken.counts, 0.5) or 0.0, quantile(taken.counts, 0.99) or 0.0)
                    for module, taken in sorted(self._latencies.items())
                },
                **self._totals,
                **self._compared,
            )

    def has(self, module: str) -> bool:
        """Whether calls of ``module`` have ended."""
        with self._lock:
            self._count()
            return module in self._latencies

    def sample(self) -> dict[str, Any]:
        """The counts as of now, of which two tell what happened between them (`relocate top`)."""
        with self._lock:
            self._count()
            return {
                **self._totals,
                "executors": {seat: [self._calls.get(seat, 0), self._deaths.get(seat, 0)] for seat in self._seats()},
                "modules": {
                    module: {str(index): count for index, count in enumerate(taken.counts) if count}
                    for module, taken in list(self._latencies.items())
                },
                "seconds": {module: taken.total for module, taken in list(self._latencies.items())},
            }

    def _seats(self) -> list[str]:
        return sorted({*self._calls, *self._deaths})


def summary(statistics: Statistics) -> str:
    """``statistics`` in one line."""
    seats = sum(1 for worker in statistics.workers.values() if worker.calls)
    where = f"{statistics.remote} on workers ({_count(seats, 'executor')}), {statistics.local} here"
    said = [f"{_count(statistics.calls, 'call')}: {where}"]
    if statistics.failed:
        said.append(f"{statistics.failed} failed")
    said.append(f"{statistics.retried} retried")
    said.append(f"{_bytes(statistics.bytes_out)} out, {_bytes(statistics.bytes_in)} in")
    if statistics.unrelocated:
        said.append(f"not relocated: {', '.join(outermost(statistics.unrelocated))}")
    return "; ".join(said)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.3g} GiB"


def write_report(statistics: Statistics, path: str) -> None:
    """Write ``statistics`` as JSON; a file that exists is replaced as a whole.  ``-`` is standard error.

    Raises:
        OSError: it cannot be written.
    """
    import json

    data: dict[str, Any] = msgspec.to_builtins(statistics)
    text = json.dumps(data, indent=2) + "\n"
    if path == "-":
        sys.stderr.write(text)
        return
    if os.path.exists(path) and not os.path.isfile(path):  # a device or a pipe: write to it, do not replace it
        Path(path).write_text(text, "utf-8")
        return
    target = Path(os.path.realpath(path))
    draft = Path(f"{target}.{os.getpid()}.part")
    draft.write_text(text, "utf-8")
    os.replace(draft, target)
