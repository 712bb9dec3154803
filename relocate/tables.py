"""Tables of other modules, in which a module enters its functions when it is imported.

A decorator that notes what it decorates, a list of plugins, the implementations of a generic function:
whoever looks there finds the real functions, and only if the real module has been loaded.  Where it has
not been, the program's functions are stubs, and they are entered here as the real ones are on a worker.

Rules:

* What a worker has found of them (see `entries`) is a part of the interface.  Where a pickle of an entry
  has the name of a function, here that is its stub.
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

import gc
import importlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import MappingProxyType, ModuleType
from typing import Any

from .entries import LISTS, MAPPINGS, SETS, Name
from .interface import Entry, Interface, Step
from .proxy import Registry


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
