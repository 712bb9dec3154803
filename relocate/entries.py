"""What a module enters in tables of other modules when it is imported, found where it has been.

Rules:

* A worker that describes a module looks for its functions in dictionaries, lists and sets (weak ones,
  too) of all other modules: values of a module, or attributes of its classes and instances, or items
  of such a table.  What it finds is a part of the interface, and `tables` enters it elsewhere.
* An entry is the pickle of its key and of its value, in which a function of the module goes by its name.
* It is looked at what is there; imports are not watched, as what others have loaded before would be missed.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from . import describing
from .interface import Entry, Function, Interface, Step
from .proxy import namespace_of

MAPPINGS = (dict, WeakKeyDictionary, WeakValueDictionary, MappingProxyType)
LISTS = (list, deque)
SETS = (set, WeakSet)
DEFINED = (type, FunctionType)
"""What is looked into only where it is defined."""
OTHERS = (object,)
DEPTH = 3
"""Steps from a value of a module to a table."""
OWN = __name__.partition(".")[0]
Name = tuple[str, str]
"""The module and the qualified name of a function."""


class OnlyReal(Exception):
    """What an entry holds has no stub."""


def describe(module: ModuleType, version: bytes | None = None) -> Interface:
    """Look at the real ``module``, as `describing.describe` does, and at what it has entered elsewhere."""
    described = describing.describe(module, version)
    described.entries = _Search(module, described).entries
    return described


class _Search:
    """Finds the entries of one module."""

    def __init__(self, module: ModuleType, described: Interface) -> None:
        self._inside = (described.name, described.name + ".")
        self._names: dict[int, Name] = {}
        for name, member in described.members.items():
            if isinstance(member, Function):
                self._names[id(getattr(module, name, None))] = member.home, member.qualname
        self._seen: set[int] = set()
        self._kinds: dict[type, tuple[type, ...] | None] = {}
        self.entries: list[Entry] = []
        for name, other in list(sys.modules.items()):
            if not isinstance(other, ModuleType) or self._is_inside(name) or name.partition(".")[0] in (
                OWN, "__main__",
            ):  # fmt: skip
                continue
            for attribute, value in list(namespace_of(other).items()):
                if not attribute.startswith("__"):
                    self._look(value, name, ((attribute, b"", b""),))

    def _look(self, value: Any, module: str, path: tuple[Step, ...]) -> None:
        """Look for entries in what may be a table or lead to one.

        It is anybody's: where to look at it fails it is left, and what is beside it is looked at all the same.
        """
        what = self._what(type(value))
        if what is None or id(value) in self._seen:
            return
        try:
            self._look_into(what, value, module, path)
        except Exception:
            return

    def _look_into(self, what: tuple[type, ...], value: Any, module: str, path: tuple[Step, ...]) -> None:
        # By what it is made from: its own methods may load whatever it knows of, and fail.
        if what is MAPPINGS:
            self._seen.add(id(value))
            for key, item in list(_base(what, value).items(value)):
                if self._mentions(key) or self._mentions(item):
                    self._enter(module, path, item, key)
                elif len(path) <= DEPTH and self._what(type(item)) in (MAPPINGS, LISTS, SETS):
                    with suppress(Exception):  # a key that cannot travel leads nowhere
                        self._look(item, module, (*path, ("", self._pickled(key), self._emptied(item))))
        elif what in (LISTS, SETS):
            self._seen.add(id(value))
            for item in list(_base(what, value).__iter__(value)):
                if self._mentions(item):
                    self._enter(module, path, item)
        elif len(path) <= DEPTH and (what is OTHERS or value.__module__ == module):
            self._seen.add(id(value))
            for attribute, inner in list(_attributes(value).items()):
                if not (isinstance(attribute, str) and attribute.startswith("__")):
                    self._look(inner, module, (*path, (attribute, b"", b"")))

    def _emptied(self, table: Any) -> bytes:
        empty = copy.copy(table)
        empty.clear()
        return self._pickled(empty)

    def _what(self, kind: type) -> tuple[type, ...] | None:
        """What there may be in an object of type ``kind``; None: nothing."""
        if kind not in self._kinds:
            bases = set(kind.__mro__)
            self._kinds[kind] = next(
                (group for group in (MAPPINGS, LISTS, SETS, DEFINED) if not bases.isdisjoint(group)),
                None if kind.__module__ == "builtins" or ModuleType in bases else OTHERS,
            )
        return self._kinds[kind]

    def _is_inside(self, module: Any) -> bool:
        return isinstance(module, str) and (module == self._inside[0] or module.startswith(self._inside[1]))

    def _is_own(self, value: Any) -> bool:
        if id(value) in self._names:
            return True
        return isinstance(value, (FunctionType, type)) and self._is_inside(value.__module__)

    def _mentions(self, value: Any) -> bool:
        """Whether ``value`` is, or directly holds, a function or class of the module."""
        kind = type(value)
        if kind in _ATOMS:
            return False
        if self._is_own(value):
            return True
        if kind is tuple:
            return any(map(self._is_own, value))
        if kind.__module__ == "builtins" or issubclass(kind, (type, ModuleType)):
            return False
        return any(map(self._is_own, list(_attributes(value).values())))

    def _enter(self, module: str, path: tuple[Step, ...], value: Any, *key: Any) -> None:
        entry = Entry(module, list(path))
        try:
            for k in key:
                entry.key = self._pickled(k)
        except Exception:
            return  # a class of the module; or it cannot travel
        try:
            entry.value = self._pickled(value)
        except Exception:  # OnlyReal; or it cannot travel
            if module.partition(".")[0] in sys.stdlib_module_names:
                return  # what it notes of everybody (`typing.overload`): not worth a load
            if key and isinstance(value, FunctionType):
                entry.label = value.__qualname__
        self.entries.append(entry)

    def _pickled(self, value: Any) -> bytes:
        file = io.BytesIO()
        pickler = _Pickler(file, 5)
        pickler.name = self._name
        pickler.dump(value)
        return file.getvalue()

    def _name(self, value: Any) -> Name | None:
        """The name of a function of the module; None for all else.

        Raises:
            OnlyReal: it is of the module, and has no stub.
        """
        found = self._names.get(id(value))
        if found is not None or not self._is_own(value):
            return found
        if isinstance(value, FunctionType) and describing.found(value.__module__, value.__qualname__, value):
            return value.__module__, value.__qualname__
        raise OnlyReal


_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})


def _base(kinds: tuple[type, ...], value: Any) -> Any:
    """Which of these kinds of tables ``value`` is."""
    return next(kind for kind in kinds if issubclass(type(value), kind))


def _attributes(value: Any) -> Any:
    """The attributes of an object's own."""
    try:
        found = vars(value)
    except Exception:
        return {}
    return found if isinstance(found, (dict, MappingProxyType)) else {}


class _Pickler(pickle.Pickler):
    name: Callable[[Any], Name | None]

    def persistent_id(self, value: Any) -> Name | None:
        return self.name(value)
