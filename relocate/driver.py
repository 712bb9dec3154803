"""A call from its arguments to its outcome: resolve, decide, send, settle; move on when unknown.

Three outcomes, never two.  *Returned* and *raised* end the call.  *Unknown* (the executor died, the
link was lost) is decided again with what was learned: pure calls may run twice.

The calling thread does all of it.  Where a call goes, and when, `seating` says; its attempts are a `Trip`.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import (
    ambient,
    deadlines,
    events,
    interface,
    lending,
    output,
    policy,
    raising,
    restoring,
    streaming,
    values,
    wire,
)
from .chance import draw
from .cost import Costs
from .difference import Raised
from .errors import ArgumentError, DeadlineExceeded, ModuleUnavailable, NoWorkerLeft, RelocateError
from .namespace import Namespace, Snapshot
from .observe import Counters
from .places import Local
from .seating import LONG, Seating, Turn
from .shortcut import Attempt, Shortcut
from .target import Target
from .trip import UNFIT, Outside, Trip
from .verify import Verifier

if TYPE_CHECKING:
    from .places import Seat
    from .tracing import Tracing

STALE_TRIES = 3


class Driver(Seating):
    """Runs calls for one handle.

    What most programs do not have is an attribute of the class: of an instance with 30 attributes of its own, or
    more, CPython looks up each one, and each method, in a slower way.
    """

    verifier: Verifier | None = None
    tracing: Tracing | None = None
    limits: deadlines.Limits | None = None
    deadline: Callable[[], float] = staticmethod(deadlines.current)
    """Of what this thread does, by the clock."""

    def __init__(
        self,
        namespace: Namespace,
        counters: Counters,
        real: Callable[[str, str], ModuleType],
        refresh: Callable[[str], None],
        *,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = draw,
        turn: Turn | None = None,
    ) -> None:
        super().__init__(namespace, turn, clock, chance)
        self.counters = counters
        self.make: Callable[..., Any] = self._call
        """Makes one call, or fetches one piece of what a generator yields."""
        self.inside: Callable[[bool], bool] = bool
        """Told whether what this thread does is relocate's own work."""
        self.missed: Callable[[str, str], object] = lambda name, why: None
        """Told of a function that ran here because no worker could run it, and why none could."""
        self.unused: Callable[[str, str, str], object] = lambda worker, module, why: None
        """Told of a worker that is not used for a module, as it lacks the version that others have, and why."""
        self._describing = threading.Lock()
        self._real = real
        self._refresh = refresh
        self.patience = patience
        self.gpu: Collection[str] = frozenset()
        """The modules that compute on a GPU where there is one."""
        self.costs = Costs()
        self.numbers = _ids()

    def call(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run ``target(*args, **kwargs)`` where the name space and the policy say.

        Raises:
            BaseException: whatever the function raises.
            ArgumentError: an argument or the result cannot travel, and it may not run here.
            CrashingCall: the call ended every executor it ran on; `OutOfMemory` if it was for want of memory.
            DeadlineExceeded: it did not end in time.
            NoWorkerLeft: nobody could run it within the patience.
            Overloaded: too many calls wait already.
        """
        if target.special:
            return self._call_special(target, args, kwargs)
        if not target.shortcuts:
            return self.make(target, args, kwargs)
        try:
            shortcut = target.shortcuts.pop()
        except IndexError:  # another thread has taken the last one
            shortcut = None
        return self.make(target, args, kwargs) if shortcut is None else shortcut.call(args, kwargs)

    def _call_special(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target.stays:
            return self._here(target, args, kwargs)
        if target.awaits:
            return self._later(target, args, kwargs)
        return streaming.generated(Calling(self, target, args, kwargs))

    def _later(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same for coroutine functions and asynchronous generator functions, if asyncio waits for them."""
        asyncio = sys.modules.get("asyncio")
        if asyncio is None or asyncio._get_running_loop() is None:
            return self._here(target, args, kwargs)
        sent = None
        with suppress(ArgumentError):
            sent = restoring.Sent(args, kwargs)
        if sent is None:
            return self.make(target, args, kwargs)  # which says so, or runs here
        calling = Calling(self, target, args, kwargs)
        return (streaming.generated_async if target.generates else streaming.awaited)(calling, sent)

    def _call(
        self,
        target: Target,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        stream: tuple[int, int] | None = None,
        sent: restoring.Sent | None = None,
        calling: Calling | None = None,
        begun: Attempt | None = None,
    ) -> Any:
        trip = Trip(self, target.name, target.described.name, target.path)
        if begun is not None:
            trip.began = begun.began
        if calling is not None:
            trip.course, trip.ordinary = calling, False
            trip.piece = stream is not None and stream[0] > 0
        trip.deadline = self.deadline()
        if self.limits is not None and (limit := self.limits.seconds(trip.name)) < policy.NEVER:
            trip.deadline = min(trip.deadline, self.clock() + limit)
        try:
            sent = sent or restoring.Sent(args, kwargs)
        except ArgumentError as error:
            if not self._may_run_here(target):
                trip.settle("failed", None)
                raise ArgumentError(f"{target.name}: {error}") from raising.programs(error.__cause__)
        if sent is None:  # not where that is handled: it would be the context of what the function raises
            return self._here(target, args, kwargs, trip)
        if sent.lent:
            trip.lent = sent.lent
        if calling is not None:
            calling.trip = trip
            trip.cancelled = calling.cancelled
        twin = self.verifier.twin(target, sent.segments, trip.lent) if self.verifier and calling is None else None
        described = target.described
        carried = None if self.tracing is None else self.tracing.carried(target.name)
        pools, snapshot = self.pools_of, self.namespace.snapshot
        request = None if begun is None else begun.request
        for _ in range(STALE_TRIES):
            if request is None:
                state = ambient.capture(carried)
                request = wire.Call(next(self.numbers), described.name, target.member, described.digest, state, stream)
            digest = request.digest
            try:
                answer = trip.make(request, sent.segments, begun)
            except BaseException:  # Ctrl-C, too
                trip.settle("failed", None)
                raise
            if answer is None:
                return self._here(target, args, kwargs, trip)
            reply, result, seat = answer
            unread: Exception | None = None
            if type(reply) is wire.Rejected:
                code, why = reply.code, reply.text
                if code != "generator" and code not in UNFIT:  # of those the trip has told
                    events.emit("call rejected", function=target.name, executor=seat, code=code, reason=why)
            elif sent.lent and sent.lent.unfit:
                code, why = "arguments", "what a generator or function of the program gives cannot travel"
            else:
                try:
                    value, restore = sent.accept(result) if reply.refers else (values.loads(result), None)
                    if type(reply) is wire.Raised:
                        value = trip.own(raising.rebuild(value, seat))
                except restoring.Unrestorable as error:
                    code, why = "result", str(error)
                except Exception as error:
                    code, why, unread = "result", "", error
                else:
                    raised = value if type(reply) is wire.Raised else None
                    try:
                        if restore is not None:
                            trip.lent.here(restore)
                        if reply.ambient:
                            ambient.restore(reply.ambient)
                        if reply.output:
                            trip.show(reply.output, reply.said)
                    except BaseException:  # a warning that is an error here
                        trip.settle("raised", seat)
                        raise
                    trip.settle("returned" if raised is None else "raised", seat)
                    if twin is not None:
                        twin.compare(value if raised is None else Raised(raised), seat, args, kwargs)
                    if raised is not None:
                        try:
                            raise raised
                        finally:
                            del raised, value  # what goes round would keep the arguments
                    short = trip.short
                    if (
                        short is not None
                        and not short.outstanding
                        and not target.special
                        and trip.deadline == policy.NEVER
                        and trip.hedge_after < LONG
                        and not (sent.lent or reply.refers or reply.ambient or reply.output)
                        and self._is_ordinary
                    ):
                        target.shortcuts.append(Shortcut(self, target, short, pools, snapshot, trip))
                    if stream is None:
                        return value
                    items, ended, end = value
                    return streaming.Piece(items, ended, end, sent)
            if unread is not None:
                try:
                    return self.unread(target, args, kwargs, trip, unread)
                finally:
                    del unread  # what goes round would keep the arguments
            if code == "late":
                trip.settle("failed", None)
                raise DeadlineExceeded(f"{target.name} on {seat}: {why}")
            if code == "arguments" and values.carry(why):
                return self._call(target, args, kwargs, stream, None, calling)
            if code == "generator":
                return streaming.generated(Calling(self, target, args, kwargs), sent)
            if code == "stale" and target.own is None:  # an own object is of the version here
                # Described anew; if it is still not the same there, the local copy is this version.
                try:
                    with self._describing:
                        if target.described.digest == digest:  # else another thread has seen to it
                            self._refresh(described.name)
                except RelocateError as error:
                    if not self._may_run_here(target):
                        trip.settle("failed", None)
                        raise
                    why = str(error)
                described = target.described
                if described.digest != digest:
                    request = begun = None
                    continue
            if self._may_run_here(target):
                if code in UNFIT:
                    self.missed(target.name, why)
                return self._here(target, args, kwargs, trip)
            trip.settle("failed", None)
            kind = ModuleUnavailable if code in ("module", "stale") else ArgumentError
            raise kind(f"{target.name} could not run on {seat}: {why}")
        trip.settle("failed", None)
        raise ModuleUnavailable(f"the workers offer different versions of {described.name!r}; bring them to one")

    @property
    def _is_ordinary(self) -> bool:
        """Whether there is nobody but the usual policy to ask about a call, and to tell of it."""
        return self.policy is policy.decide and self.limits is None and self.verifier is None and self.tracing is None

    def passed(self, target: Target, seat: Seat, ended: float, seconds: float, size: int) -> None:
        """Note what a call took that has taken a shortcut.

        Args:
            target: the function.
            seat: that has run it, and nothing else meanwhile.
            ended: when it did; by the driver's clock.
            seconds: that it took there and back.
            size: bytes of the request.
        """
        there = self.costs.of(target.name, size).there
        self.ran(1, seconds)
        if seat.answered_at == ended and not seat.suspect:  # else something later has told how the seat is
            now = self.clock()
            seat.timed(seconds)
            if seat.took(now, seconds, there.median, there.p95):
                trip = self.ended(target, now, size, 0)
                trip.version = target.described.name, target.described.digest
                with self.turn.lock:
                    self._eject(trip, seat, now)
        there.add(seconds)

    def ended(self, target: Target, began: float, sent: int, received: int) -> Trip:
        """The trip of a call that has taken the shortcut.

        Args:
            target: the function.
            began: when; by the driver's clock.
            sent: bytes.
            received: bytes.
        """
        trip = Trip(self, target.name, target.described.name, target.path)
        trip.began, trip.attempts, trip.sent, trip.received = began, 1, sent, received
        return trip

    def unread(
        self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], trip: Trip, error: Exception
    ) -> Any:
        """Run a call here whose result cannot be read here, if it may.

        Raises:
            ArgumentError: it may not.
        """
        if self._may_run_here(target):
            return self._here(target, args, kwargs, trip)
        trip.settle("failed", None)
        try:
            raise ArgumentError(f"the result of {target.name} cannot be read here: {error}") from error
        finally:
            del error

    def describe(self, module: str, timeout: float, *, local: bool = False) -> bytes:
        """The encoded interface of ``module``, from whichever place offers it.

        Args:
            module: its name.
            timeout: seconds to wait while nobody is there.
            local: whether the module can be loaded here instead, so that nobody who is down is waited for.

        Raises:
            ModuleUnavailable: nobody has it.
            NoWorkerLeft: nobody answered in time.
        """
        trip = Trip(self, module, module, ("chan", *module.split(".")))
        trip.patience, trip.here = timeout, local
        answer = trip.make(wire.Describe(next(self.numbers), module), ())
        if answer is None:
            raise NoWorkerLeft(f"{module}: {self._left(trip.path)}")
        reply, result, seat = answer
        if isinstance(reply, wire.Returned):
            data = bytes(result[0])
            if interface.uses_gpu(data):  # who has described it has not run it, and may have no GPU
                for place in self.places.values():
                    for each in place.seats:
                        each.modules.discard(module)
            return data
        text = reply.text if isinstance(reply, wire.Rejected) else "it answered something else"
        if "No module named" in text and not seat.startswith("embedded/"):
            text += "; install it there, or set PYTHONPATH of the worker"
        raise ModuleUnavailable(f"{seat} cannot describe {module!r}: {text}", name=module)

    def _may_run_here(self, target: Target) -> bool:
        return any(isinstance(place, Local) for rank in self.ranks(target.path) for place in rank)

    def _here(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], trip: Trip | None = None) -> Any:
        """Run the local copy."""
        trip = trip or Trip(self, target.name, target.module, target.path)
        try:
            function = self._local(target)
        except (ImportError, AttributeError):
            trip.settle("failed", None)
            why = self.troubles(target.path, (target.module, target.described.digest))
            raise NoWorkerLeft(f"{target.name}: {why}; and there is no local copy") from None
        try:
            args, kwargs = _again(target.name, args, kwargs, trip.lent)
        except ArgumentError:
            trip.settle("failed", None)
            raise
        try:
            value = output.on_behalf(function, *args, **kwargs)
        except BaseException:
            trip.settle("raised", None)
            raise
        trip.settle("returned", None)
        return value

    def _local(self, target: Target) -> Any:
        """The local copy's function."""
        return target.local(self._real)

    def forked(self) -> None:
        """In a forked child: leave the links and the lock behind, and forget what was worked out from them."""
        super().forked()
        self._describing = threading.Lock()
        self.numbers = _ids()

    def trace(self, tracing: Tracing) -> None:
        """Make a span of each call."""
        self.tracing = tracing
        self.make = tracing.around(self._call)

    def programs_code(self) -> Outside:
        """The context in which a lent generator runs."""
        return Outside(self.lending, self.inside)

    def fell_back(self, trip: Trip) -> None:
        """Tell of a call that runs here, unless here is where its name leads first."""
        ranks = self.ranks(trip.path)
        bound_here = ranks and any(place.local and place is not self._spare for place in ranks[0])
        if self.links is not None and not trip.nested and not bound_here:
            self.missed(trip.name, self._left(trip.path, trip.version))


def _ids() -> Iterator[bytes]:
    """The ids of calls, one after the other, after a start that nobody else has."""
    return map(int.to_bytes, itertools.count(int.from_bytes(os.urandom(8)) << 64 | 1), itertools.repeat(16))


class Calling:
    """One call; see `streaming.Calling`."""

    def __init__(self, driver: Driver, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._driver = driver
        self._target = target
        self._args = args
        self._kwargs = kwargs
        self.trip: Trip | None = None
        self.cancelled = False
        self.since: Snapshot | None = None
        """What names led to when its first piece was sent: the others go there, too."""

    def run(self, stream: tuple[int, int] | None, sent: restoring.Sent | None) -> Any:
        inside = self._driver.inside
        before = inside(True)
        try:
            return self._driver.make(self._target, self._args, self._kwargs, stream, sent, self)
        finally:
            inside(before)
            self.trip = None  # which knows this call: what goes round would keep the arguments

    def go_on(self, sent: restoring.Sent) -> Any:
        driver, target = self._driver, self._target
        if not driver._may_run_here(target):
            raise ArgumentError(f"{target.name}: nothing can be sent to a generator that runs on a worker")
        args, kwargs = _again(target.name, self._args, self._kwargs, sent.lent)
        return driver._local(target)(*args, **kwargs)

    def cancel(self) -> None:
        self.cancelled = True
        if self.trip is not None:
            self.trip.cancel()


def _again(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], lent: lending.Loans
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments for a run here, after a try elsewhere that may have used generators and functions among them.

    Raises:
        ArgumentError: one of those is a part of an argument.
    """
    used = lent.replaying(lambda asked: lending.digest(restoring.Sent(*asked, lends=False).segments))
    if not used:
        return args, kwargs
    if not used.keys() <= {id(value) for value in (*args, *kwargs.values())}:
        raise ArgumentError(
            f"{name} cannot run here: a worker has used a generator or called a function that is inside an argument"
        )

    def whole(value: Any) -> Any:
        return used.get(id(value), value)

    return tuple(map(whole, args)), {key: whole(value) for key, value in kwargs.items()}
