"""A call from its arguments to its outcome: resolve, decide, send, settle; move on when unknown.

Three outcomes, never two.  *Returned* and *raised* end the call.  *Unknown* (the executor died, the
link was lost) is decided again with what was learned: pure calls may run twice.

The calling thread does all of it.  One lock guards the seats' counters and is held for
microseconds; threads that find all seats full wait on it, in the order in which they came.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import (
    ambient,
    budget,
    channel,
    deadlines,
    events,
    health,
    interface,
    lending,
    policy,
    raising,
    restoring,
    streaming,
    wire,
)
from .cost import Costs, Estimate
from .difference import Raised
from .errors import (
    ArgumentError,
    DeadlineExceeded,
    ModuleUnavailable,
    NoWorkerLeft,
    Overloaded,
    PolicyError,
    RelocateError,
)
from .links import Links
from .namespace import Namespace, Snapshot
from .observe import Counters
from .places import Link, Local, Part, Seat, room, trouble
from .policies import Policy
from .proxy import Target
from .trip import UNFIT, Outside, Trip
from .verify import Verifier

Answered = wire.Returned | wire.Raised | wire.Rejected
SHORT = 0.001
"""Seconds: of calls that seldom take more only some are looked at, as that costs a part of them."""
EACH = 7
"""Of those, each eighth of a seat."""
if TYPE_CHECKING:
    from .tracing import Tracing

STALE_TRIES = 3
AGAIN = 5.0
"""Seconds after which a module that could not be imported is asked for again: what was down may be back."""
SHARE = 10
"""And so many times what the vain try took, so that those are a small part of all time."""


class Turn(threading.Condition):
    """The driver's lock, and what is waited for under it."""

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


class Driver:
    """Runs calls for one handle."""

    def __init__(
        self,
        namespace: Namespace,
        counters: Counters,
        real: Callable[[str, str], ModuleType],
        refresh: Callable[[str], None],
        *,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        turn: Turn | None = None,
    ) -> None:
        self.namespace = namespace
        self.counters = counters
        self.turn = turn or Turn()
        self._line: list[Waiting] = []
        self.places: dict[str, Link | Local] = {"local": Local()}
        self.fallback = False
        """Whether the local copy is everybody's last spare, bound or not."""
        self._spare = Local()
        self.links: Links | None = None
        self.verifier: Verifier | None = None
        self.tracing: Tracing | None = None
        self.make: Callable[..., Any] = self._call
        """Makes one call, or fetches one piece of what a generator yields."""
        self.lending: list[int] = []
        """The threads, by their ids, in which a generator that was lent to a call is asked for items now."""
        self.inside: Callable[[bool], bool] = bool
        """Told whether what this thread does is relocate's own work."""
        self.missed: Callable[[str, str], object] = lambda name, why: None
        """Told of a function that ran here because no worker could run it, and why none could."""
        self.unused: Callable[[str, str, str], object] = lambda worker, module, why: None
        """Told of a worker that is not used for a module, as it lacks the version that others have, and why."""
        self._describing = threading.Lock()
        self.delayed: Callable[[], object] = lambda: None
        """Told, by its thread, of a call that had to wait for its executor to start or to import its module."""
        self._real = real
        self._refresh = refresh
        self.patience = patience
        self.clock = clock
        self._chance = chance
        self.deadline: Callable[[], float] = deadlines.current
        """Of what this thread does, by the clock."""
        self.policy: Policy = policy.decide
        self.limits: deadlines.Limits | None = None
        self.gpu: Collection[str] = frozenset()
        """The modules that compute on a GPU where there is one."""
        self.queue = -1
        """Calls that may wait for each executor; -1: all."""
        self.costs = Costs()
        self._retries = budget.retries()
        self._hedges = budget.Hedges()
        self._ranks: tuple[Snapshot | None, dict[Any, list[list[Link | Local]]]] = (None, {})
        self._pools: dict[Any, policy.Pool] = {}
        """Of places that share a rank."""
        self._pools_of: dict[tuple[tuple[str, ...], bool, tuple[str, bytes]], list[policy.Pool]] = {}
        self._large: list[policy.Pool] = []
        self._failing: list[tuple[float, Seat, tuple[str, bytes], wire.Rejected]] = []
        """What could not be imported where, and when it is asked for again."""
        self._ask_again = policy.NEVER
        """The first of those times."""
        self._prefix = os.urandom(8)
        self._numbers = itertools.count(1)

    # Calls -----------------------------------------------------------------------------------------

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
        if target.stays:
            return self._here(target, args, kwargs)
        if target.awaits:
            return self._later(target, args, kwargs)
        if target.generates:
            return streaming.generated(Calling(self, target, args, kwargs))
        return self.make(target, args, kwargs)

    def _later(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same for coroutine functions and asynchronous generator functions, if asyncio waits for them."""
        try:
            sys.modules["asyncio"].get_running_loop()
        except (KeyError, RuntimeError):
            return self._here(target, args, kwargs)
        try:
            sent = restoring.Sent(args, kwargs)
        except ArgumentError:
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
    ) -> Any:
        trip = Trip(self, target.name, target.module, target.path)
        if calling is not None:
            trip.course, trip.ordinary = calling, False
            trip.piece = stream is not None and stream[0] > 0
        trip.deadline = self.deadline()
        if self.limits is not None and (limit := self.limits.seconds(trip.name)) < policy.NEVER:
            trip.deadline = min(trip.deadline, self.clock() + limit)
        try:
            sent = sent or restoring.Sent(args, kwargs)
        except ArgumentError as error:
            if self._may_run_here(target):
                return self._here(target, args, kwargs, trip)
            trip.settle("failed", None)
            raise ArgumentError(f"{target.name}: {error}") from raising.programs(error.__cause__)
        if sent.lent:
            trip.lent = sent.lent
        if calling is not None:
            calling.trip = trip
            trip.cancelled = calling.cancelled
        twin = self.verifier.twin(target, sent.segments, trip.lent) if self.verifier and calling is None else None
        described = target.described
        carried = None if self.tracing is None else self.tracing.carried(target.name)
        for _ in range(STALE_TRIES):
            digest = described.digest
            request = wire.Call(
                self._next_id(), described.name, target.member, digest, ambient.capture(carried), stream
            )
            try:
                answer = trip.make(request, sent.segments)
            except RelocateError:
                trip.settle("failed", None)
                raise
            if answer is None:
                return self._here(target, args, kwargs, trip)
            reply, result, seat = answer
            if isinstance(reply, wire.Rejected):
                code, why = reply.code, reply.text
                if code != "generator" and code not in UNFIT:  # of those the trip has told
                    events.emit("call rejected", function=target.name, executor=seat, code=code, reason=why)
            elif sent.lent and sent.lent.unfit:
                code, why = "arguments", "what a generator or function of the program gives cannot travel"
            else:
                try:
                    value, restore = sent.accept(result) if reply.refers else (wire.loads(result), None)
                    if isinstance(reply, wire.Raised):
                        value = trip.own(raising.rebuild(value, seat))
                except restoring.Unrestorable as error:
                    code, why = "result", str(error)
                except Exception as error:
                    trip.settle("failed", None)
                    raise ArgumentError(f"the result of {target.name} cannot be read here: {error}") from error
                else:
                    raised = value if isinstance(reply, wire.Raised) else None
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
                        raise raised
                    if stream is None:
                        return value
                    items, ended, end = value
                    return streaming.Piece(items, ended, end, sent)
            if code == "late":
                trip.settle("failed", None)
                raise DeadlineExceeded(f"{target.name} on {seat}: {why}")
            if code == "arguments" and wire.carry(why):
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
        answer = trip.make(wire.Describe(self._next_id(), module), ())
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

    def _next_id(self) -> bytes:
        return self._prefix + next(self._numbers).to_bytes(8, "big")

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
            value = function(*args, **kwargs)
        except BaseException:
            trip.settle("raised", None)
            raise
        trip.settle("returned", None)
        return value

    def _local(self, target: Target) -> Any:
        """The local copy's function."""
        return target.local(self._real)

    # Places ----------------------------------------------------------------------------------------

    def ranks(self, path: tuple[str, ...]) -> list[list[Link | Local]]:
        """The places that ``path`` leads to now, best rank first."""
        snapshot, memo = self._ranks
        if snapshot is not self.namespace.snapshot:
            snapshot, memo = self._ranks = self.namespace.snapshot, {}
            self._pools_of = {}
        found = memo.get(path)
        if found is None:
            assert snapshot is not None
            found = memo[path] = self._ranked(snapshot, path)
        return found

    def pools(self, trip: Trip, here: bool) -> list[policy.Pool]:
        """The same, as the policy wants them, with or without the local copy; called with the lock held."""
        key = (trip.path, here, trip.version)
        if self._ranks[0] is self.namespace.snapshot and (found := self._pools_of.get(key)) is not None:
            return found
        ranks = _usable(self.ranks(trip.path), here, trip.version)
        made = self._pools_of[key] = [self._pool(tuple(rank)) for rank in ranks]
        return made

    def _pool(self, places: tuple[Link | Local | Part, ...]) -> policy.Pool:
        pool = self._pools.get(places)
        if pool is None:
            pool = self._pools[places] = policy.Pool(places)
            if pool.large:
                self._large.append(pool)
        return pool

    def _forget_pools(self) -> None:
        self._pools, self._pools_of, self._large = {}, {}, []

    def _ranked(self, snapshot: Snapshot, path: tuple[str, ...]) -> list[list[Link | Local]]:
        by_rank: dict[int, list[Link | Local]] = {}
        for aim in snapshot.resolve(path):
            if aim.place in self.places:
                by_rank.setdefault(aim.rank, []).append(self.places[aim.place])
        ranks = [by_rank[rank] for rank in sorted(by_rank)]
        if self.fallback and not any(place.local for rank in ranks for place in rank):
            ranks.append([self._spare])
        return ranks

    def forked(self) -> None:
        """In a forked child: leave the links and the lock behind, and forget what was worked out from them."""
        self.links = None
        self.turn = Turn()
        self._describing = threading.Lock()
        self._ranks = (None, {})
        self._forget_pools()
        self._line = []
        self._prefix = os.urandom(8)

    def detach(self) -> Links | None:
        """Part with the links, and wake whoever waits for a seat: nobody will be given one any more."""
        with self.turn.lock:
            links, self.links = self.links, None
            for waiting in self._line:
                waiting.bell.notify_all()
            self.turn.notify_all()
        return links

    def trace(self, tracing: Tracing) -> None:
        """Make a span of each call."""
        self.tracing = tracing
        self.make = tracing.around(self._call)

    def waiting(self) -> int:
        """How many calls stand in line for an executor."""
        return len(self._line)

    def programs_code(self) -> Outside:
        """The context in which a lent generator runs."""
        return Outside(self.lending, self.inside)

    def place(self, links: dict[str, Link | Local], gone: Iterable[str] = ()) -> None:
        """Let names lead to these places and no more to those of ``gone``; decide anew for who waits in line."""
        with self.turn.lock:
            self.places.update(links)
            for name in gone:
                self.places.pop(name, None)
            self._ranks = (None, {})
            self._forget_pools()
            self.places_changed()

    def fell_back(self, trip: Trip) -> None:
        """Tell of a call that runs here, unless here is where its name leads first."""
        ranks = self.ranks(trip.path)
        bound_here = ranks and any(place.local and place is not self._spare for place in ranks[0])
        if self.links is not None and not trip.nested and not bound_here:
            self.missed(trip.name, self._left(trip.path, trip.version))

    def troubles(self, path: tuple[str, ...], version: tuple[str, bytes] = ("", b"")) -> str:
        """Why none of the places of ``path`` can run a call, of that version of a module if it is named."""
        said = [trouble(place, version) for rank in self.ranks(path) for place in rank if not place.local]
        return "; ".join(said) or f"nothing is bound at /{'/'.join(path)}"

    def _left(self, path: tuple[str, ...], version: tuple[str, bytes] = ("", b"")) -> str:
        """The same of places among which the policy has chosen: it may have left none of those that are up."""
        places = [place for rank in self.ranks(path) for place in rank if not place.local]
        if self.policy is not policy.decide and any(place.error is None and place.state != "down" for place in places):
            return f"the policy leaves none of {', '.join(place.name for place in places)}"
        return self.troubles(path, version)

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
                        self._line.append(waiting)
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
                        self._changed(waiting.seat)
                        self._serve()

    def awake(self, trip: Trip) -> None:
        """Let a call that may wait in the line look whether it still should."""
        with self.turn.lock:
            for waiting in self._line:
                if waiting.trip is trip:
                    waiting.bell.notify()

    def _decide(self, trip: Trip, now: float) -> policy.Decision:
        if now >= self._ask_again and not trip.attempts:
            self._forgive(now)
        if trip.ordinary:
            decision = self._ask(trip, self.pools(trip, trip.here), now)
            if type(decision) is policy.Run or not self.lending:
                return decision
        decision = self._choose(trip, now, idle=trip.nested)
        if type(decision) is policy.Wait and decision.hopeful and self.lending and not trip.nested:
            busy = sum(seat.outstanding for rank in self.ranks(trip.path) for place in rank for seat in place.seats)
            if len(self.lending) >= busy:  # all that run wait for the program, which may be waiting for this call
                other = self._choose(trip, now, idle=True)
                decision = other if type(other) is policy.RunHere else decision
        if trip.course is not None and not trip.piece and type(decision) is policy.Run:
            trip.course.since = self.namespace.snapshot
        return decision

    def _choose(self, trip: Trip, now: float, *, idle: bool) -> policy.Decision:
        """What the policy says; with ``idle`` of executors that do nothing else."""
        path = trip.path
        course = trip.course if trip.piece else None
        since = None if course is None else course.since
        if since is not None:
            aims = since.resolve(path)
            if not aims or aims[0].place not in self.places:  # it was unmounted
                since = None
        if trip.starved is None and not idle and since is None:
            return self._ask(trip, self.pools(trip, trip.here), now)
        ranks: list[list[Any]]
        if trip.starved is not None:
            ranks = [self._roomiest(trip, trip.starved)]
        else:
            ranks = self.ranks(path) if since is None else self._ranked(since, path)
        ranks = _usable(ranks, trip.here, trip.version)
        if idle:
            ranks = [[Part(place, lambda seat: not seat.outstanding) for place in rank] for rank in ranks]
        return self._ask(trip, [policy.Pool(rank) for rank in ranks], now)

    def _ask(self, trip: Trip, pools: list[policy.Pool], now: float) -> policy.Decision:
        try:
            decision = self.policy(trip, pools, now, self._chance(), self._retries)
        except Exception as error:
            raise PolicyError(f"{trip.name}: the policy failed: {type(error).__name__}: {error}") from error
        if type(decision) not in policy.DECISIONS:
            raise PolicyError(f"{trip.name}: the policy gave {decision!r}, which is no decision")
        return decision

    def _roomiest(self, trip: Trip, starved: Link) -> list[Link]:
        """The workers with the most memory, for a call that had too little on that one; itself if they have less."""
        links = [place for rank in self.ranks(trip.path) for place in rank if isinstance(place, Link)]
        fit = [link for link in links if any(trip.version not in seat.unfit for seat in link.seats)]
        rooms = [(room(link), link) for link in fit if link is not starved]
        most = max([size for size, _ in rooms], default=0)
        return [link for size, link in rooms if size == most] if most >= room(starved) else [starved]

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

    def refused(self, trip: Trip, seat: Seat, reply: wire.Rejected, sent: float) -> None:
        """Note that a seat has not the version of the module that a call, sent then, is of: for that it is not there.

        It may have it later if it could not import it, so that then it is asked again.
        """
        events.emit("call rejected", function=trip.name, executor=seat.label, code=reply.code, reason=reply.text)
        with self.turn.lock:
            seat.unfit[trip.version] = reply
            if reply.code == "module":
                now = self.clock()
                again = now + max(AGAIN, SHARE * (now - sent))
                self._failing.append((again, seat, trip.version, reply))
                self._ask_again = min(self._ask_again, again)
            self._pools_of = {}
            for waiting in self._line:
                waiting.bell.notify()

    def _forgive(self, now: float) -> None:
        """Let modules that could not be imported be asked for again, if it is time; called with the lock held."""
        for again, seat, version, reply in self._failing:
            if again <= now and seat.unfit.get(version) is reply:
                del seat.unfit[version]
        self._failing = [each for each in self._failing if each[0] > now]
        self._ask_again = min([each[0] for each in self._failing], default=policy.NEVER)
        self._forget_pools()

    def _refusal(self, trip: Trip) -> tuple[wire.Rejected, str] | None:
        """What an executor said, and its label, if each that is there, or starts, has refused such a call.

        Not of a call whose name leads here first, nor if another worker, that is down, may have the module.
        """
        ranks = self.ranks(trip.path)
        if not ranks or any(place.local for place in ranks[0]):
            return None
        if any(pool.seats or pool.starting for pool in self.pools(trip, False)):
            return None
        places = [place for rank in ranks for place in rank]
        seats = [seat for place in places for seat in place.seats if trip.version in seat.unfit]
        if not seats:
            return None
        said = min(seats, key=lambda seat: seat.unfit[trip.version].code != "stale")
        reply = said.unfit[trip.version]
        if not trip.version[1]:  # a description: who imports the module again asks again
            for seat in seats:
                del seat.unfit[trip.version]
            self._pools_of = {}
        elif reply.code == "module" and any(place.state == "down" for place in places):
            return None
        return reply, said.label

    def release(self, seat: Seat, kept: channel.Channel | None, failed: bool, holder: Trip | None = None) -> None:
        """Give a seat back, with the channel if it can be used again."""
        with self.turn.lock:
            if holder is not None and seat is holder.spare:
                holder.spare = None
            elif holder is not None:
                holder.seat = None
            seat.outstanding -= 1
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

    def _changed(self, seat: Seat) -> None:
        """Another number of calls is on this seat; called with the lock held."""
        for pool in self._large:
            pool.changed(seat)

    def answered(self, trip: Trip, seat: Seat, sent: float, estimate: Estimate, reply: Answered) -> None:
        """Note what the answer to a call that was sent then says of the seat, and of what such calls take."""
        now = self.clock()
        if seat.answers & EACH and estimate.there.p95 < SHORT and not seat.suspect and trip.module in seat.modules:
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
        if isinstance(reply, wire.Rejected) or trip.module not in seat.modules:
            seat.answered(now, 0.0, 0.0)  # it has not run, or has imported its module first
            if not isinstance(reply, wire.Rejected):
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
                self._changed(seat)
            return trip.spare

    def outrun(self, trip: Trip, seat: Seat, sent: float) -> None:
        """Note that another seat's answer came first to a call that was sent to this one then."""
        now = self.clock()
        seconds = seat.run(now, sent)
        seat.cancelled(now, begun=True)
        with self.turn.lock:
            self._hedges.wasted(seconds)
            if trip.typical and seat.took(now, seconds, trip.typical, trip.hedge_after):
                self._eject(trip, seat, now)

    def _eject(self, trip: Trip, seat: Seat, now: float) -> None:
        for pool in self.pools(trip, trip.here):
            if seat in pool.seats:
                health.eject(seat, pool.seats, pool.ejected, now)  # type: ignore[type-var]

    def places_changed(self) -> None:
        """Executors came or went; called with the lock held."""
        self._forget_pools()
        self.turn.notify_all()
        self._serve()

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
                self._changed(seat)
                self._line.remove(waiting)
            waiting.bell.notify()
            if one and isinstance(decision, policy.Run):
                return


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


def _usable(ranks: list[list[Link | Local]], here: bool, version: tuple[str, bytes]) -> list[list[Link | Local | Part]]:
    """Of the places of each rank what can run calls of that version of a module, with or without the local copy."""

    def fits(seat: Seat) -> bool:
        return version not in seat.unfit

    return [
        [place if all(map(fits, place.seats)) else Part(place, fits) for place in rank if here or not place.local]
        for rank in ranks
    ]


def _again(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], lent: lending.Loans
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments for a run here, after a try elsewhere that may have used generators and functions among them.

    Raises:
        ArgumentError: one of those is a part of an argument.
    """
    used = lent.replaying(lambda asked: lending.digest(wire.dumps(asked)))
    if not used:
        return args, kwargs
    if not used.keys() <= {id(value) for value in (*args, *kwargs.values())}:
        raise ArgumentError(
            f"{name} cannot run here: a worker has used a generator or called a function that is inside an argument"
        )

    def whole(value: Any) -> Any:
        return used.get(id(value), value)

    return tuple(map(whole, args)), {key: whole(value) for key, value in kwargs.items()}
