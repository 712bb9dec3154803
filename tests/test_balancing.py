"""Health, budgets, bounded lines and deadlines, from the program's side."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from conftest import Place, until

import relocate
from relocate import errors, testing
from relocate.deadlines import Limits, current
from relocate.policy import NEVER
from relocate.processes import standing
from relocate.testing import Clock, Delay, Fault, Kill, Network, Program, Worker
from relocate.worker import Condemned

SOURCE = """
def price(n): return n * 3
def total(items): return sum(items)
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def network(clock: Clock) -> Network:
    return Network(clock)


def worker(network: Network, executors: int = 1, name: str = "desk") -> Worker:
    return network.worker(name, executors, [testing.module("shop", SOURCE)])


# Slow executors, retries ---------------------------------------------------------------------------


def test_an_executor_that_is_slow_again_and_again_is_ejected_and_later_used_again(
    network: Network, clock: Clock
) -> None:
    desk, attic = worker(network), worker(network, name="attic")
    program = Program(network, [["desk", "attic"]])
    proxy = program.load("shop")
    [seat], [other] = desk.link.seats, attic.link.seats

    def on_the_desk() -> None:
        other.outstanding += 9
        assert proxy.price(1) == 3
        other.outstanding -= 9

    for _ in range(30):
        desk.next(Delay(0.01))
        on_the_desk()
    for _ in range(5):
        desk.next(Delay(3.0))
        on_the_desk()
    assert seat.ejected_until > clock.now()
    before = len(desk.calls)
    for _ in range(10):
        proxy.price(1)
    assert len(desk.calls) == before
    clock.advance(seat.ejected_until - clock.now() + 0.1)
    on_the_desk()
    assert len(desk.calls) == before + 1
    assert not seat.suspect


def test_the_only_executor_is_never_ejected(network: Network, clock: Clock) -> None:
    desk = worker(network)
    proxy = Program(network, ["desk"]).load("shop")
    for _ in range(30):
        proxy.price(1)
    desk.next(*[Delay(5.0)] * 10)
    for _ in range(10):
        proxy.price(1)
    assert desk.link.seats[0].ejected_until == 0


def test_retries_wait_for_their_budget_and_nothing_is_lost(network: Network, clock: Clock) -> None:
    desk = worker(network, 4)
    program = Program(network, ["desk"])
    proxy = program.load("shop")
    program.driver._retries.tokens = 0.0
    program.driver._retries.most = 1.0
    began = clock.now()
    desk.next(Kill(), Kill(returncode=-9))
    assert proxy.price(1) == 3
    assert clock.now() - began >= 0.1
    assert program.statistics().retried == 2


# Hedging --------------------------------------------------------------------------------------------


@pytest.fixture
def pair(network: Network) -> tuple[Program, Worker, Worker, Any]:
    """A program with two workers, which knows what its function usually takes, and may hedge."""
    desk, attic = worker(network), worker(network, name="attic")
    program = Program(network, [["desk", "attic"]])
    proxy = program.load("shop")
    for where, other in ((desk, attic), (attic, desk)) * 15:
        [held] = other.link.seats
        held.outstanding += 9
        where.next(Delay(0.05))
        proxy.price(0)
        held.outstanding -= 9
    program.driver._hedges.calls.tokens = program.driver._hedges.seconds = 5.0
    return program, desk, attic, proxy


def at_rest(network: Network) -> None:
    seats = [seat for link in network.links for seat in link.seats]
    assert [seat.outstanding for seat in seats] == [0] * len(seats)
    assert network.opened - network.closed == sum(len(seat.idle) for seat in seats)


def test_a_call_that_takes_unusually_long_runs_elsewhere_too_and_the_first_answer_wins(
    pair: tuple[Program, Worker, Worker, Any], network: Network, clock: Clock
) -> None:
    program, desk, attic, _ = pair
    before, began, calls = program.statistics(), clock.now(), len(desk.calls) + len(attic.calls)
    assert late_on_the_desk(pair, clock) == 6
    assert clock.now() - began < 1.0
    assert len(desk.calls) + len(attic.calls) == calls + 2
    after = program.statistics()
    assert (after.calls - before.calls, after.hedged - before.hedged) == (1, 1)
    assert [seat for seat, _ in network.cancelled] == [desk.link.seats[0].id]
    at_rest(network)


def late_on_the_desk(pair: tuple[Program, Worker, Worker, Any], clock: Clock, *faults: Fault | None) -> Any:
    """A call that begins on the desk and is late there; in the attic ``faults`` strike."""
    _, desk, attic, proxy = pair
    [held] = attic.link.seats
    held.outstanding += 9
    clock.after(0.005, lambda: setattr(held, "outstanding", held.outstanding - 9))
    desk.next(Delay(30.0))
    attic.next(*faults)
    return proxy.price(2)


def test_a_second_attempt_that_is_lost_leaves_the_first(
    pair: tuple[Program, Worker, Worker, Any], network: Network, clock: Clock
) -> None:
    began = clock.now()
    assert late_on_the_desk(pair, clock, Kill()) == 6
    assert clock.now() - began == pytest.approx(30.0, abs=0.1)
    clock.advance(5.0)
    at_rest(network)


def test_a_first_attempt_that_is_lost_leaves_the_second(
    pair: tuple[Program, Worker, Worker, Any], network: Network, clock: Clock
) -> None:
    began = clock.now()
    clock.after(1.0, pair[1].kill)
    assert late_on_the_desk(pair, clock, Delay(5.0)) == 6
    assert 5.0 < clock.now() - began < 6.0
    clock.advance(5.0)
    at_rest(network)


def test_a_deadline_ends_both_attempts(
    pair: tuple[Program, Worker, Worker, Any], network: Network, clock: Clock
) -> None:
    end = clock.now() + 2.0
    pair[0].driver.deadline = lambda: end
    with pytest.raises(errors.DeadlineExceeded):
        late_on_the_desk(pair, clock, Delay(60.0))
    assert clock.now() == pytest.approx(end, abs=0.01)
    assert len(network.cancelled) == 2
    at_rest(network)


def test_without_budget_there_is_no_second_attempt(
    pair: tuple[Program, Worker, Worker, Any], network: Network, clock: Clock
) -> None:
    pair[0].driver._hedges.calls.tokens = -99.0
    began = clock.now()
    assert late_on_the_desk(pair, clock) == 6
    assert clock.now() - began == pytest.approx(30.0, abs=0.1)
    assert network.cancelled == []
    at_rest(network)


def test_what_was_lent_a_generator_has_no_second_attempt(
    pair: tuple[Program, Worker, Worker, Any], network: Network, clock: Clock
) -> None:
    _, desk, attic, proxy = pair
    for _ in range(40):
        assert proxy.total(n for n in range(3)) == 3
    desk.next(Delay(30.0))
    attic.next(Delay(30.0))
    assert proxy.total(n for n in range(3)) == 3
    assert network.cancelled == []


def test_a_call_that_waits_behind_a_long_one_is_taken_back_without_budget(
    pair: tuple[Program, Worker, Worker, Any], network: Network, clock: Clock
) -> None:
    pair[0].driver._hedges.calls.tokens = -99.0
    [seat] = pair[1].link.seats
    seat.depth = 4
    seat.outstanding += 1  # another thread's call, which takes long
    began = clock.now()
    assert late_on_the_desk(pair, clock) == 6
    assert clock.now() - began < 1.0
    assert [where for where, _ in network.cancelled] == [seat.id]
    seat.outstanding -= 1
    at_rest(network)


# The line -------------------------------------------------------------------------------------------


def test_where_the_line_is_full_a_call_is_overloaded_at_once(network: Network, clock: Clock) -> None:
    desk = worker(network, 2)
    program = Program(network, ["desk"])
    program.driver.queue = 1
    proxy = program.load("shop")
    for slot in (0, 1):
        desk.occupy(slot, 10.0)
    seen: list[object] = []

    def call() -> None:
        try:
            seen.append(proxy.price(1))
        except errors.Overloaded as error:
            seen.append(error)

    for i in range(3):
        clock.after(1.0 + i, call)
    assert proxy.price(2) == 6  # waits, with one of those three behind it
    program.network.clock.advance(1.0)
    assert [type(s) for s in seen].count(errors.Overloaded) == 2
    overloaded = next(s for s in seen if isinstance(s, errors.Overloaded))
    assert str(overloaded) == "shop.price: all executors are busy, and 2 calls wait for them already"
    assert seen.count(3) == 1


def test_without_a_line_a_call_runs_or_is_overloaded(network: Network, clock: Clock) -> None:
    desk = worker(network)
    program = Program(network, ["desk"])
    program.driver.queue = 0
    proxy = program.load("shop")
    assert proxy.price(1) == 3
    desk.occupy(0, 10.0)
    with pytest.raises(errors.Overloaded):
        proxy.price(1)
    assert program.statistics().failed == 1


# Deadlines ------------------------------------------------------------------------------------------


def test_a_call_that_takes_too_long_is_cancelled_when_its_deadline_has_come(network: Network, clock: Clock) -> None:
    desk = worker(network)
    program = Program(network, ["desk"])
    proxy = program.load("shop")
    end = clock.now() + 2.5
    program.driver.deadline = lambda: end
    desk.next(Delay(60.0))
    with pytest.raises(errors.DeadlineExceeded, match=r"shop\.price on desk/0 did not end before its deadline"):
        proxy.price(1)
    assert clock.now() == pytest.approx(end)
    assert len(network.cancelled) == 1
    program.driver.deadline = lambda: NEVER
    assert proxy.price(1) == 3
    assert program.statistics().failed == 1


def test_a_deadline_covers_the_wait_for_an_executor(network: Network, clock: Clock) -> None:
    desk = worker(network)
    program = Program(network, ["desk"])
    proxy = program.load("shop")
    desk.occupy(0, 60.0)
    end = clock.now() + 2.5
    program.driver.deadline = lambda: end
    with pytest.raises(errors.DeadlineExceeded, match=r"shop\.price could not be run before its deadline") as caught:
        proxy.price(1)
    assert isinstance(caught.value, TimeoutError)
    assert clock.now() == pytest.approx(end)
    assert network.cancelled == []


def test_a_deadline_covers_all_attempts(network: Network, clock: Clock) -> None:
    desk = worker(network, 2)
    program = Program(network, ["desk"])
    proxy = program.load("shop")
    end = clock.now() + 2.5
    program.driver.deadline = lambda: end
    desk.next(Kill(), Delay(60.0))
    with pytest.raises(errors.DeadlineExceeded):
        proxy.price(1)
    assert clock.now() == pytest.approx(end)


def test_functions_and_modules_have_deadlines_by_configuration(network: Network, clock: Clock) -> None:
    desk = worker(network)
    program = Program(network, ["desk"])
    proxy = program.load("shop")
    program.driver.limits = Limits({"shop": 2.0})
    began = clock.now()
    desk.next(Delay(60.0))
    with pytest.raises(errors.DeadlineExceeded):
        proxy.price(1)
    assert clock.now() - began == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("a.f", 5.0), ("a.b.f", 3.0), ("a.b.g", 1.0), ("a.bb.f", 5.0), ("other.f", NEVER)],
)
def test_the_longest_name_that_covers_a_function_counts(name: str, seconds: float) -> None:
    assert Limits({"a": 5.0, "a.b": 3.0, "a.b.g": 1.0}).seconds(name) == seconds


def test_an_inner_deadline_can_only_be_nearer_and_the_outer_one_comes_back() -> None:
    assert current() == NEVER
    with relocate.deadline(10.0) as outer:
        assert current() == outer
        with relocate.deadline(100.0) as inner:
            assert inner == outer
        with relocate.deadline(1.0) as inner:
            assert inner < outer
        assert current() == outer
    assert current() == NEVER


def test_a_deadline_is_of_its_own_thread() -> None:
    seen: list[float] = []
    with relocate.deadline(10.0):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
    assert seen == [NEVER]


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan"), "2", None])
def test_what_is_no_time_is_no_deadline(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"is not a number of seconds, more than 0; write for example 2\.5"):
        relocate.deadline(wrong)  # type: ignore[arg-type]


@pytest.fixture
def slow_module(place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    place.write(
        "slow_one.py",
        """
        import os, time
        def rest(seconds):
            time.sleep(seconds)
            return seconds
        def mark(path, seconds=0.0):
            open(path, "x").close()
            time.sleep(seconds)
        def stuck_once(path):
            try:
                open(path, "x").close()
            except FileExistsError:
                return "not the first"
            time.sleep(600)
        def deaf():
            sum(range(10**15))
        def tidy(path):
            try:
                time.sleep(600)
            finally:
                time.sleep(0.001)
                open(path, "x").close()
        """,
    )
    monkeypatch.syspath_prepend(str(place.folder))
    return "slow_one"


def test_what_is_late_is_interrupted_on_its_executor_which_then_runs_the_next_call(
    place: Place, slow_module: str
) -> None:
    folder = str(place.folder / "kept")
    with relocate.enable(modules=[slow_module], workers="1", fallback=False, cache=folder, keys=folder) as handle:
        import slow_one

        assert slow_one.rest(0.0) == 0.0
        began = time.monotonic()
        with relocate.deadline(0.3), pytest.raises(relocate.DeadlineExceeded):
            slow_one.rest(600.0)
        assert slow_one.rest(0.0) == 0.0
        assert time.monotonic() - began < 60
        assert handle.statistics().failed == 1


def test_what_hears_no_interrupt_ends_with_its_executor_and_what_tidies_up_does_not(
    place: Place, slow_module: str
) -> None:
    folder, mark = str(place.folder / "kept"), place.folder / "mark"
    with relocate.enable(modules=[slow_module], workers="1", fallback=False, cache=folder, keys=folder) as handle:
        import slow_one

        assert slow_one.rest(0.0) == 0.0
        with relocate.deadline(0.3), pytest.raises(relocate.DeadlineExceeded):
            slow_one.tidy(str(mark))
        assert slow_one.rest(0.0) == 0.0
        assert mark.exists()
        assert sum(seen.deaths for seen in handle.statistics().workers.values()) == 0
        with relocate.deadline(0.3), pytest.raises(relocate.DeadlineExceeded):
            slow_one.deaf()
        assert slow_one.rest(0.0) == 0.0
        assert sum(seen.deaths for seen in handle.statistics().workers.values()) == 1


def test_an_executor_that_could_not_heed_is_spared_for_a_while() -> None:
    condemned = Condemned(b"", at=10.07, last=10.5, used=3.0)
    assert condemned.is_spared("R", 3.0, 10.1)
    assert condemned.is_spared("R", 3.004, 10.4), "it has had a processor for a moment"
    assert not condemned.is_spared("R", 3.02, 10.1), "it has computed since"
    assert not condemned.is_spared("S", 3.0, 10.1), "it waits for something else"
    assert not condemned.is_spared("", 0.0, 10.1), "nothing is known"
    assert not condemned.is_spared("R", 3.0, 10.5)
    state, used = standing(os.getpid())
    assert state == "R"
    assert 0 < used < 3600


def test_a_call_that_waits_at_an_executor_is_not_begun_after_its_deadline(place: Place, slow_module: str) -> None:
    folder, mark = str(place.folder / "kept"), place.folder / "mark"
    with relocate.enable(modules=[slow_module], workers="1", depth=2, fallback=False, cache=folder, keys=folder):
        import slow_one

        slow_one.rest(0.0)
        begun = place.folder / "begun"
        before = threading.Thread(target=slow_one.mark, args=(str(begun), 1.5))
        before.start()
        until(begun.exists, "the call before")
        with relocate.deadline(0.3), pytest.raises(relocate.DeadlineExceeded):
            slow_one.mark(str(mark))
        before.join()
        assert slow_one.rest(0.0) == 0.0
        assert not mark.exists()


def test_what_is_stuck_on_one_executor_is_answered_by_another(place: Place, slow_module: str) -> None:
    folder, mark = str(place.folder / "kept"), place.folder / "mark"
    with relocate.enable(modules=[slow_module], workers="2", fallback=False, cache=folder, keys=folder) as handle:
        import slow_one

        until(lambda: handle.workers()[0]["executors"] == 2, "both executors")
        done = place.write("done", "")  # a name as long as the other one: as many bytes are sent
        for _ in range(100):
            assert slow_one.stuck_once(str(done)) == "not the first"
        driver = handle._fleet.driver
        driver._hedges.seconds = 1.0
        began, before = time.monotonic(), handle.statistics().hedged
        assert slow_one.stuck_once(str(mark)) == "not the first"
        assert time.monotonic() - began < 60
        assert handle.statistics().hedged == before + 1
        # Nobody was killed for it, and the one that was stuck is free again.
        until(lambda: all(not seat.outstanding for link in handle._fleet.links for seat in link.seats), "both are free")
        assert all(slow_one.stuck_once(str(done)) == "not the first" for _ in range(10))
        assert all(seen.deaths == 0 for seen in handle.statistics().workers.values())


def test_a_line_and_deadlines_can_be_configured(place: Place, slow_module: str) -> None:
    folder = str(place.folder / "kept")
    given = {"workers": "1", "fallback": False, "cache": folder, "keys": folder, "queue": 0}
    with relocate.enable(modules=[slow_module], deadlines={"slow_one.rest": 0.5}, **given):
        import slow_one

        assert slow_one.rest(0.0) == 0.0
        with pytest.raises(relocate.DeadlineExceeded):
            slow_one.rest(600.0)
        ended = []
        threads = [threading.Thread(target=lambda: ended.append(_outcome(slow_one.rest, 0.2))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert relocate.Overloaded in ended


def _outcome(function: object, *args: object) -> object:
    try:
        return function(*args)  # type: ignore[operator]
    except relocate.RelocateError as error:
        return type(error)


def test_clients_come_back_at_different_times() -> None:
    from relocate.connection import jittered

    waits = [jittered(2.0) for _ in range(1000)]
    assert all(1.0 <= wait < 3.0 for wait in waits)
    assert max(waits) - min(waits) > 1.5
