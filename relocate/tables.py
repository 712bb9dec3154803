"""Tables of other modules, in which a module enters its functions when it is imported.

A decorator that notes what it decorates, a list of plugins, the implementations of a generic function:
whoever looks there finds the real functions, and only if the real module has been loaded.  Where it has
not been, the program's functions are stubs, and they are entered here as the real ones are on a worker.

Rules:

* A worker that describes a module looks for its functions in dictionaries, lists and sets (weak ones,
  too) of all other modules: values of a module, or attributes of its classes and instances, or items
  of such a table.  What it finds is a part of the interface.
* An entry travels as the pickle of its key and of its value, in which a function of the module goes by
  its name.  Here that is its stub.
* Tables of designated modules are on the workers, and left alone.  Tables of others are filled when
  their modules have been executed here; none is imported for it.
* A class of the module is a real one, and real modules make their entries themselves.  So a key that is
  one needs nothing: who looks for it has it.  If a class, or what cannot travel, is what the table holds,
  the real module is loaded, unless the key is there.  For a function without a name, not before it is
  called, if it has a key.
* While a real module is loaded, dictionaries and sets are as they were: a table may refuse what it has.
  Of the entries that it makes, a value gives way to the stub, as does an item of a list; keys are there
  twice, with one value.
"""

from __future__ import annotations

import copy
import gc
import importlib
import io
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from . import describing
from .interface import Entry, Function, Interface, Step
from .proxy import Registry, namespace_of

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


# Where the real module is ------------------------------------------------------------------------


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


# Where the stubs are -----------------------------------------------------------------------------


class _Unpickler(pickle.Unpickler):
    function: Callable[[Name], Any]

    def persistent_load(self, name: Name) -> Any:
        return self.function(name)


def _unpickled(data: bytes, function: Callable[[Name], Any]) -> Any:
    unpickler = _Unpickler(io.BytesIO(data))
    unpickler.function = function
    return unpickler.load()


_MISSING: Any = object()


class _Made:
    """An entry that was made here."""

    __slots__ = ("before", "key", "table", "value")

    def __init__(self, table: Any, key: Any, value: Any) -> None:
        self.table = table
        self.key = key
        self.value = value
        self.before = table.get(key, _MISSING) if isinstance(table, MAPPINGS) else _MISSING

    def undo(self, real: Any) -> None:
        """Let the table be as it was; ``real`` is what the real module would have entered in a list."""
        table = self.table
        if isinstance(table, SETS):
            table.discard(self.value)
        elif isinstance(table, LISTS):
            index = _index(table, self.value)
            if index is not None and real is not _MISSING:
                table[index] = real
            elif index is not None:
                del table[index]
        elif table.get(self.key, _MISSING) is self.value:  # the program has entered nothing else meanwhile
            if self.before is _MISSING:
                del table[self.key]
            else:
                table[self.key] = self.before


class Tables:
    """The tables filled for one handle.

    Args:
        registry: who has the stubs.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._wanted: dict[str, dict[str, list[Entry]]] = {}
        """By module with tables and by described module."""
        self._made: dict[int, tuple[Entry, _Made, Callable[[], object]]] = {}
        """By entry's id; the last is to be called when the table has changed."""
        self._begun: list[tuple[Any, Any, Any]] = []
        """Tables that were made here as items of others: these, the key, the table."""
        self._withdrawn = False
        self._gone: set[str] = set()
        """Packages whose entries are withdrawn."""

    def concerns(self, module: str) -> bool:
        """Whether ``module`` has a table to fill."""
        return module in self._wanted

    @contextmanager
    def executing(self, module: ModuleType) -> Iterator[None]:
        """While ``module`` is executed; then its tables are filled."""
        yield
        self.fill(module.__name__)

    def described(self, interface: Interface) -> None:
        """Make the entries of a module, in the tables that are here; those of before are out of date."""
        for known in self._wanted.values():
            for entry in known.pop(interface.name, ()):
                self._undo(entry)
        for entry in interface.entries:
            if not self._registry.designated(entry.module):
                self._wanted.setdefault(entry.module, {}).setdefault(interface.name, []).append(entry)
        for module in {entry.module for entry in interface.entries}:
            self.fill(module)

    def fill(self, module: str) -> None:
        """Make all entries in the tables of ``module``, if it is loaded."""
        holder = sys.modules.get(module)
        if holder is None or self._withdrawn:
            return
        for name, entries in list(self._wanted.get(module, {}).items()):
            for entry in entries:
                # A table that is not here, or takes no stub, is as it would be without.
                with suppress(Exception):
                    self._enter(holder, name, entry)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While real modules are loaded: tables stay as they are, but for what is withdrawn."""
        self._withdrawn = True
        try:
            yield
        finally:
            self.restore()

    def withdraw(self, module: str) -> None:
        """Before a real module is loaded, which makes its entries itself: take back those of its package."""
        package = module.partition(".")[0]
        if package in self._gone:
            return
        self._gone.add(package)
        for known in self._wanted.values():
            for described, entries in known.items():
                if described.partition(".")[0] == package:
                    for entry in reversed(entries):
                        made = self._made.get(id(entry))
                        if made is not None and not isinstance(made[1].table, LISTS):  # whose order counts
                            self._undo(entry)

    def restore(self) -> None:
        """The end of `kept`; in a forked child that of another thread's, which is not here."""
        self._withdrawn = False
        self._gone.clear()
        for module in list(self._wanted):
            self.fill(module)

    def undo(self) -> None:
        """Take all entries back."""
        self._wanted.clear()
        for entry, _, _ in reversed(list(self._made.values())):
            self._undo(entry)
        for holder, key, made in reversed(self._begun):
            if not made and holder.get(key) is made:
                del holder[key]
        self._begun.clear()

    def _undo(self, entry: Entry) -> None:
        _, made, changed = self._made.pop(id(entry), (None, None, bool))
        if made is not None:
            with suppress(Exception):
                made.undo(self._real_version(entry.value))
                changed()

    def _enter(self, holder: ModuleType, name: str, entry: Entry) -> None:
        table, changed = self._table(holder, entry.path)
        known = self._made.get(id(entry))
        if known is not None and known[1].table is table:
            if isinstance(table, LISTS):  # the real module may have been loaded since
                _replace(table, self._real_version(entry.value), known[1].value)
            return
        key = _unpickled(entry.key, self._stub) if entry.key else None
        value = self._value(entry, name, table, key)
        if value is _MISSING or (id(entry) in self._made and self._made[id(entry)][1].table is table):
            return  # nothing; or it was made meanwhile, as a stub may have to be imported
        made = _Made(table, key, value)
        if entry.key:
            table[key] = value
        elif isinstance(table, SETS):
            table.add(value)
        elif not _replace(table, self._real_version(entry.value), value):
            table.append(value)
        self._made[id(entry)] = entry, made, changed
        changed()

    def _value(self, entry: Entry, name: str, table: Any, key: Any) -> Any:
        """What is to be entered; `_MISSING` if nothing is, or the real module has made the entry."""
        loaded = self._registry.loaded(name) is not None
        if loaded and entry.key:
            real = self._real_version(entry.key)
            if real is not _MISSING and real != key and real in table:
                return table[real]
        if entry.value:
            return _unpickled(entry.value, self._stub)
        if loaded or (entry.key and key in table):
            return _MISSING
        if entry.label:
            return self._late(entry, name, table, key)
        self._registry.real(name)
        return _MISSING

    def _late(self, entry: Entry, name: str, table: Any, key: Any) -> Callable[..., Any]:
        """A function that has the real module loaded, and calls what that enters in its place."""

        def late(*args: Any, **kwargs: Any) -> Any:
            self._registry.real(name)
            return table[key](*args, **kwargs)

        late.__module__, late.__qualname__ = name, entry.label
        late.__name__ = entry.label.rpartition(".")[2]
        return late

    def _table(self, holder: Any, path: list[Step]) -> tuple[Any, Callable[[], object]]:
        changed: Callable[[], object] = bool
        for name, pickled, empty in path:
            if pickled:
                key = _unpickled(pickled, self._stub)
                if key not in holder:
                    holder[key] = made = _unpickled(empty, self._stub)
                    self._begun.append((holder, key, made))
                holder = holder[key]
                continue
            holder, owner = vars(holder)[name], holder
            if isinstance(holder, MappingProxyType):  # of a generic function, which has a cache besides
                (holder,) = gc.get_referents(holder)
                changed = getattr(owner, "_clear_cache", bool)
        return holder, changed

    def _stub(self, name: Name) -> Any:
        made = self._registry.made.get(name)
        return made if made is not None else _member(importlib.import_module(name[0]), name)

    def _real_version(self, data: bytes) -> Any:
        """A key or value as the real module enters it; `_MISSING` if it is not loaded."""
        try:
            return _unpickled(data, self._real)
        except Exception:
            return _MISSING

    def _real(self, name: Name) -> Any:
        return _member(self._registry.loaded(name[0]), name)


def _member(module: Any, name: Name) -> Any:
    for part in name[1].split("."):
        module = getattr(module, part)
    return module


def _replace(table: Any, real: Any, stub: Any) -> bool:
    """Let a list have ``stub`` in the place of ``real``, once; whether it had one of them."""
    there = _index(table, real)
    here = _index(table, stub)
    if there is not None and here is not None:
        del table[there]
    elif there is not None:
        table[there] = stub
    return there is not None or here is not None


def _index(table: Any, value: Any) -> int | None:
    for index, item in enumerate(table):
        if item is value or (type(item) is type(value) and _equal(item, value)):
            return index
    return None


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return False
