"""How many attempts beyond the first there may be."""

from __future__ import annotations

from relocate import budget


def test_a_call_puts_a_share_in_and_an_attempt_takes_one_out() -> None:
    bucket = budget.Budget(0.25)
    for _ in range(8):
        bucket.deposit()
    assert [bucket.spend(0.0) for _ in range(3)] == [True, True, False]


def test_the_floor_fills_in_with_time_and_never_over_the_brim() -> None:
    bucket = budget.Budget(0.0, floor=10.0, most=5.0)
    assert not bucket.spend(0.0)
    assert bucket.delay(0.0) == 0.1
    assert bucket.spend(0.1)
    assert sum(bucket.spend(100.0) for _ in range(50)) == 5


def test_without_a_floor_only_calls_fill_it() -> None:
    bucket = budget.Budget(0.5)
    assert bucket.delay(1e6) == float("inf")
    assert not bucket.spend(1e6)


def test_time_that_goes_back_fills_nothing_in() -> None:
    bucket = budget.Budget(0.0, floor=10.0)
    bucket.spend(5.0)
    bucket.tokens = 0.0
    assert not bucket.spend(4.0)
    assert not bucket.spend(5.0)


def test_hedges_are_at_most_three_in_a_hundred_calls() -> None:
    bucket = budget.Hedges()
    spent = 0
    for _ in range(10_000):
        bucket.ran(1.0)
        spent += bucket.spend(0.0)
    assert 290 <= spent <= 300


def test_hedges_cost_at_most_three_in_a_hundred_seconds() -> None:
    bucket = budget.Hedges()
    wasted = 0.0
    for _ in range(10_000):
        bucket.ran(1.0)
        if bucket.spend(0.0):
            bucket.wasted(30.0)
            wasted += 30.0
    assert 270 <= wasted <= 330


def test_retries_are_a_fifth_of_the_calls_and_ten_a_second() -> None:
    bucket = budget.retries()
    first = sum(bucket.spend(0.0) for _ in range(1000))
    assert first == 100
    spent = 0
    for i in range(1000):  # in one second
        bucket.deposit()
        spent += bucket.spend(i / 1000)
    assert 205 <= spent <= 211
