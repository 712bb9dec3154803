"""Proxies in the place of modules that were imported before relocation began, and all as it was afterwards.

Exchanged are the modules in `sys.modules`, what packages hold of them, and what loaded modules have
imported from them by name.  What the program keeps elsewhere, in a list or a closure, is not reached, but told.
The same is done, and stays so, where a real module that is loaded later has constants of its own (`proxy.unify`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import unreached
from .origin import public

if TYPE_CHECKING:
    from .proxy import ProxyModule

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
        self._former: dict[str, ProxyModule] = {}
        """The proxies, when it is undone, that other modules may still have, or functions of them."""
        self._exchanged: dict[str, Any] = {}
        """The real functions and modules in whose place there are others, by name."""

    def make(self, names: Collection[str]) -> None:
        """Put proxies in the place of the designated modules ``names``.

        Raises:
            ImportError: one cannot be relocated, and may not stay; `undo` is needed all the same.
        """
        from .proxy import ProxyModule

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
            for key, (original, value) in _differing(module, proxy).items():
                replaced[id(original)] = original, value
                self._exchanged[f"{name}.{key}"] = original
        if replaced:
            self.rebind(replaced)

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

    def undo(self, relocated: Collection[str], *, exiting: bool = False) -> None:
        """Put the real modules in the place of proxies, of all that were ``relocated``.

        Args:
            relocated: their names.
            exiting: whether nobody will use the proxies any more.
        """
        proxies = {}
        for name in [n for n in list(sys.modules) if n in relocated and self._designated(n)]:
            if (proxy := _put_back(name, self._loaded.get(name))) is not None:
                proxies[name] = proxy
        for holder, key, value, put in reversed(self._names):
            if holder.get(key) is put:  # the program has assigned nothing else meanwhile
                holder[key] = value
        self._names.clear()
        self._exchanged.clear()
        if exiting or not proxies:
            return
        from .former import retire

        for proxy in proxies.values():
            retire(proxy, self.give_back)
        self._former = proxies
        for name in self._loaded.keys() & proxies.keys():
            self.give_back(name, self._loaded[name])

    def give_back(self, name: str, real: ModuleType) -> None:
        """After `undo`: let modules that imported ``name`` meanwhile, or functions of it, have ``real``, and its."""
        proxy = self._former.pop(name, None)
        if proxy is None:
            return
        for key, part in list(_dictionary.__get__(proxy).items()):
            if isinstance(part, type(proxy)) and _dictionary.__get__(part)["__name__"] == f"{name}.{key}":
                _dictionary.__get__(real).setdefault(key, part)  # the program has imported this part of the package
        given = {id(stub): (stub, own) for stub, own in _differing(proxy, real).values()}
        self.rebind({**given, id(proxy): (proxy, real)}, for_good=True)


def _differing(module: ModuleType, other: ModuleType) -> dict[str, tuple[Any, Any]]:
    """By name: what both have under it and can be called, but is not the same."""
    there = _dictionary.__get__(other)
    return {
        key: (value, there[key])
        for key, value in list(_dictionary.__get__(module).items())
        if callable(value) and there.get(key) is not None and there[key] is not value
    }


def _stays(name: str, imported: ModuleType, module: ModuleType) -> None:
    """Let ``module`` be what it was, if it was imported once more."""
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    holder = sys.modules.get(parent)
    if holder is not None and _dictionary.__get__(holder).get(last) is imported:
        setattr(holder, last, module)


def _put_back(name: str, real: ModuleType | None) -> ProxyModule | None:
    """Take the proxy out; gives it, None if there was none."""
    from .proxy import ProxyModule

    proxy = sys.modules[name]
    if not isinstance(proxy, ProxyModule):
        return None  # it was never relocated
    parent, _, last = name.rpartition(".")
    del sys.modules[name]
    if real is not None:
        sys.modules[name] = real
    holder = sys.modules.get(parent)
    if holder is not None and _dictionary.__get__(holder).get(last) is proxy:
        from .former import has_successor

        if real is not None:
            setattr(holder, last, real)
        elif not has_successor(proxy):
            delattr(holder, last)
    return proxy
