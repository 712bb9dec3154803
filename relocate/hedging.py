"""A second attempt for a call that takes longer than such calls do: the first answer wins.

The calling thread waits for both, a little at a time for each, so that no other thread is needed.  The
loser is not begun if it still waits in a queue, and is interrupted else; but nobody is killed for it.

A call that waits behind another one on its executor is looked at sooner: as soon as that one takes longer
than usual, it is taken back and runs elsewhere, which needs no budget.

What a call was lent (generators, functions of the program) it has for itself: such a call is not hedged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import channel, wire
from .errors import RemoteProtocolError

if TYPE_CHECKING:
    from .links import Links
    from .places import Seat
    from .trip import Trip

SOON = 0.001
"""Seconds that are not waited for any more."""
GLANCE = (0.002, 0.05)
"""Seconds to wait for one of the two at a time, at first and at most."""


class Race:
    """One call's attempt that takes long, and another one beside it.

    Args:
        trip: the call.
        seat: where the first attempt is; afterwards, where the one is that has won or is left.
        opened: its channel.
        sent: when it was sent.
        links: open channels and cancel calls.
        answer: answers what an executor asks.
    """

    def __init__(
        self,
        trip: Trip,
        seat: Seat,
        opened: channel.Channel,
        sent: float,
        links: Links,
        answer: channel.Answer,
    ) -> None:
        self.trip = trip
        self.seat = seat
        self.opened = opened
        self.sent = sent
        self._links = links
        self._answer = answer
        self._other: channel.Channel | None = None
        self._other_sent = 0.0
        self._lost = False

    def run(self, request: wire.Call, frames: list[wire.Buffer]) -> channel.Exchanged:
        """The first answer.

        Raises:
            Lost: the outcome of the last attempt is unknown.
            TimeUp: the call's deadline passed before.
        """
        try:
            exchanged = self._first() or self._either(request, frames)
        finally:
            try:
                self._end(request)
            finally:
                self._give_back()
        return exchanged or self.opened.reply(self._answer, self.trip.deadline)

    def _first(self) -> channel.Exchanged | None:
        """What the first one answers; None when there is a seat for a second one."""
        trip = self.trip
        clock = trip.driver.clock
        usual = pause = max(trip.hedge_after, self.opened.hedged_from)
        while True:
            now = clock()
            if now >= trip.deadline:
                raise channel.TimeUp
            begun = self.seat.answers >= trip.begins_after
            left = usual - self.seat.run(now, self.sent) if begun else 0.0
            if left < SOON:
                if trip.driver.hedge(trip, begun=begun) is not None:
                    return None
                left = pause  # nobody is idle, or the budget is spent: that may change
                pause *= 2
            try:
                return self.opened.reply(self._answer, min(trip.deadline, now + left))
            except channel.TimeUp:
                continue

    def _either(self, request: wire.Call, frames: list[wire.Buffer]) -> channel.Exchanged | None:
        """What the first one answers; None if only one is left, which becomes the first attempt."""
        trip, spare = self.trip, self.trip.spare
        assert spare is not None
        clock = trip.driver.clock
        try:
            self._other = spare.take() or self._links.open_channel(spare)
            self._other.send(request, frames)
        except channel.Lost:
            self._lost = True
            return None
        self._other_sent = clock()
        trip.attempts += 1
        trip.hedged += 1
        trip.sent += sum(map(len, frames))
        glance = GLANCE[0]
        while True:
            for second in (True, False):
                looked_at = self._other if second else self.opened
                until = min(trip.deadline, clock() + glance)
                try:
                    exchanged = looked_at.reply(self._answer, until)
                except channel.TimeUp:
                    if clock() >= trip.deadline:
                        raise
                    continue
                except (channel.Lost, RemoteProtocolError):
                    if not second:
                        self._swap()
                    self._lost = True
                    return None
                ran = isinstance(exchanged[0], (wire.Returned, wire.Raised))
                if ran == second:  # the second has answered, or the first was rejected
                    self._swap()
                if not ran:
                    return None
                trip.driver.outrun(trip, self._other_seat, self._other_sent)
                return exchanged
            glance = min(glance * 1.2, GLANCE[1])

    @property
    def _other_seat(self) -> Seat:
        assert self.trip.spare is not None
        return self.trip.spare

    def _swap(self) -> None:
        trip = self.trip
        assert self._other is not None
        assert trip.spare is not None
        self.opened, self._other = self._other, self.opened
        self.sent, self._other_sent = self._other_sent, self.sent
        trip.seat, trip.spare = trip.spare, trip.seat
        self.seat = trip.seat

    def _end(self, request: wire.Call) -> None:
        """Give up the attempt that has lost."""
        spare = self.trip.spare
        if self._other is not None:
            self._other.close()
        if spare is None:
            return
        if self._lost:
            self.trip.ends = [*self.trip.ends, spare]
            self.trip.tried = [*self.trip.tried, spare.id]
        else:
            self._links.cancel(spare, request.call, gentle=True)

    def _give_back(self) -> None:
        if self.trip.spare is not None:
            self.trip.driver.release(self.trip.spare, None, self._lost, self.trip)
