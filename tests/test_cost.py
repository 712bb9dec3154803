"""What is learned of calls, and where it sends them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate.cost import ENOUGH, MOST, NEVER, TRIALS, WINDOW, Costs, Estimate, Quantiles, Route, size_of, thrift
from relocate.observe import Counters
from relocate.placement import Placement


@given(st.lists(st.floats(1e-6, 1e4), min_size=ENOUGH, max_size=300))
def test_quantiles_are_right_to_a_bucket_and_what_has_come_since(durations: list[float]) -> None:
    found = Quantiles()
    for seconds in durations:
        found.add(seconds)
    found._settle()
    ordered = sorted(durations)
    at = (len(ordered) - 1) // 2
    assert ordered[at] / 1.13 <= found.median <= ordered[at] * 1.0001
    assert ordered[-(-len(ordered) * 95 // 100) - 1] <= found.p95 <= ordered[-1] * 1.26


def test_too_few_calls_have_no_95th_percentile() -> None:
    found = Quantiles()
    assert (found.median, found.p95) == (0.0, NEVER)
    for _ in range(ENOUGH - 1):
        found.add(0.1)
    assert found.p95 == NEVER
    assert found.median == pytest.approx(0.1, rel=0.1)


def test_what_was_long_ago_is_forgotten() -> None:
    found = Quantiles()
    for _ in range(WINDOW):
        found.add(1.0)
    for _ in range(2 * WINDOW):
        found.add(0.01)
    assert found.median == pytest.approx(0.01, rel=0.1)
    assert found.count <= WINDOW


def play(
    estimate: Estimate, route: Route, here: Callable[[], float], there: Callable[[], float], calls: int, size: int = 100
) -> tuple[float, int]:
    """Seconds that so many calls take, each where the estimate says, and how many ran here."""
    total, count = 0.0, 0
    for _ in range(calls):
        if estimate.here:
            seconds = here()
            estimate.ran_here(seconds, route)
            count += 1
        else:
            seconds = there()
            estimate.ran_there(seconds, route, size)
        total += seconds
    return total, count


def test_a_tiny_call_never_leaves() -> None:
    estimate = Estimate()
    _, here = play(estimate, Route(), lambda: 1e-6, lambda: 1.0, 10_000)
    assert here == 10_000


def test_a_heavy_call_leaves_at_the_second_call() -> None:
    estimate = Estimate()
    route = Route(slowness=0.25)
    assert play(estimate, route, lambda: 1.0, lambda: 0.25, 1)[1] == 1
    total, here = play(estimate, route, lambda: 1.0, lambda: 0.25, 1000)
    assert here <= 1000 * TRIALS
    assert total <= 1.02 * 250 + 1


def test_the_first_trip_is_not_counted_as_it_may_have_started_or_imported_something() -> None:
    estimate = Estimate()
    route = Route(slowness=0.25)
    trips = iter([30.0, 0.25])
    play(estimate, route, lambda: 1.0, lambda: next(trips, 0.25), 100)
    assert not estimate.here


def test_a_short_first_run_here_is_not_counted_either_a_long_one_is() -> None:
    estimate = Estimate()
    runs = iter([0.05])
    assert play(estimate, Route(), lambda: next(runs, 1e-6), lambda: 0.001, 100)[1] == 100
    estimate = Estimate()
    play(estimate, Route(slowness=0.5), lambda: 1.0, lambda: 0.5, 1)
    assert not estimate.here


def test_who_is_better_there_at_first_comes_back_when_that_changes() -> None:
    estimate = Estimate()
    route = Route(slowness=0.1)
    play(estimate, route, lambda: 0.1, lambda: 0.01, 1000)
    assert not estimate.here
    _, here = play(estimate, route, lambda: 0.1, lambda: 1.0, 1000)
    assert here > 900


@pytest.mark.parametrize(
    ("battery", "here"),
    [(None, True), ((0.1, False), True), ((0.9, True), True), ((0.2, True), True), ((0.19, True), False)],
)
def test_on_battery_a_run_here_is_dearer_the_more_so_when_that_is_low(
    battery: tuple[float, bool] | None, here: bool
) -> None:
    route, estimate = Route(), Estimate()
    route.thrift = thrift(battery)
    for _ in range(3):
        estimate.ran_here(1.0, route)
    for _ in range(3):
        estimate.ran_there(2.0, route, 0)
    estimate._earned = 0.0
    estimate.ran_here(1.0, route)
    assert estimate.here is here, "a run here takes half as long"


def test_the_battery_is_looked_at_now_and_then_and_not_where_there_is_none() -> None:
    looks: list[float] = []

    def battery() -> tuple[float, bool] | None:
        looks.append(0.1)
        return (0.1, True) if len(looks) < 3 else None

    placement = Placement(lambda *_: None, lambda *_: 0, Counters(), battery=battery)  # type: ignore[arg-type, return-value]
    placement._look(100.0)
    assert (placement.costs.route.thrift, placement._look_at) == (3.0, 110.0)
    placement._look(110.0)
    placement._look(120.0)
    assert (placement.costs.route.thrift, placement._look_at) == (1.0, float("inf"))


def test_what_trips_take_is_known_for_hedging() -> None:
    estimate = Estimate()
    for i in range(ENOUGH):
        assert estimate.there.p95 == NEVER, i
        estimate.ran_there(0.1, Route(), 100)
    assert estimate.typical == pytest.approx(0.1, rel=0.13)
    assert estimate.there.p95 == NEVER  # it is not worked out anew at each call
    estimate.ran_there(0.1, Route(), 100)
    estimate.ran_there(0.1, Route(), 100)
    assert estimate.there.p95 == pytest.approx(0.1, rel=0.13)


def test_large_arguments_over_a_slow_link_stay() -> None:
    estimate = Estimate(100_000_000)
    assert play(estimate, Route(rate=10e6), lambda: 1.0, lambda: 10.0, 100)[1] == 100


def test_a_link_is_learned_from_trips() -> None:
    route = Route()
    for _ in range(200):
        route.learn(0.0003, 0.0001, 100)
        route.learn(0.1, 0.0999, 100)  # what a long run leaves says nothing
        route.learn(1.0002, 0.0, 10_000_000)
    assert route.overhead == pytest.approx(0.0002, rel=0.02)
    assert route.rate == pytest.approx(10e6, rel=0.02)
    assert route.predict(0.5, 5_000_000) == pytest.approx(1.0, rel=0.02)


def test_a_new_size_class_begins_where_its_neighbour_is() -> None:
    costs = Costs()
    costs.route.slowness = 0.1
    heavy = costs.of("f", 1 << 20)
    heavy.ran_here(1.0, costs.route)
    assert not heavy.here
    assert not costs.of("f", 1 << 25).here
    assert costs.of("g", 1 << 25).here
    assert costs.of("f", 1 << 20) is heavy


def test_what_is_remembered_is_bounded() -> None:
    costs = Costs()
    for i in range(MOST + 10):
        costs.of(f"f{i}", 0)
    assert len(costs._known) <= MOST


@pytest.mark.parametrize("seed", range(5))
def test_a_mix_is_never_much_worse_than_the_better_of_all_here_and_all_there(seed: int) -> None:
    rng = random.Random(seed)
    costs = Costs()
    functions = {
        f"f{i}": (10 ** rng.uniform(-5, -1), 10 ** rng.uniform(-4, -1.5)) for i in range(12)
    }  # seconds here, seconds there
    took = dict.fromkeys(("auto", "local", "remote", "best"), 0.0)
    for _ in range(30_000):
        name = rng.choice(list(functions))
        here, there = (mean * rng.lognormvariate(0, 0.3) for mean in functions[name])
        estimate = costs.of(name, 0)
        took["local"] += here
        took["remote"] += there
        took["best"] += here if functions[name][0] < functions[name][1] else there
        if estimate.here:
            estimate.ran_here(here, costs.route)
            took["auto"] += here
        else:
            estimate.ran_there(there, costs.route, 200)
            took["auto"] += there
    assert took["auto"] <= 1.1 * min(took["local"], took["remote"])
    assert took["auto"] <= 1.1 * took["best"]


class Sized:
    nbytes = 1 << 20


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((), {}, 0),
        ((1.0, True, None), {}, 0),
        ((30,), {}, 5),
        (("x" * 100,), {}, 800),
        ((), {"n": 255}, 8),
        ((Sized(),), {"other": object()}, 1 << 20),
    ],
)
def test_the_extent_of_arguments(args: tuple[object, ...], kwargs: dict[str, object], expected: int) -> None:
    assert size_of(args, kwargs) == expected


def test_threads_that_learn_of_sizes_at_once_do_not_disturb_each_other() -> None:
    costs = Costs()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            sizes = [1 << (n % 60) for n in range(4000)]
            found = list(pool.map(lambda n: costs.of(f"m.f{n % 7}", n), sizes))
    finally:
        sys.setswitchinterval(before)
    assert len(found) == len(sizes)
