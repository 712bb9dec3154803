"""What a call does to its caller's objects is the same as if the function had run here."""

from __future__ import annotations

import array
import collections
import contextlib
import copy
import ctypes
import dataclasses
import io
import itertools
import math
import pickle
import random
import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate import answering, lending, raising, restoring, testing, wire
from relocate.caller import Caller
from relocate.errors import ArgumentError
from relocate.output import Output
from relocate.restoring import Unrestorable
from relocate.running import Runner
from relocate.values import IN_BAND, loads

LARGE = IN_BAND  # numbers of eight bytes: the memory of such an array travels beside the pickle


@dataclasses.dataclass
class Point:
    x: float
    tags: list[str] = dataclasses.field(default_factory=list)


class Special(Point):
    """What a point may become."""


class Slotted:
    __slots__ = ("one", "two")

    def __init__(self) -> None:
        self.one = [1]


class Stateful:
    """Keeps its state in a form of its own."""

    def __init__(self) -> None:
        self.items = [1, 2]

    def __getstate__(self) -> str:
        return ",".join(map(str, self.items))

    def __setstate__(self, state: str) -> None:
        self.items = [int(text) for text in state.split(",")]


class Tally(dict[str, int]):
    """A dictionary with something beside."""

    total = 0


def received(segments: list[wire.Buffer]) -> list[wire.Buffer]:
    """Memory of their own for the segments, as if they had come over a socket."""
    first, *rest = segments
    return [bytes(first), *map(bytearray, rest)]


def remotely(function: Callable[..., Any], *args: Any, runner: Runner | None = None, **kwargs: Any) -> tuple[Any, bool]:
    """What the caller gets, and whether the answer refers to arguments."""
    sent = restoring.Sent(args, kwargs)
    message = wire.Call(b"c" * 16, "shop", "function", b"")

    def exchange(question: wire.Ask | wire.Invoke, segments: wire.Segments) -> tuple[wire.Answer, list[wire.Buffer]]:
        asked, given = wire.unpack(received(wire.pack(question, segments)))
        assert isinstance(asked, (wire.Ask, wire.Invoke))
        answer, given = wire.unpack(received(answering.answer(asked, given, sent.lent, contextlib.nullcontext)))
        assert isinstance(answer, wire.Answer)
        return answer, given

    caller = Caller(message.call, Output(), exchange)
    lending.asking[:] = [lambda: caller]
    try:
        reply, given = (runner or Runner(Output())).run(message, function, received(sent.segments), 0)
    finally:
        lending.asking.clear()
    if isinstance(reply, wire.Rejected):
        raise ArgumentError(reply.text)
    assert isinstance(reply, (wire.Returned, wire.Raised))
    value = loads(received(given)) if not reply.refers else None
    if reply.refers:
        value, restore = sent.accept(received(given))
        restore()
    if isinstance(reply, wire.Raised):
        raise raising.rebuild(value, "desk/0")
    return value, reply.refers


# In-place changes --------------------------------------------------------------------------------


def clear_and_fill(values: Any) -> None:
    values.clear()
    values.update(z=1, a=2)


def deeper(value: dict[str, Any]) -> None:
    value["list"][0]["x"].append(value["list"])


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "list": (lambda: [3, 1, 2], lambda v: v.sort()),
    "list of the same length": (lambda: [1, 2], lambda v: v.__setitem__(0, 1.0)),
    "dict": (lambda: {"a": 1}, lambda v: v.update(b=[2])),
    "the order of a dict": (lambda: {"a": 2, "z": 1}, clear_and_fill),
    "set": (lambda: {1, 2}, lambda v: v.add(3)),
    "bytearray": (lambda: bytearray(b"abcd"), lambda v: struct.pack_into("<i", v, 0, 7)),
    "large bytearray": (lambda: bytearray(8 * LARGE), lambda v: struct.pack_into("<i", v, 9, 7)),
    "array": (lambda: array.array("d", [1.0, 2.0]), lambda v: v.append(3.0)),
    "deque": (lambda: collections.deque([1, 2, 3], 3), lambda v: v.appendleft(0)),
    "Counter": (lambda: collections.Counter("aab"), lambda v: v.update("zz")),
    "defaultdict": (lambda: collections.defaultdict(list, a=[1]), lambda v: v["b"].append(2)),
    "OrderedDict": (lambda: collections.OrderedDict(a=1, b=2), lambda v: v.move_to_end("a")),
    "a dictionary with attributes": (lambda: Tally(a=1), lambda v: (v.update(b=2), setattr(v, "total", 3))),
    "object": (lambda: Point(1.0), lambda v: setattr(v, "x", 2.0)),
    "what an object holds": (lambda: Point(1.0), lambda v: v.tags.append("new")),
    "an attribute that is gone": (lambda: Point(1.0), lambda v: delattr(v, "x")),
    "slots": (Slotted, lambda v: (v.one.append(2), setattr(v, "two", 3))),
    "a state of its own form": (Stateful, lambda v: v.items.append(3)),
    "nested": (lambda: {"list": [{"x": []}]}, deeper),
    "inside a tuple": (lambda: (1, [2]), lambda v: v[1].append(3)),
    "small array": (lambda: np.zeros(4), lambda v: v.__setitem__(1, 5.0)),
    "large array": (lambda: np.zeros(LARGE), lambda v: v.__setitem__(1, 5.0)),
    "large array in Fortran's order": (lambda: np.zeros((2, LARGE), order="F"), lambda v: v.__setitem__((1, 1), 5.0)),
    "a part of an array": (lambda: np.zeros((9, LARGE))[::2], lambda v: v.__setitem__((1, 1), 5.0)),
    "array of objects": (lambda: np.array([[1], "x"], dtype=object), lambda v: v[0].append(2)),
    "shape of an array": (lambda: np.zeros((2, 2)), lambda v: setattr(v, "shape", (4,))),
    "masked array": (lambda: np.ma.masked_equal([1, 2, 3], 2), lambda v: v.__setitem__(0, np.ma.masked)),
    "random.Random": (lambda: random.Random(1), lambda v: v.random()),
    "numpy's generator": (lambda: np.random.default_rng(1), lambda v: v.random(3)),
    "iterator": (lambda: iter([1, 2, 3]), next),
    "iterator to its end": (lambda: iter([1, 2, 3]), list),
    "chain": (lambda: itertools.chain([1, 2], [3]), next),
    "chain to its end": (lambda: itertools.chain([1, 2], [3]), list),
    "iterator of a set": (lambda: iter({1, 2, 3}), next),
    "iterator of a dictionary": (lambda: iter({1: 2, 3: 4}), list),
    "iterator of text": (lambda: iter("abc"), next),
    "iterator of a range": (lambda: iter(range(9)), lambda v: (next(v), next(v))),
    "the only slot": (lambda: Slotted(), lambda v: delattr(v, "one")),
    "zip": (lambda: zip([1, 2], [3, 4], strict=False), next),
    "reversed": (lambda: reversed([1, 2, 3]), next),
    "text stream": (io.StringIO, lambda v: v.write("text")),
}


def test_a_change_that_looks_like_the_mark_of_lent_memory_is_seen() -> None:
    """Where memory is lent, its pickle has two bytes more; here they are a part of what has changed."""
    own: list[Any] = [1258422679, None]

    def change(given: list[Any]) -> None:
        given[:] = [33659031, 78]

    remotely(change, own)
    assert own == [33659031, 78]


def test_other_bits_of_what_is_not_a_number_are_kept() -> None:
    def signs(held: list[float], other: float) -> list[float]:
        return [math.copysign(1, value) for value in (*held, other)]

    assert remotely(signs, [math.nan, -math.nan], -math.nan) == ([1.0, -1.0, -1.0], False)


@pytest.mark.parametrize(
    "holder", [[math.nan, 1, math.nan], [[math.nan], {"a": math.nan}], {"a": math.nan, "b": "x" * 5000}]
)
def test_what_is_not_a_number_is_found_where_it_was_put(holder: Any) -> None:
    def sought(held: Any, nan: float) -> list[bool]:
        inner = held.values() if isinstance(held, dict) else held
        return [nan in (v.values() if isinstance(v, dict) else v if isinstance(v, list) else [v]) for v in inner]

    assert remotely(sought, holder, math.nan) == (sought(holder, math.nan), False)


@pytest.mark.parametrize("what", CHANGES)
def test_what_the_function_changes_is_changed_here(what: str) -> None:
    make, function = CHANGES[what]
    here, own = make(), make()
    parts = [id(part) for part in gc_parts(own)]
    function(here)
    remotely(function, own)
    assert pickle.dumps(own) == pickle.dumps(here) or shown(own) == shown(here)
    assert parts == [id(part) for part in gc_parts(own)][: len(parts)]  # the very objects, not others


def shown(value: Any) -> Any:
    """Of what has several pickles."""
    return (value.getvalue(), value.tell()) if isinstance(value, io.StringIO) else repr(value)


def gc_parts(value: Any) -> list[Any]:
    """Containers in ``value`` that no test here replaces."""
    return [value, *(v for v in vars(value).values() if type(v) is list)] if isinstance(value, Point) else [value]


def test_two_names_of_one_object_stay_so() -> None:
    shared = [1]
    values = [shared, [2], shared]
    remotely(lambda v: v[0].append(3), values)
    assert values == [[1, 3], [2], [1, 3]]
    assert values[0] is values[2] is shared


def test_the_same_object_passed_twice_is_one_there_too() -> None:
    own = [1]
    result, _ = remotely(lambda a, b: (a.append(2), a is b), own, own)
    assert result == (None, True)
    assert own == [1, 2]


def test_an_array_exchanged_for_one_of_the_same_shape_is_noticed() -> None:
    own = [np.zeros(LARGE)]
    remotely(lambda v: v.__setitem__(0, np.ones(LARGE)), own)
    assert own[0].sum() == LARGE


def test_a_new_object_is_put_into_an_own_one_once() -> None:
    first: list[Any] = []
    second: list[Any] = []

    def fill(a: list[Any], b: list[Any]) -> None:
        a.append([1])
        b.append(a[0])

    remotely(fill, first, second)
    assert first[0] is second[0]


def test_an_argument_put_into_another_is_the_callers_own() -> None:
    outer: list[Any] = []
    inner = [1]
    remotely(lambda a, b: a.append(b), outer, inner)
    assert outer[0] is inner


def test_what_a_callback_changes_around_it_is_changed_here() -> None:
    history: list[int] = []
    count = 0

    def callback(value: int) -> int:
        nonlocal count
        count += 1
        history.append(value)
        return value * 2

    result, _ = remotely(lambda f: [f(1), f(2)], callback)
    assert result == [2, 4]
    assert history == [1, 2]
    assert count == 2


def test_the_function_sees_that_an_array_is_its_own() -> None:
    own = np.zeros(LARGE)

    def write(values: np.ndarray[Any, Any]) -> float:
        values += 1
        return float(values.sum())

    assert remotely(write, own) == (LARGE, True)
    assert own.sum() == LARGE


def test_views_of_a_subclass_of_arrays_see_the_change(tmp_path: Any) -> None:
    matrix = np.asmatrix(np.zeros((3, LARGE))).copy()
    mapped = np.memmap(tmp_path / "values", "f8", "w+", shape=(LARGE,))
    masked = np.ma.masked_equal(np.arange(5), 2)
    for own in (matrix, mapped, masked):
        view = np.asarray(own)[:1]
        remotely(lambda v: v.__setitem__(0, 7), own)
        assert view.ravel()[0] == 7
    mapped.flush()
    assert np.fromfile(tmp_path / "values", "f8", 1) == 7


def cautious(values: np.ndarray[Any, Any], write: bool) -> None:
    if write and values.flags.writeable:
        values[0] = 1


def trying(values: np.ndarray[Any, Any], write: bool) -> None:
    with contextlib.suppress(TypeError):
        if write:
            values[0] = 1


def past_the_flag(values: np.ndarray[Any, Any], write: bool) -> None:
    if write:
        ctypes.memset(values.ctypes.data, 255, 8)


@pytest.mark.parametrize("function", [cautious, trying, past_the_flag])
def test_functions_that_look_whether_they_may_write_may(function: Callable[..., Any]) -> None:
    runner = Runner(Output())
    for _ in range(3):
        own = np.zeros(LARGE)
        remotely(function, own, True, runner=runner)
        assert own[0] != 0


def test_a_function_that_does_not_write_gets_no_copies_and_may_write_later() -> None:
    runner = Runner(Output())
    writable: list[bool] = []

    def late(values: np.ndarray[Any, Any], number: int) -> None:
        writable.append(values.flags.writeable)
        if number > 1:
            values[0] = 1

    own = np.zeros(LARGE)
    for number in (0, 1, 2, 3):
        remotely(late, own, number, runner=runner)
    assert own[0] == 1
    assert writable == [True, False, False, True, True]  # lent twice, and then the third call run again


def reshape(values: Any) -> None:
    values.shape = (-1, 2)


def annotate(values: Any) -> None:
    values.dtype.metadata["seen"].append(1)


FIELDS = np.dtype([("a", "f8"), ("b", "i4")])


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
@pytest.mark.parametrize(
    ("change", "make"),
    [(reshape, lambda: np.zeros(LARGE)),
     (annotate, lambda: np.zeros(LARGE, np.dtype("f8", metadata={"seen": []})))],
)  # fmt: skip
def test_what_a_function_does_to_an_array_without_writing_into_it_is_done_here(
    change: Callable[[Any], None], make: Callable[[], Any]
) -> None:
    runner = Runner(Output())
    borrowed: list[bool] = []

    def late(values: np.ndarray[Any, Any], number: int) -> None:
        borrowed.append(not values.flags.writeable)
        if number == 2:
            change(values)

    own, same = make(), make()
    change(same)
    for number in (0, 1, 2):
        remotely(late, own, number, runner=runner)
    assert borrowed == [False, True, True]
    assert (own.shape, own.dtype.metadata) == (same.shape, same.dtype.metadata)


def test_a_function_that_gives_an_array_another_type_runs_here() -> None:
    runner = Runner(Output())

    def late(values: np.ndarray[Any, Any], number: int) -> None:
        if number == 2:
            values.dtype.names = ("x", "y")

    for number in (0, 1):
        remotely(late, np.zeros(LARGE, FIELDS), number, runner=runner)
    with pytest.raises(ArgumentError, match="another size or type"):
        remotely(late, np.zeros(LARGE, FIELDS), 2, runner=runner)


@pytest.mark.parametrize(
    "argument",
    [
        np.zeros(LARGE),
        np.zeros((LARGE, 2)).T,
        np.zeros(LARGE, "M8[s]"),
        np.zeros(LARGE, ">i8"),
        np.zeros(LARGE, FIELDS),
    ],
)
def test_results_of_a_function_that_only_reads_its_array(argument: np.ndarray[Any, Any]) -> None:
    runner = Runner(Output())

    def gives(values: np.ndarray[Any, Any], what: int) -> np.ndarray[Any, Any]:
        return (values, values[1:], values.copy())[what]

    for _ in range(3):
        itself, view, another = (remotely(gives, argument, what, runner=runner) for what in (0, 1, 2))
        assert itself[0] is argument
        assert another[1] == (argument.dtype.names is not None)  # it has parts that count by identity
        for value, expected in ((view[0], argument[1:]), (another[0], argument)):
            assert value.flags.writeable
            assert value.dtype == argument.dtype
            np.testing.assert_array_equal(value, expected)


def test_functions_that_a_type_of_elements_knows_travel_by_value() -> None:
    unit = np.dtype("f8", metadata={"unit": lambda: "m"})
    result, _ = remotely(lambda v, n: v + n, np.zeros(3).view(unit), 1)
    assert list(result) == [1, 1, 1]


def test_another_way_of_calling_a_function_may_be_one_that_writes() -> None:
    runner = Runner(Output())
    for write in (False, False, True):
        own = np.zeros(LARGE)
        remotely(cautious, own, write=write, runner=runner)
        assert own[0] == write


class Handle:
    """Drops its lock when it is pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["lock"]
        return state


def test_what_an_object_does_not_send_stays() -> None:
    own = Handle()
    lock = own.lock
    remotely(lambda v: setattr(v, "count", 1), own)
    assert own.count == 1
    assert own.lock is lock


def test_an_exception_in_a_circle_or_without_a_text_is_one() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def circle(values: Any) -> None:
        error = ValueError("no")
        raise error from error

    def silent(values: Any) -> None:
        raise Silent

    with pytest.raises(ValueError, match="no"):
        remotely(circle, np.zeros(LARGE))
    with pytest.raises(Silent):
        remotely(silent, np.zeros(LARGE))


def test_what_would_be_something_else_there_does_not_travel() -> None:
    with pytest.raises(ArgumentError, match="cannot travel"):
        remotely(object)


def test_an_object_that_only_the_caller_knows_comes_back() -> None:
    own = object()
    assert remotely(lambda v: [v], own)[0][0] is own


def test_an_attribute_of_a_local_class_is_changed_here() -> None:
    class Counter:
        count = 0

    def count(kind: Any) -> None:
        kind.count += 1

    remotely(count, Counter)
    assert Counter.count == 1


def test_an_array_that_is_read_only_here_is_so_there() -> None:
    own = np.zeros(LARGE)
    own.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        remotely(lambda v: v.__setitem__(0, 1), own)


# Results that are arguments ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [lambda: [1], lambda: {"a": 1}, lambda: (1, [2]), lambda: Point(1.0), lambda: np.zeros(3), lambda: np.zeros(LARGE),
     lambda: lambda x: x],
)  # fmt: skip
def test_a_result_that_is_an_argument_is_the_callers_own(make: Callable[[], Any]) -> None:
    own = make()
    assert remotely(lambda v: v, own)[0] is own
    assert remotely(lambda v: {"in": [v]}, own)[0]["in"][0] is own


def test_a_closure_over_an_argument_sees_what_is_changed_here_later() -> None:
    own = [1, 2]
    mean, _ = remotely(lambda data: lambda: sum(data) / len(data), own)
    assert mean() == 1.5
    own.append(6)
    assert mean() == 3.0


def test_a_view_of_an_argument_is_writable_here() -> None:
    for size in (8, LARGE):
        view, _ = remotely(lambda v: v[1:], np.zeros(size))
        view[0] = 1
        assert view.sum() == 1


def test_a_result_that_is_read_only_there_is_so_here() -> None:
    def constant(size: int) -> np.ndarray[Any, Any]:
        made = np.zeros(size)
        made.flags.writeable = False
        return made

    for argument in (LARGE, [LARGE]):
        result, _ = remotely(lambda n: constant(n if isinstance(n, int) else n[0]), argument)
        assert not result.flags.writeable


# What it costs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [1, "text", [1.0] * 9, {"a": [1, "a"]}, np.zeros(3), np.zeros(LARGE), Point(1.0, ["x"]), random.Random(3),
     [Point(1.0), Point(2.0)], {"x", "y"}, (np.float64(1), np.dtype("i4")), collections.Counter("abc")],
)  # fmt: skip
def test_nothing_is_added_to_the_answer_if_nothing_was_changed(value: Any) -> None:
    assert remotely(lambda v: np.zeros(LARGE), value)[1] is False


def test_nothing_is_added_for_a_callback_that_changes_nothing() -> None:
    offset = [1]
    assert remotely(lambda f, v: f(v), lambda v: v + offset[0], 2) == (3, False)


# When things are difficult -----------------------------------------------------------------------


def meanwhile(function: Callable[[Any], Any], own: Any, here: Callable[[Any], Any]) -> None:
    """Run ``function`` on a copy of ``own``, and ``here`` on itself before the answer comes."""
    sent = restoring.Sent((own,), {})
    there = restoring.Received(received(sent.segments))
    given, refers = there.give(function(*there.args))
    here(own)
    assert refers
    sent.accept(received(given))[1]()


MEANWHILE: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any], Any], Any]] = {
    "list": ([0] * 4, lambda v: v.__setitem__(3, 4), lambda v: v.__setitem__(0, 1), [1, 0, 0, 4]),
    "longer list": ([0], lambda v: v.append(1), lambda v: v.append(2), [0, 1, 2]),
    "dict": ({}, lambda v: v.update(a=1), lambda v: v.update(b=2), {"b": 2, "a": 1}),
    "set": ({0}, lambda v: v.add(1), lambda v: v.add(2), {0, 1, 2}),
    "bytearray": (bytearray(4), lambda v: v.__setitem__(3, 4), lambda v: v.__setitem__(0, 1), bytearray(b"\1\0\0\4")),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_another_thread_changes_meanwhile_is_kept(what: str) -> None:
    own, function, here, expected = copy.deepcopy(MEANWHILE[what])
    meanwhile(function, own, here)
    assert own == expected


def test_elements_that_another_thread_changes_meanwhile_are_kept() -> None:
    for own in (np.zeros(4), np.zeros((4, LARGE))[:, 0]):
        meanwhile(lambda v: v.__setitem__(3, 4), own, lambda v: v.__setitem__(0, 1))
        assert own.tolist() == [1, 0, 0, 4]


def test_arrays_that_share_memory_are_not_changed_one_by_one() -> None:
    own = np.zeros(10)
    with pytest.raises(Unrestorable, match="shares its memory"):
        remotely(lambda a, b: b.fill(1), own, own[:5])
    assert own.sum() == 0
    assert remotely(lambda a, b: float(b.sum() + a.sum()), own, own[:5]) == (0.0, False)


def test_a_change_that_cannot_be_made_here_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="argument of type count cannot be told"):
        remotely(next, itertools.count(3))


@pytest.mark.parametrize("holds", [lambda p: p, lambda p: [p]], ids=["itself", "in a list"])
def test_a_function_that_gives_an_object_another_class_runs_here(holds: Callable[[Any], Any]) -> None:
    def promote(value: Any) -> None:
        (value[0] if isinstance(value, list) else value).__class__ = Special

    with pytest.raises(ArgumentError, match="an object was given another class: Special"):
        remotely(promote, holds(Point(1.0)))


@pytest.mark.parametrize("size", [3, LARGE])
def test_a_function_that_resizes_an_array_runs_here(size: int) -> None:
    with pytest.raises(ArgumentError, match="it resizes an array"):
        remotely(lambda values: values.resize(2 * size, refcheck=False), np.zeros(size))


def test_a_change_that_cannot_travel_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="cannot travel"):
        remotely(lambda v: v.append(i for i in v), [1])


def test_an_exception_does_not_keep_changes_back() -> None:
    module = testing.module("shop", "def take(items, n):\n    items.append(n)\n    raise KeyError(items)\n")
    network = testing.Network(testing.Clock())
    network.worker("desk", modules=[module])
    shop = testing.Program(network, ["desk"]).load("shop")
    own = [1]
    with pytest.raises(KeyError) as caught:
        shop.take(own, 2)
    assert own == [1, 2]
    assert caught.value.args == ([1, 2],)


values = st.recursive(
    st.integers() | st.text(max_size=3) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values, max_size=4), st.integers(0, 2**32), st.integers(0, 6))
def test_random_changes_of_random_values(value: list[Any], seed: int, steps: int) -> None:
    def change(outer: list[Any]) -> Any:
        chance = random.Random(seed)
        for _ in range(steps):
            at: Any = outer
            while chance.random() < 0.7 and (inner := [v for v in parts(at) if isinstance(v, (list, dict))]):
                at = chance.choice(inner)
            piece = chance.choice([chance.random(), [], at, outer])
            if isinstance(at, dict):
                at[str(chance.random())] = piece
            elif at and chance.random() < 0.3:
                del at[chance.randrange(len(at))]
            else:
                at.insert(chance.randint(0, len(at)), piece)
        return chance.choice([None, outer, [outer], outer[:1]])

    here, own = copy.deepcopy(value), copy.deepcopy(value)
    expected = (here, change(here))
    found = (own, remotely(change, own)[0])
    assert shape(found) == shape(expected)


def parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)


def shape(value: Any) -> Any:
    """``value`` as text, with a number in the place of each container met before."""
    seen: dict[int, int] = {}

    def walk(v: Any) -> str:
        if not isinstance(v, (list, dict, tuple)):
            return repr(v)
        if id(v) in seen:
            return f"#{seen[id(v)]}"
        seen[id(v)] = len(seen)
        if isinstance(v, dict):
            return "{" + ", ".join(f"{k!r}: {walk(x)}" for k, x in v.items()) + "}"
        return type(v).__name__ + "[" + ", ".join(map(walk, v)) + "]"

    return walk(value)


KINDS = ["u1", "f2", "f4", "f8", "f16", "c8", "c16", "S3", "U3", "M8[s]", [("a", "i4"), ("b", "u1")]]


@given(st.sampled_from(KINDS), st.data())
def test_one_bit_of_an_array_is_changed_here_too(kind: Any, data: st.DataObject) -> None:
    size = np.dtype(kind).itemsize
    array_ = np.frombuffer(data.draw(st.binary(min_size=5 * size, max_size=5 * size)), kind).copy()
    before, at = bytearray(array_.tobytes()), data.draw(st.integers(0, 5 * size - 1))

    def flip(values: np.ndarray[Any, Any]) -> None:
        values.view("u1")[at] ^= 1

    assert remotely(flip, array_) == (None, True)
    before[at] ^= 1
    assert array_.tobytes() == before


class Packet(bytearray):
    """Memory that says of itself what it is not."""

    itemsize = 0

    def __bytes__(self) -> bytes:
        return b"head"

    def __len__(self) -> int:
        return 1


def test_what_memory_says_of_itself_is_not_what_is_compared() -> None:
    own = Packet(b"aaaa")

    def patch(packet: Packet) -> None:
        bytearray.__setitem__(packet, 1, 98)

    assert remotely(patch, own) == (None, True)
    assert bytearray.__eq__(own, b"abaa")


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_array_is_as_it_was(kind: Any) -> None:
    changed: list[int] = []
    assert remotely(lambda array, given: given.append(len(array)), np.zeros((0, 3), kind), changed) == (None, True)
    assert changed == [0]


@given(st.sampled_from(["list", "bytes", "b", "H", "d"]), st.data())
def test_what_is_spliced_into_a_sequence_is_spliced_here(kind: str, data: st.DataObject) -> None:
    def made() -> Any:
        items = data.draw(st.lists(st.sampled_from([0, 1]), max_size=6))
        return {"list": list, "bytes": bytearray}.get(kind, lambda given: array.array(kind, given))(items)

    own, other = made(), made()

    def become(values: Any) -> None:
        values[:] = other

    remotely(become, own)
    assert own == other
    assert type(own) is type(other)
