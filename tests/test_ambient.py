"""State beside its arguments that a call depends on."""

from __future__ import annotations

import contextvars
import decimal
import locale
import sys
import threading
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


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="nothing")


@contextmanager
def locally(name: str) -> Iterator[None]:
    before = locale.setlocale(locale.LC_NUMERIC)
    locale.setlocale(locale.LC_NUMERIC, name)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


@contextmanager
def variable(value: Any) -> Iterator[None]:
    token = VARIABLE.set(value)
    try:
        yield
    finally:
        VARIABLE.reset(token)


STATES: dict[str, tuple[Callable[[], AbstractContextManager[Any]], Callable[[], Any]]] = {
    "precision": (lambda: decimal.localcontext(prec=50), lambda: decimal.getcontext().prec),
    "traps": (
        lambda: decimal.localcontext(traps=[decimal.Inexact]),
        lambda: decimal.getcontext().traps[decimal.Inexact],
    ),
    "numpy": (lambda: numpy.errstate(divide="raise", under="warn"), numpy.geterr),
    "locale": (lambda: locally("C.UTF-8"), lambda: locale.setlocale(locale.LC_NUMERIC)),
    "variable": (lambda: variable("something"), VARIABLE.get),
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


def test_a_variable_whose_value_cannot_travel_keeps_its_default() -> None:
    with variable(threading.Lock()):
        captured = ambient.capture()
    with ambient.applied(captured) if captured else variable("nothing"):
        assert VARIABLE.get() == "nothing"


def test_a_variable_that_no_module_has_does_not_travel() -> None:
    private = contextvars.ContextVar("private")
    token = private.set(1)
    try:
        assert ambient.capture() == b""
    finally:
        private.reset(token)


def test_a_locale_that_is_not_there_is_told() -> None:
    with locally("C.UTF-8"):
        captured = ambient.capture().replace(b"C.UTF-8", b"xx_XX.8")
    with pytest.raises(ambient.Unavailable, match="there is no locale"), ambient.applied(captured):
        pass
