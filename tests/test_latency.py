"""Latencies in buckets: how exact they are, and what is read from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate.latency import BUCKETS, STEPS, bucket, limit, quantile


@given(st.floats(2e-6, 4000.0))
def test_a_bucket_says_at_most_an_eighth_too_much(seconds: float) -> None:
    assert seconds <= limit(bucket(seconds)) + 2e-9 <= (seconds + 4e-9) * (1 + 1 / STEPS)


@given(st.floats(0.0, 1e9), st.floats(0.0, 1e9))
def test_longer_calls_are_in_later_buckets(one: float, other: float) -> None:
    assert 0 <= bucket(min(one, other)) <= bucket(max(one, other)) < BUCKETS


def test_the_shortest_and_the_longest_have_the_outer_buckets() -> None:
    assert (bucket(0.0), bucket(1e-7), bucket(1e6)) == (0, 0, BUCKETS - 1)


def test_a_quantile_is_what_so_many_took_at_most() -> None:
    counts = [0] * BUCKETS
    for milliseconds in range(1, 101):
        counts[bucket(milliseconds / 1000)] += 1
    assert quantile(counts, 0.5) == pytest.approx(0.050, rel=1 / STEPS)
    assert quantile(counts, 0.99) == pytest.approx(0.099, rel=1 / STEPS)
    assert quantile({index: count for index, count in enumerate(counts) if count}, 0.5) == quantile(counts, 0.5)


def test_of_no_calls_there_is_no_quantile() -> None:
    assert quantile([0] * BUCKETS, 0.5) is None
    assert quantile({}, 0.99) is None
