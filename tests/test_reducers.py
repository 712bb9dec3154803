"""What is pickled otherwise than it says by itself."""

from __future__ import annotations

import copyreg
import math
import pickle
import types
from typing import Any

import numpy
import pytest
from conftest import Place

from relocate import reducers
from relocate.restoring import Received, Sent
from relocate.values import dumps, loads


def there(*args: Any, **kwargs: Any) -> Received:
    """The arguments as an executor gets them."""
    return Received(Sent(args, kwargs).segments)


@pytest.mark.parametrize("letter", reducers.LETTERS)
@pytest.mark.parametrize("size", [3, 10_000])
def test_an_arrays_element_type_is_numpys_own(letter: str, size: int) -> None:
    array = numpy.zeros(size, letter)
    got = there(array, [array])
    assert got.args[0].dtype is numpy.dtype(letter)
    assert numpy.asarray(got.args[0], dtype=letter) is got.args[0] is got.args[1][0]
    assert got.give(got.args[0])[1]


def test_an_executor_that_got_no_array_yet_gives_numpys_own_element_types(place: Place) -> None:
    place.write("maker.py", "import numpy\ndef zeros(n):\n    return numpy.zeros(n)\n")
    lines = ("import maker, numpy", "made = maker.zeros(n=3)", "print(numpy.asarray(made, dtype=float) is made)")
    done = place.relocate("run", "-M", "maker", "-w", "1", "--report", "report.json", "-c", "\n".join(lines))
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert place.report()["remote"] == 1


def test_other_element_types_are_equal() -> None:
    for dtype in (">f8", "S5", "M8[s]", [("a", "i4"), ("b", "f8")], numpy.dtype("f8", metadata={"unit": "m"})):
        array = numpy.zeros(3, dtype)
        got = there(array).args[0]
        assert got.dtype == array.dtype
        assert got.dtype.metadata == array.dtype.metadata


def test_what_is_not_a_number_is_the_one_that_has_a_name() -> None:
    got = there(float("nan"), 1.5, "x", [1], key=float("nan"))
    assert got.args[0] is numpy.nan is got.kwargs["key"]
    assert got.args[1:] == (1.5, "x", [1])
    assert there(float("nan")).args[0] in {numpy.nan}


def test_a_real_function_that_has_a_stub_is_pickled_by_its_name() -> None:
    def name(value: Any) -> str | None:
        return "math:hypot" if value is real else None

    real: Any = math.hypot
    kind = types.BuiltinFunctionType
    before = copyreg.dispatch_table.get(kind)
    reducers.install(name, {kind})
    try:
        reducers.install(name, {kind})
        assert b"resolve_name" in pickle.dumps(real)
        assert pickle.loads(pickle.dumps([real, len])) == [real, len]
        assert b"resolve_name" not in pickle.dumps([len, [].append])
        real = there
        assert loads(dumps([there, lambda: there]))[0] is math.hypot  # of Python functions, ours alone
    finally:
        reducers.remove(name)
        reducers.remove(name)
    assert copyreg.dispatch_table.get(kind) is before
    assert pickle.loads(pickle.dumps(math.hypot)) is math.hypot
