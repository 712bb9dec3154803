"""Proxies in the place of modules that were imported before relocation began, and all as it was afterwards.

Exchanged are the modules in `sys.modules`, what packages hold of them, and what loaded modules have
imported from them by name.  What the program keeps elsewhere, in a list or a closure, is not reached, but told.
The same is done, and stays so, where a real module that is loaded later has constants of its own (`proxy.unify`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any

from . import unreached
from .origin import public

_dictionary: Any = vars(ModuleType)["__dict__"]
"""As it is: that of a proxy would have all its classes made, for which the real module is loaded."""


class Exchange:
    """What was exchanged for one handle."""

    def __init__(
        self,
        designated: Callable[[str], bool],
        loaded: dict[str, ModuleType],
        may_stay: Callable[[str, ImportError], bool],
    ) -> None:
        self._designated = designated
        self._loaded = loaded
        """The real modules, by name; those found are added."""
        self._may_stay = may_stay
        self._names: list[tuple[dict[str, Any], str, Any, Any]] = []
        """Dictionary, key, what was there, what was put there."""
        self._exchanged: dict[str, Any] = {}
        """The real functions and modules in whose place there are others, by name."""

    def make(self, names: Collection[str]) -> None:
        """Put proxies in the place of the designated modules ``names``.

        Raises:
            ImportError: one cannot be relocated, and may not stay; `undo` is needed all the same.
        """
        from .proxy import ProxyModule, namespace_of

        # A module under a second name (os.path) stays: what it holds is not of that name.
        real = {n: m for n in names if isinstance(m := sys.modules[n], ModuleType) and m.__name__ == n}
        self._loaded.update(real)
        replaced: dict[int, tuple[Any, Any]] = {}
        for name in real:
            del sys.modules[name]
        for name, module in real.items():
            try:
                proxy = importlib.import_module(name)
            except ImportError as error:
                if not self._may_stay(name, error):
                    for other, there in real.items():
                        sys.modules.setdefault(other, there)
                    raise
                proxy = module
            if not isinstance(proxy, ProxyModule):
                _stays(name, proxy, module)
                continue
            replaced[id(module)] = (module, proxy)
            self._exchanged[name] = module
            for key, value in namespace_of(proxy).items():
                original = module.__dict__.get(key)
                if callable(value) and original is not None and original is not value:
                    replaced[id(original)] = (original, value)
                    self._exchanged[f"{name}.{key}"] = original
        if replaced:
            self.rebind(replaced)

    def adopt(self, left: dict[str, ModuleType]) -> None:
        """Import again what the end of an earlier handle took away; the program's names lead there.

        Args:
            left: the earlier handle's proxies, by name.
        """
        from .proxy import ProxyModule, namespace_of

        replaced: dict[int, tuple[Any, Any]] = {}
        for name, before in sorted(left.items()):
            proxy = None
            with suppress(ImportError):  # who imports it again is told
                proxy = importlib.import_module(name)
            if not isinstance(proxy, ProxyModule):
                continue
            replaced[id(before)] = before, proxy
            for key, stub in namespace_of(before).items():
                if isinstance(stub, FunctionType) and (now := getattr(proxy, key, stub)) is not stub:
                    replaced[id(stub)] = stub, now
        if replaced:
            self.rebind(replaced, for_good=True)

    def unreached(self) -> tuple[str, ...]:
        """References to real functions and modules that are not exchanged, in words."""
        if not self._exchanged:
            return ()
        known = (value for _, _, value, _ in self._names)
        return unreached.search(self._exchanged, known, self._loaded, self._designated)

    def rebind(self, replaced: dict[int, tuple[Any, Any]], *, for_good: bool = False) -> None:
        """Exchange what loaded modules have imported by name.

        Args:
            replaced: by the id of what they may have: it, and what they are to have.
            for_good: not to be undone.
        """
        own = __name__.partition(".")[0]
        real = set(map(id, self._loaded.values()))
        for name, module in list(sys.modules.items()):
            if not isinstance(module, ModuleType) or self._designated(public(name)) or name.partition(".")[0] == own:
                continue
            if id(module) in real:  # under a second name, as os.path: it keeps its own functions
                continue
            space = module.__dict__
            for key, value in list(space.items()):
                found = replaced.get(id(value))
                if found is not None and found[0] is value:
                    if not for_good:
                        self._names.append((space, key, value, found[1]))
                    space[key] = found[1]

    def undo(self, relocated: Collection[str]) -> dict[str, ModuleType]:
        """Put the real modules in the place of proxies, of all that were ``relocated``.

        Returns:
            The proxies of which no real module is loaded, by name.
        """
        left = {}
        for name in [n for n in list(sys.modules) if n in relocated and self._designated(n)]:
            there, real = sys.modules[name], self._loaded.get(name)
            _put_back(name, real)
            if real is None and name not in sys.modules:
                left[name] = there
        for holder, key, value, put in reversed(self._names):
            if holder.get(key) is put:  # the program has assigned nothing else meanwhile
                holder[key] = value
        self._names.clear()
        self._exchanged.clear()
        return left


def _stays(name: str, imported: ModuleType, module: ModuleType) -> None:
    """Let ``module`` be what it was, if it was imported once more."""
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    holder = sys.modules.get(parent)
    if holder is not None and _dictionary.__get__(holder).get(last) is imported:
        setattr(holder, last, module)


def _put_back(name: str, real: ModuleType | None) -> None:
    from .proxy import ProxyModule

    if not isinstance(sys.modules[name], ProxyModule):
        return  # it was never relocated
    parent, _, last = name.rpartition(".")
    proxy = sys.modules.pop(name)
    if real is not None:
        sys.modules[name] = real
    holder = sys.modules.get(parent)
    if holder is not None and _dictionary.__get__(holder).get(last) is proxy:
        if real is not None:
            setattr(holder, last, real)
        else:
            delattr(holder, last)
