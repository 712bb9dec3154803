"""What is pickled otherwise than it says by itself, so that it is the same where it is read.

* A real function in whose place the program has a stub: by its name.  `pickle` would refuse it, as
  that name leads to the stub; and Cython's classes have such functions rebuild their objects.
* NumPy's own element types: by their letters.  NumPy would make another object of equal value, and
  give views where the program expects the array itself (``asarray(a, dtype=float) is a``).
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable
from typing import Any

Name = Callable[[Any], "str | None"]
"""The name of a real function that has a stub, as `pkgutil.resolve_name` takes it; None of anything else."""

_names: list[Name] = []
_usual: dict[type, Any] = {}
"""By kind of function: what `copyreg` had for it."""


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
    while _usual and not _names:
        kind, usual = _usual.popitem()
        if copyreg.dispatch_table.get(kind) is _reduce:
            del copyreg.dispatch_table[kind]
            if usual is not None:
                copyreg.pickle(kind, usual)


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
_everywhere = False


def table() -> dict[type, Any] | None:
    """For ``Pickler.dispatch_table``: that of `copyreg`, and NumPy's element types; None if NumPy is not loaded."""
    if not _element_types:
        numpy = sys.modules.get("numpy")
        if numpy is None or not hasattr(numpy, "dtype"):
            return None
        _element_types.update({type(numpy.dtype(letter)): _element_type for letter in LETTERS})
    return {**copyreg.dispatch_table, **_element_types}


def everywhere() -> None:
    """Let all pickles of this process, an executor, have them."""
    global _everywhere
    if not _everywhere and table() is not None:
        _everywhere = True
        copyreg.dispatch_table.update(_element_types)


def _element_type(dtype: Any) -> Any:
    numpy: Any = sys.modules["numpy"]
    if dtype is numpy.dtype(dtype.char):
        return numpy.dtype, (dtype.char,)
    return dtype.__reduce_ex__(4)  # another byte order, or metadata
