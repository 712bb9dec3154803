"""Which functions of the program travel by value: those that nobody can tell from a copy."""

from __future__ import annotations

import builtins
import functools
import json
import math
import operator
import os
import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from relocate.closures import proof
from relocate.origin import is_installed

FACTOR = 3
STOPPED = False
BOUND = 1
HISTORY: list[Any] = []
DATA = np.arange(3.0)
OBJECTS = np.array([object()])
TABLE = {"a": (1, 2.0), "b": (None, "x")}
PATTERN = re.compile("a+")
SUM = functools.partial(sum, start=3)
Pair = tuple[int, int]


class Counter:
    n = 0

    def method(self, x: Any) -> Any:
        return x


COUNTER = Counter()


def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def local() -> tuple[Callable[..., Any], Callable[..., Any]]:
    count, limit = 0, 2.0

    def counts(x: Any) -> Any:
        nonlocal count
        count += 1
        return x

    def filters(values: Any) -> Any:
        return [limit * v for v in values if v > limit and all(w < limit for w in values)]

    return counts, filters


COUNTS, FILTERS = local()


def proven(function: Any) -> bool:
    return proof(function) is not None


def fills(x: float) -> Any:
    made = np.zeros(3)
    made[0] = x
    made += 1
    return made


def changes_its_argument(x: Any) -> None:
    x[0] = 1
    x.append(2)


def squares(n: int) -> Iterator[int]:
    for i in range(n):
        yield i * i


PROVEN: dict[str, Callable[..., Any]] = {
    "constant": lambda x: x * FACTOR,
    "module's function": lambda x: math.sin(x) + np.linalg.norm(x),
    "another function": lambda x: fibonacci(x),
    "itself": fibonacci,
    "free variable": FILTERS,
    "array that is read": lambda x: ((DATA - x) ** 2).sum(),
    "list that is read": lambda x: len(HISTORY),
    "dictionary that is read": lambda k: TABLE[k],
    "array of its own that is written": fills,
    "argument that is changed": changes_its_argument,
    "generator": squares,
    "class of a package": lambda x: Fraction(x, 3),
    "pattern": lambda x: PATTERN.match(x),
    "prints": lambda x: print(x),
    "default": lambda x, y=(1, 2): (x, y),
    "inner function": lambda x: (lambda y: y + x)(2),
    "numpy ufunc": lambda x: np.add.reduce(x),
    "numpy function": lambda x: np.mean(np.sqrt(x)),
    "method of a class": lambda x: sorted(x, key=str.lower),
    "partial function": lambda x: SUM(x),
}


def rebinds(x: Any) -> Any:
    global BOUND
    BOUND = 3
    return x


def sets_an_attribute(x: Any) -> None:
    x.y = 1


def imports(x: Any) -> Any:
    import json as found

    return found


def changes_an_alias(x: Any) -> Any:
    alias = DATA
    alias += x
    return alias


def with_an_attribute(x: Any) -> Any:
    return x


def reads_what_another_binds() -> Any:
    return STOPPED


def stops() -> None:
    global STOPPED
    STOPPED = True


with_an_attribute.calls = 0  # type: ignore[attr-defined]
ITERATOR = iter([1, 2])
builtins.put_there = len  # type: ignore[attr-defined]
PARTIAL = functools.partial(sets_an_attribute)

UNPROVEN: dict[str, Callable[..., Any]] = {
    "appends": lambda x: HISTORY.append(x),
    "writes into an array": lambda x: DATA.__setitem__(0, x),
    "adds to an alias": changes_an_alias,
    "output argument": lambda x: np.add(DATA, x, out=DATA),
    "errors of NumPy's": lambda x: np.seterr(all="raise"),
    "argument of a function that changes it": lambda x: changes_its_argument(HISTORY),
    "binds a global": rebinds,
    "binds a free variable": COUNTS,
    "sets an attribute": sets_an_attribute,
    "imports": imports,
    "object of a class of its own": lambda x: COUNTER.n,
    "makes one": lambda x: Counter(),
    "method of an object": lambda x: COUNTER.method(x),
    "random": lambda x: random.random(),
    "numpy's random": lambda x: np.random.rand(),
    "environment": lambda x: os.getcwd(),
    "file": lambda x: open(x),  # noqa: SIM115
    "evaluates": lambda x: eval(x),
    "iterator": lambda x: next(ITERATOR),
    "captured iterator": lambda x: list(ITERATOR),
    "array of objects": lambda x: OBJECTS[0],
    "module as a value": lambda x: vars(json),
    "name that is not there": lambda x: nowhere(x),  # type: ignore[name-defined]  # noqa: F821
    "attribute of its own": with_an_attribute,
    "package that is not known": lambda x: pytest.approx(x),
    "partial function": lambda x: PARTIAL(x),
    "name that another function binds": reads_what_another_binds,
    "what was put among the built-in names": lambda x: put_there(x),  # type: ignore[name-defined]  # noqa: F821
    "hash, which each process makes otherwise": lambda x: hash(x),
    "file by a method": lambda path: path.write_text(""),
    "operator as a method": lambda x: HISTORY.__iadd__(x),
    "method by its name": lambda x: operator.methodcaller("append", x)(HISTORY),
    "order of an array's items": lambda: DATA.partition(1),
    "space of another function": lambda x: fibonacci.__globals__.update(x),
}


@pytest.mark.parametrize("name", PROVEN)
def test_a_function_that_nobody_can_tell_from_a_copy_is_proven(name: str) -> None:
    assert proven(PROVEN[name])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", UNPROVEN)
def test_a_function_that_reaches_beyond_its_arguments_is_not(name: str) -> None:
    assert not proven(UNPROVEN[name])  # type: ignore[arg-type]


def test_a_variable_that_is_not_yet_bound_proves_nothing() -> None:
    def early() -> int:
        return late

    assert not proven(early)
    late = 1
    assert proven(early)


@pytest.mark.parametrize(
    ("module", "installed"),
    [
        ("json.decoder", True),
        ("numpy.linalg", True),
        ("_io", True),
        ("__main__", False),
        (__name__, False),
        ("nowhere", False),
        (None, False),
    ],
)
def test_what_is_installed_is_known_from_the_programs_own(module: str | None, installed: bool) -> None:
    assert is_installed(module) is installed
