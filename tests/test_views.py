"""Views of memory as arguments: on a worker they are what they are here, and so is what is written through them."""

from __future__ import annotations

import array
import ctypes
import gc
import io
import itertools
import mmap
import random
import struct
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_restoring import received, remotely

from relocate import restoring, views
from relocate.errors import ArgumentError
from relocate.output import Output
from relocate.restoring import Unrestorable
from relocate.running import Runner

LARGE = 4 * views.SMALL


def counted(size: int) -> bytes:
    """Bytes no two of which next to each other are the same."""
    return bytes(i % 251 for i in range(size))


def mapped(size: int) -> mmap.mmap:
    """Anonymous memory that is mapped."""
    made = mmap.mmap(-1, size)
    made[:] = counted(size)
    return made


def shown(view: memoryview) -> Any:
    """All that a function can see of a view."""
    try:
        hashed: Any = hash(view)
    except (TypeError, ValueError) as error:
        hashed = str(error)
    try:
        items = view.tolist()
    except NotImplementedError as error:
        items = [str(error)]
    flags = view.readonly, view.contiguous, view.c_contiguous, view.f_contiguous
    layout = view.format, view.itemsize, view.nbytes, view.ndim, view.shape, view.strides, view.suboffsets
    return repr(items), view.tobytes(), hashed, flags, layout


OWNERS: dict[str, Callable[[int], Any]] = {
    "bytearray": lambda size: bytearray(counted(size)),
    "bytes": counted,
    "array of the library's": lambda size: array.array("I", counted(size)),
    "map": mapped,
    "numpy": lambda size: np.frombuffer(bytearray(counted(size)), "u4").copy(),
    "two dimensions": lambda size: np.frombuffer(bytearray(counted(size)), "u2").reshape(4, -1).copy(),
    "a part of an array": lambda size: np.frombuffer(bytearray(counted(2 * size)), "u2").reshape(8, -1)[1::2, ::-3],
    "Fortran's order": lambda size: np.frombuffer(bytearray(counted(size)), "f8").reshape(4, -1, order="F"),
    "records": lambda size: np.frombuffer(bytearray(counted(size)), [("a", "u4"), ("b", "i2"), ("c", "i2")]),
    "a field": lambda size: np.frombuffer(bytearray(counted(size)), [("a", "u4"), ("b", "i2"), ("c", "i2")])["b"],
    "complex": lambda size: np.frombuffer(bytearray(counted(size)), "c16"),
    "an array that is read-only": lambda size: np.frombuffer(counted(size), "i4"),
    "nothing": lambda size: bytearray(),
}
FORMS: dict[str, Callable[[memoryview], memoryview]] = {
    "whole": lambda view: view,
    "read-only": lambda view: view.toreadonly(),
    "slice": lambda view: view[1:3],
    "steps": lambda view: view[1::2],
    "backwards": lambda view: view[::-1],
    "far steps": lambda view: view[2::9999],
    "empty": lambda view: view[1:1],
    "cast": lambda view: view.cast("B").cast("I"),
    "cast of a part": lambda view: view.cast("B")[3:11].cast("h")[::-2],
    "dimensions": lambda view: view.cast("B").cast("H", (2, len(view.cast("B")) // 4)),
    "rows": lambda view: view.cast("B").cast("B", (4, 2, len(view.cast("B")) // 8))[1::2],
    "none": lambda view: view.cast("B")[5:6].cast("B", ()),
}


def viewed(owner: str, form: str, size: int) -> tuple[Any, memoryview]:
    """An object and a view of it."""
    made = OWNERS[owner](size)
    return made, FORMS[form](memoryview(made))


def exists(owner: str, form: str) -> bool:
    """Whether Python makes such a view."""
    try:
        return bool(viewed(owner, form, 64))
    except (TypeError, ValueError):
        return False


def overwrite(view: memoryview) -> Any:
    """Write all through a view that can be, and see the result."""
    try:
        np.asarray(view)[...] = 0
        return shown(view)
    except (TypeError, ValueError) as error:
        return str(error)


VIEWS = [(owner, form) for owner in OWNERS for form in FORMS if exists(owner, form)]
ODD = {
    ("two dimensions", "empty"), ("a part of an array", "empty"), ("Fortran's order", "empty"), ("records", "empty"),
    ("complex", "empty"), ("records", "far steps"), ("complex", "far steps"),
}  # fmt: skip
"""Views with strides that nothing else can be given: calls with them run here."""


@pytest.mark.parametrize("size", [64, LARGE])
@pytest.mark.parametrize(("owner", "form"), [view for view in VIEWS if view not in ODD])
def test_a_view_is_there_what_it_is_here(owner: str, form: str, size: int) -> None:
    here, there = viewed(owner, form, size), viewed(owner, form, size)
    runner = Runner(Output())
    assert remotely(lambda v: [shown(v)], there[1], runner=runner) == ([shown(here[1])], False)
    again = remotely(lambda v: [shown(v)], there[1], runner=runner)
    assert again == (
        [shown(here[1])] if here[1].readonly else again[0],
        False,
    )  # what is lent says that it is read-only
    assert remotely(overwrite, there[1]) == (overwrite(here[1]), not here[1].readonly and here[1].nbytes > 0)
    assert bytes(memoryview(there[0])) == bytes(memoryview(here[0]))
    assert shown(there[1]) == shown(here[1])


@pytest.mark.parametrize(("owner", "form"), sorted(ODD))
def test_a_view_that_nothing_else_can_have_does_not_travel(owner: str, form: str) -> None:
    with pytest.raises(ArgumentError, match="a form that only its own memory can have"):
        restoring.Sent((viewed(owner, form, 64)[1],), {})


WRITES: dict[str, tuple[Callable[[], Any], Callable[[Any], memoryview], Callable[[memoryview], Any]]] = {
    "struct": (lambda: bytearray(8), memoryview, lambda v: struct.pack_into("<I", v, 4, 7)),
    "slice": (lambda: bytearray(9000), lambda o: memoryview(o)[8:], lambda v: v.__setitem__(slice(2, 5), b"abc")),
    "item": (lambda: array.array("d", [0.0] * 2000), lambda o: memoryview(o)[3:], lambda v: v.__setitem__(1, 2.5)),
    "dimensions": (lambda: np.zeros((90, 90)), lambda o: memoryview(o.T[::2]), lambda v: v.__setitem__((3, 4), 2.5)),
    "stream": (lambda: bytearray(9000), lambda o: memoryview(o)[7:], lambda v: io.BytesIO(b"read").readinto(v)),
    "map": (lambda: mapped(9000), lambda o: memoryview(o)[7:], lambda v: v.__setitem__(slice(0, 4), b"wxyz")),
    "inside": (lambda: mapped(9000), memoryview, lambda v: v.cast("I").__setitem__(5, 7)),
    "in place": (lambda: -np.arange(9000.0), memoryview, lambda v: np.asarray(v).sort()),
    "first and last": (
        lambda: bytearray(2**18),
        memoryview,
        lambda v: v.__setitem__(slice(None, None, 2**18 - 1), b"ab"),
    ),
    "every second": (lambda: mapped(2**18), memoryview, lambda v: v.__setitem__(slice(0, 2**18, 2), bytes(2**17))),
}


@pytest.mark.parametrize("what", WRITES)
def test_what_is_written_through_a_view_is_written_here(what: str) -> None:
    make, view_of, function = WRITES[what]
    here, own = make(), make()
    expected = function(view_of(here))
    runner = Runner(Output())
    assert remotely(function, view_of(own), runner=runner) == (expected, True)
    assert bytes(memoryview(own)) == bytes(memoryview(here)) != bytes(memoryview(make()))
    nested, at = {"views": [(view_of(own),)]}, make()
    remotely(lambda n: function(n["views"][0][0]), nested)
    for _ in range(2):
        function(view_of(at))
    assert bytes(memoryview(own)) == bytes(memoryview(at))


def meanwhile(function: Callable[[Any], Any], own: Any, here: Callable[[Any], Any]) -> None:
    """Run ``function`` on a copy of ``own``, and ``here`` on itself before the answer comes."""
    sent = restoring.Sent((own,), {})
    there = restoring.Received(received(sent.segments), copied=True)
    given_, _ = there.give(function(*there.args))
    here(own)
    sent.accept(received(given_))[1]()


# Memory that is shared ---------------------------------------------------------------------------


def zigzag(*args: Any) -> list[Any]:
    """Write through each of the arguments, and see through the others."""
    seen = []
    for number, value in enumerate(args):
        value[number] = 100 + number
        seen.append([bytes(other) for other in args])
    return seen


SHARED: dict[str, Callable[[int], tuple[Any, list[Any]]]] = {
    "the same part": lambda size: (o := bytearray(size), [memoryview(o)[1:9], memoryview(o)[1:9]]),
    "parts": lambda size: (o := bytearray(size), [memoryview(o)[:9], memoryview(o)[4:20], memoryview(o)[15:]]),
    "a part of a part": lambda size: (o := mapped(size), [memoryview(o)[2:], memoryview(o)[9:20].cast("b")]),
    "a bytearray": lambda size: (o := bytearray(size), [memoryview(o)[2:20], o]),
    "a bytearray first": lambda size: (o := bytearray(size), [o, memoryview(o)[2:20], memoryview(o)[::3]]),
    "an array of the library's": lambda size: (o := array.array("B", counted(size)), [memoryview(o)[5:], o]),
    "numpy's": lambda size: (o := np.zeros(size, "u1"), [memoryview(o)[5:], o]),
    "a part of numpy's": lambda size: (o := np.zeros(size, "u1"), [memoryview(o[::2])[5:], o, memoryview(o[3:])]),
    "side by side": lambda size: (o := bytearray(size), [memoryview(o)[:8], memoryview(o)[8:16]]),
    "through two objects": lambda size: (o := bytearray(size), [memoryview(np.frombuffer(o, "u1")), memoryview(o)]),
}


@pytest.mark.parametrize("size", [64, LARGE])
@pytest.mark.parametrize("what", SHARED)
def test_a_write_through_one_is_seen_through_the_others(what: str, size: int) -> None:
    here, there = SHARED[what](size), SHARED[what](size)
    assert remotely(zigzag, *there[1]) == (zigzag(*here[1]), True)
    assert bytes(there[0]) == bytes(here[0])


parts_of_memory = st.tuples(st.integers(0, 90), st.integers(0, 90), st.sampled_from([-3, -1, 1, 2]))


@given(
    st.lists(parts_of_memory, min_size=1, max_size=6), st.booleans(), st.integers(0, 2**32), st.sampled_from([1, 100])
)
def test_random_views_of_the_same_memory(parts: list[tuple[int, int, int]], own: bool, seed: int, factor: int) -> None:
    def given_(owner: bytearray) -> list[Any]:
        seen = [memoryview(owner)[a * factor : b * factor : step] for a, b, step in parts]
        return [*seen, owner] if own else seen

    def write(values: list[Any]) -> list[bytes]:
        chance = random.Random(seed)
        for _ in range(5):
            value = chance.choice(values)
            if len(value):
                value[chance.randrange(len(value))] = chance.randrange(256)
        return [bytes(value) for value in values]

    here, there = bytearray(counted(90 * factor)), bytearray(counted(90 * factor))
    expected = write(given_(here))
    assert remotely(write, given_(there))[0] == expected
    assert there == here


@pytest.mark.parametrize(
    "given_",
    [
        lambda o: [memoryview(o)[3:], o[::2]],
        lambda o: [o[4:], memoryview(o[:9])],
        lambda o: [o[1:], o[:-1], memoryview(o)],
        lambda o: [o.view(np.recarray), memoryview(o)[2:]],
        lambda o: [bytearray(3), np.frombuffer(memoryview(o)[:9], "u1"), memoryview(o)[2:]],
    ],
)
def test_what_shares_memory_in_other_ways_is_not_changed_one_by_one(given_: Callable[[Any], list[Any]]) -> None:
    own = np.zeros(LARGE, "u1")
    for at in range(len(given_(own))):
        if type(given_(own)[at]) is not bytearray:
            with pytest.raises(Unrestorable, match=r"was changed that .* another argument"):
                remotely(lambda *v, at=at: v[at].__setitem__(4, 1), *given_(own))
    assert own.sum() == 0
    assert remotely(lambda *v: sum(map(int, v[0][:3])), *given_(own)) == (0, False)


def test_an_array_over_an_argument_is_not_changed_alone() -> None:
    own = bytearray(16)
    with pytest.raises(Unrestorable, match="shared with another argument"):
        remotely(lambda a, b: a.__setitem__(0, 1), np.frombuffer(own, "u1"), own)
    assert own == bytearray(16)


def test_views_of_different_memory_are_apart() -> None:
    one, other = bytearray(LARGE), bytearray(LARGE)
    remotely(lambda a, b: a.__setitem__(0, 1), memoryview(one), memoryview(other))
    assert (one[0], other[0]) == (1, 0)


def test_a_read_only_view_shows_what_is_written_through_another() -> None:
    for size in (64, LARGE):
        own = bytearray(size)
        seen, _ = remotely(
            lambda a, b: (a.__setitem__(3, 1), b[3], b.readonly), memoryview(own), memoryview(own).toreadonly()
        )
        assert seen == (None, 1, True)
        assert own[3] == 1


# Results, and what becomes of a view -------------------------------------------------------------


@pytest.mark.parametrize("size", [64, LARGE])
def test_a_result_that_is_a_view_is_the_callers_own(size: int) -> None:
    for owner in ("bytearray", "map", "two dimensions", "a part of an array"):
        own = memoryview(OWNERS[owner](size))
        assert remotely(lambda v: v, own)[0] is own
        assert remotely(lambda v: {"in": [v]}, own)[0]["in"][0] is own


@pytest.mark.parametrize(
    "function", [lambda v: v[1:], lambda v: [v.obj], lambda v: memoryview(bytes(v)), lambda v: v.cast("B")]
)
@pytest.mark.parametrize("owner", ["map", "bytes", "two dimensions", "a part of an array"])
def test_other_views_as_results_do_not_travel(function: Callable[[Any], Any], owner: str) -> None:
    own = memoryview(OWNERS[owner](LARGE))[1:]
    with pytest.raises((ArgumentError, TypeError), match=r"memoryview is of memory|stays where|C-contiguous"):
        remotely(function, own)


def test_the_object_behind_a_small_view_is_there() -> None:
    for own in (bytearray(9), array.array("d", [1.0]), np.zeros((3, 4))):
        assert remotely(lambda v: v.obj, memoryview(own))[0] is own


@pytest.mark.parametrize("size", [64, LARGE])
def test_a_view_that_is_released_there_is_released_here(size: int) -> None:
    def take(view: memoryview) -> int:
        with view:
            view[0] = 7
            return len(view)

    own = bytearray(size)
    view = memoryview(own)[2:]
    assert remotely(take, view) == (size - 2, True)
    assert views.is_released(view)
    own.append(1)  # which nothing stands in the way of
    assert own[2] == 7


@pytest.mark.parametrize("size", [64, LARGE])
def test_what_a_view_was_of_can_be_resized_where_the_view_is_released(size: int) -> None:
    def take(view: memoryview, owner: bytearray) -> None:
        try:
            owner.append(1)
        except BufferError:
            view.release()
            owner.append(2)

    own = bytearray(size)
    remotely(take, memoryview(own), own)
    assert own == bytearray(size) + b"\2"


def test_nothing_holds_the_memory_after_the_call() -> None:
    own, closed = bytearray(LARGE), mapped(LARGE)
    with memoryview(own) as first, memoryview(closed) as second:
        sent = restoring.Sent((first, second), {})
    own.append(1)
    closed.close()
    assert bytes(sent.segments[2]) == counted(LARGE)  # the copy is still there for whoever sends it


@pytest.mark.parametrize("owner", OWNERS)
def test_nothing_looks_into_a_view_that_may_be_freed_in_a_circle(owner: str) -> None:
    """Python 3.11 crashes when it frees such a view."""
    sent = restoring.Sent((memoryview(OWNERS[owner](LARGE)),), {})
    there = restoring.Received(received(sent.segments), copied=True)
    seen: dict[int, Any] = {}
    waiting: list[Any] = [sent, there]
    while waiting:
        value = waiting.pop()
        if id(value) not in seen and not isinstance(value, (type, types.ModuleType, types.FunctionType)):
            seen[id(value)] = value
            waiting += gc.get_referents(value)
    found = [value for value in seen.values() if type(value) is memoryview]
    assert found
    for view in found:
        view.release()  # which is refused if something looks into it


UNFIT: dict[str, tuple[Callable[[], memoryview], str]] = {
    "ctypes": (lambda: memoryview((ctypes.c_int * 4)()), "a memoryview of an object of type c_int_Array_4"),
    "objects": (lambda: memoryview(np.array([None, {}])), "a memoryview of an object of type ndarray"),
    "stream": (lambda: io.BytesIO(b"text").getbuffer(), "a memoryview of an object of type _BytesIOBuffer"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_views_of_what_is_not_plain_memory_do_not_travel(what: str) -> None:
    make, said = UNFIT[what]
    with pytest.raises(ArgumentError, match=f"argument 1, of type memoryview, cannot travel .*: {said}"):
        restoring.Sent((make(),), {})


def test_a_released_view_does_not_travel() -> None:
    view = memoryview(bytearray(3))
    view.release()
    with pytest.raises(ArgumentError, match=r"argument 1, of type memoryview, cannot travel .*released memoryview"):
        restoring.Sent((view,), {})


def test_a_view_that_was_released_meanwhile_is_not_written_into() -> None:
    for size in (64, LARGE):
        own = mapped(size)
        with pytest.raises(Unrestorable, match="released"):
            meanwhile(lambda v: v.__setitem__(3, 4), memoryview(own), memoryview.release)


# What it costs -----------------------------------------------------------------------------------


def test_what_another_thread_writes_meanwhile_is_kept() -> None:
    for own in (bytearray(64), bytearray(LARGE), np.zeros(LARGE, "u1")):
        meanwhile(lambda v: v.__setitem__(3, 4), memoryview(own)[1:], lambda v: v.__setitem__(2, 1))
        assert [*own[:6]] == [0, 0, 0, 1, 4, 0]


def test_large_memory_is_lent_read_only_once_it_was_not_written_into() -> None:
    runner = Runner(Output())
    writable: list[bool] = []

    def late(view: memoryview, number: int) -> None:
        writable.append(not view.readonly)
        if number > 1:
            struct.pack_into("<I", view, 0, 7)

    own = mapped(LARGE)
    for number in (0, 1, 2, 3):
        remotely(late, memoryview(own)[8:], number, runner=runner)
    assert own[8:12] == b"\7\0\0\0"
    assert writable == [True, False, False, True, True]  # lent twice, and then the third call run again


def test_memory_of_bytes_and_arrays_is_not_copied_to_be_sent() -> None:
    owner, text = np.zeros(LARGE), counted(LARGE)
    for given_ in (memoryview(owner)[1:], memoryview(owner[:, None])[::2], memoryview(text)[5:-5]):
        [_, segment] = restoring.Sent((given_,), {}).segments
        assert np.shares_memory(np.frombuffer(segment, "u1"), np.frombuffer(given_.obj, "u1"))


def test_only_what_views_show_is_sent() -> None:
    own = mapped(2**24)
    chunks = [memoryview(own)[i : i + LARGE] for i in range(0, 8 * LARGE, 2 * LARGE)]
    assert sum(map(len, restoring.Sent((chunks,), {}).segments)) < 5 * LARGE
    own = bytearray(2**24)
    assert sum(map(len, restoring.Sent((memoryview(own)[:9],), {}).segments)) < 400


def test_many_views_are_sent_in_a_time_that_grows_with_their_number() -> None:
    own = mapped(2**20)
    chunks = [memoryview(own)[i : i + 64] for i in range(0, 2**20, 1024)]
    overlapping = [memoryview(own)[i : i + 2048] for i in range(0, 2**20, 1024)]
    assert (
        remotely(lambda v: sum(map(len, itertools.chain(*v))), (chunks, overlapping))[0]
        == 1024 * 64 + 1024 * 2048 - 1024
    )


def test_views_of_two_threads_are_apart() -> None:
    found: list[bytes] = []

    def run(number: int) -> None:
        own = bytearray(LARGE)
        sent = restoring.Sent((memoryview(own),), {})
        there = restoring.Received(received(sent.segments), copied=True)
        there.args[0][:3] = bytes([number]) * 3
        sent.accept(received(there.give(None)[0]))[1]()
        found.append(bytes(own[:4]))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [bytes([n, n, n, 0]) for n in range(1, 5)]
