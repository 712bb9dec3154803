"""What is pickled otherwise than it says by itself, so that it is the same where it is read.

* A real function in whose place the program has a stub: by its name.  `pickle` would refuse it, as
  that name leads to the stub; and Cython's classes have such functions rebuild their objects.
* A real function that makes an object again, as the object's own ``__reduce__`` says: by its name, too.  In
  Python's own pickles nobody is asked about functions, so those ``__reduce__`` are wrapped.
* NumPy's own element types: by their letters.  NumPy would make another object of equal value, and
  give views where the program expects the array itself (``asarray(a, dtype=float) is a``).
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial, wraps
from types import FunctionType, ModuleType
from typing import Any

Name = Callable[[Any], "str | None"]
"""The name of a real function that has a stub, as `pkgutil.resolve_name` takes it; None of anything else."""

_names: list[Name] = []
_usual: dict[type, Any] = {}
"""By kind of function: what `copyreg` had for it."""
_wrapped: list[tuple[Mapping[Any, Any], Callable[[Any, Any], object], Any, Any, Any]] = []
"""Where each method or entry is that was wrapped, how to put another one there, its name, and both."""


def install(name: Name, kinds: set[type]) -> None:
    """Let functions of these kinds, which are not Python's own, be pickled by the name that ``name`` gives."""
    if name not in _names:
        _names.append(name)
    for kind in kinds - _usual.keys():
        _usual[kind] = copyreg.dispatch_table.get(kind)
        copyreg.pickle(kind, _reduce)


def remove(name: Name) -> None:
    """Undo `install`."""
    if name in _names:
        _names.remove(name)
    while _wrapped and not _names:
        holder, put_back, key, put, was = _wrapped.pop()
        if holder.get(key) is put:
            put_back(key, was)
    while _usual and not _names:
        kind, usual = _usual.popitem()
        if copyreg.dispatch_table.get(kind) is _reduce:
            del copyreg.dispatch_table[kind]
            if usual is not None:
                copyreg.pickle(kind, usual)


def adapt(module: ModuleType) -> None:
    """Let the objects of a real module's classes be pickled, though its functions are not those under their names."""
    for kind in list(vars(module).values()):
        if isinstance(kind, type) and kind.__module__ == module.__name__:
            for name in ("__reduce__", "__reduce_ex__"):
                own = vars(kind).get(name)
                if type(own) is FunctionType:
                    put = _adapted(own)
                    with suppress(AttributeError, TypeError):  # a class that does not let itself be changed
                        setattr(kind, name, put)
                        _wrapped.append((vars(kind), partial(setattr, kind), name, put, own))
    table = copyreg.dispatch_table
    for kind, function in list(table.items()):
        if type(function) is FunctionType and function.__module__ == module.__name__:
            table[kind] = put = _adapted(function)
            _wrapped.append((table, table.__setitem__, kind, put, function))


def _adapted(reduce: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(reduce)
    def reduced(*args: Any, **kwargs: Any) -> Any:
        found = reduce(*args, **kwargs)
        if type(found) is tuple and type(found[0]) is FunctionType and (name := by_name(found[0])) is not None:
            found = (Named(found[0], name), *found[1:])
        return found

    return reduced


class Named:
    """A real function that has a stub: called as it is, pickled by its name."""

    def __init__(self, function: Callable[..., Any], name: tuple[Any, ...]) -> None:
        self._function = function
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and other._function is self._function

    def __hash__(self) -> int:
        return hash(self._function)


def by_name(value: Any) -> tuple[Any, ...] | None:
    """How a real function that has a stub is pickled; None of anything else."""
    for name in _names:
        found = name(value)
        if found is not None:
            import pkgutil  # not before there is such a function: it loads much

            return pkgutil.resolve_name, (found,)
    return None


def _reduce(value: Any) -> Any:
    found = by_name(value)
    if found is not None:
        return found
    usual = _usual.get(type(value))
    return value.__reduce_ex__(4) if usual is None else usual(value)


# NumPy -------------------------------------------------------------------------------------------

LETTERS = "?bBhHiIlLqQefdgFDGO"
_element_types: dict[type, Any] = {}
_tables: tuple[dict[type, Any], dict[type, Any]] = ({}, {})
"""That of `copyreg` as it was, and the two together."""
_everywhere = False


def table() -> dict[type, Any] | None:
    """For ``Pickler.dispatch_table``: that of `copyreg`, and NumPy's element types; None if the former will do."""
    if _everywhere:
        return None
    if not _element_types:
        numpy = sys.modules.get("numpy")
        if numpy is None or not hasattr(numpy, "dtype"):
            return None
        _element_types.update({type(numpy.dtype(letter)): _element_type for letter in LETTERS})
    global _tables
    before, both = _tables
    if before != copyreg.dispatch_table or not both:
        before = dict(copyreg.dispatch_table)
        both = {**before, **_element_types}
        _tables = before, both
    return both


def is_array(value: Any) -> bool:
    """Whether a value is an array of numbers and nothing else: no objects, no names of fields, no metadata."""
    if type(value) is not getattr(sys.modules.get("numpy"), "ndarray", None):
        return False
    dtype = value.dtype
    return not dtype.hasobject and dtype.names is None and dtype.metadata is None


def everywhere() -> None:
    """Let all pickles of this process, an executor, have them."""
    global _everywhere
    if table() is not None:
        _everywhere = True
        copyreg.dispatch_table.update(_element_types)


def _element_type(dtype: Any) -> Any:
    numpy: Any = sys.modules["numpy"]
    if dtype is numpy.dtype(dtype.char):
        return numpy.dtype, (dtype.char,)
    return dtype.__reduce_ex__(4)  # another byte order, or metadata
