"""Arrays of numbers to segments and back, without a pickle."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from relocate import arrays, restoring, values

LARGE = arrays.IN_BAND // 8 + 1

kinds = st.sampled_from(["?", "i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"])
shapes = st.lists(st.integers(1, 5), max_size=3).map(lambda ends: (*ends, arrays.IN_BAND + 1))


@st.composite
def simple(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    made = np.zeros(draw(shapes), draw(kinds), order=draw(st.sampled_from("CF")))
    made.flat[draw(st.integers(0, made.size - 1))] = 1
    return made


def received(segments: list[Any]) -> list[Any]:
    return [bytes(segments[0]), *map(bytearray, segments[1:])]


def alike(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return (
        one.dtype is other.dtype
        and one.shape == other.shape
        and (one.flags.c_contiguous, one.flags.f_contiguous) == (other.flags.c_contiguous, other.flags.f_contiguous)
        and one.flags.writeable == other.flags.writeable
        and bool(np.array_equal(one, other))
    )


@given(array=simple(), number=st.integers(0, 99), text=st.text(max_size=3))
def test_arguments_arrive_as_they_were(array: np.ndarray[Any, Any], number: int, text: str) -> None:
    other = array.copy(order="K")
    found = arrays.packed((number, array), {"text": text, "other": other, "none": None})
    assert found is not None
    segments, objects = found
    assert objects == {1: array, 3: other} if array.size == 1 else list(objects) == [1, 3]
    data, *memory = received(segments)
    args, kwargs, back = arrays.unpacked(data, memory)
    assert (args[0], list(kwargs), kwargs["text"], kwargs["none"]) == (number, ["text", "other", "none"], text, None)
    assert alike(args[1], array)
    assert alike(kwargs["other"], other)
    assert (back[1] is args[1], back[3] is kwargs["other"]) == (True, True)


@given(array=simple())
def test_a_result_arrives_as_it_was(array: np.ndarray[Any, Any]) -> None:
    segments = arrays.of_one(array)
    assert segments is not None
    assert alike(values.loads(received(segments)), array)


def frozen() -> np.ndarray[Any, Any]:
    made = np.zeros(LARGE)
    made.flags.writeable = False
    return made


class Name(str):
    """A text that is more than that."""

    __slots__ = ()


TWICE = np.zeros(LARGE)


@pytest.mark.parametrize(
    "args",
    [
        (np.zeros(LARGE - 1),),
        (frozen(),),
        (np.zeros(2 * LARGE)[::2],),
        (np.zeros(LARGE, ">f8"),),
        (np.zeros(LARGE, "longlong" if np.dtype("longlong") is not np.dtype("i8") else "long"),),
        (np.zeros(LARGE, np.dtype("f8", metadata={"unit": "m"})),),
        (TWICE, TWICE),
        (np.zeros(LARGE), 1 + 2j),
        (np.zeros(LARGE), 1 << 70),
        (np.zeros(LARGE), ...),
        (np.array(["text"], np.dtypes.StringDType()),),
        (np.array(["text"] * LARGE, np.dtypes.StringDType()),),
    ],
    ids=[
        "small",
        "read-only",
        "strided",
        "swapped",
        "of another name",
        "with metadata",
        "twice",
        "complex",
        "big",
        "...",
        "a text",
        "texts",
    ],
)
def test_what_is_not_simple_is_left_to_pickle(args: tuple[Any, ...]) -> None:
    assert arrays.packed(args, {}) is None
    assert restoring.Sent(args, {}).segments[0][0] == values.PICKLED


@pytest.mark.parametrize(
    "value", [np.zeros(LARGE, object), np.zeros(LARGE, [("a", int)]), np.ma.zeros(LARGE), np.float64(1), [1], "text"]
)
def test_of_what_is_no_array_of_numbers_there_are_no_segments(value: object) -> None:
    assert arrays.of_one(value) is None


def test_texts_that_are_one_are_left_to_pickle() -> None:
    text = "text" * 2
    assert restoring.Sent((np.zeros(LARGE), text, text), {}).segments[0][0] == values.PICKLED
    assert restoring.Sent((np.zeros(LARGE), text), {"name": 1}).segments[0][0] == arrays.MARK


def test_a_name_that_is_no_plain_text_is_left_to_pickle() -> None:
    assert restoring.Sent((np.zeros(LARGE),), {Name("a"): 1}).segments[0][0] == values.PICKLED


def test_what_is_not_a_number_is_the_one_that_modules_know() -> None:
    back = restoring.Received(received(restoring.Sent((np.zeros(LARGE), np.nan), {}).segments))
    assert back.args[1] is np.nan


@given(st_np.arrays("u1", st.integers(0, 40)))
def test_noise_is_an_error(noise: np.ndarray[Any, Any]) -> None:
    data = bytes([arrays.MARK]) + noise.tobytes()
    with pytest.raises((msgspec.MsgspecError, ValueError, TypeError, IndexError)):
        arrays.unpacked(data, [bytearray(8)])


def test_memory_of_another_size_is_an_error() -> None:
    data, memory = received(arrays.of_one(np.zeros(LARGE)) or [])
    for wrong in ([], [memory, memory], [memory[:-8]], [memory[:-1]]):
        with pytest.raises(ValueError, match=r"zip|cannot reshape|multiple of"):
            arrays.unpacked(data, wrong)


def test_a_result_goes_so_to_whom_sent_an_array_so() -> None:
    """Others may not have NumPy, nor may a program whose function is called back."""
    plain = restoring.Received(restoring.Sent((1,), {}).segments)
    array = restoring.Received(received(restoring.Sent((np.zeros(LARGE),), {}).segments))
    assert [there.give(np.zeros(LARGE))[0][0][0] for there in (plain, array)] == [values.PICKLED, arrays.MARK]
    assert restoring.Sent((np.zeros(LARGE),), {}, lends=False).segments[0][0] == values.PICKLED


def test_numpy_is_loaded_where_an_array_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    data, memory = received(arrays.of_one(np.zeros(LARGE)) or [])
    monkeypatch.delitem(sys.modules, "numpy")
    monkeypatch.setitem(sys.modules, "numpy", np)
    assert arrays.unpacked(data, [memory])[0][0].size == LARGE
