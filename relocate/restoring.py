"""What a call does to its caller's objects: a result that is an argument, an argument that changed.

Call by copy-restore, as in A. D. Birrell and B. J. Nelson, "Implementing remote procedure calls"
(1984), with aliases kept as by E. Tilevich and Y. Smaragdakis, "NRMI: natural and efficient
middleware" (2003).  Nobody declares what a function changes; it is found by looking.

Pickling numbers the objects as it meets them, and unpickling numbers them alike; arrays that need no pickle
(see `arrays`) have their places as numbers.  So both sides know each object of the arguments by one number,
and nothing is added to a call:

* The executor keeps the numbers of what it unpickled.  A result that holds one of these objects is
  pickled with the number in its place, and the client puts its own object there.
* When the function has ended, its arguments are pickled again.  The same bytes as received: nothing
  has changed.  (Of plain arrays that it could only read it is enough to look how they lie in memory.)
  Otherwise each object is compared with that of a fresh copy, and what happened to it travels back and
  is done to the caller's own (see `changes`).
* A function gets copies of large arrays once for each way of calling it.  If it did not write into them,
  their memory is lent to it read-only from then on, which costs nothing.  Should it object, it is run
  again with copies (pure calls may).
* Where this cannot be faithful, nothing is changed and the call runs where its arguments are:
  when an array was changed that shares its memory with another argument, for example.
"""

from __future__ import annotations

import array
import contextlib
import io
import math
import pickle
import re
import struct
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType
from typing import Any

from . import arrays, opaque, reducers, values, views, wire
from .changes import ATOMS, Comparison, Numbers, Unrestorable, make
from .errors import ArgumentError
from .lending import Cloud, Loans

NOTHING = Loans()
"""What most calls are lent."""
BITS = struct.pack(">d", math.nan)
"""Of what is not a number."""
NAN = re.compile(re.escape(pickle.BINFLOAT + BITS))
"""The same as a pickle has it."""
HEAD = 11
"""Bytes of a pickle that tell its protocol and the length of its first frame."""
LENT = pickle.NEXT_BUFFER + pickle.READONLY_BUFFER
"""Stands in a pickle for memory that is read-only."""
FEW = 256
"""Characters of a text that may be a switch."""
IN_MEMORY = ("memory", "splice", "elements", "shape")
"""Changes of what other objects may share."""
_FIRST = {"memory": 0, "released": 1}
"""Changes that come before all others, in order."""
ITEMS = ("items", "splice", "put", "fill")
"""Changes of what an object holds that one whose class is not here can follow."""
OBJECTIONS = ("read-only", "readonly", "read only", "writeable", "writable", "read-write")
"""Words of the errors by which NumPy, Cython, Numba and the like refuse to write into read-only memory."""


class Received:
    """The arguments of a call, as an executor got them.

    Args:
        segments: as received.
        copied: whether the memory of large arrays is copied, so that the function may write into it.
    """

    __slots__ = ("_arrays", "_came", "_fresh", "_made", "_segments", "args", "borrowed", "copies", "kwargs")
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    _made: Callable[[], dict[int, Any]] | None
    """Gives their objects by number; None if there is nothing among them that can be changed."""
    _came: list[_Array] | None
    """All arrays as they came, if there are nothing but those and numbers, which travelled so."""
    _arrays: list[_Array] | None
    """The same if their memory cannot be written into, however they travelled."""

    def __init__(self, segments: wire.Segments, *, copied: bool = False) -> None:
        self._segments = segments
        self.borrowed: Sequence[memoryview] = ()
        """The memory of large arrays, if the function gets that, to read only."""
        self.copies: Sequence[bytearray] = ()
        """Copies of it, if it gets those."""
        self._made = self._came = self._arrays = None
        kind = segments[0][0]
        if kind not in values.MADE:
            self.args, self.kwargs = plain_again(segments[0])
            return
        data, *buffers = segments
        if copied:
            self.copies = [bytearray(b) for b in buffers]
        else:
            self.borrowed = [memoryview(b).toreadonly() for b in buffers]
        memory = self.copies or self.borrowed
        if kind == arrays.MARK:
            args, kwargs, found = arrays.unpacked(data, memory)
            self.args, self.kwargs = _with_known_nan(args, kwargs)
            self._made = found.copy
            self._came = list(map(_as_it_is, found.values()))
            self._arrays = self._came if self.borrowed else None
            return
        unpickler = pickle.Unpickler(io.BytesIO(data), buffers=memory)
        args, kwargs = unpickler.load()
        self.args, self.kwargs = args, kwargs = _with_known_nan(args, kwargs)
        for value in (*args, *kwargs.values()) if kwargs else args:
            if type(value) not in ATOMS:
                break
        else:
            return
        self._made = partial(_memo, unpickler)
        self._arrays = _arrays(self.args, self.kwargs) if self.borrowed else None
        if NAN.search(data):
            _know_inner_nan(self._made())
        reducers.everywhere()

    def refused(self, error: BaseException) -> bool:
        """Whether ``error`` says that the function wants to write into what it was lent."""
        seen: list[BaseException] = []
        cause: BaseException | None = error if self.borrowed else None
        while cause is not None and cause not in seen:
            try:
                text = str(cause).lower()
            except Exception:
                text = ""
            if any(word in text for word in OBJECTIONS):
                return True
            seen.append(cause)
            cause = cause.__cause__ or cause.__context__
        return False

    def is_resized(self, error: BaseException) -> bool:
        """Whether ``error`` is NumPy's, of an array that is not resized as its memory is that of what was received."""
        array = getattr(sys.modules.get("numpy"), "ndarray", None)
        return (
            type(error) is ValueError
            and "does not own its data" in str(error)
            and any(type(value) is array for value in (*self.args, *self.kwargs.values()))
        )

    @property
    def way(self) -> tuple[Any, ...]:
        """What, beside the arrays, may decide whether a function writes: switches and their like."""
        return (*map(_switch, self.args), *((name, _switch(value)) for name, value in self.kwargs.items()))

    @property
    def unwritten(self) -> bool:
        """Whether there are copies, and nothing was written into them."""
        return bool(self.copies) and all(map(_same_memory, self.copies, self._segments[1:]))

    def give(self, value: Any, *, look: bool = True) -> tuple[list[wire.Buffer], bool]:
        """Segments of ``value``, and whether they refer to the arguments.

        If they do, they are those of ``(value, changes)``, with numbers in the place of arguments.

        Args:
            value: the result.
            look: whether to look for arguments that were changed.

        Raises:
            ArgumentError: the value cannot travel, or it cannot be told what was changed.
        """
        if self._made is None:
            if type(value) in ATOMS:
                return [values.of_atom(value)], False
            reducers.everywhere()
            return values.dumps(value), False
        numbers: Numbers | None = None
        changes: list[tuple[int, str, Any]] = []
        if look and not self._unchanged():
            try:
                numbers, changes = self._changes(self._made())
            except Exception as error:  # whatever the arguments' own classes raise
                raise ArgumentError(f"the arguments cannot be compared with what they were: {error}") from error
        if not changes:
            if type(value) in ATOMS:
                return [values.of_atom(value)], False
            taken = values.Taken()
            if self._arrays is not None and all(value is not a for a, *_ in self._arrays):
                # No view of an argument: that is read-only.  And where arrays come from, there is NumPy.
                if self._came is not None and (alone := arrays.of_one(value)) is not None:
                    return alone, False
                if reducers.is_array(value):
                    data = pickle.dumps(value, 5, buffer_callback=taken.take)
                    if not taken.frozen:  # nor is this
                        return [data, *taken], False
                    taken = values.Taken()
            with contextlib.suppress(ArgumentError):  # perhaps it is an argument, and need not travel
                segments, pickler = _dump(value, taken)
                if not (taken.frozen and self.borrowed) and not self._meets(pickler):
                    return segments, False
            numbers = numbers or _numbers(self._made())
        return _dump((value, changes), values.Taken(), numbers)[0], True

    def _meets(self, pickler: pickle.Pickler) -> bool:
        """Whether what was pickled has a part of the arguments in it."""
        assert self._made is not None
        met = pickler.memo.copy()
        return any(id(item) in met and type(item) not in ATOMS and _counts(item) for item in self._made().values())

    def _unchanged(self) -> bool:
        """Whether the arguments are what they were, seen quickly; False does not say that they are not."""
        if self._arrays is not None:
            return all(map(_is_as_it_came, self._arrays))
        if self._came is not None:
            return all(map(_is_as_it_came, self._came)) and all(map(_same_memory, self.copies, self._segments[1:]))
        data, *buffers = self._segments
        now, fresh = values.Taken(), values.Taken(self.borrowed or buffers)
        try:
            pickled = pickle.dumps((self.args, self.kwargs), 5, buffer_callback=now.take)
            # The same values have another pickle where memory was lent read-only: they have that mark, and no other
            # bytes are taken for it.
            lent = pickled.count(LENT) == len(now) and pickled[HEAD:].replace(LENT, pickle.NEXT_BUFFER)
            if pickled != data and lent != data[HEAD:]:
                then = pickle.loads(data, buffers=self.borrowed or buffers)
                fresh.clear()
                if pickled != pickle.dumps(then, 5, buffer_callback=fresh.take):
                    return False
        except Exception:
            return False  # what only cloudpickle takes, and generators: they are looked at one by one
        return len(now) == len(fresh) and all(map(_same_memory, now, fresh))

    def _changes(self, objects: dict[int, Any]) -> tuple[Numbers, list[tuple[int, str, Any]]]:
        """The numbers of all objects, and what happened to each."""
        numbers = _numbers(objects)
        # To load a class that came by value again sets the attributes of the same class.
        classes = {n: dict(vars(o)) for n, o in objects.items() if isinstance(o, type) and numbers.get(id(o)) == n}
        fresh: dict[int, Any]
        if self._came is not None:
            fresh = arrays.unpacked(self._segments[0], self._segments[1:])[2]
        else:
            again = pickle.Unpickler(io.BytesIO(self._segments[0]), buffers=self._segments[1:])
            again.load()
            fresh = _memo(again)
        then = _numbers(fresh)
        comparison = Comparison(numbers, then, _bytes)
        found: list[tuple[int, str, Any]] = []
        for number, value in objects.items():
            if numbers.get(id(value)) != number:
                continue
            if number in classes:
                found += ((number, *c) for c in comparison.of_class(classes[number], dict(vars(value))))
            else:
                found += ((number, *c) for c in comparison.changes(value, fresh[number]))
        # Memory is reached through views, and what a view is of can be resized only when that is released.
        found.sort(key=lambda change: _FIRST.get(change[1], len(_FIRST)))
        # What is gone is named as it was: the fresh copy's objects have numbers too, while they live.
        self._fresh = fresh
        return {**then, **numbers} if found else numbers, found


class Sent:
    """The arguments of a call, as they are sent: pickled once, whatever becomes of the call.

    Args:
        args, kwargs: the caller's own.
        lends: whether they go to a worker, so that generators and functions may stay here, and arrays need no pickle.

    Raises:
        ArgumentError: one cannot travel.
    """

    __slots__ = ("_objects", "lent", "segments")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, lends: bool = True) -> None:
        self._objects: Callable[[], dict[int, Any]] | None = None
        """Gives their objects by number; None if there is nothing among them that can be changed."""
        self.segments: list[wire.Buffer]
        data = plain(args, kwargs)
        if data is not None:
            self.lent = NOTHING
            self.segments = [data]
            return
        found = arrays.packed(args, kwargs) if lends else None  # a program may not have NumPy
        if found is not None:
            self.lent = NOTHING
            self.segments, self._objects = found[0], found[1].copy
            return
        if _are_numbers(args, kwargs):
            self.lent = NOTHING
            self.segments, pickler = values.of_numbers((args, kwargs))
        else:
            self.lent = Loans() if lends else NOTHING
            self.segments, pickler = values.pickled((args, kwargs), self.lent if lends else None)
        self._objects = lambda: dict(pickler.memo.copy().values())

    def accept(self, result: wire.Segments) -> tuple[Any, Callable[[], None]]:
        """The value of a result that refers to these arguments, and what changes them.

        Raises:
            Unrestorable: what was changed there cannot be changed here; the call is to run here.
        """
        assert self._objects is not None
        own = self._objects()
        value, changes = _Accepting(result, own).load()
        _check(own, changes)

        def restore() -> None:
            for number, what, how in changes:
                make(own[number], what, how)

        return value, restore


def plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """The only segment of arguments that cannot be changed, and hold nothing that can; None if they are not such."""
    texts = 0
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind not in ATOMS:
            return None
        if kind is str or kind is bytes:
            texts += 1
    if not (kwargs or texts > 1) or arrays.are_sayable(args, kwargs):
        try:
            return values.encode((args, kwargs))
        except arrays.UNSAYABLE:
            pass
    return pickle.dumps((args, kwargs), 5)


def plain_again(data: wire.Buffer) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of which `plain` has made ``data``, if that is no pickle.

    Raises:
        msgspec.DecodeError: it has not.
    """
    args, kwargs = values.atoms(data)
    for value in (*args, *kwargs.values()) if kwargs else args:
        if value != value:
            return _with_known_nan(args, kwargs)
    return args, kwargs


def _with_known_nan(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let an argument that is not a number be the one that modules have by name: it equals no other, not even a copy
    of itself, and is looked for in sets."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) is float and value != value:
            return tuple(map(_named, args)), {key: _named(value) for key, value in kwargs.items()}
    return args, kwargs


def _know_inner_nan(objects: dict[int, Any]) -> None:
    """The same for those in lists and dictionaries, however deep, in which one may be looked for."""
    for holder in objects.values():
        if type(holder) is list:
            holder[:] = map(_named, holder)
        elif type(holder) is dict:
            holder.update([(key, _named(v)) for key, v in holder.items() if type(v) is float and v != v])


def _named(value: Any) -> Any:
    """``value``, or what is not a number as modules have it by name if it is that, bit for bit."""
    if type(value) is float and value != value and struct.pack(">d", value) == BITS:
        return getattr(sys.modules.get("numpy"), "nan", math.nan)
    return value


def _are_numbers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether there is nothing but those and arrays of them, in which no function of the program's can be."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) not in ATOMS and not reducers.is_array(value):
            return False
    return True


_Array = tuple[Any, tuple[int, ...], tuple[int, ...], Any, Any]
"""An array as it came: itself, and what can be changed of it though its memory is read-only."""


def _arrays(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[_Array] | None:
    """Those of all arrays, if there is nothing but numbers and arrays of them, with memory that is read-only."""
    found: list[_Array] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if reducers.is_array(value):
            flags = value.flags
            if flags.writeable or flags.owndata:
                return None
            found.append(_as_it_is(value))
        elif type(value) not in ATOMS:
            return None
    return found


def _as_it_is(array: Any) -> _Array:
    return array, array.shape, array.strides, array.dtype, array.base


def _is_as_it_came(array: _Array) -> bool:
    value, shape, strides, dtype, base = array
    same: bool = value.shape == shape and value.strides == strides and value.dtype is dtype and value.base is base
    return same


class _Accepting(opaque.Unpickler):
    def __init__(self, segments: wire.Segments, own: dict[int, Any]) -> None:
        super().__init__(io.BytesIO(segments[0]), buffers=segments[1:])
        self._own = own

    def persistent_load(self, number: Any) -> Any:
        return self._own[number]


def _check(own: dict[int, Any], changes: list[tuple[int, str, Any]]) -> None:
    """Refuse changes that would not be here what they were there."""
    for number, what, _ in changes:
        if isinstance(own[number], opaque.Opaque) and what not in ("attributes", "state", *ITEMS):
            raise Unrestorable(f"{own[number]!r} was changed")
    _check_memory(own, {id(own[n]) for n, what, _ in changes if what in IN_MEMORY})
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return
    changed = [own[n] for n, what, _ in changes if what in ("elements", "shape")]
    changed = [value for value in changed if isinstance(value, numpy.ndarray)]
    if not changed:
        return
    if any(type(value).__module__.partition(".")[0] == "pandas" for value in own.values()):
        # Whether a write is seen by others is decided by references that a copy does not have.
        raise Unrestorable("a part of a pandas object was changed")
    arrays = {id(value): value for value in own.values() if isinstance(value, numpy.ndarray)}
    for value in changed:
        if not value.flags.writeable:
            raise Unrestorable("an array that is read-only here was changed")
        if any(value is not other and numpy.may_share_memory(value, other) for other in arrays.values()):
            raise Unrestorable("an array was changed that shares its memory with another argument")


def _check_memory(own: dict[int, Any], changed: set[int]) -> None:
    """Refuse to change what has memory of its own there, and here that of another argument."""
    if not changed or not any(isinstance(value, (views.Memory, bytearray, array.array)) for value in own.values()):
        return
    holders = [value for value in own.values() if views.holds_memory(value)]
    for value in holders:
        if isinstance(value, views.Memory) and id(value) in changed and not value.writable:
            raise Unrestorable("memory was changed that is read-only here, or whose view has been released")
    for group in views.overlapping((*views.span(value), value) for value in holders):
        if any(id(value) in changed for _, _, value in group):
            raise Unrestorable("memory was changed that is shared with another argument")


def _memo(unpickler: pickle.Unpickler) -> dict[int, Any]:
    """The objects that it made, by number."""
    made: dict[int, Any] = unpickler.memo.copy()
    return made


def _numbers(objects: dict[int, Any]) -> Numbers:
    """Numbers of the objects that change or count by identity."""
    return {id(value): number for number, value in objects.items() if type(value) not in ATOMS and _counts(value)}


def _counts(value: Any) -> bool:
    """Whether a value that is no atom is one that changes or counts by identity."""
    if isinstance(value, (FunctionType, type)):
        return not _has_a_name(value)
    dtype = getattr(sys.modules.get("numpy"), "dtype", ())
    return not isinstance(value, (BuiltinFunctionType, ModuleType, Enum, dtype))


def _has_a_name(value: Any) -> bool:
    """Whether a function or class is the one of its name, by which it travels."""
    found = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value and value.__module__ != "__main__"


def _switch(value: Any) -> Any:
    """A value that may be a switch, else its type."""
    is_one = isinstance(value, (bool, NoneType)) or (isinstance(value, str) and len(value) < FEW)
    return value if is_one else type(value)


def _same_memory(one: wire.Buffer, other: wire.Buffer) -> bool:
    """Whether two buffers hold the same bytes; that of the same memory is seen without a look at them."""
    numpy = sys.modules.get("numpy")
    if numpy is None or len(one) != len(other):
        return bytes(one) == bytes(other)
    unit = "u1" if len(one) % 8 else "u8"
    first, second = numpy.frombuffer(one, unit), numpy.frombuffer(other, unit)
    # As long as each other, and each all of a segment or memory of its own: they share all or nothing.
    return bool(numpy.may_share_memory(first, second) or (first == second).all())


# Pickles -----------------------------------------------------------------------------------------


class _Numbering:
    """A part of a pickler: writes numbers for known objects, and thaws what was lent read-only."""

    _numbers: Numbers

    def persistent_id(self, value: Any) -> int | None:
        return self._numbers.get(id(value))

    def reducer_override(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.ndarray) and not value.flags.writeable:
            base = value
            while isinstance(base, numpy.ndarray):
                base = base.base
            if isinstance(base, memoryview):  # a view of an argument, which may be written into at home
                return value.copy(order="K").__reduce_ex__(5)
        override = getattr(super(), "reducer_override", None)
        return NotImplemented if override is None else override(value)


class _Numbered(_Numbering, pickle.Pickler):
    def __init__(self, numbers: Numbers, file: io.BytesIO, take: Callable[[Any], bool]) -> None:
        super().__init__(file, 5, buffer_callback=take)
        self._numbers = numbers


class _CloudNumbered(_Numbering, Cloud):
    def __init__(self, numbers: Numbers, file: io.BytesIO, take: Callable[[Any], bool]) -> None:
        super().__init__(file, take)
        self._numbers = numbers


def _dump(value: Any, taken: values.Taken, numbers: Numbers | None = None) -> tuple[list[wire.Buffer], Any]:
    """As `values.pickled`, with numbers for known objects.

    Raises:
        ArgumentError: the value cannot travel.
    """
    makers: tuple[Any, Any] = (values.plain, Cloud)
    if numbers is not None:
        makers = (partial(_Numbered, numbers), partial(_CloudNumbered, numbers))
    try:
        return values.pickled_by(makers, value, taken)
    except Exception as error:
        raise ArgumentError(
            f"a value of type {type(value).__name__} cannot travel to another process: {error}"
        ) from error


def _bytes(value: Any) -> bytes:
    """The pickle of a value, its memory included."""
    return b"".join(_dump(value, values.Taken())[0])


__all__ = ["Received", "Sent", "Unrestorable"]
