"""What differs between two outcomes of one call: results, exceptions, arguments.

Two values are the same if they are of one class and hold the same.  Numbers may differ by the
tolerance: a fraction of the larger one, or of the largest in the same array, list or dictionary, as
rounding leaves noise where zero should be; not-a-number is itself.  Containers and arrays are
compared item by item; exceptions by class and arguments; functions by name and code; anything else
by what pickle would take of it, and if that differs, by its own ``==``.  So two objects that were
never meant to be compared are compared all the same.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import math
import re
import reprlib
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import msgspec


class Difference(msgspec.Struct, frozen=True):
    """How a worker's outcome of one call first differed from the local copy's.

    ``at`` is the place in the result (``result[3].weight``), ``there`` and ``here`` what each side
    has at that place, ``note`` what is to be said of the rest; all shortened.
    """

    call: str
    worker: str
    at: str
    there: str
    here: str
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.call}: {self.at} is {self.there} on {self.worker}, and {self.here} here{note}"


class Apart(NamedTuple):
    """The first place at which two values differ."""

    at: str
    there: str
    here: str
    note: str = ""


class Raised:
    """The outcome of a call that raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def difference(there: Any, here: Any, tolerance: float = 0.0) -> Apart | None:
    """The first difference between two outcomes, each a value or `Raised`; None if they are the same.

    >>> difference([1.0, {"a": 2.0}], [1.0, {"a": 2.5}])
    Apart(at="result[1]['a']", there='2.0', here='2.5', note='apart by 0.2 of their size')
    """
    if isinstance(there, Raised) or isinstance(here, Raised):
        if isinstance(there, Raised) and isinstance(here, Raised):
            return _exceptions(there.error, here.error, tolerance)
        return Apart("the outcome", _outcome(there), _outcome(here))
    return _Comparison(tolerance).find(there, here, "result")


def arguments_differ(
    given: Sequence[Any], named: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any], tolerance: float
) -> Apart | None:
    """The first difference between the arguments as they are after both runs: what was given, and its copies."""
    pairs = [(f"argument {i + 1}", a, b) for i, (a, b) in enumerate(zip(given, args, strict=True))]
    pairs += [(f"argument {name!r}", named[name], kwargs[name]) for name in named]
    return next(filter(None, (_Comparison(tolerance).find(a, b, at) for at, a, b in pairs)), None)


def _outcome(value: Any) -> str:
    return f"raised {short(value.error)}" if isinstance(value, Raised) else short(value)


def _exceptions(there: BaseException, here: BaseException, tolerance: float) -> Apart | None:
    kind = f"{type(here).__module__}.{type(here).__qualname__}"
    if str(there) in (kind, f"{kind}: {here}"):
        return None  # it could not travel as itself, see `raising`
    return _Comparison(tolerance).find(there, here, "the exception")


class _Comparison:
    """One walk through two values at the same time."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self._scale = 0.0
        self._seen: dict[tuple[int, int], Any] = {}

    def find(self, a: Any, b: Any, at: str) -> Apart | None:
        """The first difference below ``at``."""
        if a is b:
            return None
        if _is_named(a) and _is_named(b) and _named(a) == _named(b):
            return self._closures(a, b, at)
        if type(a) is not type(b):
            if _named(type(a)) != _named(type(b)):
                return Apart(at, f"{short(a)} ({type(a).__name__})", f"{short(b)} ({type(b).__name__})")
        elif isinstance(a, (int, str, bytes, bytearray, type(None))):
            same = a == b or (isinstance(a, str) and " at 0x" in a and _placeless(a) == _placeless(b))
            return None if same else Apart(at, short(a), short(b))
        if isinstance(a, (float, complex)):
            return None if self._near(a, b) else Apart(at, short(a), short(b), _apart(a, b))
        if (id(a), id(b)) in self._seen:
            return None  # it contains itself, or it was here before
        self._seen[id(a), id(b)] = (a, b)  # kept, so that no other object gets these ids
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(a, (numpy.ndarray, numpy.generic)):
            return self._arrays(numpy, a, b, at)
        found = self._contents(a, b, at)
        return None if found is not None and _say_equal(a, b) else found

    def _near(self, a: complex, b: complex) -> bool:
        if a == b or (a != a and b != b):
            return True
        return bool(self.tolerance and abs(a - b) <= self.tolerance * max(abs(a), abs(b), self._scale))

    def _contents(self, a: Any, b: Any, at: str) -> Apart | None:
        if isinstance(a, BaseException):
            return self._items(a.args, b.args, f"{at}.args")
        if isinstance(a, (list, tuple, deque)):
            return self._items(a, b, at)
        if isinstance(a, dict):
            return self._mappings(a, b, at)
        if isinstance(a, (set, frozenset)):
            if a == b:
                return None
            return self._items(sorted(a, key=repr), sorted(b, key=repr), f"sorted({at})")
        if isinstance(a, (io.StringIO, io.BytesIO)) and not (a.closed or b.closed):
            pairs = [(a.getvalue(), b.getvalue(), f"{at}.getvalue()"), (a.tell(), b.tell(), f"{at}.tell()")]
            return self._first(pairs)
        if isinstance(a, memoryview):
            return self._views(a, b, at)
        return self._parts(a, b, at)

    def _items(self, a: Any, b: Any, at: str) -> Apart | None:
        if len(a) != len(b):
            return Apart(f"len({at})", str(len(a)), str(len(b)))
        triples = ((x, y, f"{at}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
        return self._first(triples, _largest(a) if isinstance(a, list) else 0.0)

    def _first(self, triples: Iterable[tuple[Any, Any, str]], scale: float = 0.0) -> Apart | None:
        """The first difference; numbers of one kind (``scale`` is the largest) may differ by a fraction of that."""
        for a, b, at in triples:
            self._scale = scale
            found = self.find(a, b, at)
            if found is not None:
                return found
        self._scale = 0.0
        return None

    def _mappings(self, a: Any, b: Any, at: str) -> Apart | None:
        for key in a:
            if key not in b:
                return Apart(at, f"with the key {short(key)}", "without it")
        for key in b:
            if key not in a:
                return Apart(at, f"without the key {short(key)}", "with it")
        return self._first(((a[key], b[key], f"{at}[{short(key)}]") for key in a), _largest(a.values()))

    def _views(self, a: memoryview, b: memoryview, at: str) -> Apart | None:
        if (a.format, a.shape) != (b.format, b.shape):
            return Apart(at, f"{a.shape} of {a.format}", f"{b.shape} of {b.format}")
        one, two = a.tobytes(), b.tobytes()
        if one == two:
            return None
        with contextlib.suppress(NotImplementedError):  # records, and what else is not Python's own
            return self.find(a.tolist(), b.tolist(), at)
        return self.find(one, two, at)

    def _parts(self, a: Any, b: Any, at: str) -> Apart | None:
        """Two objects, by what pickle would take of each."""
        one, two = _reduced(a), _reduced(b)
        if isinstance(one, str) or isinstance(two, str):
            return None if one == two else Apart(at, short(a), short(b))
        state, other = (r[2] if len(r) > 2 else None for r in (one, two))
        if isinstance(state, dict) and isinstance(other, dict):
            for name in state:
                if name not in other:
                    return Apart(at, f"with the attribute {name}", "without it")
            for name in other:
                if name not in state:
                    return Apart(at, f"without the attribute {name}", "with it")
                if found := self.find(state[name], other[name], f"{at}.{name}"):
                    return found
            state = other = None
        for x, y in (
            (one[:2], two[:2]),
            (state, other),
            (_listed(one, 3), _listed(two, 3)),
            (_listed(one, 4), _listed(two, 4)),
        ):
            if found := self.find(x, y, at):
                return found._replace(at=at, there=short(a), here=short(b)) if found.at != at else found
        return None

    def _closures(self, a: Any, b: Any, at: str) -> Apart | None:
        """Two functions of one name: by code, defaults and what they enclose."""
        if not (isinstance(a, FunctionType) and isinstance(b, FunctionType)) or "<" not in a.__qualname__:
            return None  # found by its name, on both sides; perhaps a proxy on one
        if _code(a.__code__) != _code(b.__code__):
            return Apart(at, "one function", "another one")
        held = [(f.__defaults__, f.__kwdefaults__, _cells(f.__closure__)) for f in (a, b)]
        return self.find(held[0], held[1], f"what {at} encloses")

    def _arrays(self, np: Any, a: Any, b: Any, at: str) -> Apart | None:
        if a.dtype != b.dtype or a.shape != b.shape:
            return Apart(at, short(a), short(b))
        if a.dtype.names:
            return self._first((a[n], b[n], f"{at}[{n!r}]") for n in a.dtype.names)
        if isinstance(a, np.ma.MaskedArray):
            masks = np.ma.getmaskarray(a), np.ma.getmaskarray(b)
            one, two = (np.where(m, np.zeros_like(x.data), x.data) for m, x in zip(masks, (a, b), strict=True))
            return self._first([(*masks, f"{at}.mask"), (one, two, at)])
        if a.dtype.hasobject:
            pairs = enumerate(zip(a.flat, b.flat, strict=True))
            return self._first((x, y, f"{at}{_index(np, i, a.shape)}") for i, (x, y) in pairs)
        return self._numbers(np, np.asarray(a), np.asarray(b), at)

    def _numbers(self, np: Any, a: Any, b: Any, at: str) -> Apart | None:
        note = ""
        with np.errstate(all="ignore"):
            same = np.asarray(a == b)
            if a.dtype.kind in "fc":
                same = same | (np.isnan(a) & np.isnan(b))
                if self.tolerance:
                    finite = np.abs(a[np.isfinite(a)])
                    scale = finite.max() if finite.size else 0.0
                    same = same | (np.abs(a - b) <= self.tolerance * np.maximum(scale, np.abs(b)))
            elif a.dtype.kind in "mM":
                same = same | (np.isnat(a) & np.isnat(b))
            if same.all():
                return None
            first = int(np.argmin(same))
            x, y = a.flat[first], b.flat[first]
            if same.size > 1:
                note = f"{same.size - np.count_nonzero(same)} of {same.size} items differ"
            if a.dtype.kind in "fc":
                x, y = x.item(), y.item()
                most = np.nanmax(np.where(same, 0, np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))))
                note = f"{note}, by up to {most:.2g} of their size" if note else _apart(x, y)
        return Apart(f"{at}{_index(np, first, a.shape)}", short(x), short(y), note)


def _placeless(text: str) -> str:
    """``text`` without the addresses of objects, which differ between any two runs."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _largest(values: Iterable[Any]) -> float:
    """The size of the largest number among ``values``."""
    return max((abs(v) for v in values if isinstance(v, (float, complex)) and abs(v) < math.inf), default=0.0)


def _index(np: Any, number: int, shape: tuple[int, ...]) -> str:
    return f"[{', '.join(str(int(i)) for i in np.unravel_index(number, shape))}]" if shape else ""


def _is_named(value: Any) -> bool:
    """Whether ``value`` is a function or a class, and not a method of some object."""
    owner = getattr(value, "__self__", None)
    return callable(value) and hasattr(value, "__qualname__") and (owner is None or isinstance(owner, ModuleType))


def _named(value: Any) -> tuple[Any, Any]:
    return getattr(value, "__module__", None), getattr(value, "__qualname__", value)


def _code(code: CodeType) -> tuple[Any, ...]:
    constants = tuple(_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts)
    return code.co_code, code.co_names, constants


def _cells(closure: tuple[CellType, ...] | None) -> list[Any]:
    held = []
    for cell in closure or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:
            held.append(None)  # not yet filled
    return held


def _reduced(value: Any) -> Any:
    """What pickle would take: a name, or a tuple that begins with a callable and its arguments."""
    if isinstance(value, MethodType):
        return getattr, (value.__self__, value.__name__)
    reduce = copyreg.dispatch_table.get(type(value))
    return reduce(value) if reduce is not None else value.__reduce_ex__(4)


def _listed(reduced: tuple[Any, ...], place: int) -> list[Any]:
    """The items that pickle would put into a container of the value's own class."""
    items: Iterable[Any] | None = reduced[place] if len(reduced) > place else None
    return list(items or ())


def _say_equal(a: Any, b: Any) -> bool:
    """Whether the values themselves say that they are equal, though they hold different things."""
    try:
        if hasattr(a, "shape") or isinstance(a, (list, tuple, dict, set, frozenset, BaseException)):
            return False  # compared item by item already, or would compare so by itself
        return (a == b) is True
    except Exception:
        return False


def _apart(a: complex, b: complex) -> str:
    most = max(abs(a), abs(b))
    by = abs(a - b) / most if most else math.nan
    return f"apart by {by:.2g} of their size" if math.isfinite(by) else ""


# What is shown -----------------------------------------------------------------------------------


class _Short(reprlib.Repr):
    def repr_instance(self, value: Any, level: int) -> str:
        if hasattr(value, "shape") and hasattr(value, "dtype") and value.shape:
            shape = "x".join(map(str, value.shape))
            return f"<{type(value).__name__} of {shape} {value.dtype}>"
        return " ".join(super().repr_instance(value, level).split())

    repr_ndarray = repr_instance


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 3
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = _SHORT.maxset = 4


def short(value: Any) -> str:
    """``value`` as text, on one line and not long."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # a number of numpy's
    text = _SHORT.repr(value)
    return text if len(text) <= 120 else f"{text[:58]}...{text[-58:]}"
