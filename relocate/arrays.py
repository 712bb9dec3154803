"""Arrays of numbers to segments and back, without a pickle.

To pickle an array NumPy goes through functions of Python's and looks up several names, on both sides.  Of most arrays
there is less to say: what its elements are, its shape, and in which order they lie.  That is said in MessagePack, and
the memory follows as a segment of its own.  What is not so simple is left to pickle.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from .changes import ATOMS
from .wire import Buffer, Segments

MARK = 0xC1
"""The first byte: the one that MessagePack never uses."""
IN_BAND = 4 << 10
"""Buffers up to this many bytes stay inside the pickle: a frame of their own would cost more."""
UNSAYABLE = (OverflowError, TypeError, ValueError, msgspec.MsgspecError)
"""What is raised of complex numbers, integers of more than 64 bits, lone surrogates, and 4 GiB in one piece."""
_BEGIN = bytes([MARK])
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[Any], dict[str, Any], list[tuple[int, str, tuple[int, ...], bool]]]).decode

_kinds: dict[str, Any] = {}
"""See `_known`."""
_names: dict[int, str] = {}
"""Of the same kinds, by id; as they stay there, no other can have theirs."""

Arrays = dict[int, Any]
"""Arrays by their places among all positional and named arguments, in order."""


def packed(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[Buffer], Arrays] | None:
    """Segments of arguments that are numbers, texts and the like, and arrays of numbers; and those arrays.

    None if there is none, or anything else, or it is not simple.
    """
    kind_of_array = getattr(sys.modules.get("numpy"), "ndarray", None)
    values: list[Any] = [*args, *kwargs.values()]
    said: list[tuple[int, str, tuple[int, ...], bool]] = []
    arrays: Arrays = {}
    memory: list[Buffer] = []
    known: set[int] = set()
    for at, value in enumerate(values):
        if type(value) is kind_of_array:
            kind = _name_of(value.dtype)
            if kind is None or id(value) in known:
                return None
            try:
                raw = pickle.PickleBuffer(value).raw()
            except BufferError:  # it does not lie in one piece
                return None
            if raw.readonly or raw.nbytes <= IN_BAND:
                return None
            shape = value.shape
            said.append((at, kind, shape, len(shape) > 1 and not value.flags.c_contiguous))
            memory.append(raw)
            arrays[at] = value
            known.add(id(value))
            values[at] = None
        elif type(value) not in ATOMS:
            return None
    if not arrays or (not (len(values) == len(arrays) and not kwargs) and not are_sayable(args, kwargs)):
        return None
    try:
        data = _encode((values[: len(args)], dict(zip(kwargs, values[len(args) :], strict=True)), said))
    except UNSAYABLE:
        return None
    return [_BEGIN + data, *memory], arrays


def _name_of(dtype: Any) -> str | None:
    """What NumPy calls a kind of numbers, if it means that very one by it."""
    name = _names.get(id(dtype))
    if name is None and _known(dtype.str) is dtype:
        name = _names[id(dtype)] = dtype.str
    return name


def _known(name: str) -> Any:
    """The kind of numbers of that name; None if there is none, or not a single one."""
    known = _kinds.get(name)
    if known is None:
        import numpy

        try:
            dtype = numpy.dtype(name)
        except (TypeError, ValueError, SyntaxError):  # not all kinds are known by what they are called
            return None
        if dtype.str == name and dtype is numpy.dtype(name) and not dtype.hasobject:
            known = _kinds[name] = dtype
    return known


def are_sayable(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether no text comes twice, as the same object, and all names are nothing but texts: a pickle would say so,
    MessagePack cannot."""
    if any(type(key) is not str for key in kwargs):
        return False
    texts = [id(value) for value in (*args, *kwargs.values()) if type(value) in (str, bytes) and len(value) > 1]
    return len(set(texts)) == len(texts)


def of_one(value: Any) -> list[Buffer] | None:
    """Segments of a value; None if it is no simple array."""
    found = packed((value,), {})
    return None if found is None else found[0]


def unpacked(data: Buffer, memory: Segments) -> tuple[tuple[Any, ...], dict[str, Any], Arrays]:
    """What `packed` was given, and its arrays; they can be written into if ``memory`` can.

    Args:
        data: the first segment.
        memory: the others.

    Raises:
        msgspec.MsgspecError, ValueError, IndexError: they are not what `packed` gives.
    """
    args, kwargs, said = _decode(data[1:])
    names = list(kwargs)
    arrays: Arrays = {}
    for (at, kind, shape, is_fortran), buffer in zip(said, memory, strict=True):
        dtype = _known(kind)
        if dtype is None:
            raise ValueError(f"{kind!r} is no kind of numbers")
        # As NumPy does it when it unpickles: whose its memory is, is seen from its base.
        array = sys.modules["numpy"].frombuffer(buffer, dtype)
        if array.shape != shape:
            array = array.reshape(shape, order="F" if is_fortran else "C")
        arrays[at] = array
        if at < len(args):
            args[at] = array
        else:
            kwargs[names[at - len(args)]] = array
    return tuple(args), kwargs, arrays


def the_one(segments: Segments) -> Any:
    """The array that `of_one` was given."""
    return unpacked(segments[0], segments[1:])[0][0]
