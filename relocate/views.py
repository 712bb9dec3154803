"""Memoryviews as arguments: on a worker they are views of memory that lies as it does here.

What travels is the memory that a view spans, once for all views of it, and how each one lies in it: offset,
shape, strides and format.  So a write through one view is seen through the others, there as here, and through
the object itself that they are views of if that is an argument, too.  That object is the base then, and also
if it is small; else the base is a piece of memory, and ``view.obj`` there is something that can do nothing.

Addresses decide what shares memory, which only C tells: `ctypes` is loaded with the first view.

Of views that cannot be made alike none travels: each is made here first, and compared.  Where memory of one
argument lies in that of another in other ways, each gets its own, and who changes it there is told (see
`restoring`).
"""

from __future__ import annotations

import array
import pickle
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cache
from math import prod
from typing import Any, NamedTuple

SMALL = 4 << 10
"""Bytes of an object that travels as a whole with a view of it; as large as what stays in a pickle."""
PIECE = 64 << 10
"""Bytes that are compared at once."""
RUNS = 512
"""Changes within a piece that are told one by one."""
CHANGED = re.compile(rb"[^\0]+")

Runs = list[tuple[int, bytes]]
"""What was written into memory: positions, and the bytes from there on."""


class Layout(NamedTuple):
    """How a view lies in its base; ``offset`` is where the first item begins."""

    offset: int
    format: str
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    readonly: bool
    dtype: Any = None
    """NumPy's type of the items, if only NumPy can make such a view."""


# Here --------------------------------------------------------------------------------------------


class Memory:
    """A piece of this program's memory.

    Args:
        first, end: its addresses.
        views: of the program's own that lie in it, one for each object that has memory there, by its id.  Only what
            they hold keeps the memory: nothing else may stand in the way of who wants to resize or close that object.
    """

    def __init__(self, first: int, end: int, views: dict[int, memoryview]) -> None:
        self.first = first
        self.end = end
        self.views = views

    @property
    def readonly(self) -> bool:
        """Whether nobody may write into it."""
        return all(memoryview(view.obj).readonly for view in self.views.values())

    @property
    def writable(self) -> bool:
        """Whether it may be written into now."""
        return not any(map(is_released, self.views.values())) and not self.readonly

    @property
    def bytes(self) -> Any:
        """An array of its bytes.

        Raises:
            ValueError: a view was released.
        """
        return _bytes(self.first, self.end - self.first, [memoryview(view) for view in self.views.values()])

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        data, owners = self.bytes, [view.obj for view in self.views.values()]
        # What is being sent may be held a little longer than the call lasts.
        if not all(map(_is_fixed, owners)):
            data = bytearray(data)
        kind = type(owners[0])
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        return Block, (pickle.PickleBuffer(data), self.readonly, name, kind.__hash__ is not None)

    def write(self, runs: Runs) -> None:
        """Let the memory have these bytes at these positions."""
        flat = _flat(self)
        for start, data in runs:
            flat[start : start + len(data)] = data


class Shared:
    """The memory that views of one call share.

    Args:
        bases: pieces of memory by first address and end, in order, and of what the views in each are made.
    """

    def __init__(self, bases: Iterable[tuple[int, int, Any]] = ()) -> None:
        self._bases = list(bases)
        self._firsts = [first for first, _, _ in self._bases]
        self._memories: dict[tuple[int, int], Memory] = {}

    def reduce(self, view: memoryview) -> tuple[Any, ...]:
        """How a view is pickled.

        Raises:
            ValueError: it was released.
            pickle.PicklingError: it could not be the same at the other end.
        """
        if not _is_known(view.obj):
            raise pickle.PicklingError(f"a memoryview of an object of type {type(view.obj).__name__}")
        for base, first in self._candidates(view, *span(view)):
            for layout in _layouts(view, first):
                try:
                    made = shaped(base, layout)
                except (ValueError, TypeError, NotImplementedError):
                    continue
                if _described(made) == _described(view) and (not view.nbytes or _address(made) == _address(view)):
                    return shaped, (base, layout)
        raise pickle.PicklingError("a memoryview of a form that only its own memory can have")

    def _candidates(self, view: memoryview, first: int, end: int) -> Iterator[tuple[Any, int]]:
        at = bisect_right(self._firsts, first) - 1
        if at >= 0 and end <= self._bases[at][1]:
            yield self._bases[at][2], self._firsts[at]
        elif _lies_alike(view.obj) and getattr(view.obj, "base", None) is None:
            begin, stop = span(memoryview(view.obj))
            if stop - begin <= SMALL or (_is_array(view.obj) and (begin, stop) == (first, end)):
                yield view.obj, begin
        memory = self._memories.setdefault((first, end), Memory(first, end, {}))
        memory.views.setdefault(id(view.obj), view)
        yield memory, first

    def bases(self, objects: Iterable[Any]) -> list[tuple[int, int, Any]]:
        """What the views should be made of, as some share memory with each other or with ``objects``."""
        found: list[tuple[int, int, Any]] = [(*key, memory) for key, memory in self._memories.items()]
        found += [(*span(value), value) for value in objects if holds_memory(value)]
        return list(filter(None, map(_common, overlapping(found))))


def overlapping(pieces: Iterable[tuple[int, int, Any]]) -> Iterator[list[tuple[int, int, Any]]]:
    """Those of ``pieces`` of memory that share some of it, together."""
    group: list[tuple[int, int, Any]] = []
    reached = 0
    for piece in sorted((p for p in pieces if p[0] < p[1]), key=lambda p: p[:2]):
        if group and piece[0] >= reached:
            if len(group) > 1:
                yield group
            group = []
        reached = max(reached, piece[1]) if group else piece[1]
        group.append(piece)
    if len(group) > 1:
        yield group


def _common(group: list[tuple[int, int, Any]]) -> tuple[int, int, Any] | None:
    """What the views among ``group`` can all be made of."""
    first, end = group[0][0], max(piece[1] for piece in group)
    others = [piece for piece in group if not isinstance(piece[2], Memory)]
    if not others:
        return first, end, Memory(first, end, {key: view for _, _, m in group for key, view in m.views.items()})
    if len(others) == 1 and others[0][:2] == (first, end) and _lies_alike(others[0][2]):
        return others[0]
    return None


def holds_memory(value: Any) -> bool:
    """Whether views can be of an object, or an object itself is memory of this program, and be changed."""
    return isinstance(value, (Memory, bytearray, array.array)) or _is_array(value)


def span(value: Any) -> tuple[int, int]:
    """The first address of the memory of a view, or of an object that `holds_memory`, and the end.

    Raises:
        ValueError: a view that was released.
    """
    if isinstance(value, Memory):
        return value.first, value.end
    if _is_array(value):  # of which some cannot be seen through a view
        first, shape, strides, size = value.__array_interface__["data"][0], value.shape, value.strides, value.itemsize
    else:
        view = memoryview(value)
        first, shape, strides, size = _address(view), view.shape, view.strides, view.itemsize
    if 0 in shape:
        return first, first
    reaches = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return first + sum(r for r in reaches if r < 0), first + sum(r for r in reaches if r > 0) + size


def _layouts(view: memoryview, first: int) -> Iterator[Layout]:
    """By which ways `shaped` may make such a view of memory that begins at the address ``first``."""
    seen: Any = view
    plain = Layout(_address(view) - first, view.format, view.itemsize, seen.shape, seen.strides, view.readonly)
    yield plain
    if _is_array(view.obj) and view.nbytes:
        yield plain._replace(dtype=seen.obj.dtype)


def _described(view: memoryview) -> tuple[Any, ...]:
    return view.format, view.itemsize, view.shape, view.strides, view.suboffsets, view.readonly


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _is_known(value: Any) -> bool:
    """Whether a view of this object shows plain memory, and nothing but memory."""
    if _is_array(value):
        return not value.dtype.hasobject
    mmap = sys.modules.get("mmap")
    return isinstance(value, (bytes, bytearray, array.array)) or (mmap is not None and isinstance(value, mmap.mmap))


def _is_fixed(value: Any) -> bool:
    """Whether an object is not resized or closed in whose memory something looks."""
    return isinstance(value, bytes) or _is_array(value)


def _lies_alike(value: Any) -> bool:
    """Whether this object, unpickled, lies in memory as it does here."""
    if type(value) in (bytes, bytearray, array.array):
        return True
    return _is_array(value) and type(value) is sys.modules["numpy"].ndarray and bool(value.flags.c_contiguous)


# Here and there ----------------------------------------------------------------------------------


def shaped(base: Any, layout: Layout) -> memoryview:
    """A view that lies in ``base`` like that.

    Raises:
        ValueError, TypeError, NotImplementedError: there is no such view.
    """
    whole = _flat(base) if isinstance(base, (Memory, Block)) else memoryview(base)
    if layout.dtype is not None:
        data = base.bytes if isinstance(base, (Memory, Block)) else base
        array = _array()(layout.shape, layout.dtype, data, layout.offset, layout.strides)
        array.flags.writeable = not whole.readonly
        made = memoryview(array)
        if made.format != layout.format:  # that of records depends on their addresses
            raise ValueError(f"a view of format {layout.format} would have another one here, {made.format}")
    elif layout[:5] == (0, whole.format, whole.itemsize, whole.shape, whole.strides):
        made = memoryview(whole)
    elif layout.shape:
        made = _rows(whole.cast("B"), layout)
    else:
        made = whole.cast("B")[layout.offset : layout.offset + layout.itemsize].cast(layout.format, ())  # type: ignore[call-overload]
    return made.toreadonly() if layout.readonly else made


def _rows(flat: memoryview, layout: Layout) -> memoryview:
    """Every so manieth row; of a view that is not of rows another one comes out."""
    count, *inner = layout.shape
    row = layout.itemsize * prod(inner)
    step, rest = divmod(layout.strides[0], row)
    if rest or not step:
        raise ValueError("strides that slices do not have")
    rows = (count - 1) * abs(step) + 1 if count else 0
    first = layout.offset if step > 0 or not rows else layout.offset - (rows - 1) * row
    piece: Any = flat[first : first + rows * row]
    made: memoryview = piece.cast(layout.format, (rows, *inner)) if inner else piece.cast(layout.format)
    return made if step == 1 else made[::step]


@cache
def _array() -> Any:
    import numpy

    class Array(numpy.ndarray[Any, Any]):
        """Memory, and not the object whose memory it is."""

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise pickle.PicklingError("what a view is of stays where the view is from")

    return Array


@cache
def _buffers() -> Any:
    """Python's functions for buffers, by prototypes of ours: others may have set those of `ctypes.pythonapi`."""
    import ctypes

    class Buffer(ctypes.Structure):
        """``Py_buffer``, of which only the address counts."""

        _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_void_p * 16))

    get = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(Buffer), ctypes.c_int)
    release = ctypes.PYFUNCTYPE(None, ctypes.POINTER(Buffer))
    library = ctypes.pythonapi
    return Buffer, get(("PyObject_GetBuffer", library)), release(("PyBuffer_Release", library))


FULL_RO = 0x11C
"""``PyBUF_FULL_RO``: a buffer of any form."""


def _address(view: memoryview) -> int:
    """Of the first item."""
    make, get, release = _buffers()
    buffer = make()
    get(view, buffer, FULL_RO)
    address: int | None = buffer.buf
    release(buffer)
    return address or 0


def _flat(memory: Memory | Block) -> memoryview:
    """The bytes of a piece of memory.

    No view has another object look into it: Python 3.11 crashes when it frees such ones in a circle, as an
    exception and its frames are one.
    """
    view = pickle.PickleBuffer(memory.bytes).raw()
    return view.toreadonly() if memory.readonly else view


def _bytes(address: int, size: int, kept: Any, *, name: str = "", hashes: bool = True) -> Any:
    """An array of the bytes at an address, and with it what has to live as long.

    Args:
        address, size: where, and how many bytes.
        kept: whatever owns them.
        name: the name of its type, if it is to be had as what a view is of.
        hashes: whether that has a hash, without which a view has none.
    """
    import ctypes

    def refuse(self: Any, protocol: Any) -> Any:
        raise pickle.PicklingError("what a view is of stays where the view is from")

    kind: Any = ctypes.c_ubyte * size
    if name:
        space = {"__reduce_ex__": refuse, "__hash__": object.__hash__ if hashes else None}
        kind = type(kind)(name, (kind,), space)
    memory = kind.from_address(address)
    memory.kept = kept
    return memory


# There -------------------------------------------------------------------------------------------


class Block:
    """Memory that views are of which came with a call.

    Args:
        data: the bytes, which it does not copy.
        readonly: whether nobody may write into them at home.
        name: the type of what they are of at home.
        hashes: whether that has a hash.
    """

    def __init__(self, data: Any, readonly: bool, name: str, hashes: bool) -> None:
        view = memoryview(data)
        self.readonly = readonly or view.readonly
        self.bytes = _bytes(_address(view), view.nbytes, view, name=name, hashes=hashes)

    def since(self, then: Block) -> Runs:
        """What was written into it since it was as ``then`` is."""
        now, old = _flat(self), _flat(then)
        found: Runs = []
        if _address(now) == _address(old):
            return found
        for start in range(0, len(now), PIECE):
            one, other = bytes(now[start : start + PIECE]), bytes(old[start : start + PIECE])
            if one == other:
                continue
            apart = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
            runs = [m.span() for m in CHANGED.finditer(apart.to_bytes(len(one), "little"))]
            if len(runs) > RUNS:
                runs = [(runs[0][0], runs[-1][1])]
            found += [(start + first, one[first:end]) for first, end in runs]
        return found


def is_released(view: memoryview) -> bool:
    """Whether a view was released."""
    try:
        return view.nbytes < 0
    except ValueError:
        return True
