"""Generators that stay where they are, and the iterators that stand for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate import lending
from relocate.lending import AHEAD, EXACT, Lent, borrow


def numbers(count: int, error: Exception | None = None) -> Iterator[int]:
    yield from range(count)
    if error is not None:
        raise error


def borrowed(loan: Lent, monkeypatch: pytest.MonkeyPatch) -> tuple[Iterator[Any], list[tuple[int, int]]]:
    """The iterator for ``loan``, and what it asks for."""
    asked: list[tuple[int, int]] = []

    class Caller(lending.Asking):
        def items(self, lent: int, skip: int, count: int) -> tuple[list[Any], bool]:
            assert lent == 0
            asked.append((skip, count))
            return loan.give(skip, count)

    monkeypatch.setattr(lending, "asking", [Caller])
    return borrow(0), asked


def test_items_are_given_from_where_they_are_asked_and_again() -> None:
    loan = Lent(numbers(5))
    assert loan.give(0, 2) == ([0, 1], False)
    assert loan.give(2, 2) == ([2, 3], False)
    assert loan.give(4, 4) == ([4], True)
    assert loan.give(0, 2) == ([0, 1], False)
    assert loan.give(0, 9) == ([0, 1, 2, 3, 4], True)
    assert loan.give(5, 1) == ([], True)


def test_no_item_is_made_before_it_is_asked_for() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for n in range(10):
            made.append(n)
            yield n

    loan = Lent(items())
    loan.give(0, 3)
    assert made == [0, 1, 2]
    loan.give(1, 3)
    assert made == [0, 1, 2, 3]


def test_what_it_raises_comes_after_its_items_and_each_time_it_is_asked() -> None:
    error = LookupError("mine")
    loan = Lent(numbers(3, error))
    assert loan.give(0, 10) == ([0, 1, 2], False)
    for _ in range(2):
        with pytest.raises(LookupError) as caught:
            loan.give(3, 10)
        assert caught.value is error
    assert loan.give(2, 10) == ([2], False)


@given(
    count=st.integers(0, 30),
    fails=st.booleans(),
    asked=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), max_size=6),
)
def test_what_is_given_depends_on_the_question_only(count: int, fails: bool, asked: list[tuple[int, int]]) -> None:
    error = ValueError() if fails else None
    loan = Lent(numbers(count, error))
    for skip, many in asked:
        expected = list(range(count))[skip : skip + many]
        if not expected and fails and skip + many > count:
            with pytest.raises(ValueError):  # noqa: PT011
                loan.give(skip, many)
        else:
            items, ended = loan.give(skip, many)
            assert items == expected
            # The end may be found late, but never said before the last item.
            assert not ended or (skip + len(items) == count and not fails) or skip > count
            assert ended or skip + many <= count or fails or skip > count


def test_a_borrower_asks_for_ever_more_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    items, asked = borrowed(Lent(numbers(5000)), monkeypatch)
    assert list(items) == list(range(5000))
    counts = [count for _, count in asked]
    assert counts[:EXACT] == [1] * EXACT  # who wants few items takes no more than those
    assert counts[EXACT : EXACT + 3] == [2, 4, 8]
    assert max(counts) == AHEAD
    assert [skip for skip, _ in asked][1:] == [sum(counts[: i + 1]) for i in range(len(counts) - 1)]


def test_a_borrower_that_is_not_used_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    items, asked = borrowed(Lent(numbers(3)), monkeypatch)
    assert asked == []
    assert next(items) == 0
    assert asked == [(0, 1)]


def test_an_empty_generator_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    items, asked = borrowed(Lent(numbers(0)), monkeypatch)
    assert list(items) == []
    assert asked == [(0, 1)]


def test_a_borrower_raises_what_the_generator_does(monkeypatch: pytest.MonkeyPatch) -> None:
    items, _ = borrowed(Lent(numbers(2, LookupError("mine"))), monkeypatch)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(LookupError, match="mine"):
        next(items)
