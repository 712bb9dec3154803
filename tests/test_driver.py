"""From a call to its outcome, with simulated workers and time."""

from __future__ import annotations

import decimal
import itertools
import signal
import threading
import traceback
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate import errors, testing, wire
from relocate.observe import WorkerStatistics
from relocate.testing import Clock, CutOff, Delay, Drain, Fault, Garble, Kill, Network, Program, Refuse, Worker

SOURCE = """
import decimal
def price(n): return n * 3
def other(n): return n + 1
def fail(error): raise error
def count(n):
    yield from range(n)
def count_then_fail(n):
    yield from range(n)
    raise LookupError(n)
def doubled(items):
    for item in items:
        yield item * 2
def later(items): return doubled(items)
def total(items): return sum(items)
def third(): return decimal.Decimal(1) / 3
def lock():
    import threading
    return threading.Lock()
def say(text):
    import sys
    print(text, file=sys.stderr)
    print(text.upper())
"""


def shop(version: str = "1", source: str = SOURCE) -> ModuleType:
    return testing.module("shop", source, __version__=version)


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
def program(network: Network, desk: Worker) -> Iterator[Program]:
    """A program with one worker, ``desk``; afterwards no seat may be held and no channel lost."""
    made = Program(network, ["desk"])
    yield made
    at_rest(network)


def at_rest(network: Network) -> None:
    seats = [seat for link in network.links for seat in link.seats]
    assert [s.outstanding for s in seats] == [0] * len(seats)
    assert network.opened - network.closed == sum(len(s.idle) for s in seats)


def fuse(clock: Clock, seconds: float) -> None:
    """Let what has not ended by then fail."""

    def blow() -> None:
        raise testing.Stuck(f"still at it after {seconds:g} s")

    clock.after(seconds, blow)


# Outcomes ----------------------------------------------------------------------------------------


def test_a_call_counts_once_and_keeps_its_channel(program: Program, network: Network) -> None:
    assert [program.load("shop").price(n) for n in range(3)] == [0, 3, 6]
    found = program.statistics()
    assert (found.calls, found.remote, found.returned, found.retried) == (3, 3, 3, 0)
    assert found.workers == {"desk/0": WorkerStatistics(calls=3, deaths=0)}
    assert found.bytes_out > 0 < found.bytes_in
    assert network.opened == 1


@pytest.mark.parametrize(
    "error", [ValueError("no"), ConnectionResetError(104, "reset"), errors.WorkerUnreachable("x"), SystemExit(3)]
)
def test_the_functions_own_exception_is_never_retried(program: Program, desk: Worker, error: BaseException) -> None:
    shop = program.load("shop")
    with pytest.raises(type(error)) as caught:
        shop.fail(error)
    assert caught.value.args == error.args
    assert desk.calls == ["shop.fail"]
    found = program.statistics()
    assert (found.calls, found.raised, found.retried) == (1, 1, 0)


def test_a_call_that_ends_elsewhere_than_where_it_was_sent_is_counted_as_rerouted(network: Network) -> None:
    for name in ("desk", "attic"):
        network.worker(name, modules=[shop()])
    program = Program(network, ["desk", "attic"])
    module = program.load("shop")
    module.price(1)
    assert program.statistics().rerouted == 0
    network.workers["desk"].next(CutOff())
    assert module.price(2) == 6
    found = program.statistics()
    assert (found.retried, found.rerouted) == (1, 1)


@pytest.mark.parametrize("fault", [Kill(), Kill(before=True), CutOff(), Garble(), Garble((b"\x93\x01\x02\x03",))])
def test_an_unknown_outcome_is_run_again(program: Program, desk: Worker, fault: Fault) -> None:
    shop = program.load("shop")
    desk.next(fault)
    assert shop.price(5) == 15
    found = program.statistics()
    assert (found.calls, found.returned, found.failed, found.retried) == (1, 1, 0, 1)


def test_calls_one_after_the_other_stay_where_the_module_is_imported(network: Network, clock: Clock) -> None:
    desk = network.worker("desk", executors=4, modules=[shop()])
    program = Program(network, ["desk"])
    proxy = program.load("shop")
    for n in range(10):
        proxy.price(n)
    assert len(program.statistics().workers) == 1
    # One that is called meanwhile goes elsewhere.
    desk.next(Delay(1.0))
    clock.after(0.5, lambda: proxy.price(0))
    proxy.price(1)
    assert len(program.statistics().workers) == 2
    at_rest(network)


def test_a_death_is_counted_where_it_happened(program: Program, desk: Worker) -> None:
    shop = program.load("shop")
    desk.next(Kill())
    shop.price(1)
    assert program.statistics().workers == {"desk/0": WorkerStatistics(calls=1, deaths=1)}


def test_what_is_printed_there_is_printed_here(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    program.load("shop").say("hello")
    assert capsys.readouterr() == ("HELLO\n", "hello\n")


def test_the_decimal_context_travels(program: Program) -> None:
    shop = program.load("shop")
    with decimal.localcontext(prec=5):
        assert shop.third() == decimal.Decimal("0.33333")
    assert shop.third() == decimal.Decimal(1) / 3


# Crashes -----------------------------------------------------------------------------------------


def test_a_call_that_crashes_two_executors_is_given_up(program: Program, network: Network, desk: Worker) -> None:
    shop = program.load("shop")
    network.whenever("shop.price", Kill(-signal.SIGSEGV))
    with pytest.raises(errors.CrashingCall) as caught:
        shop.price(1)
    assert str(caught.value) == (
        "shop.price ended every executor it ran on: desk/0 died of SIGSEGV, desk/0 died of SIGSEGV; "
        "it is not tried again"
    )
    assert desk.calls == ["shop.price"] * 2
    assert shop.other(1) == 2
    found = program.statistics()
    assert (found.calls, found.failed, found.returned) == (2, 1, 1)


def test_an_exit_is_a_crash_too(program: Program, network: Network) -> None:
    shop = program.load("shop")
    network.whenever("shop.price", Kill(3))
    with pytest.raises(errors.CrashingCall, match="desk/0 exited with status 3"):
        shop.price(1)


def test_a_neighbour_of_a_crashing_call_is_run_again(network: Network, clock: Clock) -> None:
    desk = network.worker("desk", executors=2, modules=[shop()])
    program = Program(network, ["desk"])
    proxy = program.load("shop")
    network.whenever("shop.price", Kill())
    # While the neighbour runs, another thread's call crashes the other executor, twice.
    crashed: list[str] = []

    def crash() -> None:
        with pytest.raises(errors.CrashingCall) as caught:
            proxy.price(1)
        crashed.append(str(caught.value))

    clock.after(0.5, crash)
    desk.next(Delay(1.0))
    assert proxy.other(1) == 2
    assert len(crashed) == 1
    assert desk.calls.count("shop.other") == 1
    at_rest(network)


@pytest.mark.parametrize(("kills", "survives"), [(4, True), (5, False)])
def test_kills_from_outside_are_tolerated_up_to_five(
    program: Program, desk: Worker, kills: int, survives: bool
) -> None:
    shop = program.load("shop")
    desk.next(*[Kill(-signal.SIGKILL)] * kills)
    if survives:
        assert shop.price(1) == 3
    else:
        with pytest.raises(errors.CrashingCall, match=r"shop\.price was killed 5 times while it ran"):
            shop.price(1)
    assert len(desk.calls) == min(kills + 1, 5)


def of_sizes(network: Network, seconds: float) -> tuple[dict[str, Worker], ModuleType]:
    """Workers with more or less memory, and the module that they have, whose calls take so long."""
    clock = network.clock
    hungry = testing.module("shop", "def price(n): pause(); return n * 3", pause=lambda: clock.advance(seconds))
    made = {}
    for name, gib, each in (("small", 8, 0), ("large", 16, 0), ("limited", 64, 2)):
        made[name] = network.worker(name, modules=[hungry], up=False)
        made[name].capability = wire.Capability(4, gib << 30, 0, 1e7, each << 30)
        made[name].start()
    return made, hungry


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_a_call_that_ran_out_of_memory_is_tried_once_more_where_there_is_the_most(
    network: Network, seconds: float
) -> None:
    made, hungry = of_sizes(network, seconds)
    program = Program(network, ["small", "large", "limited"], local=[hungry])
    proxy = program.load("shop")
    made["small"].next(Kill(memory=True))
    assert proxy.price(1) == 3
    assert (made["small"].calls, made["large"].calls) == (["shop.price"], ["shop.price"])
    for worker in made.values():
        worker.next(*[Kill(memory=True)] * 3)
    with pytest.raises(errors.OutOfMemory) as caught:
        proxy.price(1)
    assert isinstance(caught.value, MemoryError)
    assert str(caught.value).startswith("shop.price ran out of memory on small/0 (8.0 GiB), large/0 (16.0 GiB)")
    assert len(made["large"].calls) == 2
    assert made["limited"].calls == []
    at_rest(network)


def test_one_of_which_the_word_comes_late_is_tried_there_in_the_end(network: Network) -> None:
    made, hungry = of_sizes(network, 0.0)
    proxy = Program(network, ["small", "large", "limited"], local=[hungry]).load("shop")
    for worker in made.values():
        worker.next(*[Kill(memory=True, obituary=0.2)] * 3)
    with pytest.raises(errors.OutOfMemory, match=r"large/0 \(16\.0 GiB\), and no worker has more"):
        proxy.price(1)
    assert [len(worker.calls) for worker in made.values()] == [2, 1, 0]


def test_where_no_other_worker_has_as_much_memory_it_is_tried_again_on_its_own(network: Network) -> None:
    for name, gib in (("large", 16), ("small", 8)):
        network.worker(name, modules=[shop()], up=False).capability = wire.Capability(4, gib << 30, 0, 1e7)
        network.workers[name].start()
    program = Program(network, ["large", "small"], local=[shop()])
    proxy = program.load("shop")
    network.workers["large"].next(Kill(memory=True))
    assert proxy.price(1) == 3
    assert network.workers["large"].calls == ["shop.price"] * 2


def test_a_call_is_not_blamed_for_executors_that_died_before_it(program: Program, desk: Worker) -> None:
    shop = program.load("shop")
    desk.next(*[Kill(before=True)] * 10)
    assert shop.price(1) == 3
    assert program.statistics().retried == 10


def test_without_an_obituary_nobody_is_blamed(program: Program, desk: Worker, clock: Clock) -> None:
    shop = program.load("shop")
    desk.next(*[Kill(obituary=None)] * 3)
    assert shop.price(1) == 3
    assert clock.now() < 10


def test_a_call_that_was_lost_with_no_word_on_why_goes_to_another_worker(network: Network, clock: Clock) -> None:
    far = network.worker("far", executors=2, modules=[shop()])
    near = network.worker("near", modules=[shop()])
    program = Program(network, ["far", "near"])
    proxy = program.load("shop")
    near.occupy(0, 3.0)  # so that it starts far away, and an executor is idle there when it is lost
    far.next(CutOff(), CutOff())
    assert proxy.price(5) == 15
    assert (far.calls, near.calls) == (["shop.price"], ["shop.price"])
    assert program.statistics().retried == 1


def test_where_there_is_no_other_worker_it_goes_to_another_executor(network: Network) -> None:
    far = network.worker("far", executors=2, modules=[shop()])
    program = Program(network, ["far"], local=[shop()])
    proxy = program.load("shop")
    far.next(CutOff())
    assert proxy.price(5) == 15
    assert far.calls == ["shop.price"] * 2
    assert not far.link.doubted


def test_a_worker_in_doubt_is_probed_until_it_is_heard_of(network: Network) -> None:
    far = network.worker("far", executors=3, modules=[shop()])
    near = network.worker("near", modules=[shop()])
    program = Program(network, ["far", "near"])
    proxy = program.load("shop")
    near.occupy(0, 3.0)
    far.next(CutOff())
    proxy.price(1)
    assert [seat.suspect for seat in far.link.seats] == [True] * 3
    while len(far.calls) == 1:
        proxy.price(2)
    # One answer is word of all, but for a seat that has failed itself.
    assert not any(seat.suspect for seat in far.link.seats if not seat.failures)


# Refusals ----------------------------------------------------------------------------------------


def test_a_worker_that_drains_hands_the_call_on(network: Network, desk: Worker, attic: Worker) -> None:
    program = Program(network, ["desk", "attic"])
    shop = program.load("shop")
    desk.next(Drain())
    assert shop.price(1) == 3
    assert (desk.calls, attic.calls) == ([], ["shop.price"])
    assert program.statistics().failed == 0


def test_a_refused_channel_is_opened_elsewhere(network: Network, desk: Worker, attic: Worker) -> None:
    program = Program(network, [["desk", "attic"]])
    shop = program.load("shop")
    network.workers["desk"].next(Refuse())
    network.workers["attic"].next(Refuse())
    assert shop.price(1) == 3


def test_a_worker_that_always_refuses_is_given_up_within_the_patience(
    network: Network, desk: Worker, clock: Clock
) -> None:
    program = Program(network, ["desk"], patience=0.2)
    shop = program.load("shop")
    network.whenever("shop.price", Refuse())
    fuse(clock, 1.0)
    with pytest.raises(errors.NoWorkerLeft):
        shop.price(1)


def test_executors_that_cannot_be_reached_are_given_up_though_their_worker_is_up(
    network: Network, desk: Worker, clock: Clock
) -> None:
    program = Program(network, ["desk"], patience=30.0)
    shop = program.load("shop")
    desk.kill(0, Kill(obituary=None, restart=None))
    fuse(clock, 1000.0)
    with pytest.raises(errors.NoWorkerLeft):
        shop.price(1)


def test_a_stale_description_is_taken_anew_and_the_call_rerun(program: Program, desk: Worker) -> None:
    proxy = program.load("shop")
    price = proxy.price
    desk.install(shop("2", SOURCE.replace("n * 3", "n * 4")))
    assert price(5) == 20
    assert program.refreshed == ["shop"]
    found = program.statistics()
    assert (found.calls, found.returned, found.retried) == (1, 1, 1)
    assert proxy.price(5) == 20
    assert program.refreshed == ["shop"]


def test_a_function_that_the_new_version_takes_otherwise_is_refused(program: Program, desk: Worker) -> None:
    proxy = program.load("shop")
    price = proxy.price
    desk.install(shop("2", SOURCE.replace("def price(n)", "def price(n, tax)")))
    with pytest.raises(errors.ModuleUnavailable, match="another version of 'shop'"):
        price(5)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'tax'"):
        proxy.price(5)
    assert desk.calls == []


def test_workers_of_different_versions_are_an_error_and_no_endless_loop(network: Network) -> None:
    network.worker("desk", modules=[shop("1")])
    attic = network.worker("attic", modules=[shop("2")])
    program = Program(network, ["desk", "attic"])
    proxy = program.load("shop")
    program.namespace.bind("/n/attic/chan/shop/price", "/chan/shop/price")
    with pytest.raises(errors.ModuleUnavailable, match="another version of 'shop'"):
        proxy.price(1)
    assert attic.calls == []
    assert program.statistics().failed == 1


def test_a_module_that_nobody_has_cannot_be_described(program: Program) -> None:
    with pytest.raises(errors.ModuleUnavailable, match="desk/0 cannot describe 'bank': cannot import 'bank'"):
        program.load("bank")


def test_a_module_that_fails_here_and_there_runs_here_and_that_is_told(network: Network, desk: Worker) -> None:
    program = Program(network, ["desk"], local=[shop()])
    told: list[tuple[str, str]] = []
    program.driver.missed = lambda name, why: told.append((name, why))
    proxy = program.load("shop")
    desk.modules.clear()
    assert proxy.price(1) == 3
    assert told == [("shop.price", "cannot import 'shop': there is none")]


# Arguments and results ---------------------------------------------------------------------------


def test_an_argument_that_cannot_travel_is_named(program: Program, desk: Worker) -> None:
    with pytest.raises(errors.ArgumentError, match=r"^shop\.price: argument 1, of type lock, cannot travel") as caught:
        program.load("shop").price(threading.Lock())
    assert caught.value.__cause__ is None  # where relocate found that out is nothing to the reader
    assert desk.calls == []
    assert program.statistics().failed == 1


class Stubborn:
    def __reduce__(self) -> str:
        raise LookupError("not I")


def test_why_an_argument_of_the_programs_cannot_travel_is_told_from_its_own_code_on(program: Program) -> None:
    with pytest.raises(errors.ArgumentError) as caught:
        program.load("shop").price(Stubborn())
    cause = caught.value.__cause__
    assert isinstance(cause, LookupError)
    assert [frame.name for frame in traceback.extract_tb(cause.__traceback__)] == ["__reduce__"]


def test_what_cannot_travel_runs_here_if_it_may(network: Network, desk: Worker) -> None:
    program = Program(network, ["desk"], local=[shop()])
    proxy = program.load("shop")
    with pytest.raises(TypeError, match="unsupported operand"):
        proxy.other(threading.Lock())
    assert type(proxy.lock()) is type(threading.Lock())
    found = program.statistics()
    assert (found.calls, found.local, found.raised, found.returned) == (2, 2, 1, 1)


def test_a_result_that_cannot_travel_is_an_error_where_it_may_not_run_here(program: Program) -> None:
    with pytest.raises(errors.ArgumentError, match="a value of type lock cannot travel"):
        program.load("shop").lock()


def test_a_lent_generator_gives_a_second_run_the_same_items(program: Program, desk: Worker) -> None:
    shop = program.load("shop")
    given: list[int] = []

    def items() -> Iterator[int]:
        for n in range(100):
            given.append(n)
            yield n

    desk.next(Kill())
    assert shop.total(items()) == sum(range(100))
    assert desk.calls == ["shop.total"] * 2
    assert given == list(range(100))


def test_a_lent_generator_gives_a_run_at_home_all_its_items(network: Network, desk: Worker) -> None:
    program = Program(network, ["desk"], local=[shop()])
    proxy = program.load("shop")
    desk.next(Kill(restart=None))
    assert proxy.total(n for n in range(100)) == sum(range(100))
    assert (program.statistics().remote, program.statistics().local) == (0, 1)


def test_a_generator_inside_an_argument_is_not_taken_from_twice(network: Network, desk: Worker) -> None:
    program = Program(network, ["desk"], local=[shop()])
    proxy = program.load("shop")
    desk.next(Kill(restart=None))
    with pytest.raises(errors.ArgumentError, match="used a generator or called a function that is inside an argument"):
        proxy.total(itertools.chain(n for n in range(100)))
    assert program.statistics().failed == 1


def test_what_a_lent_generator_raises_is_itself_here(program: Program) -> None:
    error = LookupError("mine")

    def items() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(LookupError) as caught:
        program.load("shop").total(items())
    assert caught.value is error


def test_a_generator_streams_and_survives_its_executor(program: Program, desk: Worker) -> None:
    stream = program.load("shop").count(1000)
    taken = [next(stream) for _ in range(10)]
    desk.kill()
    assert taken + list(stream) == list(range(1000))
    found = program.statistics()
    assert (found.calls, found.returned, found.raised, found.failed) == (1, 1, 0, 0)


def test_a_generator_over_a_generator_gives_every_item_once(program: Program, desk: Worker) -> None:
    shop = program.load("shop")
    desk.next(Kill())
    assert list(shop.doubled(n for n in range(5000))) == [2 * n for n in range(5000)]
    assert list(shop.later(n for n in range(5000))) == [2 * n for n in range(5000)]


def test_a_generator_that_raises_gives_its_items_first(program: Program) -> None:
    stream = program.load("shop").count_then_fail(7)
    taken: list[int] = []
    with pytest.raises(LookupError, match="7"):
        taken.extend(iter(stream.__next__, None))
    assert taken == list(range(7))


def test_a_generator_that_comes_home_midway_skips_what_was_given(network: Network, desk: Worker) -> None:
    program = Program(network, ["desk"], local=[shop()])
    stream = program.load("shop").count(100)
    taken = [next(stream) for _ in range(10)]
    desk.stop()
    assert taken + list(stream) == list(range(100))


def test_a_generator_that_comes_home_midway_counts_once(network: Network, desk: Worker) -> None:
    program = Program(network, ["desk"], local=[shop()])
    stream = program.load("shop").count(100)
    next(stream)
    desk.stop()
    list(stream)
    assert program.statistics().calls == 1


# Interrupted, or run here ------------------------------------------------------------------------


def test_an_interrupted_call_is_cancelled_and_its_channel_closed(
    program: Program, network: Network, desk: Worker, clock: Clock
) -> None:
    shop = program.load("shop")
    desk.next(Delay(10.0))

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    clock.after(1.0, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        shop.price(1)
    [(seat, call)] = network.cancelled
    assert (seat, len(call)) == (desk.link.seats[0].id, 16)
    assert (network.opened, network.closed) == (1, 1)
    assert shop.price(2) == 6
    assert network.opened == 2


def test_a_call_that_runs_here_for_want_of_a_worker_is_told_and_one_that_is_bound_here_is_not(
    network: Network, desk: Worker
) -> None:
    program = Program(network, ["desk"], local=[shop()])
    told: list[tuple[str, str]] = []
    program.driver.missed = lambda name, why: told.append((name, why))
    proxy = program.load("shop")
    program.namespace.bind("/n/local/chan/shop/other", "/chan/shop/other")
    proxy.other(1)
    with pytest.raises(TypeError):
        proxy.price(threading.Lock())
    assert told == []
    desk.stop()
    proxy.other(1), proxy.price(1)
    assert told == [("shop.price", "the connection to desk was lost")]


# Anything at all ---------------------------------------------------------------------------------

codes = st.sampled_from([-9, -11, 0])
faults = st.one_of(
    st.none(),
    st.builds(Kill, codes, st.booleans(), st.sampled_from([0.0, 0.002, 3.0]), st.sampled_from([None, 0.0, 0.1, 4.0])),
    st.builds(Kill, codes, st.booleans(), st.none(), st.sampled_from([0.0, 0.1, 4.0])),
    st.just(CutOff()),
    st.just(Garble()),
    st.just(Refuse()),
    st.just(Drain()),
    st.builds(Delay, st.sampled_from([0.1, 50.0])),
)


@given(
    struck=st.tuples(st.lists(faults, max_size=6), st.lists(faults, max_size=6)),
    fallback=st.booleans(),
    together=st.booleans(),
    seed=st.integers(0, 99),
)
def test_whatever_goes_wrong_a_call_ends_once_with_its_own_answer_or_a_typed_error(
    struck: tuple[list[Fault | None], list[Fault | None]], fallback: bool, together: bool, seed: int
) -> None:
    network = Network(Clock())
    for name, executors in (("desk", 2), ("attic", 1)):
        network.worker(name, executors, [shop()])
    ranks = [["desk", "attic"]] if together else ["desk", "attic"]
    program = Program(network, ranks, local=[shop()] if fallback else None, patience=5.0, seed=seed)
    price = program.load("shop").price
    for worker, its in zip(network.workers.values(), struck, strict=True):
        worker.next(*its)
    fuse(network.clock, 10_000.0)
    outcomes = []
    for n in range(8):
        try:
            outcomes.append(price(n) == 3 * n)
        except (errors.NoWorkerLeft, errors.CrashingCall) as error:
            outcomes.append(type(error))
    assert False not in outcomes
    assert not fallback or errors.NoWorkerLeft not in outcomes
    found = program.statistics()
    assert (found.calls, found.returned, found.raised) == (8, outcomes.count(True), 0)
    at_rest(network)
