"""Values to segments and back."""

from __future__ import annotations

import enum
import math
import struct
import sys
import threading
import types
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate import lending, restoring, wire
from relocate.errors import ArgumentError
from relocate.values import PICKLED, dumps, loads, of_atom


class Key(enum.StrEnum):
    A = enum.auto()


def there_and_back(value: object) -> Any:
    header, *rest = wire.pack(wire.Call(bytes(16), "m", "f", b""), dumps(value))
    _, segments = wire.unpack([bytes(header), *map(bytearray, rest)])
    return loads(segments)


def test_a_read_only_view_of_a_mapping_keeps_the_mapping_that_it_is_of() -> None:
    behind = OrderedDict(b=1, a=[2])
    view, same = there_and_back((types.MappingProxyType(behind), behind))
    assert type(view) is types.MappingProxyType
    assert (type(same), list(view)) == (OrderedDict, ["b", "a"])
    same["c"] = 3
    assert view["c"] == 3


ATOMS = (0, -1, 2**64 - 1, -(2**63), 1.5, -0.0, math.inf, "", "\u00e9\0", b"", b"\x80\x05", True, False, None)
"""What MessagePack has."""
OTHERS = (2**64, -(2**63) - 1, 1j, ..., "\ud800")
"""Atoms that it has not."""


@pytest.mark.parametrize("value", [*ATOMS, *OTHERS], ids=ascii)
def test_an_atom_comes_back_as_it_was_pickled_only_where_messagepack_lacks_it(value: object) -> None:
    data = of_atom(value)
    assert (data[0] == PICKLED) == (value in OTHERS)
    back = loads([memoryview(data)])
    assert (type(back), repr(back)) == (type(value), repr(value))


@pytest.mark.parametrize("args", [(), ATOMS, (*ATOMS, *OTHERS)], ids=["none", "atoms", "others"])
@pytest.mark.parametrize("names", [(), ("b", "a")], ids=["positional", "named"])
def test_arguments_that_are_atoms_arrive_as_they_were(args: tuple[Any, ...], names: tuple[str, ...]) -> None:
    kwargs = dict(zip(names, ATOMS, strict=False))
    segments = restoring.Sent(args, kwargs).segments
    assert (bytes(segments[0])[0] == PICKLED) == (args[len(ATOMS) :] == OTHERS)
    back = restoring.Received(segments)
    assert repr((back.args, list(back.kwargs.items()))) == repr((args, list(kwargs.items())))
    assert [type(value) for value in back.args] == [type(value) for value in args]


@pytest.mark.parametrize("text", ["a text", b"some bytes"])
def test_a_text_that_comes_twice_is_one_object_there_too(text: str | bytes) -> None:
    received = restoring.Received(restoring.Sent((text, 1, text[1:]), {"x": text, "y": text[1:]}).segments)
    assert received.args[0] is received.kwargs["x"]
    assert received.args[2] is not received.kwargs["y"]


def test_names_of_arguments_keep_their_class() -> None:
    received = restoring.Received(restoring.Sent((), {Key.A: 1, "b c": 2}).segments)
    assert [type(key) for key in received.kwargs] == [Key, str]


def test_the_bits_of_what_is_not_a_number_arrive() -> None:
    bits = struct.pack("<Q", 0x7FF8_0000_0000_1234)
    odd = struct.unpack("<d", bits)[0]
    assert struct.pack("<d", loads([of_atom(odd)])) == bits
    assert struct.pack("<d", restoring.Received(restoring.Sent((odd,), {}).segments).args[0]) == bits
    assert restoring.Received(restoring.Sent((), {"x": np.nan}).segments).kwargs["x"] is np.nan


@pytest.mark.parametrize("size", [10, 5_000, 200_000, 3 * wire.CHUNK // 8 + 1])
def test_an_array_arrives_equal_and_writable(size: int) -> None:
    array = np.arange(size, dtype=np.float64)
    back = there_and_back(((array,), {"order": "C"}))[0][0]
    np.testing.assert_array_equal(back, array)
    back += 1
    assert back[-1] == size
    assert array[-1] == size - 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(values)
def test_a_value_comes_back_equal_and_of_the_same_type(value: object) -> None:
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


def test_shared_parts_stay_shared() -> None:
    part: list[int] = []
    first, second = there_and_back((part, part))
    assert first is second


def test_closures_and_local_classes_travel_by_value() -> None:
    factor = 3

    class Local:
        def times(self, x: int) -> int:
            return x * factor

    assert there_and_back(lambda x: x * factor)(2) == 6
    assert there_and_back(Local()).times(5) == 15


def test_what_lives_in_main_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    exec("class Point:\n    def __init__(self, x): self.x = x\ndef twice(p): return 2 * p.x\n", main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    segments = dumps((main.Point(4), main.twice))
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    point, twice = loads(segments)
    assert twice(point) == 8


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def test_generators_are_lent_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    lent = lending.Loans()
    segments = dumps(((numbers(3), [numbers(5)]), {}), lent)
    loans = [loan for loan in lent if isinstance(loan, lending.Lent)]
    assert [len(loan.give(0, 100)[0]) for loan in loans] == [3, 5]
    asked: list[tuple[int, int, int]] = []

    class Caller(lending.Asking):
        def items(self, lent: int, skip: int, count: int) -> tuple[list[Any], bool]:
            asked.append((lent, skip, count))
            return loans[lent].give(skip, count)

    monkeypatch.setattr(lending, "asking", [Caller])
    (first, [second]), _ = loads(segments)
    assert list(second) == [0, 1, 2, 3, 4]
    assert list(first) == [0, 1, 2]
    assert asked == [(1, n, 1) for n in range(5)] + [(0, n, 1) for n in range(3)]


def test_without_a_lender_generators_do_not_travel() -> None:
    with pytest.raises(ArgumentError, match="cannot pickle 'generator' object"):
        dumps(numbers(3))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (((1, threading.Lock()), {}), "argument 2, of type lock, cannot travel"),
        (((1,), {"guard": [threading.Lock()]}), "argument 'guard', of type list, cannot travel"),
        (threading.Lock(), "a value of type lock cannot travel"),
    ],
)
def test_what_cannot_travel_is_named(value: object, named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        dumps(value, [])


def test_a_lent_generator_is_not_blamed() -> None:
    with pytest.raises(ArgumentError, match="argument 2, of type lock"):
        dumps(((numbers(1), threading.Lock()), {}), [])


class Explosive:
    """Pickles well, and raises whatever it likes when it is read."""

    def __reduce__(self) -> Any:
        raise KeyError("reduce")


def test_a_reduction_that_raises_is_an_argument_error() -> None:
    with pytest.raises(ArgumentError, match="argument 1, of type Explosive, cannot travel"):
        dumps(((Explosive(),), {}))
