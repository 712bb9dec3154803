"""The short way of a call: to the seat that has answered such a call a moment ago, if that is idle.

Who calls a function often calls it in a row, and most of what is found out for one of those calls is so for
the next one, too.  What was found is a `Shortcut`, kept with the function's target.

Rules:

* Left out is only what can be seen to be the same.  A shortcut ends when names, places, or what a seat is fit for
  change.  It is not taken when its seat is busy or suspect, nor by a call that has a deadline, or arguments that
  are more than numbers, texts and the like.
* It is good for a moment only, and for short calls.  Then one goes the long way again: the policy decides anew, and
  it is looked how long such calls take.
* A plain result ends the call.  Whatever else comes, is raised, or does not come in time is handed over to a
  `trip.Trip`, with the attempt that is under way, and goes on there as if it had begun there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import ambient, channel, restoring, session, values, wire
from .policy import NEVER
from .seating import SHORT

if TYPE_CHECKING:
    from .driver import Driver
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


class Shortcut:
    """Where the last short call of a function went.

    Args:
        driver: made it.
        seat: has answered it.
        now: when; by the driver's clock.
    """

    __slots__ = ("_calls", "_seconds", "driver", "pools", "seat", "snapshot", "until")

    def __init__(self, driver: Driver, seat: Seat, now: float) -> None:
        self.driver = driver
        self.seat = seat
        self.pools = driver.pools_of
        self.snapshot = driver.namespace.snapshot
        self.until = now + MOMENT
        self._calls = 0
        """That went this way and were not told of; the next has their seconds."""
        self._seconds = 0.0

    def call(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `driver.Driver.call`."""
        driver, seat = self.driver, self.seat
        began = driver.clock()
        if (
            began > self.until
            or seat.outstanding
            or driver.deadline() < NEVER
            or (body := restoring.plain(args, kwargs)) is None
            or len(body) > wire.INLINE
        ):
            self._tell()
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
                opened.send(request, frames)
                # What can be done while the answer is waited for costs nothing.
                driver.counters.catch_up()
                reply, segments, received = attempt.outcome = opened.reply(attempt.asked, began + opened.hedged_from)
                if type(reply) is wire.Returned and not (
                    reply.refers or reply.ambient or reply.output or attempt.questions
                ):
                    try:
                        value = values.loads(segments)
                    except Exception:
                        pass  # the trip tells of it
                    else:
                        seat.answers += 1
                        seat.answered_at = now = driver.clock()
                        driver.release(seat, opened, False, attempt)
                        seconds = now - began
                        self._calls += 1
                        self._seconds += seconds
                        if seconds > SHORT or reply.waiting:
                            self._end(target)
                        sent, module = len(frames[0]), request.module
                        driver.counters.settled(
                            (target.name, "returned", seat.label, sent, received, 0, False, 0, module, seconds)
                        )
                        return value
        except channel.TimeUp:
            pass
        except BaseException as error:
            if attempt.seat is None:
                raise
            attempt.outcome = error
        if attempt.seat is None:
            self._end(target)
            return driver.make(target, args, kwargs)
        try:
            self._tell()
            return driver.make(target, args, kwargs, begun=attempt)
        finally:
            if attempt.seat is not None:  # an interrupt came between
                driver.release(attempt.seat, None, False, attempt)
                if attempt.opened is not None:
                    attempt.opened.close()

    def _end(self, target: Target) -> None:
        self._tell()
        target.shortcut = None

    def _tell(self) -> None:
        """Let the budgets of further attempts know of the calls that went this way."""
        if self._calls:
            calls, self._calls = self._calls, 0
            seconds, self._seconds = self._seconds, 0.0
            self.driver.ran(calls, seconds)
