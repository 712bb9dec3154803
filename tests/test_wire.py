"""Messages to frames and back, and values to segments and back."""

from __future__ import annotations

import sys
import threading
import types
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate import lending, wire
from relocate.errors import ArgumentError, RemoteProtocolError

ID = bytes(range(16))


def call() -> wire.Call:
    return wire.Call(ID, "m", "f", b"d" * 32)


@pytest.mark.parametrize("lease", [float("nan"), float("inf"), -1.0, 1e9])
def test_a_lease_is_a_time_that_ends(lease: float) -> None:
    for message in (wire.Leased(1, lease), wire.Steps(1, lease, [])):
        with pytest.raises(RemoteProtocolError):
            wire.unpack(wire.pack(message))


def test_one_can_count_on_from_any_incarnation() -> None:
    with pytest.raises(RemoteProtocolError):
        wire.unpack(wire.pack(wire.Leased((1 << 64) - 1, 0.0)))


def copied(frames: list[wire.Buffer]) -> list[wire.Buffer]:
    return [bytes(frames[0]), *(bytearray(f) for f in frames[1:])]


def there_and_back(value: object) -> Any:
    _, segments = wire.unpack(copied(wire.pack(call(), wire.dumps(value))))
    return wire.loads(segments)


def test_a_read_only_view_of_a_mapping_keeps_the_mapping_that_it_is_of() -> None:
    behind = OrderedDict(b=1, a=[2])
    view, same = there_and_back((types.MappingProxyType(behind), behind))
    assert type(view) is types.MappingProxyType
    assert (type(same), list(view)) == (OrderedDict, ["b", "a"])
    same["c"] = 3
    assert view["c"] == 3


ids = st.binary(min_size=16, max_size=16)
texts = st.text(max_size=20)
executors = st.builds(wire.Executor, st.integers(0, 99), st.integers(0, 99), texts)
obituaries = st.builds(wire.Obituary, st.integers(0, 99), st.integers(0, 99), st.integers(-64, 255), ids, st.booleans())
output = st.lists(st.tuples(texts, texts), max_size=3)
pythons = st.tuples(st.integers(0, 99), st.integers(0, 99))
messages = st.one_of(
    st.builds(wire.Hello, st.integers(0, 99), texts, pythons, texts),
    st.builds(wire.Welcome, texts, texts, pythons, ids, st.lists(executors, max_size=3), st.binary(max_size=32)),
    st.builds(wire.Change, st.lists(executors, max_size=3), st.lists(obituaries, max_size=3), st.booleans(), texts),
    st.builds(wire.Refused, texts, texts),
    st.builds(wire.Cancel, st.integers(0, 99), ids),
    st.builds(wire.Open, st.integers(0, 99), pythons, ids, st.none() | st.lists(texts, max_size=3)),
    st.builds(wire.Describe, ids, texts),
    st.builds(
        wire.Call, ids, texts, texts, ids, st.binary(max_size=9), st.none() | st.tuples(st.integers(0, 99), st.just(1))
    ),
    st.builds(wire.Ask, ids, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    st.builds(wire.Answer, ids, st.integers(0, 9), st.integers(0, 9), st.booleans()),
    st.builds(wire.Returned, ids, st.integers(0, 9), output),
    st.builds(wire.Raised, ids, st.integers(0, 9), output),
    st.builds(wire.Rejected, ids, texts, texts),
)


@given(messages)
def test_a_message_comes_back_equal(message: wire.AnyMessage) -> None:
    frames = wire.pack(message)
    assert len(frames) == 1
    assert wire.unpack(copied(frames)) == (message, [])


lengths = st.sampled_from([0, 1, 100, wire.INLINE, wire.INLINE + 1, wire.CHUNK, wire.CHUNK + 1, 3 * wire.CHUNK])


@given(st.lists(lengths, max_size=4))
def test_segments_come_back_in_frames_of_bounded_size(sizes: list[int]) -> None:
    segments = [bytes([i]) * size for i, size in enumerate(sizes)]
    if sizes == [0]:
        return  # one empty segment is no pickle
    frames = wire.pack(call(), segments)
    assert max(len(f) for f in frames[1:] or [b""]) <= wire.CHUNK
    _, back = wire.unpack(copied(frames))
    assert [bytes(b) for b in back] == segments


def test_a_small_value_is_one_frame() -> None:
    assert len(wire.pack(call(), wire.dumps(((2, 3), {})))) == 1


def test_nothing_is_copied_on_the_way_out() -> None:
    array = np.zeros(4 * wire.CHUNK, np.uint8)
    frames = wire.pack(call(), wire.dumps(array))
    array[0], array[-1] = 7, 8
    assert len(frames) == 1 + 1 + 4
    assert frames[2][0] == 7
    assert frames[5][-1] == 8


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
    segments = wire.dumps((main.Point(4), main.twice))
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    point, twice = wire.loads(segments)
    assert twice(point) == 8


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def test_generators_are_lent_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    lent = lending.Loans()
    segments = wire.dumps(((numbers(3), [numbers(5)]), {}), lent)
    loans = [loan for loan in lent if isinstance(loan, lending.Lent)]
    assert [len(loan.give(0, 100)[0]) for loan in loans] == [3, 5]
    asked: list[tuple[int, int, int]] = []

    class Caller(lending.Asking):
        def items(self, lent: int, skip: int, count: int) -> tuple[list[Any], bool]:
            asked.append((lent, skip, count))
            return loans[lent].give(skip, count)

    monkeypatch.setattr(lending, "asking", [Caller])
    (first, [second]), _ = wire.loads(segments)
    assert list(second) == [0, 1, 2, 3, 4]
    assert list(first) == [0, 1, 2]
    assert asked == [(1, n, 1) for n in range(5)] + [(0, n, 1) for n in range(3)]


def test_without_a_lender_generators_do_not_travel() -> None:
    with pytest.raises(ArgumentError, match="cannot pickle 'generator' object"):
        wire.dumps(numbers(3))


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
        wire.dumps(value, [])


def test_a_lent_generator_is_not_blamed() -> None:
    with pytest.raises(ArgumentError, match="argument 2, of type lock"):
        wire.dumps(((numbers(1), threading.Lock()), {}), [])


class Explosive:
    """Pickles well, and raises whatever it likes when it is read."""

    def __reduce__(self) -> Any:
        raise KeyError("reduce")


def test_a_reduction_that_raises_is_an_argument_error() -> None:
    with pytest.raises(ArgumentError, match="argument 1, of type Explosive, cannot travel"):
        wire.dumps(((Explosive(),), {}))


# Frames that are not messages --------------------------------------------------------------------

header = msgspec.msgpack.encode


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\xc1"],
        [b"\x80"],
        [header(["unknown", 1])],
        [header(["cancel", "slot", ID])],
        [header(["cancel", 1])],
        [header({"type": "cancel"})],
        [header(["refused", "a", "b"]), b"more"],
        [header(["call", ID, "m", "f", b"d", b"", None, b"body", []]), b"more"],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [3]])],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [3]]), b"four"],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [3]]), b"abc", b"more"],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [-1]]), b""],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [2**62]]), b"abc"],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [wire.CHUNK + 1]]), b"x" * (wire.CHUNK + 1)],
        [header(["call", ID, "m", "f", b"d", b"", None, b"", [0] * (wire.MAX_SEGMENTS + 1)])],
    ],
    ids=range(17),
)
def test_malformed_frames_are_the_peers_error(frames: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.unpack(frames)


def test_text_that_is_not_utf8_is_the_peers_error() -> None:
    with pytest.raises(RemoteProtocolError):
        wire.unpack([header(["refused", "aa", "bb"]).replace(b"aa", b"\xff\xfe")])


@given(st.binary(max_size=200), st.lists(st.binary(max_size=20), max_size=3))
def test_noise_is_a_message_or_the_peers_error(first: bytes, rest: list[bytes]) -> None:
    try:
        message, _ = wire.unpack([first, *rest])
    except RemoteProtocolError:
        return
    assert isinstance(message, wire.Message)


@given(messages, st.integers(0), st.integers(0, 255))
def test_a_damaged_byte_is_a_message_or_the_peers_error(message: wire.Message, at: int, byte: int) -> None:
    frame = bytearray(wire.pack(message)[0])
    frame[at % len(frame)] = byte
    try:
        damaged, _ = wire.unpack([bytes(frame)])
    except RemoteProtocolError:
        return
    assert isinstance(damaged, wire.Message)
