"""Values to segments and back: what travels as an argument, a result or an item.

Rules:

* Values are pickled with protocol 5.  The pickle and its out-of-band buffers are *segments*, which `wire`
  puts into messages.  Buffers are not copied on the way out.
* A value that is a number, a text or the like, and arguments that are nothing else, are not pickled but travel in
  MessagePack, as far as that has them: that takes an eighth of the time.  So do arrays of numbers (`arrays`).
  The first byte tells which of them it is.
* Plain pickle where it suffices, cloudpickle where it does not: when pickle refuses (lambdas,
  closures, local classes), for what lives in ``__main__``, which pickle would name and the other
  side would not find, and for an object(), which may be a mark that functions compare with.
* What neither can carry is an ArgumentError that names the argument.

Nothing here does I/O.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from . import arrays, opaque, reducers
from .arrays import IN_BAND, UNSAYABLE
from .errors import ArgumentError
from .lending import Cloud, Lender, Loans, Plain
from .wire import Buffer, Segments

PICKLED = pickle.PROTO[0]
"""The first byte of each pickle; in MessagePack that of an empty map, which is no value that travels so."""
MADE = frozenset((PICKLED, arrays.MARK))
"""The first bytes of what is more than numbers, texts and the like."""
lacking: set[str] = set()
"""Modules of the program's own that a worker lacks: their functions and classes travel by value."""
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")


def carry(why: str) -> bool:
    """Whether another try may succeed, as a worker lacks a module that can travel by value from now on.

    Args:
        why: what a worker says of arguments that it could not read.
    """
    found = re.search(r"No module named '([\w.]+)'", why)
    module = sys.modules.get(found[1]) if found else None
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__ in lacking:
        return False
    if module.__name__.partition(".")[0] in sys.stdlib_module_names or _INSTALLED.search(file):
        return False  # what is installed is installed there, too, or may not run there
    lacking.add(module.__name__)
    return True


class Taken(list[Buffer]):
    """The buffers that a pickle leaves out."""

    frozen = False
    """Whether one that it was offered is read-only."""

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """The callback of a pickler; False: it was taken."""
        raw = buffer.raw()
        self.frozen = self.frozen or raw.readonly
        if raw.nbytes <= IN_BAND:
            return True
        self.append(raw)
        return False


encode = msgspec.msgpack.Encoder().encode
"""The only segment of what holds nothing but numbers, texts and the like; raises `UNSAYABLE`."""
decode = msgspec.msgpack.Decoder().decode
"""What `encode` was given, but for arguments."""
atoms = msgspec.msgpack.Decoder(tuple[tuple[Any, ...], dict[str, Any]]).decode
"""The arguments of which `encode` has made a segment; raises `msgspec.DecodeError` if it has not."""


def of_atom(value: Any) -> bytes:
    """The only segment of a number, a text or the like (one of `changes.ATOMS`)."""
    try:
        return encode(value)
    except UNSAYABLE:
        return pickle.dumps(value, 5)


def dumps(value: object, lent: Loans | None = None) -> list[Buffer]:
    """Segments of ``value``: its pickle, then its out-of-band buffers (not copied).

    Args:
        value: anything that pickle or cloudpickle takes.
        lent: if given, generators and functions in ``value`` may stay here and are then in this list;
            at the other end each becomes something that asks for its items or results (see `lending`).

    Raises:
        ArgumentError: neither pickle nor cloudpickle can carry the value.
    """
    if lent is not None:
        return pickled(value, lent)[0]
    taken = Taken()
    try:
        data = pickle.dumps(value, 5, buffer_callback=taken.take)
        if _is_plain(data):
            return [data, *taken]
    except Exception:
        pass  # pickle refuses in many ways (PicklingError, TypeError, AttributeError, ...): cloudpickle decides
    return pickled(value)[0]


def pickled(value: object, lent: Loans | None = None) -> tuple[list[Buffer], pickle.Pickler]:
    """`dumps`, and the pickler, whose memo numbers the objects that it met.

    Raises:
        ArgumentError: neither pickle nor cloudpickle can carry the value.
    """
    try:
        if lent is None:
            return pickled_by((plain, Cloud), value, Taken())
        found = pickled_by((Plain, partial(Lender, lent)), value, Taken())
        if isinstance(found[1], Lender) and (how := found[1].again()) is not None:
            found = pickled_by((Plain, partial(Lender, lent, **how)), value, Taken())
        return found
    except Exception as error:
        raise ArgumentError(_why_not(value, error, lent)) from error


def of_numbers(value: object) -> tuple[list[Buffer], pickle.Pickler]:
    """`pickled` of what holds nothing but numbers and `reducers.is_array` of them, in less time."""
    taken = Taken()
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=taken.take)
    if (table := reducers.table()) is not None:
        pickler.dispatch_table = table
    pickler.dump(value)
    return [file.getvalue(), *taken], pickler


def pickled_by(makers: tuple[Any, Any], value: object, taken: Taken) -> tuple[list[Buffer], pickle.Pickler]:
    """Segments of ``value`` and the pickler: one of the first of ``makers`` if that suffices, else of the second."""
    table = reducers.table()
    file = io.BytesIO()
    pickler = makers[0](file, taken.take)
    if table is not None:
        pickler.dispatch_table = table
    try:
        pickler.dump(value)
        data = file.getvalue()
        if _is_plain(data):
            return [data, *taken], pickler
    except Exception:
        pass  # as in `dumps`
    taken.clear()
    file = io.BytesIO()
    pickler = makers[1](file, taken.take)
    if table is not None:
        pickler.dispatch_table = {**table, **pickler.dispatch_table}
    pickler.lacking = lacking
    pickler.dump(value)
    return [file.getvalue(), *taken], pickler


def plain(file: io.BytesIO, take: Callable[[Any], bool]) -> pickle.Pickler:
    """A pickler that is Python's own."""
    return pickle.Pickler(file, 5, buffer_callback=take)


def _is_plain(data: bytes) -> bool:
    """Whether a pickle means the same at the other end: it names nothing of ``__main__`` and no bare object()."""
    if lacking and any(name.encode() in data for name in lacking):
        return False
    return b"__main__" not in data and b"\x8c\x06object\x94\x93" not in data


def loads(segments: Segments) -> Any:
    """The value of ``segments``; arrays in it are writable if they were where they come from."""
    if (kind := segments[0][0]) != PICKLED:
        return arrays.the_one(segments) if kind == arrays.MARK else decode(segments[0])
    try:
        return pickle.loads(segments[0], buffers=segments[1:]) if len(segments) > 1 else pickle.loads(segments[0])
    except (ImportError, AttributeError):
        if not opaque.askers:
            raise
        return opaque.Unpickler(io.BytesIO(segments[0]), buffers=segments[1:]).load()


def _why_not(value: object, error: Exception, lent: Loans | None) -> str:
    """Name the argument that cannot be pickled, if ``value`` is ``(args, kwargs)``."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], tuple) and isinstance(value[1], dict):
        named = [(f"argument {i + 1}", a) for i, a in enumerate(value[0])]
        named += [(f"argument {k!r}", a) for k, a in value[1].items()]
        for name, argument in named:
            try:
                dumps(argument, None if lent is None else type(lent)())
            except ArgumentError:
                return f"{name}, of type {type(argument).__name__}, cannot travel to another process: {error}"
    return f"a value of type {type(value).__name__} cannot travel to another process: {error}"
