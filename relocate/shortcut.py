"""The short way of a call: to the seat that has answered such a call a moment ago, if that is idle.

Who calls a function often calls it in a row, and most of what is found out for one of those calls is so for
the next one, too.  What was found is a `Shortcut`, kept with the function's target.

Rules:

* Left out is only what can be seen to be the same.  A shortcut ends when names, places, or what a seat is fit for
  change.  It is not taken when its seat is busy or suspect, nor by a call that has a deadline, or arguments that
  are more than numbers, texts and the like.
* It is good for a moment only, and for short calls.  Then one goes the long way again: the policy decides anew, and
  it is looked how long such calls take.
* A plain result that comes soon ends the call.  Whatever else comes, is raised, or does not come is handed over to
  a `trip.Trip`, with the attempt that is under way, and goes on as if it had begun there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import ambient, channel, restoring, session, values, wire
from .policy import NEVER
from .seating import SHORT

if TYPE_CHECKING:
    from .driver import Driver
    from .namespace import Snapshot
    from .places import Seat
    from .target import Target


MOMENT = 0.02
"""Seconds."""


class Attempt:
    """An attempt that is under way.

    Args:
        began: when its call began; by the driver's clock.
        request: what is sent.
    """

    spare = None
    """The seat of a second attempt, which there is none of; see `seating.Seating.release`."""
    seat: Seat | None = None
    """The one it holds; see `trip.Trip`."""
    opened: channel.Channel | None = None
    answers = 0
    """That the seat had given before."""
    sent = 0.0
    """When it was sent."""
    outcome: channel.Exchanged | BaseException | None = None
    """What came, or was raised; None: nothing yet."""
    questions: Sequence[tuple[session.Question, list[wire.Buffer]]] = ()
    """What the function said meanwhile.  Nothing is asked, as nothing was lent."""

    def __init__(self, began: float, request: wire.Call) -> None:
        self.began = began
        self.request = request

    def asked(self, question: session.Question, segments: list[wire.Buffer]) -> list[wire.Buffer]:
        """Keep it for the trip."""
        self.questions = [*self.questions, (question, segments)]
        return []

    def result(self) -> channel.Exchanged | None:
        """What came; None: nothing yet.

        Raises:
            BaseException: what was raised.
        """
        outcome, self.outcome = self.outcome, None
        if not isinstance(outcome, BaseException):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # what goes round would keep the arguments

    def give_up(self, driver: Driver) -> None:
        """Give the seat back; the answer is not wanted any more."""
        seat, links = self.seat, driver.links
        if seat is None:
            return
        try:
            if self.opened is not None:
                self.opened.close()
            if links is not None:
                links.cancel(seat, self.request.call)
        finally:
            driver.release(seat, None, False, self)


class Shortcut:
    """Where the last short call of a function went.

    Args:
        driver: made it.
        seat: has answered it.
        pools: what `ranks.Ranks.pools` had worked out before.
        snapshot: the names, before.
    """

    __slots__ = ("_calls", "_driver", "_seconds", "_until", "pools", "seat", "snapshot")

    def __init__(self, driver: Driver, seat: Seat, pools: object, snapshot: Snapshot) -> None:
        self._driver = driver
        self.seat = seat
        self.pools = pools
        self.snapshot = snapshot
        self._until = driver.clock() + MOMENT
        self._calls = 0
        """That went this way and were not told of; the next has their seconds."""
        self._seconds = 0.0

    def call(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `driver.Driver.call`."""
        driver, seat = self._driver, self.seat
        began = driver.clock()
        if began > self._until:
            self._end(target)
            return driver.make(target, args, kwargs)
        if (
            seat.outstanding
            or driver.deadline() < NEVER
            or (body := restoring.plain(args, kwargs)) is None
            or len(body) > wire.INLINE
        ):
            return driver.make(target, args, kwargs)
        described = target.described
        request = wire.Call(
            next(driver.numbers), described.name, target.member, described.digest, ambient.capture(), None, body
        )
        frames: list[wire.Buffer] = [wire.encode(request)]
        attempt = Attempt(began, request)
        try:
            attempt.opened = opened = driver.resume(self, attempt)
            if opened is not None:
                attempt.answers = seat.answers
                attempt.sent = sent = driver.clock()
                opened.send(request, frames)
                # What can be done while the answer is waited for costs nothing.
                driver.counters.catch_up()
                reply, segments, received = attempt.outcome = opened.reply(attempt.asked, sent + opened.hedged_from)
                now = driver.clock()
                if (
                    type(reply) is wire.Returned
                    and not (reply.refers or reply.ambient or reply.output or reply.waiting or attempt.questions)
                    and now - sent < SHORT
                ):
                    seat.answers += 1
                    seat.answered_at = now
                    driver.release(seat, opened, False, attempt)
                    self._calls += 1
                    self._seconds += now - sent
                    size = len(frames[0])
                    unread: Exception | None = None
                    try:  # which may make calls itself, to ask for a class
                        value = values.loads(segments)
                    except Exception as error:
                        unread = error
                    if unread is not None:
                        try:
                            trip = driver.ended(target, began, size, received)
                            return driver.unread(target, args, kwargs, trip, unread)
                        finally:
                            del unread  # what goes round would keep the arguments
                    seconds, module = driver.clock() - began, request.module
                    driver.counters.settled(
                        (target.name, "returned", seat.label, size, received, 0, False, 0, module, seconds)
                    )
                    return value
        except channel.TimeUp:
            pass
        except BaseException as error:
            if attempt.seat is None:
                raise
            attempt.outcome = error
        self._end(target)
        if attempt.seat is None:
            return driver.make(target, args, kwargs)
        try:
            return driver.make(target, args, kwargs, begun=attempt)
        finally:
            if attempt.seat is not None:  # an interrupt came between
                try:
                    attempt.give_up(driver)
                finally:
                    if attempt.seat is not None:  # and another one
                        driver.release(attempt.seat, None, False, attempt)

    def _end(self, target: Target) -> None:
        target.shortcut = None
        self._tell()

    def _tell(self) -> None:
        """Let the budgets of further attempts know of the calls that went this way."""
        if self._calls:
            calls, self._calls = self._calls, 0
            seconds, self._seconds = self._seconds, 0.0
            self._driver.ran(calls, seconds)
