"""What a function did to one object: found by comparing it with a fresh copy, and done to another.

Both sides know the objects of a call's arguments by number (see `restoring`).  A difference is told in
the smallest words that it has, one item of a list or one element of an array, so that what other
threads of the caller did to the same object meanwhile is kept.
"""

from __future__ import annotations

import array
import copyreg
import dis
import math
import pickle
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from operator import length_hint
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from .opaque import Opaque
from .views import Block, is_released

ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes, type(...)))
"""Types whose values neither change nor count by identity."""
FIXED = (tuple, frozenset, type, BuiltinFunctionType, ModuleType, CodeType)
"""Types whose objects do not change, whatever may happen to what they hold."""
CONTAINERS = frozenset((list, dict, set, bytearray, deque, array.array, OrderedDict))
"""Types that have no state but what they hold."""
BLOCK = 1024
"""Items of a list that are compared at once."""
END = object()
ABSENT = object()

Numbers = dict[int, int]
"""The numbers of objects, by `id`."""
Change = tuple[str, Any]
"""What happened, and the particulars."""


class Unrestorable(Exception):
    """A change that cannot be told, or not be made; the call has to run where its arguments are."""


# Found there -------------------------------------------------------------------------------------


class Comparison:
    """Compares objects with those of a fresh copy.

    Args:
        now: the numbers of the objects as they are.
        then: those of the fresh copy's.
        dumps: pickles what has no number.
    """

    def __init__(self, now: Numbers, then: Numbers, dumps: Callable[[Any], bytes]) -> None:
        self._now = now
        self._then = then
        self._dumps = dumps

    def same(self, now: Any, then: Any) -> bool:
        """Whether two values are the same object, or equal values that do not count by identity."""
        if now is then:
            return True
        number = self._now.get(id(now))
        if number is not None or id(then) in self._then:
            return number == self._then.get(id(then))
        if type(now) is not type(then):
            return False
        if type(now) is float:
            return (now == then and (now != 0 or math.copysign(1, now) == math.copysign(1, then))) or (
                now != now and then != then
            )
        if type(now) in ATOMS:
            return bool(now == then) if type(now) is not complex else repr(now) == repr(then)
        try:
            return self._dumps(now) == self._dumps(then)
        except Exception:
            return True  # a lock, a handle: what cannot travel has not come from the caller either

    def changes(self, now: Any, then: Any) -> Iterator[Change]:
        """What happened to ``now`` since it was as ``then`` is.

        Raises:
            Unrestorable: it cannot be told.
        """
        if isinstance(now, FIXED):
            return
        if type(now) is not type(then):
            raise Unrestorable(f"an object was given another class: {type(now).__qualname__}")
        if isinstance(now, FunctionType):
            yield from self._function(now, then)
            return
        if isinstance(now, (memoryview, Block)):  # what is written through a view is found in what it is of
            if isinstance(now, Block):
                if runs := now.since(then):
                    yield "memory", runs
            elif is_released(now):
                yield "released", None
            return
        numpy = sys.modules.get("numpy")
        is_array = numpy is not None and isinstance(now, numpy.ndarray)
        if isinstance(now, dict):
            yield from self._mapping(now, then)
        elif isinstance(now, list):
            yield from self._list(now, then)
        elif isinstance(now, (set, deque)):
            yield from self._unordered(now, then) if isinstance(now, set) else self._deque(now, then)
        elif isinstance(now, (bytearray, array.array)):
            yield from self._bytes(now, then)
        elif is_array:
            yield from self._array(now, then)
        elif type(now).__module__ == "builtins" and hasattr(now, "__length_hint__"):
            if length_hint(now) != length_hint(then):
                yield "rest", length_hint(now)
            return
        if type(now) in CONTAINERS:
            return
        attributes = list(self._attributes(now, then))
        yield from attributes
        if not attributes and not is_array:  # to set an array's state would free memory that its views use
            yield from self._state(now, then, held=isinstance(now, tuple(CONTAINERS)))

    def _mapping(self, now: dict[Any, Any], then: dict[Any, Any]) -> Iterator[Change]:
        items = mapping(now).items
        pairs, old = list(items(now)), list(items(then))
        if len(pairs) == len(old) and all(
            self.same(k, j) and self.same(v, w) for (k, v), (j, w) in zip(pairs, old, strict=True)
        ):
            return
        before = {self._token(k, self._then): (k, v) for k, v in old}
        after = {self._token(k, self._now): (k, v) for k, v in pairs}
        gone = [k for token, (k, _) in before.items() if token not in after]
        put = [p for t, p in after.items() if t not in before or not self.same(p[1], before[t][1])]
        kept = [t for t in before if t in after] + [t for t in after if t not in before]
        yield ("put", (gone, put)) if kept == list(after) else ("fill", pairs)

    def _token(self, key: Any, numbers: Numbers) -> Any:
        number = numbers.get(id(key))
        return (type(key), key) if number is None else ("number", number)

    def _list(self, now: list[Any], then: list[Any]) -> Iterator[Change]:
        if len(now) == len(then):
            at = list(self._apart(now, then))
            if at:
                yield "items", [(i, list.__getitem__(now, i)) for i in at]
            return
        get, least = list.__getitem__, min(len(now), len(then))
        first = next(self._apart(get(now, slice(least)), get(then, slice(least))), least)
        rest = least - first
        ends = (get(items, slice(len(items) - rest, None))[::-1] for items in (now, then))
        last = next(self._apart(*ends), rest)
        yield "splice", (first, len(then) - first - last, get(now, slice(first, len(now) - last)))

    def _apart(self, now: list[Any], then: list[Any]) -> Iterator[int]:
        get = list.__getitem__
        for start in range(0, len(now), BLOCK):
            part, old = get(now, slice(start, start + BLOCK)), get(then, slice(start, start + BLOCK))
            # Not for objects: equal ones could have taken the places of the caller's own.
            atoms = ATOMS.issuperset(map(type, part)) and ATOMS.issuperset(map(type, old))
            if atoms and pickle.dumps(part, 5) == pickle.dumps(old, 5):
                continue
            yield from (start + i for i, (a, b) in enumerate(zip(part, old, strict=True)) if not self.same(a, b))

    def _unordered(self, now: set[Any], then: set[Any]) -> Iterator[Change]:
        before = {self._token(k, self._then): k for k in set.__iter__(then)}
        after = {self._token(k, self._now): k for k in set.__iter__(now)}
        gone = [k for t, k in before.items() if t not in after]
        come = [k for t, k in after.items() if t not in before]
        if gone or come:
            yield "members", (gone, come)

    def _deque(self, now: deque[Any], then: deque[Any]) -> Iterator[Change]:
        items, old = list(deque.__iter__(now)), list(deque.__iter__(then))
        if len(items) != len(old) or not all(map(self.same, items, old)):
            yield "deque", items

    def _bytes(self, now: Any, then: Any) -> Iterator[Change]:
        # Not what a subclass says of itself: what it holds.
        with memoryview(now) as view, memoryview(then) as other:
            ours, old, unit = view.tobytes(), other.tobytes(), view.itemsize
        if ours == old:
            return
        least = min(len(ours), len(old))
        first = _alike(ours, old, least) // unit
        last = _alike(ours, old, least - first * unit, backward=True) // unit
        count, before = len(ours) // unit, len(old) // unit
        kind: Any = bytearray if isinstance(now, bytearray) else array.array
        yield "splice", (first, before - first - last, kind.__getitem__(now, slice(first, count - last)))

    def _array(self, now: Any, then: Any) -> Iterator[Change]:
        import numpy

        if now.dtype != then.dtype or now.size != then.size:
            raise Unrestorable("an array was given another size or type")
        if now.shape != then.shape:
            yield "shape", now.shape
        if not now.flags.writeable:
            return
        ours, old = (numpy.ascontiguousarray(a.view(numpy.ndarray)).reshape(-1) for a in (now, then))
        if now.dtype.hasobject:
            if now.dtype != object:
                if self._dumps(ours) != self._dumps(old):
                    raise Unrestorable("an array of records that hold objects was changed")
                return
            at = numpy.array([i for i, (a, b) in enumerate(zip(ours, old, strict=True)) if not self.same(a, b)], int)
        elif not now.nbytes:
            return
        else:
            whole = now.dtype.itemsize
            unit = next(n for n in (8, 4, 2, 1) if not whole % n)
            apart = ours.view(f"u{unit}") != old.view(f"u{unit}")
            at = numpy.flatnonzero(apart if unit == whole else apart.reshape(now.size, -1).any(axis=1))
        if 2 * len(at) > now.size:
            yield "elements", (None, ours)
        elif len(at):
            yield "elements", (at, ours[at])

    def _function(self, now: FunctionType, then: FunctionType) -> Iterator[Change]:
        space, old = now.__globals__, then.__globals__
        bound = {
            n: space[n] for n in _bound(now.__code__) if n in space and not self.same(space[n], old.get(n, ABSENT))
        }
        if bound:
            yield "globals", bound
        cells = [
            (_contents(a), _contents(b)) for a, b in zip(now.__closure__ or (), then.__closure__ or (), strict=True)
        ]
        rebound = {i: a[0] for i, (a, b) in enumerate(cells) if a and not (b and self.same(a[0], b[0]))}
        if rebound:
            yield "cells", rebound
        yield from self._attributes(now, then)

    def _attributes(self, now: Any, then: Any) -> Iterator[Change]:
        ours, old = attributes(now), attributes(then)
        gone = [name for name in old if name not in ours]
        put = {n: v for n, v in ours.items() if n not in old or not self.same(v, old[n])}
        if gone or put:
            yield "attributes", (gone, put)

    def _state(self, now: Any, then: Any, *, held: bool) -> Iterator[Change]:
        """What is not in its attributes: the state that a class written in C has, most often."""
        kind = type(now)
        if kind not in copyreg.dispatch_table and all(
            getattr(kind, name) is getattr(object, name) for name in ("__reduce_ex__", "__reduce__", "__getstate__")
        ):
            return
        ours, old = _reduced(now), _reduced(then)
        if ours is None or old is None:
            return
        if ours[2] is not None and hasattr(now, "__setstate__") and not self._alike(ours[2], old[2]):
            yield "state", ours[2]
        elif not held and not (self._alike(ours[1], old[1]) and self._alike(ours[2:], old[2:])):
            if not hasattr(now, "__next__") or next(now, END) is not END:
                raise Unrestorable(f"what became of an argument of type {kind.__name__} cannot be told")
            yield "rest", 0

    def _alike(self, now: Any, then: Any) -> bool:
        """`same`, and for a state that was just put together its parts."""
        if type(now) is type(then) and id(now) not in self._now:
            if isinstance(now, (tuple, list)):
                return len(now) == len(then) and all(map(self._alike, now, then))
            if isinstance(now, dict):
                return len(now) == len(then) and all(map(self._alike, now.items(), then.items()))
        return self.same(now, then)

    def of_class(self, now: dict[str, Any], then: dict[str, Any]) -> Iterator[Change]:
        """What happened to the attributes of a class that came by value."""
        put = {
            name: value
            for name, value in now.items()
            if not name.startswith("__") and not self.same(value, then.get(name, ABSENT))
        }
        if put:
            yield "class", put


def _alike(one: bytes, other: bytes, most: int, *, backward: bool = False) -> int:
    """With how many bytes, of so many, both begin or end; found by halving, as memory is compared at once."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        part, same = (
            given[len(given) - middle : len(given) - low] if backward else given[low:middle] for given in (one, other)
        )
        if part == same:
            low = middle
        else:
            high = middle - 1
    return low


def _reduced(value: Any) -> tuple[Any, ...] | None:
    """What `pickle` would make of it: five items, of which the fourth and the fifth are lists."""
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        found: Any = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    except Exception:
        return None  # it travels by ways of cloudpickle's
    if isinstance(found, str):
        return None
    call, args, state, items, pairs = (*found, None, None, None)[:5]
    return call, args, state, items and list(items), pairs and list(pairs)


def attributes(value: Any) -> dict[str, Any]:
    """The attributes that ``value`` itself has, those in slots too."""
    found = dict(getattr(value, "__dict__", ()))
    for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]
        item = getattr(value, name, ABSENT)
        if item is not ABSENT:
            found[name] = item
    return found


@lru_cache
def _bound(code: CodeType) -> tuple[str, ...]:
    """The global names that ``code``, or a function inside it, binds."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(_bound(constant))
    return tuple(names)


def _contents(cell: Any) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # it is empty
        return ()


def mapping(value: dict[Any, Any]) -> type[dict[Any, Any]]:
    """Whose methods to use, and not those of the value's own class."""
    return OrderedDict if isinstance(value, OrderedDict) else dict


# Made here ---------------------------------------------------------------------------------------


def make(own: Any, what: str, how: Any) -> None:
    """Let the same happen to ``own``."""
    if isinstance(own, pickle.PickleBuffer):
        return  # the memory of a small array, which is an object of its own only there
    if isinstance(own, Opaque) and what in ("items", "splice"):
        own = own._relocate_items
    if isinstance(own, Opaque) and what in ("put", "fill"):
        pairs = dict(own._relocate_pairs)
        _MAKE[what](pairs, how)
        own._relocate_pairs[:] = pairs.items()
    else:
        _MAKE[what](own, how)


def _put(own: dict[Any, Any], how: tuple[list[Any], list[tuple[Any, Any]]]) -> None:
    kind = mapping(own)
    for key in how[0]:
        kind.pop(own, key, None)
    for key, value in how[1]:
        kind.__setitem__(own, key, value)


def _fill(own: dict[Any, Any], pairs: list[tuple[Any, Any]]) -> None:
    mapping(own).clear(own)
    _put(own, ([], pairs))


def _items(own: list[Any], how: list[tuple[int, Any]]) -> None:
    for index, value in how:
        if index < list.__len__(own):  # another thread may have shortened it
            list.__setitem__(own, index, value)


def _splice(own: Any, how: tuple[int, int, Any]) -> None:
    start, count, items = how
    kind: Any = next(k for k in (list, bytearray, array.array) if isinstance(own, k))
    kind.__setitem__(own, slice(start, start + count), items)


def _members(own: set[Any], how: tuple[list[Any], list[Any]]) -> None:
    set.difference_update(own, how[0])
    set.update(own, how[1])


def _deque(own: deque[Any], items: list[Any]) -> None:
    deque.clear(own)
    deque.extend(own, items)


def _elements(own: Any, how: tuple[Any, Any]) -> None:
    import numpy

    at, values = how
    plain = own.view(numpy.ndarray)
    if at is None:
        plain[...] = values.reshape(plain.shape)
    else:
        plain.flat[at] = values


def _attributes(own: Any, how: tuple[list[str], dict[str, Any]]) -> None:
    space = getattr(own, "__dict__", {})
    slots = copyreg._slotnames(type(own))  # type: ignore[attr-defined]
    for name in how[0]:
        if name in slots:
            object.__delattr__(own, name)
        else:
            space.pop(name, None)
    for name, value in how[1].items():
        if name in slots:
            object.__setattr__(own, name, value)
        else:
            space[name] = value


def _state(own: Any, state: Any) -> None:
    own.__setstate__(state)


def _cells(own: FunctionType, how: dict[int, Any]) -> None:
    for index, value in how.items():
        (own.__closure__ or ())[index].cell_contents = value


def _class(own: type, how: dict[str, Any]) -> None:
    for name, value in how.items():
        setattr(own, name, value)


def _rest(own: Any, left: int) -> None:
    # To its end, so that it is exhausted too, which is not the same as to have nothing more.
    deque(islice(own, length_hint(own) - left if left else None), 0)


_MAKE: dict[str, Callable[[Any, Any], None]] = {
    "put": _put,
    "fill": _fill,
    "items": _items,
    "splice": _splice,
    "members": _members,
    "deque": _deque,
    "elements": _elements,
    "shape": lambda own, shape: setattr(own, "shape", shape),
    "attributes": _attributes,
    "state": _state,
    "globals": lambda own, how: own.__globals__.update(how),
    "cells": _cells,
    "class": _class,
    "rest": _rest,
    "memory": lambda own, runs: own.write(runs),
    "released": lambda own, _: own.release(),
}
