"""Short calls in a row: what they leave out, and what they do not."""

from __future__ import annotations

import itertools
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from relocate import deadlines, driver, errors, policy, shortcut, testing, wire
from relocate.health import Health
from relocate.namespace import Where
from relocate.observe import WorkerStatistics
from relocate.seating import Seating
from relocate.testing import Clock, CutOff, Delay, Drain, Fault, Garble, Kill, Network, Program, Worker
from relocate.trip import Trip

SOURCE = """
def price(n): return n * 3
def fail(n): return 1 // n
def say(n): print(n)
def name(text): return text
def change(items): items.append(1)
def box(n): return Box(n)
def size(value): return len(value)
def double(value): return value * 2 if hasattr(value, "dtype") else value + value
def sort(items): items.sort()
def apply(function): return function and function()
def total(items): return sum(items)
def upto(n): yield from range(n)
"""
MANY = 40
"""Calls after which it is known that such calls are short."""


class Box:
    """What a function returns that is not plain, and is told when it is read."""

    read: ClassVar[list[Callable[[int], object]]] = []

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _box, (self.number,)


def _box(number: int) -> Box:
    for told in Box.read:
        told(number)
    return Box(number)


@pytest.fixture
def read() -> Iterator[list[Callable[[int], object]]]:
    """Told the number of each box that is read."""
    yield Box.read
    Box.read.clear()


def shop() -> ModuleType:
    return testing.module("shop", SOURCE, Box=Box)


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
        for function in (proxy.price, proxy.say, proxy.name, proxy.box):
            function(n)
        for function in (proxy.size, proxy.double, proxy.sort):
            function([1, 2])
        proxy.apply(None)
    for _ in range(MANY):
        assert proxy.fail(1) == 1
    proxy.price(0)  # so that it is no older than a moment
    assert attic.calls == []
    leased.clear()
    desk.calls.clear()
    yield made
    seats = [seat for link in network.links for seat in link.seats]
    assert [s.outstanding for s in seats] == [0] * len(seats)
    assert made.driver.turn.under_way == 0
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
    assert 0.7 < hedges.tokens < 1.5  # 3 % of 61, less the one that was spent


def test_a_result_is_read_when_its_executor_is_free_again(
    program: Program, desk: Worker, leased: list[str], read: list[Callable[[int], object]]
) -> None:
    box, price = program.load("shop").box, program.load("shop").price
    box(0)
    leased.clear()
    (seat,) = desk.link.seats
    seen = []
    read.append(lambda number: seen.append((number, seat.outstanding, price(number))))
    assert box(1).number == 1
    assert seen == [(1, 0, 3)]
    assert leased == []


def test_one_that_cannot_be_read_is_told_of_and_read_once(
    program: Program, read: list[Callable[[int], object]]
) -> None:
    box, before = program.load("shop").box, program.statistics()
    box(0)
    seen = []

    def unreadable(number: int) -> None:
        seen.append(number)
        raise LookupError("the class is gone")

    read.append(unreadable)
    with pytest.raises(errors.ArgumentError, match=r"the result of shop\.box cannot be read here"):
        box(1)
    assert seen == [1]
    now = program.statistics()
    assert (now.calls - before.calls, now.failed) == (2, 1)


@pytest.mark.parametrize("usually", [0.0, 0.01])
def test_who_becomes_slow_is_found_out(network: Network, usually: float) -> None:
    network.whenever("shop.price", Delay(usually))
    slow, other = (network.worker(name, modules=[shop()]) for name in ("slow", "other"))
    program = Program(network, [["slow", "other"]])
    price = program.load("shop").price
    for n in range(MANY):
        for worker in (slow, other):
            worker.link.seats[0].modules.add("shop")
        price(n)
    usual, spare = (slow, other) if slow.calls else (other, slow)
    before = len(spare.calls)
    usual.next(*[Delay(0.004 + 5 * usually)] * 1000)
    for n in range(300):
        price(n)
    assert len(spare.calls) > before + 200


def test_a_name_that_was_bound_anew_while_a_call_ran_leads_elsewhere_from_the_next_one_on(
    program: Program, clock: Clock, attic: Worker, desk: Worker
) -> None:
    price = program.load("shop").price
    clock.advance(2 * shortcut.MOMENT)
    clock.after(0.00015, lambda: program.namespace.bind("/n/attic/chan/shop", "/chan/shop", Where.REPLACE))
    for n in range(3):
        price(n)
    assert (len(desk.calls), len(attic.calls)) == (1, 2)


def test_one_that_took_longer_than_short_calls_do_is_followed_by_a_decision(
    program: Program, desk: Worker, leased: list[str]
) -> None:
    price = program.load("shop").price
    desk.next(Delay(0.005))
    price(1)
    assert leased == []
    price(2)
    assert leased == ["shop.price"]


@pytest.fixture
def longer(program: Program, network: Network, leased: list[str], desk: Worker) -> Callable[[int], int]:
    """The function `shop.price`, of which it is known that its calls take 10 ms."""
    network.whenever("shop.price", Delay(0.01))
    price: Callable[[int], int] = program.load("shop").price
    for n in range(MANY):
        price(n)
    leased.clear()
    desk.calls.clear()
    return price


def test_longer_ones_in_a_row_are_decided_about_now_and_then(
    longer: Callable[[int], int], program: Program, leased: list[str], desk: Worker
) -> None:
    before = program.statistics()
    assert [longer(n) for n in range(90)] == [n * 3 for n in range(90)]
    assert len(desk.calls) == 90
    assert 9 <= len(leased) <= 11
    now = program.statistics()
    assert (now.calls - before.calls, now.returned - before.returned) == (90, 90)
    assert now.members["shop.price"].remote == before.members["shop.price"].remote + 90


def test_but_not_when_there_was_a_pause(longer: Callable[[int], int], leased: list[str], clock: Clock) -> None:
    longer(1)
    clock.advance(2 * shortcut.MOMENT)
    leased.clear()
    longer(2)
    assert leased == ["shop.price"]


def test_nor_about_those_so_long_that_nobody_would_notice(
    longer: Callable[[int], int], network: Network, leased: list[str]
) -> None:
    network.whenever("shop.price", Delay(0.2))
    for n in range(MANY):
        longer(n)
    leased.clear()
    longer(1)
    longer(2)
    assert leased == ["shop.price"] * 2


def test_it_is_learned_of_each_longer_one_how_long_it_takes(longer: Callable[[int], int], program: Program) -> None:
    before = program.statistics().bytes_out
    longer(1)
    estimate = program.driver.costs.of("shop.price", program.statistics().bytes_out - before)
    known = estimate.there.count
    for n in range(90):
        longer(n)
    assert known + 89 <= estimate.there.count <= known + 90  # of the last one when there is time
    assert 0.009 < estimate.there.median < 0.012


def test_a_longer_one_that_takes_longer_than_such_do_is_tried_elsewhere(
    longer: Callable[[int], int], program: Program, attic: Worker, leased: list[str], desk: Worker, clock: Clock
) -> None:
    clock.advance(2 * shortcut.MOMENT)
    longer(1)
    leased.clear()
    before = program.statistics().hedged
    attic.calls.clear()
    desk.next(Delay(1.0))
    assert longer(5) == 15
    assert leased == []
    assert program.statistics().hedged == before + 1
    assert attic.calls == ["shop.price"]


@pytest.mark.parametrize("since", ["answered", "failed"])
def test_what_one_took_is_no_news_of_a_seat_that_has_answered_or_failed_since(
    longer: Callable[[int], int],
    program: Program,
    clock: Clock,
    desk: Worker,
    monkeypatch: pytest.MonkeyPatch,
    since: str,
) -> None:
    (seat,) = desk.link.seats
    name, took, told = program.load("shop").name, Health.took, []

    def noted(self: Health, *args: Any) -> bool:
        told.append(self)
        return took(self, *args)

    clock.advance(2 * shortcut.MOMENT)
    longer(1)
    longer(2)
    clock.advance(3600.0)
    if since == "answered":
        name("x")
    else:
        seat.failed(clock.now())
    monkeypatch.setattr(Health, "took", noted)
    longer(3)
    assert len(told) == 1  # of the last one itself
    assert seat.suspect is (since == "failed")


def test_a_larger_one_says_nothing_of_how_long_a_smaller_one_takes(
    program: Program, network: Network, leased: list[str], clock: Clock
) -> None:
    size = program.load("shop").size
    large = list(range(10_000))
    for value, seconds in ((large, 0.08), ([1], 0.01)):
        network.whenever("shop.size", Delay(seconds))
        for _ in range(2 * MANY):
            size(value)
    clock.advance(2 * shortcut.MOMENT)
    leased.clear()
    for value in (large, [1], [2]):
        size(value)
    assert leased == ["shop.size"] * 2


def test_one_that_is_nested_leaves_none_as_it_is_not_hedged(
    longer: Callable[[int], int], program: Program, leased: list[str]
) -> None:
    assert program.load("shop").total(longer(n) for n in (1, 2)) == 9
    leased.clear()
    longer(3)
    longer(4)
    assert leased == ["shop.price"]


def test_generators_which_do_not_take_any_leave_none(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    upto = program.load("shop").upto
    monkeypatch.setattr(driver, "Shortcut", None)
    for _ in range(MANY):
        assert list(upto(3)) == [0, 1, 2]


def test_a_seat_that_waits_for_the_program_takes_no_more_calls_whatever_is_told_of_it(desk: Worker) -> None:
    (seat,) = desk.link.seats
    seat.depth = 0
    seat.timed(0.001)
    assert seat.depth == 0


def test_an_interrupt_as_a_seat_for_a_second_attempt_is_found_gives_it_back(
    longer: Callable[[int], int], program: Program, desk: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise Interrupt

    longer(1)
    desk.next(Delay(1.0))
    with monkeypatch.context() as during:
        during.setattr(program.driver, "_changed", interrupted)
        with pytest.raises(Interrupt):
            longer(2)


def test_calls_at_the_same_time_have_one_each(
    network: Network, leased: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seats = [network.worker(name, modules=[shop()]).link.seats[0] for name in ("one", "two")]
    program = Program(network, [["one", "two"]])
    price = program.load("shop").price
    for n in range(MANY):
        for seat in seats:
            seat.modules.add("shop")
        price(n)
    opened = max(seats, key=lambda seat: seat.answered_at).idle[-1]
    exchange = opened.exchange
    beside: list[int] = []

    def meanwhile(*args: Any) -> Any:  # another thread's call, as far as anybody here can tell
        beside.append(price(len(beside)))
        return exchange(*args)

    monkeypatch.setattr(opened, "exchange", meanwhile)
    price(0)
    leased.clear()
    assert price(7) == 21
    assert beside == [0, 3]
    assert leased == []


def test_it_is_learned_how_long_those_of_each_size_take(program: Program, desk: Worker) -> None:
    size, big = program.load("shop").size, list(range(5000))
    for _ in range(MANY):
        size([1])
        desk.next(Delay(0.003))
        before = program.statistics().bytes_out
        size(big)
    of_their_size = program.driver.costs.of("shop.size", program.statistics().bytes_out - before)
    assert 0.003 < of_their_size.there.p95 < 0.005


def test_for_a_brief_one_is_looked_if_no_other_is_under_way(
    program: Program, desk: Worker, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    price = program.load("shop").price
    opened = desk.link.seats[0].idle[-1]
    exchange, looked = opened.exchange, []

    def noted(call: bytes, frames: list[wire.Buffer], until: float, brief: bool, *meanwhile: Any) -> Any:
        looked.append(brief)
        return exchange(call, frames, until, brief, *meanwhile)

    monkeypatch.setattr(opened, "exchange", noted)
    for usual in (0.0, 1.0):  # of calls on the simulated network, which take 0.2 ms
        monkeypatch.setattr(shortcut, "BRIEF", usual)
        clock.advance(2 * shortcut.MOMENT)
        price(1)
        price(2)
    program.driver.turn.under_way += 1
    price(3)
    program.driver.turn.under_way -= 1
    price(4)
    assert looked == [False, True, False, False]


@pytest.mark.parametrize("pays", [True, False])
def test_a_look_in_vain_counts(program: Program, desk: Worker, monkeypatch: pytest.MonkeyPatch, pays: bool) -> None:
    size = program.load("shop").size
    monkeypatch.setattr(shortcut, "BRIEF", 1.0)
    opened, looked = desk.link.seats[0].idle[-1], []
    exchange = opened.exchange

    def noted(call: bytes, frames: list[wire.Buffer], until: float, brief: bool, *meanwhile: Any) -> Any:
        looked.append(brief)
        if brief is not pays:
            desk.next(Delay(0.004))
        return exchange(call, frames, until, brief, *meanwhile)

    monkeypatch.setattr(opened, "exchange", noted)
    for _ in range(200):
        size([1])
        size([1])
    assert looked.count(not pays) < 30


def test_it_is_found_out_whether_to_look_pays() -> None:
    for pays in (True, False):
        looking = shortcut.Looking()
        chosen = []
        for _ in range(160):
            looks = looking.choose()
            chosen.append(looks)
            looking.learn(looks, 1.0 if looks is pays else 2.0)
        assert chosen[:2] == [True, False]
        assert chosen[2:].count(not pays) == 10
        for _ in range(160):  # it is not as it was
            looks = looking.choose()
            looking.learn(looks, 2.0 if looks is pays else 1.0)
        assert looking.choose() is not pays


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


@pytest.mark.parametrize(
    "value",
    ["a" * (wire.INLINE + 1), [1, [2]], {"a": {3}}, np.arange(1000.0), [np.arange(1000.0)], np.arange(8.0)[::2]],
    ids=["long text", "list", "dictionary", "array", "list of an array", "strided array"],
)
def test_those_that_a_function_leaves_as_they_are_do_not(
    program: Program, leased: list[str], clock: Clock, value: Any
) -> None:
    size = program.load("shop").size
    clock.advance(2 * shortcut.MOMENT)
    size([1, 2])
    leased.clear()
    before = program.statistics()
    assert size(value) == len(value)
    assert leased == []
    now = program.statistics()
    assert now.bytes_out - before.bytes_out > 0.9 * len(pickle.dumps(value))
    assert (now.returned, now.remote) == (before.returned + 1, before.remote + 1)


def test_results_that_can_be_changed_come_the_short_way(program: Program, leased: list[str]) -> None:
    double = program.load("shop").double
    double([1])
    leased.clear()
    for n in range(3):
        assert double([n]) == [n, n]
        array = np.full(1000, float(n))
        found = double(array)
        assert (found == 2 * array).all()
        found[0] = 1  # its memory is its own
    assert leased == []


def test_what_changes_its_argument_now_and_then_does_so(program: Program, leased: list[str], desk: Worker) -> None:
    sort = program.load("shop").sort
    sort([1, 2])
    leased.clear()
    desk.calls.clear()
    items = [2, 1]
    sort(items)
    assert items == [1, 2]
    assert (leased, desk.calls) == ([], ["shop.sort"])
    array = np.arange(1000.0)[::-1].copy()
    sort(array)
    assert array.tolist() == sorted(array.tolist())


def test_a_call_that_is_lent_a_function_goes_the_long_way(program: Program, leased: list[str]) -> None:
    apply = program.load("shop").apply
    apply(None)
    leased.clear()
    own: list[int] = []
    apply(lambda: own.append(1))
    assert own == [1]
    assert leased == ["shop.apply"]


def test_one_whose_argument_cannot_travel_is_told_of(program: Program, leased: list[str]) -> None:
    size, before = program.load("shop").size, program.statistics()
    size([1])
    with pytest.raises(errors.ArgumentError, match=r"shop\.size: argument 1, of type list"):
        size([threading.Lock()])
    assert program.statistics().failed == before.failed + 1


def test_so_is_one_with_more_than_a_message_may_have(
    program: Program, leased: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size, before = program.load("shop").size, program.statistics()
    size([1])
    monkeypatch.setattr(wire, "MAX_MESSAGE", 1000)
    with pytest.raises(errors.ArgumentError, match="at most 1,000 in"):
        size(np.arange(1000.0))
    assert program.statistics().failed == before.failed + 1


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


CLIENTS = ("shortcut", "driver", "observe", "places", "seating", "trip", "health", "cost")
"""Modules that only the caller's side runs while a call is under way."""


@pytest.mark.parametrize("where", ["send", "exchange"])
def test_an_interrupt_gives_the_seat_back_and_cancels_the_call(
    program: Program, network: Network, desk: Worker, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    price = program.load("shop").price
    channel = desk.link.seats[0].idle[-1]
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
    found = program.statistics()
    assert (found.returned, found.failed) == (found.calls - 1, 1)


def test_what_a_handler_raises_is_raised_though_it_has_ended_relocation(
    program: Program, desk: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    price = program.load("shop").price

    def interrupted(*args: Any) -> Any:
        program.driver.detach()
        raise Interrupt

    monkeypatch.setattr(desk.link.seats[0].idle[-1], "exchange", interrupted)
    with pytest.raises(Interrupt):
        price(1)


def interrupted_at(which: int, call: Callable[[], int]) -> set[str]:
    """Interrupt ``call`` as it enters that one of our functions: its name, if it gets there."""
    entered, own, found = itertools.count(), sys.gettrace(), set()

    def trace(frame: FrameType, event: str, arg: object) -> None:
        if Path(frame.f_code.co_filename).stem in CLIENTS and next(entered) == which:
            found.add(frame.f_code.co_qualname)
            raise Interrupt

    try:
        sys.settrace(trace)  # told of each call of a function
        try:
            assert call() == which * 3
        finally:
            sys.settrace(own)
    except Interrupt:
        pass
    return found


@pytest.mark.parametrize("comes", ["alone", "with more"])
def test_wherever_an_interrupt_comes_no_seat_is_lost(
    program: Program, desk: Worker, monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    monkeypatch.setattr(shortcut, "MANY", 0)  # so that calls are counted each time
    price = program.load("shop").price
    (seat,) = desk.link.seats
    interrupted: set[str] = set()
    usual = wire.result_of
    for at in range(100):
        price(at)
        price(at)
        if comes == "with more":
            monkeypatch.setattr(wire, "result_of", lambda header, call: None)
        interrupted |= interrupted_at(at, lambda: price(at))  # noqa: B023 -- used here
        assert seat.outstanding == 0, interrupted
        monkeypatch.setattr(wire, "result_of", usual)
    usually = {"Shortcut.call", "Seating.resume", "Counters.catch_up"}
    after = {"Seating.release"} if comes == "alone" else {"Shortcut._end", "Trip.make", "Seating.answered"}
    assert usually | after <= interrupted


def test_nor_by_one_while_it_is_noted_what_the_one_before_took(longer: Callable[[int], int], desk: Worker) -> None:
    (seat,) = desk.link.seats
    interrupted: set[str] = set()
    for at in range(40):
        longer(at)
        longer(at)
        interrupted |= interrupted_at(at, lambda: longer(at))  # noqa: B023 -- used here
        assert seat.outstanding == 0, interrupted
    assert {"Shortcut._catch_up", "Driver.passed", "Seat.timed", "Seating.release"} <= interrupted


@pytest.mark.parametrize("value", [1, [1, 2]], ids=["of a plain call", "of another"])
def test_nor_by_one_more_while_the_channel_is_closed(
    program: Program, desk: Worker, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    price = program.load("shop").price
    price(value)
    (seat,) = desk.link.seats
    opened, times = seat.idle[-1], []
    close = opened.close

    def interrupted(*args: Any) -> Any:
        raise Interrupt

    def interrupted_once() -> None:
        times.append(1)
        close()
        raise Interrupt

    monkeypatch.setattr(opened, "exchange", interrupted)
    monkeypatch.setattr(opened, "close", interrupted_once)
    with pytest.raises(Interrupt):
        price(value)
    assert (len(times), seat.outstanding, len(seat.idle)) == (1, 0, 0)
    assert price(value) == value * 3


def test_not_even_by_three_in_a_row(
    program: Program, network: Network, desk: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    price = program.load("shop").price
    (seat,) = desk.link.seats
    release, times, cancelled = Seating.release, itertools.count(), []

    def interrupted(*args: Any) -> Any:
        raise Interrupt

    def interrupted_once(self: Seating, *args: Any) -> None:
        if not next(times):
            raise Interrupt
        release(self, *args)

    with monkeypatch.context() as during:
        during.setattr(seat.idle[-1], "exchange", interrupted)
        during.setattr(Trip, "__init__", interrupted)
        during.setattr(Seating, "release", interrupted_once)
        during.setattr(network, "cancel", lambda seat, call, **how: cancelled.append(call))
        with pytest.raises(Interrupt):
            price(1)
    assert (next(times), len(cancelled), seat.outstanding, len(seat.idle)) == (2, 1, 0, 0)
    assert price(2) == 6
