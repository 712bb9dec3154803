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
            dtype, flags = value.dtype, value.flags
            kind = dtype.str
            if (
                value.nbytes <= IN_BAND
                or dtype is not sys.modules["numpy"].dtype(kind)
                or dtype.hasobject
                or not flags.writeable
                or not flags.forc
                or id(value) in known
            ):
                return None
            said.append((at, kind, value.shape, not flags.c_contiguous))
            memory.append(pickle.PickleBuffer(value).raw())
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
        msgspec.MsgspecError, ValueError, TypeError: they are not what `packed` gives.
    """
    import numpy

    args, kwargs, said = _decode(data[1:])
    names = list(kwargs)
    arrays: Arrays = {}
    for (at, kind, shape, is_fortran), buffer in zip(said, memory, strict=True):
        # As NumPy does it when it unpickles: whose its memory is, is seen from its base.
        array = arrays[at] = numpy.frombuffer(buffer, kind).reshape(shape, order="F" if is_fortran else "C")
        if at < len(args):
            args[at] = array
        else:
            kwargs[names[at - len(args)]] = array
    return tuple(args), kwargs, arrays


def the_one(segments: Segments) -> Any:
    """The array that `of_one` was given."""
    return unpacked(segments[0], segments[1:])[0][0]
