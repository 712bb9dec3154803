"""Here or there, call by call: what each costs is measured, and `cost.Estimate` weighs it.

A call that stays is timed and nothing else: it is not pickled, no lock is taken but that of the counters.
What a call costs there is the whole way, from here: arguments to bytes, the trip, the run, the result.  Of a
call that had to wait for an executor to start, or for a module to be imported there, nothing is learned.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from time import perf_counter
from types import ModuleType
from typing import Any

from .cost import NEVER, Costs, Estimate, size_of, thrift
from .errors import RelocateError
from .observe import Counters
from .target import Target

LOOK = 10.0
"""Seconds between two looks at the battery, if there is one."""


class Way:
    """One function: its local copy, and its estimates by size class."""

    __slots__ = ("function", "known", "name")

    def __init__(self, name: str, function: Callable[..., Any] | None) -> None:
        self.name = name
        self.function = function
        self.known: dict[int, Estimate] = {}


class Placement:
    """Runs calls where they cost least.

    Args:
        real: gives the real module of a designated one.
        there: runs a call on a worker.
        counters: get the calls that ran here; those that did not are counted there.
        slowness: of the fastest worker, in units of this machine, as far as its capabilities tell.
        battery: how full it is, and whether this machine runs on it, see `cost.thrift`.
        always: run every call here that has a local copy.
    """

    def __init__(
        self,
        real: Callable[[str, str], ModuleType],
        there: Callable[[Target, tuple[Any, ...], dict[str, Any]], Any],
        counters: Counters,
        *,
        slowness: Callable[[], float] = lambda: 1.0,
        battery: Callable[[], tuple[float, bool] | None] = lambda: None,
        always: bool = False,
    ) -> None:
        self.costs = Costs()
        self._real = real
        self._there = there
        self._counters = counters
        self._slowness = slowness
        self._battery = battery
        self._look_at = 0.0
        """When to look at the battery again, by `perf_counter`."""
        self._always = always
        self._ways: dict[Target, Way] = {}
        self._delayed: set[int] = set()
        """The threads whose call took longer there than it would again."""

    def call(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run ``target(*args, **kwargs)``.

        Raises:
            BaseException: whatever the function raises, or what running it there does.
        """
        way = self._ways.get(target) or self._way(target)
        size = size_of(args, kwargs)
        estimate = way.known.get(size.bit_length())
        if estimate is None:
            estimate = way.known[size.bit_length()] = self.costs.of(way.name, size)
        if way.function is None or not (estimate.here or self._always):
            return self._timed(target, args, kwargs, estimate)
        began = perf_counter()
        if began >= self._look_at:
            self._look(began)
        try:
            value = way.function(*args, **kwargs)
        except BaseException:
            self._counters.stayed(way.name, "raised")
            raise
        estimate.ran_here(perf_counter() - began, self.costs.route)
        self._counters.stayed(way.name, "returned")
        return value

    def _timed(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], estimate: Estimate) -> Any:
        began = perf_counter()
        if began >= self._look_at:
            self._look(began)
        try:
            value = self._there(target, args, kwargs)
        except RelocateError:
            self._delayed.discard(get_ident())
            raise
        except BaseException:
            self._ran_there(perf_counter() - began, estimate)
            raise
        self._ran_there(perf_counter() - began, estimate)
        return value

    def _ran_there(self, seconds: float, estimate: Estimate) -> None:
        if self._delayed and (thread := get_ident()) in self._delayed:
            self._delayed.discard(thread)
        else:
            estimate.ran_there(seconds, self.costs.route, estimate.size)

    def delayed(self) -> None:
        """This thread's call waited for an executor to start, or for a module's import there: no other will."""
        self._delayed.add(get_ident())

    def _look(self, now: float) -> None:
        battery = self._battery()
        self.costs.route.thrift = thrift(battery)
        self._look_at = now + LOOK if battery is not None else NEVER

    def _way(self, target: Target) -> Way:
        function: Any = None
        if self._always or not (target.awaits or target.generates):
            try:
                function = target.local(self._real)
            except (ImportError, AttributeError):
                function = None  # it is only on the workers
        self.costs.route.slowness = self._slowness()
        way = self._ways[target] = Way(target.name, function)
        return way

    def forget(self) -> None:
        """Modules were loaded anew: so are their functions."""
        self._ways = {}
