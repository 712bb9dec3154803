"""Short calls in a row: what they leave out, and what they do not."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from relocate import deadlines, errors, policy, shortcut, testing, wire
from relocate.namespace import Where
from relocate.observe import WorkerStatistics
from relocate.seating import Seating
from relocate.testing import Clock, CutOff, Delay, Drain, Fault, Garble, Kill, Network, Program, Worker

SOURCE = """
def price(n): return n * 3
def fail(n): return 1 // n
def say(n): print(n)
def name(text): return text
def change(items): items.append(1)
"""
MANY = 40
"""Calls after which it is known that such calls are short."""


def shop(version: str = "1") -> ModuleType:
    return testing.module("shop", SOURCE, __version__=version)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def network(clock: Clock) -> Network:
    return Network(clock)


@pytest.fixture
def desk(network: Network) -> Worker:
    return network.worker("desk", modules=[shop()])


@pytest.fixture
def attic(network: Network) -> Worker:
    return network.worker("attic", modules=[shop()])


@pytest.fixture
def leased(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of calls that went the long way."""
    names: list[str] = []
    lease = Seating.lease

    def noted(self: Seating, trip: Any) -> Any:
        names.append(trip.name)
        return lease(self, trip)

    monkeypatch.setattr(Seating, "lease", noted)
    return names


@pytest.fixture
def program(network: Network, desk: Worker, attic: Worker, leased: list[str]) -> Iterator[Program]:
    """A program of which short calls went to ``desk``; ``attic`` is spare.  In the end no seat may be held."""
    made = Program(network, ["desk", "attic"])
    proxy = made.load("shop")
    for n in range(MANY):
        for function in (proxy.price, proxy.say, proxy.name):
            function(n)
    for _ in range(MANY):
        assert proxy.fail(1) == 1
    proxy.price(0)  # so that it is no older than a moment
    assert attic.calls == []
    leased.clear()
    desk.calls.clear()
    yield made
    seats = [seat for link in network.links for seat in link.seats]
    assert [s.outstanding for s in seats] == [0] * len(seats)
    assert network.opened - network.closed == sum(len(s.idle) for s in seats)


def test_calls_in_a_row_are_decided_once_in_a_moment(
    program: Program, leased: list[str], desk: Worker, clock: Clock
) -> None:
    before, began = program.statistics(), clock.now()
    assert [program.load("shop").price(n) for n in range(1000)] == [n * 3 for n in range(1000)]
    assert len(desk.calls) == 1000
    moments = (clock.now() - began) / shortcut.MOMENT
    assert moments / 2 < len(leased) < moments + 2
    now = program.statistics()
    assert (now.calls - before.calls, now.returned - before.returned) == (1000, 1000)
    assert now.bytes_out > before.bytes_out
    assert now.bytes_in > before.bytes_in
    assert now.members["shop.price"].remote == before.members["shop.price"].remote + 1000
    assert now.workers["desk/0"] == WorkerStatistics(before.workers["desk/0"].calls + 1000, 0)


def test_a_name_that_leads_elsewhere_does_so_at_once(
    program: Program, leased: list[str], desk: Worker, attic: Worker
) -> None:
    price = program.load("shop").price
    price(1)
    assert leased == []
    program.namespace.bind("/n/attic/chan/shop/price", "/chan/shop/price", Where.REPLACE)
    price(2)
    assert (desk.calls, attic.calls) == (["shop.price"], ["shop.price"])
    program.namespace.unmount("/chan/shop/price")
    price(3)
    assert (len(desk.calls), len(attic.calls)) == (2, 1)


@pytest.mark.parametrize(
    "fault", [Kill(), Kill(before=True), CutOff(), Garble(), Garble((b"\x93\x01\x02\x03",)), Drain()]
)
def test_an_attempt_that_is_lost_is_made_again_elsewhere(
    program: Program, leased: list[str], desk: Worker, fault: Fault
) -> None:
    price = program.load("shop").price
    before = program.statistics()
    desk.next(fault)
    assert price(5) == 15
    assert leased != []
    now = program.statistics()
    assert (now.calls - before.calls, now.retried - before.retried, now.failed) == (1, 1, 0)
    assert now.bytes_out - before.bytes_out > 2 * len("shop.price")


def test_a_call_that_crashes_executors_is_given_up(program: Program, network: Network, desk: Worker) -> None:
    network.whenever("shop.price", Kill(-signal.SIGSEGV))
    with pytest.raises(errors.CrashingCall, match="desk/0 died of SIGSEGV"):
        program.load("shop").price(1)
    assert desk.calls[:1] == ["shop.price"]


def test_one_that_takes_long_is_waited_for_or_tried_elsewhere(
    program: Program, network: Network, desk: Worker, leased: list[str]
) -> None:
    price = program.load("shop").price
    desk.next(Delay(1.0))
    assert price(5) == 15
    assert leased == []
    found = program.statistics()
    assert found.hedged == 1
    assert program.load("shop").price(6) == 18


def test_calls_that_took_it_earn_further_attempts(program: Program, desk: Worker) -> None:
    price = program.load("shop").price
    hedges = program.driver._hedges.calls
    hedges.tokens = 0.0
    for n in range(60):
        price(n)
    desk.next(Delay(1.0))
    price(0)
    assert program.statistics().hedged == 1
    assert 0.8 < hedges.tokens < 1.5  # 3 % of 61, less the one that was spent


def test_one_that_took_longer_than_short_calls_do_is_followed_by_a_decision(
    program: Program, desk: Worker, leased: list[str]
) -> None:
    price = program.load("shop").price
    desk.next(Delay(0.005))
    price(1)
    assert leased == []
    price(2)
    assert leased == ["shop.price"]


def test_what_the_function_raises_is_raised(program: Program, desk: Worker, leased: list[str]) -> None:
    before = program.statistics()
    fail = program.load("shop").fail
    fail(1)
    leased.clear()
    with pytest.raises(ZeroDivisionError) as caught:
        fail(0)
    assert caught.value.__context__ is None
    assert leased == []
    now = program.statistics()
    assert (now.raised - before.raised, now.retried) == (1, 0)


def test_what_it_prints_is_printed(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for n in range(3):
        program.load("shop").say(n)
    assert capsys.readouterr().out == "0\n1\n2\n"


def test_arguments_that_can_be_changed_go_the_long_way(program: Program, leased: list[str]) -> None:
    change = program.load("shop").change
    for _ in range(MANY):
        items: list[int] = []
        change(items)
        assert items == [1]
    assert leased == ["shop.change"] * MANY


def test_so_do_long_texts(program: Program, leased: list[str]) -> None:
    name = program.load("shop").name
    name("a")
    leased.clear()
    assert name("a") == "a"
    assert leased == []
    long = "a" * (wire.INLINE + 1)
    assert name(long) == long
    assert leased == ["shop.name"]


def test_a_call_with_a_deadline_goes_the_long_way(program: Program, leased: list[str], desk: Worker) -> None:
    with deadlines.deadline(1.0):
        program.load("shop").price(1)
    assert leased == ["shop.price"]


@pytest.mark.parametrize(("what", "usual"), [("outstanding", 0), ("suspect", False)])
def test_a_seat_that_is_busy_or_suspect_is_decided_about(
    program: Program, leased: list[str], desk: Worker, what: str, usual: object
) -> None:
    price = program.load("shop").price
    (seat,) = desk.link.seats
    setattr(seat, what, 1)
    price(1)
    assert leased == ["shop.price"]
    setattr(seat, what, usual)


def test_a_policy_of_the_programs_own_is_asked_for_each_call(network: Network, desk: Worker) -> None:
    program = Program(network, ["desk"])
    asked: list[str] = []

    def own(call: policy.Call, *args: Any) -> policy.Decision:
        asked.append(call.name)
        return policy.decide(call, *args)

    program.driver.policy = own
    price = program.load("shop").price
    asked.clear()
    for n in range(100):
        price(n)
    assert asked == ["shop.price"] * 100


class Interrupt(BaseException):
    """What a signal's handler raises."""


CLIENTS = ("shortcut", "driver", "observe", "places", "seating", "trip")
"""Modules that only the caller's side runs while a call is under way."""


@pytest.mark.parametrize("where", ["send", "reply"])
def test_an_interrupt_gives_the_seat_back_and_cancels_the_call(
    program: Program, network: Network, desk: Worker, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    price = program.load("shop").price
    (channel,) = desk.link.seats[0].idle
    cancelled: list[bytes] = []
    monkeypatch.setattr(network, "cancel", lambda seat, call, **how: cancelled.append(call))

    def interrupted(*args: Any) -> Any:
        raise Interrupt

    monkeypatch.setattr(channel, where, interrupted)
    with pytest.raises(Interrupt):
        price(1)
    assert len(cancelled) == 1
    assert desk.link.seats[0].outstanding == 0
    assert price(2) == 6
    assert program.statistics().returned == program.statistics().calls


def test_wherever_an_interrupt_comes_no_seat_is_lost(program: Program, desk: Worker) -> None:
    price = program.load("shop").price
    (seat,) = desk.link.seats
    own = sys.gettrace()
    interrupted = []
    for at in range(40):
        price(at)
        price(at)
        entered = itertools.count()

        def trace(frame: FrameType, event: str, arg: object) -> None:
            if Path(frame.f_code.co_filename).stem in CLIENTS and next(entered) == at:  # noqa: B023 -- used here
                raise Interrupt(frame.f_code.co_qualname)

        sys.settrace(trace)  # told of each call of a function
        try:
            assert price(at) == at * 3
        except Interrupt as error:
            sys.settrace(own)
            interrupted.append(str(error))
        finally:
            sys.settrace(own)
        assert seat.outstanding == 0, interrupted
    assert {"Shortcut.call", "Seating.resume", "Seating.release", "Counters.catch_up"} <= {*interrupted}
