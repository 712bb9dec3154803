"""One call's way through its attempts: send it, take the answer, or go on when the outcome is unknown.

A call that ends its executors is told from one that was unlucky by the executors' obituaries, which
name the call that was running.  An end by a signal of the process's own making, or by an exit, is
the call's doing; a SIGKILL comes from outside, from a person or when memory is short, and may hit
an innocent call more than once.  Where the supervisor knows that it was for want of memory, the call
is tried once more, on the worker that has the most.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from . import answering, channel, deadlines, events, output, policy, restoring, session, wire
from .errors import CrashingCall, DeadlineExceeded, NoWorkerLeft, OutOfMemory, RemoteProtocolError
from .hedging import Race
from .observe import MANY
from .places import end_of, room
from .policy import NEVER

if TYPE_CHECKING:
    from .cost import Estimate
    from .driver import Calling, Driver
    from .links import Links
    from .places import Link, Seat
    from .seating import Turn
    from .shortcut import Attempt

CRASHES = 2
"""Executors that a call may end by a crash of its own making before it is given up."""
KILLS = 5
"""The same for SIGKILL."""
LOSSES = 10
"""Times that a call may lose its connection with no word on why."""
ANSWERS = frozenset((wire.Returned, wire.Raised, wire.Rejected))
UNFIT = ("stale", "module")
"""Codes of refusals that hold for all calls of a module, but for no other executor; the second for a while."""
OBITUARY = 1.0
"""Seconds to wait for a supervisor's word on how an executor ended, if there were several such ends."""
NOTHING = nullcontext()
WORD = 0.1
"""The same for each end.  Without a word the worker of a call that had run for longer is in doubt."""


class Trip:
    """One call's way through its attempts."""

    deadline = NEVER
    """By the driver's clock."""
    queued = False
    """Whether it has waited in the line for seats."""
    may_wait = True
    """Whether that line has room for it."""
    cancelled = False
    """Whether nobody wants its outcome any more."""
    _estimate: Estimate | None = None
    size = 0
    """Bytes of its request."""
    begins_after = 0
    """Answers that its seat must have given before it begins there."""
    hedged = 0
    """Second attempts beside a first one."""
    spare: Seat | None = None
    """The seat of a second attempt, see `hedging`."""
    starved: Link | None = None
    """Where it was ended for want of memory: it is tried once more, where there is the most."""
    _heard: tuple[str, ...] = ()
    """Seats of whose end a word was waited for."""
    short: Seat | None = None
    """The one that has answered it, if that took no time, as with most such calls."""
    lent = restoring.NOTHING
    course: Calling | None = None
    """Of the stream that it belongs to."""
    tried: Sequence[str] = ()
    """The ids of seats on which its outcome became unknown."""
    ends: Sequence[Seat] = ()
    """The same seats, but for those that were about to shut down."""
    waited = 0.0
    attempts = 0
    sent = 0
    received = 0
    seat: Seat | None = None
    """The one it holds.  Noted by who raises its counter, so that an interrupt cannot lose it."""
    _request: bytes | None = None
    """The id of the call that is under way."""
    _seen = 0
    """Characters of output that were shown."""
    here = True
    """Whether it may run on the local copy."""
    piece = False
    """Whether the call it belongs to is counted already: a further piece of a generator's."""
    ordinary = True
    """Whether it is not nested, not of a stream, and was not ended for want of memory."""
    nested = False
    """Whether it is made by a generator that another call of this thread was lent, and is waited for."""
    _verdicts: Mapping[str, wire.Obituary | None] = {}
    version: tuple[str, bytes] = ("", b"")
    """The module, and the digest with which it was described."""
    refusal: tuple[wire.Rejected, str] | None = None
    """What an executor said, and its label, if all that are there lack this version."""

    def __init__(self, driver: Driver, name: str, module: str, path: tuple[str, ...]) -> None:
        self.driver = driver
        self.name = name
        self.module = module
        self.path = path
        self.patience = driver.patience
        self.began = driver.clock()
        if driver.lending and threading.get_ident() in driver.lending:
            self.nested, self.ordinary = True, False

    def _estimated(self) -> Estimate:
        """What is known of such calls."""
        if self._estimate is None:
            self._estimate = self.driver.costs.of(self.name, self.size)
        return self._estimate

    @property
    def typical(self) -> float:
        """Seconds that such a call usually takes; 0 if that is not known."""
        return self._estimated().there.median

    @property
    def hedge_after(self) -> float:
        """Seconds that it seldom takes; `NEVER` if that is not known, or it may not run twice at a time."""
        return NEVER if self.nested or self.lent or not self.version[1] else self._estimated().there.p95

    @property
    def gpu(self) -> bool:
        """Whether its module computes on a GPU where there is one."""
        return self.module in self.driver.gpu

    def make(
        self, request: wire.Call | wire.Describe, segments: wire.Segments, begun: Attempt | None = None
    ) -> tuple[wire.Returned | wire.Raised | wire.Rejected, list[wire.Buffer], str] | None:
        """The answer, its segments, and the label of the seat it came from; None: run it here.

        Args:
            request: the call.
            segments: its value.
            begun: a first attempt that is under way.

        Raises:
            RelocateError: nobody is left, or the call crashes executors.
        """
        driver = self.driver
        self._request = request.call
        self.version = request.module, request.digest
        refused: Sequence[tuple[Seat, str]] = ()
        frames = wire.pack(request, segments)
        self.size = size = len(frames[0]) if len(frames) == 1 else wire.size_of(frames)
        lost = ""
        while True:
            kept: channel.Channel | None = None
            failed = False
            opened: channel.Channel | None = None
            links: Links | None = None
            seat: Seat | None = None
            try:
                if begun is None:
                    seat = driver.lease(self)
                else:
                    opened = begun.opened
                    self.seat = seat = begun.seat
                    begun.seat = None
                links = driver.links
                if self.refusal is not None:
                    said, self.refusal = self.refusal, None
                    return said[0], [], said[1]
                if lost:
                    events.emit("call retried", function=self.name, executor=lost, attempt=self.attempts)
                if seat is None or links is None:  # none: relocation was disabled while this call was under way
                    if begun is not None and not isinstance(begun.failure, (channel.Lost, RemoteProtocolError)):
                        begun.fail()
                    if isinstance(request, wire.Call):
                        driver.fell_back(self)
                    return None
                self.attempts += 1
                self.sent += size
                failed = True
                if begun is None:
                    began = driver.clock()
                    opened = seat.take() or links.open_channel(seat)
                    if self.deadline < NEVER and isinstance(request, wire.Call):
                        request.due = began, self.deadline
                        frames = wire.pack(request, segments)
                    opened.send(request, frames)
                    if len(driver.counters.notes) > MANY:
                        driver.counters.catch_up()
                    first, answers, ahead = None, seat.answers, seat.outstanding - 1
                else:
                    first, answers, ahead = begun, begun.answers, 0
                    began, begun = begun.sent, None
                estimate = self._estimated()
                try:
                    if first is not None:
                        first.fail()
                    assert opened is not None  # or else that has raised something
                    self.begins_after = answers + ahead
                    reply, result, received = opened.reply(self._answer, self._until(opened, began, ahead))
                except channel.TimeUp:
                    if driver.clock() >= self.deadline:
                        raise
                    assert isinstance(request, wire.Call)
                    assert opened is not None
                    race = Race(self, seat, opened, began, links, self._answer)
                    try:
                        reply, result, received = race.run(request, frames)
                    finally:
                        seat, opened, began = race.seat, race.opened, race.sent
                self.received += received
                if type(reply) in ANSWERS:
                    kept = opened
                    rejected = reply if type(reply) is wire.Rejected else None
                    failed = rejected is not None and rejected.code == "draining"
                    if not failed:
                        driver.answered(self, seat, began, estimate, reply)  # type: ignore[arg-type] # by its type
                        if rejected is not None and rejected.code in UNFIT:
                            driver.refused(self, seat, rejected, began)
                            if any(other is seat for other, _ in refused):  # asked again, and in vain
                                return rejected, result, seat.label
                            refused = [*refused, (seat, rejected.text)]
                            continue
                        for other, why in refused:
                            driver.unused(other.link.name, self.module, why)
                        return reply, result, seat.label  # type: ignore[return-value]
            except (channel.Lost, RemoteProtocolError):
                assert seat is not None
                self.ends = [*self.ends, seat]
            except channel.TimeUp:
                assert seat is not None
                assert links is not None
                failed = False
                links.cancel(seat, request.call)
                raise DeadlineExceeded(f"{self.name} on {seat.label} did not end before its deadline") from None
            except BaseException:
                # Ctrl-C, most likely: the answer is not wanted any more.
                failed = False
                if opened is not None and links is not None and seat is not None:
                    links.cancel(seat, request.call)
                raise
            finally:
                try:
                    if self.seat is not None:
                        driver.release(self.seat, kept, failed, self)
                finally:
                    try:
                        if self.seat is not None:  # an interrupt came between
                            kept = None
                            driver.release(self.seat, None, False, self)
                    finally:
                        if opened is not None and kept is None:
                            opened.close()
            self.tried, lost = [*self.tried, seat.id], seat.label
            self._judge(request.call, driver.clock() - began)

    def _until(self, opened: channel.Channel, sent: float, ahead: int) -> float:
        """When to look how it goes: at the deadline, or when it takes longer than such calls do.

        Args:
            opened: where the answer comes.
            sent: when it was sent.
            ahead: calls that its seat has to run before it.
        """
        usual = policy.hedge_after(self, behind=ahead > 0)
        if usual == NEVER:
            return self.deadline
        least = opened.hedged_from
        until = sent + (usual if usual > least else least)
        return until if until < self.deadline else self.deadline

    def cancel(self) -> None:
        """From another thread: end it; its outcome is not wanted any more."""
        self.cancelled = True
        seat, links = self.seat, self.driver.links
        if seat is not None and links is not None and self._request is not None:
            links.cancel(seat, self._request)
        self.driver.awake(self)

    def settle(self, outcome: str, seat: str | None) -> None:
        """Count the call; see `observe.Counters.settled`."""
        driver = self.driver
        if driver.tracing is not None:
            last = self.ends[-1].label if self.ends else ""
            driver.tracing.settled(last if outcome == "failed" else seat or "here", self.attempts)
        if self.piece:
            outcome = ""
        again, elsewhere = 0, False
        if self.attempts > 1:
            again = self.attempts - 1 - self.hedged
            elsewhere = bool(self.tried) and (seat is None or not self.tried[0].startswith(f"{seat}."))
        seconds = driver.clock() - self.began
        driver.counters.settled(
            (self.name, outcome, seat, self.sent, self.received, again, elsewhere, self.hedged, self.module, seconds)
        )
        if seat is None and len(driver.counters.notes) > MANY:  # it sends nothing
            driver.counters.catch_up()

    def own(self, error: BaseException) -> BaseException:
        """``error``, or the very exception that a lent generator raised here and of which it is a copy."""
        for loan in self.lent:
            if loan.error is not None and type(loan.error) is type(error) and loan.error.args == error.args:
                return loan.error
        return error

    def show(self, said: list[tuple[str, str]], position: int) -> None:
        """Show what the function printed after so many characters, but for what an earlier attempt has shown.

        Raises:
            Warning: a filter of the program makes an error of it.
        """
        seen = self._seen - position
        self._seen = max(self._seen, position + output.length(said))
        self.lent.here(partial(output.show, output.unseen(said, seen) if seen > 0 else said))

    def _answer(self, question: session.Question, segments: list[wire.Buffer]) -> list[wire.Buffer]:
        """What the executor asks for; nothing for what it says."""
        if isinstance(question, wire.Said):
            self.show(question.output, question.position)
            self.lent.here(output.flush)
            return []
        seat = self.seat
        assert seat is not None
        depth, seat.depth = seat.depth, 0  # what waited behind it would wait for the program, too
        try:
            with deadlines.until(self.deadline) if self.deadline < NEVER else NOTHING:
                return answering.answer(question, segments, self.lent, self.driver.programs_code)
        finally:
            seat.depth = depth

    def _judge(self, call: bytes, lasted: float) -> None:
        """Give up a call that ends its executors, by what their obituaries say."""
        for seat in self.ends:
            if seat.id not in self._heard:
                self._hear(seat, lasted)
        if len(self.ends) >= CRASHES:
            for seat in self.ends:
                self._obituary(seat)
        self._starve(call)
        if len(self.ends) < CRASHES:
            return
        crashes: list[str] = []
        kills = losses = 0
        for seat in self.ends:
            obituary = self._obituary(seat)
            if obituary is None:
                losses += 1  # cut off, or the connection does not bear it; perhaps not this call's doing
            elif obituary.call != call:
                continue  # it died of something else
            elif obituary.memory:
                continue
            elif obituary.returncode == -signal.SIGKILL:
                kills += 1
            else:
                crashes.append(f"{seat.label} {end_of(obituary.returncode)}")
        if losses >= LOSSES:
            where = ", ".join(dict.fromkeys(seat.label for seat in self.ends))
            raise NoWorkerLeft(f"{self.name}: the connection was lost {losses} times while it ran, on {where}")
        if len(crashes) >= CRASHES:
            ends = ", ".join(crashes)
            raise CrashingCall(f"{self.name} ended every executor it ran on: {ends}; it is not tried again")
        if kills >= KILLS:
            raise CrashingCall(
                f"{self.name} was killed {kills} times while it ran (SIGKILL; out of memory?); it is not tried again"
            )

    def _starve(self, call: bytes) -> None:
        """Try a call that was ended for want of memory where there is the most, or give it up."""
        known = [(seat, self._verdicts.get(seat.id)) for seat in self.ends]
        starved = [seat for seat, word in known if word is not None and word.memory and word.call == call]
        if not starved:
            return
        if self.starved is not None and starved[-1] is self.ends[-1]:
            where = ", ".join(f"{seat.label} ({room(seat.link) / 2**30:.1f} GiB)" for seat in starved)
            raise OutOfMemory(
                f"{self.name} ran out of memory on {where}, and no worker has more; it is not tried again: "
                "give it less, or add a worker with more memory"
            )
        self.starved, self.ordinary = max((seat.link for seat in starved), key=room), False

    def _hear(self, seat: Seat, lasted: float) -> None:
        """Wait a moment for word on how the executor at ``seat`` ended; if there is none its worker is in doubt.

        But not if the call had not run for as long: then it was not cut off, which shows by silence.
        """
        self._heard += (seat.id,)
        obituary = self._waited_for(seat, WORD)
        if obituary is not None:
            self._verdicts = {**self._verdicts, seat.id: obituary}
        elif seat.link.state == "up" and lasted > WORD:
            self.driver.doubt(self, seat.link)

    def _obituary(self, seat: Seat) -> wire.Obituary | None:
        """How the executor at ``seat`` ended, waited for once; None if it did not, as far as is known."""
        if seat.id not in self._verdicts:
            self._verdicts = {**self._verdicts, seat.id: self._waited_for(seat, OBITUARY)}
        return self._verdicts[seat.id]

    def _waited_for(self, seat: Seat, seconds: float) -> wire.Obituary | None:
        began = self.driver.clock()
        obituary = obituary_of(seat, self.driver.turn, seconds)
        self.waited += self.driver.clock() - began
        return obituary


class Outside:
    """Around code of the program's that runs in the middle of a call: calls in it are the program's own."""

    def __init__(self, lending: list[int], inside: Callable[[bool], bool]) -> None:
        self._lending = lending
        self._inside = inside

    def __enter__(self) -> None:
        self._lending.append(threading.get_ident())
        self._before = self._inside(False)

    def __exit__(self, *_: object) -> None:
        self._inside(self._before)
        self._lending.remove(threading.get_ident())


def obituary_of(seat: Seat, turn: Turn, seconds: float = OBITUARY) -> wire.Obituary | None:
    """How the executor at ``seat`` ended, waited for so long; None if it did not, as far as is known."""
    key = (seat.slot, seat.incarnation)
    with turn:
        turn.wait_for(lambda: key in seat.link.obituaries or seat.link.state != "up", seconds)
        same_life = seat.id.endswith(seat.link.ticket[:4].hex())
        return seat.link.obituaries.get(key) if same_life else None
