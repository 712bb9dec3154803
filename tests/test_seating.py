"""Which executor a call goes to, and when, with simulated workers and time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import ModuleType

import pytest

from relocate import errors, shortcut, testing
from relocate.testing import Clock, Kill, Network, Program, Worker
from relocate.trip import Trip

SOURCE = """
def price(n): return n * 3
def other(n): return n + 1
def total(items): return sum(items)
"""


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


def test_the_patience_bounds_the_wait_for_anybody(network: Network, clock: Clock) -> None:
    desk = network.worker("desk", modules=[shop()])
    program = Program(network, ["desk"], patience=7.0)
    proxy = program.load("shop")
    desk.stop()
    before = clock.now()
    with pytest.raises(errors.NoWorkerLeft, match="the connection to desk was lost"):
        proxy.price(1)
    assert clock.now() - before == pytest.approx(7.0, abs=0.3)
    assert program.statistics().failed == 1


def test_a_worker_that_comes_back_within_the_patience_runs_the_call(
    program: Program, desk: Worker, clock: Clock
) -> None:
    shop = program.load("shop")
    desk.stop()
    clock.after(5.0, desk.start)
    assert shop.price(1) == 3
    assert clock.now() == pytest.approx(5.0, abs=0.3)


def test_a_dead_worker_leaves_the_call_to_the_local_copy_at_once(network: Network, desk: Worker, clock: Clock) -> None:
    program = Program(network, ["desk"], local=[shop()])
    proxy = program.load("shop")
    desk.stop()
    before = clock.now()
    assert proxy.price(1) == 3
    assert clock.now() == before
    found = program.statistics()
    assert (found.calls, found.local, found.remote) == (1, 1, 0)


def test_no_call_runs_here_while_an_executor_is_about_to_return(network: Network, desk: Worker) -> None:
    program = Program(network, ["desk"], local=[shop()])
    proxy = program.load("shop")
    for returncode in (-signal.SIGKILL, -signal.SIGTERM, 0):
        desk.next(Kill(returncode, restart=0.2))
        assert proxy.price(1) == 3
    found = program.statistics()
    assert (found.remote, found.local, found.retried) == (3, 0, 3)


def test_an_executor_that_never_returns_is_waited_for_within_the_patience(
    network: Network, desk: Worker, clock: Clock
) -> None:
    program = Program(network, ["desk"], local=[shop()], patience=3.0)
    proxy = program.load("shop")
    desk.next(Kill(restart=None))
    assert proxy.price(1) == 3
    assert program.statistics().local == 1
    assert clock.now() == pytest.approx(3.0, abs=0.3)


def test_a_busy_executor_is_waited_for_and_not_passed_over(
    network: Network, desk: Worker, attic: Worker, clock: Clock
) -> None:
    program = Program(network, ["desk", "attic"], local=[shop()], patience=3.0)
    proxy = program.load("shop")
    desk.occupy(0, 60.0)
    assert proxy.price(1) == 3
    assert clock.now() == pytest.approx(60.0, abs=0.1)
    assert (desk.calls, attic.calls) == (["shop.price"], [])


def test_a_seat_that_is_given_back_wakes_the_call_that_waits_for_it(
    network: Network, desk: Worker, attic: Worker, clock: Clock
) -> None:
    program = Program(network, ["desk", "attic"])
    shop = program.load("shop")
    program.namespace.bind("/n/attic/chan/shop/other", "/chan/shop/other")
    attic.occupy(0, 10.0)
    [seat] = desk.link.seats
    seat.outstanding += 1
    ended: list[float] = []
    clock.after(0.1, lambda: ended.append(clock.now() if shop.price(1) == 3 else -1))
    clock.after(0.5, lambda: program.driver.release(seat, None, False))
    assert shop.other(1) == 2  # waits for the attic all the while
    assert ended == [pytest.approx(0.5, abs=0.01)]


def test_a_call_whose_attempt_was_lost_does_not_begin_anew_at_the_end_of_the_line(
    network: Network, desk: Worker, clock: Clock
) -> None:
    program = Program(network, ["desk"])
    shop, driver = program.load("shop"), program.driver
    [seat] = desk.link.seats
    lost = Trip(driver, "shop.price", "shop", ("chan", "shop", "price"))
    lost.began, lost.attempts = clock.now() - 1.0, 1
    seat.outstanding += 1
    given: list[float] = []

    def again() -> None:
        if driver.lease(lost) is not None:
            given.append(clock.now())
            driver.release(seat, None, False, lost)

    clock.after(0.1, again)
    clock.after(0.5, lambda: driver.release(seat, None, False))
    clock.after(5.0, lambda: driver.release(seat, None, False) if not given else None)
    assert shop.other(1) == 2  # has waited for longer
    assert given == [pytest.approx(0.5, abs=0.01)]


def test_spares_serve_by_rank_and_only_while_they_must(network: Network, clock: Clock) -> None:
    workers = [network.worker(name, modules=[shop()]) for name in ("desk", "attic", "moon")]
    program = Program(network, ["desk", "attic", "moon"])
    price = program.load("shop").price
    ran = []
    for stopped in ([], [0], [0, 1], [1], []):
        for i in stopped:
            workers[i].stop()
        price(1)
        ran.append(next(w.link.name for w in workers if w.calls))
        for worker in workers:
            worker.calls.clear()
        for i in stopped:
            workers[i].start()
    assert ran == ["desk", "attic", "moon", "desk", "desk"]


def test_equals_share_the_load(network: Network) -> None:
    workers = [network.worker(name, executors=2, modules=[shop()]) for name in ("desk", "attic")]
    program = Program(network, [["desk", "attic"]])
    price = program.load("shop").price
    for seat in (seat for link in network.links for seat in link.seats):
        seat.modules.add("shop")  # none is preferred for having it
    for n in range(400):
        network.clock.advance(2 * shortcut.MOMENT)  # calls in a row stay where they are
        assert price(n) == 3 * n
    assert [len(w.calls) for w in workers] == [pytest.approx(200, abs=50)] * 2


def test_a_function_bound_by_itself_goes_its_own_way_from_the_next_call_on(
    network: Network, desk: Worker, attic: Worker
) -> None:
    program = Program(network, ["desk"])
    program.driver.places["attic"] = attic.link
    program.namespace.mount("tcp://attic:7000", "attic")
    shop = program.load("shop")
    shop.price(1), shop.other(1)
    program.namespace.bind("/n/attic/chan/shop/price", "/chan/shop/price")
    shop.price(2), shop.other(2)
    assert desk.calls == ["shop.price", "shop.other", "shop.other"]
    assert attic.calls == ["shop.price"]


def test_a_name_that_leads_nowhere_is_an_error_at_once(network: Network, desk: Worker, clock: Clock) -> None:
    program = Program(network, ["desk"])
    shop = program.load("shop")
    program.namespace.unmount("/chan")
    before = clock.now()
    with pytest.raises(errors.NoWorkerLeft, match="nothing is bound at /chan/shop/price"):
        shop.price(1)
    assert clock.now() == before


def test_a_link_that_was_refused_says_why(network: Network, clock: Clock) -> None:
    desk = network.worker("desk", modules=[shop()])
    program = Program(network, ["desk"])
    proxy = program.load("shop")
    desk.refuse("python", "the client runs Python 2.7")
    with pytest.raises(errors.IncompatibleWorker, match=r"desk:7000 refused this client: the client runs Python 2\.7"):
        proxy.price(1)


def test_whoever_waits_when_relocation_ends_goes_on_at_once(network: Network, clock: Clock) -> None:
    desk = network.worker("desk", modules=[shop()])
    for local, outcome in (([shop()], 3), (None, errors.NoWorkerLeft)):
        program = Program(network, ["desk"], local=local)
        proxy = program.load("shop")
        desk.occupy(0, 1000.0)
        before = clock.now()
        clock.after(1.0, program.driver.detach)
        if local:
            assert proxy.price(1) == outcome
        else:
            with pytest.raises(errors.NoWorkerLeft, match="no local copy"):
                proxy.price(1)
        assert clock.now() - before == pytest.approx(1.0, abs=0.01)


def test_an_interrupt_just_after_a_seat_was_given_frees_it(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = program.load("shop")
    lease = program.driver.lease

    def interrupted(trip: Trip) -> None:
        lease(trip)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(program.driver, "lease", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shop.price(1)
    assert shop.price(1) == 3


def test_a_call_in_a_lent_generator_runs_on_an_idle_executor(network: Network) -> None:
    desk = network.worker("desk", executors=2, modules=[shop()])
    program = Program(network, ["desk"])
    proxy = program.load("shop")
    assert proxy.total(proxy.price(n) for n in range(3)) == 9
    assert desk.calls.count("shop.price") == 3
    assert program.driver.lending == []
    at_rest(network)


def test_a_call_in_a_lent_generator_never_waits_for_the_executor_that_waits_for_it(
    program: Program, network: Network, clock: Clock
) -> None:
    proxy = program.load("shop")
    for seat in program.driver.places["desk"].seats:
        seat.depth = 2
    fuse(clock, 100.0)
    with pytest.raises(errors.NoWorkerLeft, match=r"shop\.price: no executor is idle; .* use more executors"):
        proxy.total(proxy.price(n) for n in range(3))
    home = Program(network, ["desk"], local=[shop()])
    proxy = home.load("shop")
    assert proxy.total(proxy.price(n) for n in range(3)) == 9
    assert (home.statistics().remote, home.statistics().local) == (1, 3)


def test_a_module_that_cannot_be_imported_for_a_while_is_asked_for_again(
    network: Network, desk: Worker, clock: Clock
) -> None:
    program = Program(network, ["desk"])
    told: list[str] = []
    program.driver.missed = lambda name, why: told.append(why)
    proxy = program.load("shop")
    there = desk.modules.pop("shop")  # as if importing it failed
    for _ in range(2):
        with pytest.raises(errors.ModuleUnavailable, match="cannot import 'shop'"):
            proxy.price(1)
    clock.advance(10)
    with pytest.raises(errors.ModuleUnavailable, match="cannot import 'shop'"):
        proxy.price(1)
    desk.install(there)
    with pytest.raises(errors.ModuleUnavailable, match="cannot import 'shop'"):
        proxy.price(1)
    clock.advance(10)
    assert proxy.price(1) == 3
    assert told == []  # nothing ran here
    at_rest(network)


def test_another_version_is_not_asked_for_again(network: Network, desk: Worker, clock: Clock) -> None:
    attic = network.worker("attic", modules=[shop("2")])
    program = Program(network, ["desk", "attic"])
    proxy = program.load("shop")
    for _ in range(3):
        clock.advance(100)
        assert [proxy.price(n) for n in range(4)] == [0, 3, 6, 9]
    assert attic.calls == []
    assert program.statistics().retried <= 1
