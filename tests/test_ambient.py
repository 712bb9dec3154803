"""State beside its arguments that a call depends on."""

from __future__ import annotations

import decimal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy
import pytest

from relocate import ambient


@contextmanager
def limit(get: Callable[[], int], put: Callable[[int], None], value: int) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


STATES: dict[str, tuple[Callable[[], AbstractContextManager[Any]], Callable[[], Any]]] = {
    "precision": (lambda: decimal.localcontext(prec=50), lambda: decimal.getcontext().prec),
    "traps": (
        lambda: decimal.localcontext(traps=[decimal.Inexact]),
        lambda: decimal.getcontext().traps[decimal.Inexact],
    ),
    "numpy": (lambda: numpy.errstate(divide="raise", under="warn"), numpy.geterr),
    "recursion": (lambda: limit(sys.getrecursionlimit, sys.setrecursionlimit, 1234), sys.getrecursionlimit),
    "digits": (lambda: limit(sys.get_int_max_str_digits, sys.set_int_max_str_digits, 5000), sys.get_int_max_str_digits),
}


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Whatever pytest or another test has set."""
    with limit(sys.getrecursionlimit, sys.setrecursionlimit, ambient.RECURSION):
        yield


def test_what_is_at_its_default_costs_nothing() -> None:
    assert ambient.capture() == b""


@pytest.mark.parametrize("name", STATES)
def test_what_is_set_there_is_what_was_set_here_and_only_for_the_call(name: str) -> None:
    setting, value = STATES[name]
    before = value()
    with setting():
        expected, captured = value(), ambient.capture()
    assert expected != before
    assert value() == before
    with ambient.applied(captured):
        assert value() == expected
    assert value() == before


def test_a_changed_default_context_is_not_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decimal.DefaultContext, "prec", 50)
    with decimal.localcontext(decimal.Context()):
        assert ambient.capture() != b""
