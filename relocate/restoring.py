"""What a call does to its caller's objects: a result that is an argument, an argument that changed.

Call by copy-restore, as in A. D. Birrell and B. J. Nelson, "Implementing remote procedure calls"
(1984), with aliases kept as by E. Tilevich and Y. Smaragdakis, "NRMI: natural and efficient
middleware" (2003).  Nobody declares what a function changes; it is found by looking.

Pickling numbers the objects as it meets them, and unpickling numbers them alike.  So both sides know
each object of the arguments by one number, and nothing is added to a call:

* The executor keeps the numbers of what it unpickled.  A result that holds one of these objects is
  pickled with the number in its place, and the client puts its own object there.
* When the function has ended, its arguments are pickled again.  The same bytes as received: nothing
  has changed.  Otherwise each object is compared with that of a fresh copy, and what changed travels
  back and is put into the caller's own objects.
* The memory of large arrays is lent to the function read-only, without a copy.  A function that
  objects is run again with a copy (pure calls may), which is compared with the original afterwards,
  and from then on at once.

The client looks for its numbers only when an answer needs them, by pickling the arguments again.
"""

from __future__ import annotations

import array
import dis
import io
import pickle
import sys
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from functools import lru_cache, partial
from itertools import islice
from operator import length_hint
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import cloudpickle

from . import lending, wire
from .errors import ArgumentError

ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes, type(...)))
"""Types whose values neither change nor count by identity."""
CONTAINERS = frozenset((list, dict, set, bytearray, deque, array.array))
"""Types that have no state but what they hold."""
REST = "rest"
"""What an iterator of Python's own holds, in the place of items; its state is how many are left."""
END = object()
FEW = 256
"""Bytes of a pickle that is looked at before anything is prepared: most small calls have only atoms."""
OBJECTIONS = ("read-only", "readonly", "read only", "writeable", "writable")
"""Words of the errors by which NumPy, Cython, Numba and the like refuse to write into read-only memory."""

Change = tuple[int, Any, Any]
"""The number of an object, what it holds as a container, and its state beside that."""


class Received:
    """The arguments of a call, as an executor got them.

    Args:
        segments: as received.
        copied: whether the memory of large arrays is copied, so that the function may write into it.
    """

    __slots__ = ("_copies", "_lent", "_segments", "_unpickler", "args", "kwargs")
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    _unpickler: pickle.Unpickler | None

    def __init__(self, segments: wire.Segments, *, copied: bool = False) -> None:
        self._segments = segments
        self._lent: list[memoryview] = []
        if len(segments) == 1 and len(segments[0]) <= FEW:
            self.args, self.kwargs = pickle.loads(segments[0])
            if not self.kwargs and ATOMS.issuperset(map(type, self.args)):
                self._unpickler = None
                return
        data, *buffers = segments
        self._copies = [bytearray(b) for b in buffers] if copied else []
        if not copied:
            self._lent = [memoryview(b).toreadonly() for b in buffers]
        self._unpickler = pickle.Unpickler(io.BytesIO(data), buffers=self._copies or self._lent)
        self.args, self.kwargs = self._unpickler.load()

    def refused(self, error: BaseException) -> bool:
        """Whether ``error`` says that the function wants to write into what it was lent."""
        seen: BaseException | None = error if self._lent else None
        while seen is not None:
            text = str(seen).lower()
            if any(word in text for word in OBJECTIONS):
                return True
            seen = seen.__cause__ or seen.__context__
        return False

    def give(self, value: Any, *, look: bool = True) -> tuple[list[wire.Buffer], bool]:
        """Segments of ``value``, and whether they refer to the arguments.

        If they do, they are those of ``(value, changes)``, with numbers in the place of arguments.

        Args:
            value: the result.
            look: whether to look for arguments that were changed.

        Raises:
            ArgumentError: the value cannot travel.
        """
        if self._unpickler is None:
            return wire.dumps(value), False
        numbers: dict[int, int] | None = None
        changes: list[Change] = []
        if look and not self._unchanged():
            numbers = _numbers(self._unpickler)
            try:
                changes = self._changes(self._unpickler, numbers)
            except Exception as error:  # whatever the arguments' own classes raise
                raise ArgumentError(f"the arguments cannot be compared with what they were: {error}") from error
        if not changes:
            if type(value) in ATOMS:
                return wire.dumps(value), False
            taken = wire.Taken()
            segments, pickler = _dump(value, taken)
            numbers = numbers or _numbers(self._unpickler)
            if not (taken.frozen and self._lent) and numbers.keys().isdisjoint(pickler.memo.copy()):
                return segments, False
        return _dump((value, changes), wire.Taken(), numbers)[0], True

    def _unchanged(self) -> bool:
        """Whether the arguments are what they were, seen quickly; False does not say that they are not."""
        data, *buffers = self._segments
        now, fresh = wire.Taken(), wire.Taken(buffers)
        try:
            pickled = pickle.dumps((self.args, self.kwargs), 5, buffer_callback=now.take)
            if pickled != data:
                # The same values have another pickle where memory was lent read-only, for example.
                values = pickle.loads(data, buffers=self._lent or buffers)
                fresh.clear()
                if pickled != pickle.dumps(values, 5, buffer_callback=fresh.take):
                    return False
        except Exception:
            return False  # what only cloudpickle takes, and generators: they are looked at one by one
        return len(now) == len(fresh) and all(map(_same_memory, now, fresh))

    def _changes(self, unpickler: pickle.Unpickler, numbers: dict[int, int]) -> list[Change]:
        """What became of the arguments."""
        before = pickle.Unpickler(io.BytesIO(self._segments[0]), buffers=self._segments[1:])
        before.load()
        were: dict[int, Any] = before.memo.copy()
        old = _numbers(before)
        found: list[Change] = []
        for number, value in unpickler.memo.copy().items():
            if id(value) not in numbers or isinstance(value, (tuple, frozenset, type)):
                continue
            now, then = _content(value), _content(were[number])
            if _shallow(now, numbers) == _shallow(then, old):
                continue
            if isinstance(now, Fixed):
                if not hasattr(value, "__next__") or next(value, END) is not END:
                    raise ArgumentError(
                        f"what it made of an argument of type {type(value).__name__} cannot be brought back"
                    )
                now = REST, 0
            found.append((number, *now))
        return found


def accept(result: wire.Segments, sent: tuple[tuple[Any, ...], dict[str, Any]], segments: wire.Segments) -> Any:
    """The value of a result that refers to arguments; what was changed there is changed here.

    Args:
        result: as `Received.give` gave it.
        sent: the caller's own ``(args, kwargs)``.
        segments: as which they were sent.
    """
    own = _own(sent, segments)
    value, changes = _Accepting(result, own).load()
    for number, held, state in changes:
        _put(own[number], held, state)
    return value


class _Accepting(pickle.Unpickler):
    def __init__(self, segments: wire.Segments, own: dict[int, Any]) -> None:
        super().__init__(io.BytesIO(segments[0]), buffers=segments[1:])
        self._own = own

    def persistent_load(self, number: Any) -> Any:
        return self._own[number]


def _own(sent: tuple[tuple[Any, ...], dict[str, Any]], segments: wire.Segments) -> dict[int, Any]:
    """The caller's own objects by number."""
    for make in (_plain, partial(lending.Lender, lent=[])):
        file = io.BytesIO()
        pickler: Any = make(file, wire.Taken().take)
        try:
            pickler.dump(sent)
        except Exception:
            continue  # as when they were sent, or another thread has changed them since
        if file.getvalue() == segments[0]:
            return dict(pickler.memo.copy().values())
    # Another thread has changed them while the call was under way: the numbers are those of a copy.
    unpickler = pickle.Unpickler(io.BytesIO(segments[0]), buffers=[bytearray(s) for s in segments[1:]])
    unpickler.load()
    copies: dict[int, Any] = unpickler.memo.copy()
    return copies


def _numbers(unpickler: pickle.Unpickler) -> dict[int, int]:
    """Numbers, by `id`, of the objects that change or count by identity."""
    memo: dict[int, Any] = unpickler.memo.copy()
    dtype = getattr(sys.modules.get("numpy"), "dtype", ())
    return {
        id(value): number
        for number, value in memo.items()
        if type(value) not in ATOMS
        and not isinstance(value, (BuiltinFunctionType, ModuleType, Enum, dtype))
        and not (isinstance(value, (FunctionType, type)) and _has_a_name(value))
    }


def _same_memory(one: wire.Buffer, other: wire.Buffer) -> bool:
    """Whether two buffers hold the same bytes; that of the same memory is seen without a look at them."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and len(one) == len(other):
        first, second = numpy.frombuffer(one, "u1"), numpy.frombuffer(other, "u1")
        return first.ctypes.data == second.ctypes.data or bool((first == second).all())
    return bytes(one) == bytes(other)


def _has_a_name(value: Any) -> bool:
    """Whether a function or class is the one of its name, by which it travels."""
    found = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value and value.__module__ != "__main__"


# Objects, one by one -----------------------------------------------------------------------------


class Fixed(NamedTuple):
    """What an object was made from that has no state which could be set."""

    arguments: Any


def _content(value: Any) -> tuple[Any, Any] | Fixed:
    """What ``value`` holds as a container and its other state; neither with the parts of its parts."""
    held: Any = None
    if isinstance(value, dict):
        held = list(_mapping(value).items(value))
    elif isinstance(value, (list, deque)):
        held = list(value)
    elif isinstance(value, set):
        held = set(value)
    elif isinstance(value, bytearray):
        held = bytes(value)
    elif isinstance(value, array.array):
        held = value[:]
    elif isinstance(value, FunctionType):
        return _variables(value), dict(value.__dict__)
    elif type(value) is getattr(sys.modules.get("numpy"), "ndarray", None):
        return value[...], None
    elif type(value).__module__ == "builtins" and hasattr(value, "__length_hint__"):
        return REST, length_hint(value)
    if type(value) in CONTAINERS:
        return held, None
    try:
        with warnings.catch_warnings(action="ignore"):
            reduced = value.__reduce_ex__(4)
    except Exception:  # it came by ways of its own (cloudpickle's, copyreg's)
        reduced = ""
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
    if held is None and state is None:
        arguments = reduced[1] if isinstance(reduced, tuple) else None
        return Fixed(arguments)
    return held, dict(state) if type(state) is dict else state


def _mapping(value: dict[Any, Any]) -> type[dict[Any, Any]]:
    """Whose methods to use, and not those of the value's own class."""
    return OrderedDict if isinstance(value, OrderedDict) else dict


def _variables(function: FunctionType) -> dict[str, Any]:
    """The variables around ``function`` that it may have set."""
    space = function.__globals__
    return {
        "global": {name: space[name] for name in _stored(function.__code__) if name in space},
        "closure": [_contents(cell) for cell in function.__closure__ or ()],
    }


@lru_cache
def _stored(code: CodeType) -> tuple[str, ...]:
    """The global names that ``code`` binds."""
    return tuple({i.argval for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"})


def _contents(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # it is empty
        return ()


def _put(own: Any, held: Any, state: Any) -> None:
    """Let ``own`` be what `_content` found elsewhere."""
    if isinstance(own, pickle.PickleBuffer):
        return  # the memory of a small array, which is an object of its own only there
    if isinstance(held, str):  # REST: take what was taken
        deque(islice(own, length_hint(own) - state if state else None), 0)
        return
    if isinstance(own, dict):
        kind = _mapping(own)
        kind.clear(own)
        for key, value in held:
            kind.__setitem__(own, key, value)
    elif isinstance(own, deque):
        own.clear()
        own.extend(held)
    elif isinstance(own, (list, bytearray, array.array)):
        own[:] = held
    elif isinstance(own, set):
        own.clear()
        own.update(held)
    elif isinstance(own, FunctionType):
        for name, value in held["global"].items():
            own.__globals__[name] = value
        for cell, contents in zip(own.__closure__ or (), held["closure"], strict=True):
            if contents:
                cell.cell_contents = contents[0]
    elif held is not None:  # an array
        if own.size == held.size and own.dtype == held.dtype:
            own.shape = held.shape
            own[...] = held
        else:
            own.__setstate__(held.__reduce__()[2])
    if state is not None or (type(own) not in CONTAINERS and held is None):
        _set_state(own, state)


def _set_state(own: Any, state: Any) -> None:
    """As unpickling does, but what is gone is removed."""
    if hasattr(own, "__setstate__"):
        own.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if hasattr(own, "__dict__"):
        own.__dict__.clear()
        own.__dict__.update(attributes or {})
    for name, value in (slots or {}).items():
        object.__setattr__(own, name, value)


# Pickles -----------------------------------------------------------------------------------------


class _Numbering:
    """A part of a pickler: writes numbers for known objects, and thaws what was lent read-only."""

    def __init__(self, numbers: dict[int, int], file: io.BytesIO, take: Callable[[Any], bool]) -> None:
        super().__init__(file, 5, buffer_callback=take)  # type: ignore[call-arg]
        self._numbers = numbers

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
    pass


class _CloudNumbered(_Numbering, cloudpickle.Pickler):  # type: ignore[misc]
    pass


def _plain(file: io.BytesIO, take: Callable[[Any], bool]) -> pickle.Pickler:
    return pickle.Pickler(file, 5, buffer_callback=take)


def _cloud(file: io.BytesIO, take: Callable[[Any], bool]) -> pickle.Pickler:
    pickler: pickle.Pickler = cloudpickle.Pickler(file, 5, buffer_callback=take)
    return pickler


def _dump(value: Any, taken: wire.Taken, numbers: dict[int, int] | None = None) -> tuple[list[wire.Buffer], Any]:
    """As `wire.dumps`, with numbers for known objects; and the pickler, which knows what it met.

    Raises:
        ArgumentError: the value cannot travel.
    """
    makers: tuple[Any, Any] = (_plain, _cloud)
    if numbers is not None:
        makers = (partial(_Numbered, numbers), partial(_CloudNumbered, numbers))
    for plain, make in zip((True, False), makers, strict=True):
        taken.clear()
        file = io.BytesIO()
        pickler = make(file, taken.take)
        try:
            pickler.dump(value)
        except Exception as error:
            if plain:
                continue
            raise ArgumentError(
                f"a value of type {type(value).__name__} cannot travel to another process: {error}"
            ) from error
        data = file.getvalue()
        if not plain or b"__main__" not in data:
            break
    return [data, *taken], pickler


def _shallow(content: tuple[Any, Any] | Fixed, numbers: dict[int, int]) -> bytes:
    """Bytes that differ if ``content`` does, its parts being known by number; empty if it cannot travel."""
    try:
        (data, *buffers), _ = _dump(tuple(content), wire.Taken(), numbers)
    except ArgumentError:
        return b""
    return b"".join([data, *buffers])
