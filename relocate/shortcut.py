"""The short way of a call: to the seat that has answered such a call a moment ago, if that is idle.

Who calls a function often calls it in a row, and most of what is found out for one of those calls is so for
the next one, too.  What was found is a `Shortcut`, kept with the function's target: as many as there are threads
that call it at once.  A call that takes one has it for itself until it gives it back.

Rules:

* Left out is only what can be seen to be the same.  A shortcut ends when names, places, or what a seat is fit for
  change.  It is not taken when its seat is busy or suspect, nor by a call that has a deadline, or of whose arguments
  one stays here.
* It is good for a moment, or for a few calls.  Then one goes the long way again: the policy decides anew.
* Of very short calls it is looked at that one only how long they take, as that costs a part of them; of others at
  each, but when the next one is under way.  If the seat has answered another one meanwhile, that has told already how
  it is.  Of calls so long that nobody would notice none has a shortcut.
* A result that comes soon, and alone, ends the call.  Whatever else comes, is raised, or does not come is handed over
  to a `trip.Trip`, with the attempt that is under way, and goes on as if it had begun there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import ambient, restoring, values, wire
from .errors import ArgumentError
from .looking import BRIEF, Looking
from .observe import MANY
from .policy import NEVER
from .seating import SHORT

if TYPE_CHECKING:
    from .channel import Channel
    from .driver import Driver
    from .namespace import Snapshot
    from .places import Seat
    from .target import Target
    from .trip import Trip


MOMENT = 0.02
"""Seconds."""
FEW = 8
"""Calls, each of them a moment after the one before at most."""


class Attempt:
    """An attempt that is under way.

    Args:
        began: when its call began; by the driver's clock.
        call: its number.
        header: the first frame of what is sent.
    """

    spare = None
    """The seat of a second attempt, which there is none of; see `seating.Seating.release`."""
    seat: Seat | None = None
    """The one it holds; see `trip.Trip`."""
    opened: Channel | None = None
    answers = 0
    """That the seat had given before."""
    sent = 0.0
    """When it was sent."""
    failure: BaseException | None = None
    """What was raised."""

    def __init__(self, began: float, call: bytes, header: bytes) -> None:
        self.began = began
        self._call = call
        self._header = header

    @property
    def request(self) -> wire.Call:
        """What was sent."""
        request = wire.decode(self._header)
        assert type(request) is wire.Call
        return request

    def fail(self) -> None:
        """Raise what was raised, if anything was."""
        failure, self.failure = self.failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # what goes round would keep the arguments

    def give_up(self, driver: Driver) -> None:
        """Give the seat back; the answer is not wanted any more."""
        seat, links = self.seat, driver.links
        if seat is None:
            return
        try:
            if self.opened is not None:
                self.opened.close()
            if links is not None:
                links.cancel(seat, self._call)
        finally:
            driver.release(seat, None, False, self)


class Shortcut:
    """Where a function's last call went.

    Args:
        driver: made it.
        target: the function.
        seat: has answered it.
        pools: what `ranks.Ranks.pools` had worked out before.
        snapshot: the names, before.
        trip: of that call.
    """

    __slots__ = (
        "_bits",
        "_calls",
        "_driver",
        "_looks",
        "_may_look",
        "_seconds",
        "_seldom",
        "_target",
        "_template",
        "_until",
        "_untold",
        "pools",
        "seat",
        "snapshot",
    )

    def __init__(
        self,
        driver: Driver,
        target: Target,
        seat: Seat,
        pools: object,
        snapshot: Snapshot,
        trip: Trip,
    ) -> None:
        self._driver = driver
        self._target = target
        if target.looking is None:
            target.looking = Looking()
        self._may_look = trip.typical < BRIEF and trip.hedge_after < SHORT
        self._looks = self._may_look and target.looking.choose()
        self.seat = seat
        self.pools = pools
        self.snapshot = snapshot
        self._template = wire.Template(target.described.name, target.member, target.described.digest)
        self._seldom = trip.hedge_after
        """Seconds that such a call takes seldom."""
        self._bits = trip.size.bit_length()
        """Of the bytes of such a call: of others it is not known how long they take."""
        self._until = driver.clock() + MOMENT
        self._calls = 0
        """That went this way."""
        self._seconds = 0.0
        """Of all of them, if they are told of together."""
        self._untold: tuple[float, float, int] | None = None
        """When the last one ended, its seconds and bytes, if it was not yet told of."""

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `driver.Driver.call`."""
        driver, target, seat, template = self._driver, self._target, self.seat, self._template
        described = target.described
        began = driver.clock()
        if (
            began > self._until
            or seat.outstanding
            or driver.deadline() < NEVER
            or described.digest is not template.digest
        ):
            self._end()
            return driver.make(target, args, kwargs)
        call, counters = next(driver.numbers), driver.counters
        sent: restoring.Sent | None = None
        frames: list[wire.Buffer] = []
        body = restoring.plain(args, kwargs)
        if body is not None and len(body) <= wire.INLINE:
            header = template.filled(call, body) if ambient.is_default() else wire.encode(self._request(call, body))
            frames = [header]
        else:
            with suppress(ArgumentError):  # which is said there
                sent = restoring.Sent(args, kwargs)
                if not sent.lent:
                    frames = wire.pack(self._request(call), sent.segments)
            if not frames:
                self._end()
                return driver.make(target, args, kwargs, sent=sent)
            header = bytes(frames[0])
        size, seldom = len(header) if len(frames) == 1 else wire.size_of(frames), self._seldom
        if seldom >= SHORT and size.bit_length() != self._bits:
            self._end()
            return driver.make(target, args, kwargs, sent=sent)
        attempt = Attempt(began, call, header)
        try:
            attempt.opened = opened = driver.resume(self, attempt)
            if opened is not None:
                attempt.answers = seat.answers
                if driver.turn.under_way != 1:  # the other calls and their executors need the processors
                    self._may_look = False
                late = self._untold is not None or len(counters.notes) > MANY
                attempt.sent = sent_at = driver.clock()
                come = opened.exchange(
                    call,
                    frames,
                    sent_at + (SHORT if seldom < SHORT else max(seldom, opened.hedged_from)),
                    self._looks and self._may_look,
                    self._catch_up if late else None,
                )
                if come is None:
                    self._learn(driver.clock() - sent_at)
                else:
                    result, received = come
                    now = driver.clock()
                    seat.answers += 1
                    seat.answered_at = now
                    driver.release(seat, opened, False, attempt)
                    self._calls += 1
                    if seldom < SHORT:
                        self._seconds += now - sent_at
                    else:
                        self._untold = now, now - sent_at, size
                    if self._calls < FEW:
                        self._until = now + MOMENT
                    target.shortcuts.append(self)
                    unread: Exception | None = None
                    try:  # to unpickle may make calls itself, to ask for a class
                        value = values.loads(result) if result[0][0] in values.MADE else values.decode(result[0])
                    except Exception as error:
                        unread = error
                    if unread is not None:
                        try:
                            trip = driver.ended(target, began, size, received)
                            return driver.unread(target, args, kwargs, trip, unread)
                        finally:
                            del unread  # what goes round would keep the arguments
                    seconds, module = driver.clock() - began, described.name
                    counters.settled(
                        (target.name, "returned", seat.label, size, received, 0, False, 0, module, seconds)
                    )
                    return value
        except BaseException as error:
            if attempt.seat is None:
                raise
            attempt.failure = error
        if attempt.seat is None:
            self._end()
            return driver.make(target, args, kwargs, sent=sent)
        try:
            self._end()
            return driver.make(target, args, kwargs, sent=sent, begun=attempt)
        finally:
            if attempt.seat is not None:  # an interrupt came between
                try:
                    attempt.give_up(driver)
                finally:
                    if attempt.seat is not None:  # and another one
                        driver.release(attempt.seat, None, False, attempt)

    def _request(self, call: bytes, body: bytes = b"") -> wire.Call:
        target = self._target
        return wire.Call(
            call, target.described.name, target.member, self._template.digest, ambient.capture(), None, body
        )

    def _catch_up(self) -> None:
        """What calls before have left to do, and is best done while an answer is waited for."""
        untold, self._untold = self._untold, None
        if untold is not None:
            self._driver.passed(self._target, self.seat, *untold)
        counters = self._driver.counters
        if len(counters.notes) > MANY:
            counters.catch_up()

    def _end(self) -> None:
        """It is not taken any more."""
        if self._untold is not None:
            self._catch_up()
        calls, seconds = self._calls, self._seconds
        self._calls = 0
        if calls and seconds:
            self._learn(seconds / calls)
            self._driver.ran(calls, seconds)  # which earn further attempts

    def _learn(self, seconds: float) -> None:
        if self._may_look and self._target.looking is not None:
            self._target.looking.learn(self._looks, seconds)
