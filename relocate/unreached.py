"""References to real functions and modules that an exchange cannot reach: in lists, closures, defaults, objects.

The interpreter knows who refers to what, but to ask it is to go through all that is in memory.  So only those
functions are looked for that have more references than are accounted for, which few have, and all of them
together.  From what refers to them the way is followed to something that has a name, ``STEPS`` steps at most.
What a designated module's own functions, classes and objects hold is left out: its own code gets its own
functions.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from operator import is_
from types import BuiltinMethodType, CellType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from .origin import public

STEPS = 4
"""From a function to something that has a name."""
MOST = 64
"""Functions and modules that are looked for: each is compared with every reference in memory."""
HOLDERS = 1000
"""Things whose own holders are looked for in one step."""
BOUND = (BuiltinMethodType, MethodType)
IN = {CellType: "a closure", functools.partial: "a functools.partial", MethodType: "a bound method"}


def search(
    exchanged: dict[str, Any], accounted: Iterable[Any], real: dict[str, ModuleType], designated: Callable[[str], bool]
) -> tuple[str, ...]:
    """What holds real functions or modules, in words.

    Args:
        exchanged: these, by name.
        accounted: one of these for each reference that is known.
        real: the real modules, by name; what they have under a name is known, too.
        designated: whether a module is.
    """
    known = Counter(map(id, accounted))
    spaces = {id(real): "", id(exchanged): ""}  # names of modules, by their dictionaries; empty: these are no matter
    for module in list(real.values()):
        known.update(map(id, module.__dict__.values()))
        spaces[id(module.__dict__)] = ""
    for name, other in list(sys.modules.items()):
        if type(other) is ModuleType:
            spaces[id(other.__dict__)] = "" if _is_own(name, designated) else name
    counts, least = _counts(exchanged), _counts({"": _mark()})[""]
    sought = {
        id(thing): name
        for name, thing in exchanged.items()
        if isinstance(thing, ModuleType) or counts[name] > least + known[id(thing)]
    }
    chosen = dict(list(sought.items())[:MOST])
    return _Climb(spaces, designated).up([exchanged[n] for n in chosen.values()], list(chosen.values()))


def _mark() -> Any:
    return lambda: None


def _counts(things: dict[str, Any]) -> dict[str, int]:
    return {name: sys.getrefcount(thing) for name, thing in things.items()}


def _is_own(module: Any, designated: Callable[[str], bool]) -> bool:
    """Whether a module's code has the real functions rightly: designated ones', and relocate itself."""
    return isinstance(module, str) and (designated(public(module)) or module.partition(".")[0] == __package__)


class _Climb:
    """The way up from real functions to what holds them and has a name."""

    def __init__(self, spaces: dict[int, str], designated: Callable[[str], bool]) -> None:
        self._spaces = spaces
        self._designated = designated

    def up(self, things: list[Any], texts: list[str]) -> tuple[str, ...]:
        """What is to be said.

        Args:
            things: what is looked for.
            texts: what is to be said of each.
        """
        said: set[str] = set()
        seen: set[int] = set()
        for step in range(STEPS):
            seen |= {id(things), *map(id, things)}
            places = {id(thing): number for number, thing in enumerate(things)}
            silent = set(places.values()) if step else set()
            further: list[Any] = []
            more: list[str] = []
            seen.add(id(further))
            for holder in gc.get_referrers(*things):
                if type(holder) is FrameType or _is_same(holder, things):
                    continue
                for number in {places[id(held)] for held in gc.get_referents(holder) if id(held) in places}:
                    silent.discard(number)
                    if id(holder) in seen:
                        continue
                    place = self._place(holder, things[number])
                    if place is None and len(further) < HOLDERS:
                        further.append(holder)
                        more.append(f"{texts[number]} in {_kind(holder)}" if not _is_inner(holder) else texts[number])
                    elif place:
                        said.add(f"{texts[number]} {place}")
            said.update(texts[number] for number in silent)  # nobody has a name that leads there
            things, texts = further, more
            if not things:
                break
        said.update(texts)
        return tuple(sorted(said))

    def _place(self, holder: Any, held: Any) -> str | None:
        """Where that is; empty if it is no matter; None: it has no name, so its own holders are asked."""
        if issubclass(type(holder), dict):
            space = self._spaces.get(id(holder))
            key = next((key for key, value in list(dict.items(holder)) if value is held), None)
            return None if space is None else space and f"in {space}.{key}"
        kind = type(holder)  # `isinstance` would ask the object, which may be anything
        if issubclass(kind, ModuleType) or (kind in BOUND and holder.__self__ is held is not None):
            return ""  # a module that C made is what its functions are bound to
        if kind is FunctionType:
            if _is_own(holder.__module__, self._designated):
                return ""
            how = "in the closure" if held is holder.__closure__ else "among the attributes"
            if held is holder.__defaults__ or held is holder.__kwdefaults__:
                how = "among the defaults"
            return f"{how} of {holder.__module__}.{holder.__qualname__}"
        if issubclass(kind, type):
            own = _is_own(holder.__module__, self._designated)
            return "" if own else f"in the class {holder.__module__}.{holder.__qualname__}"
        if kind in IN or kind.__module__ in ("builtins", "collections"):
            return None
        own = _is_own(kind.__module__, self._designated)
        return "" if own else f"in an object of {kind.__module__}.{kind.__qualname__}"


def _is_same(holder: Any, things: list[Any]) -> bool:
    """Whether that is how these were handed on to be looked for."""
    return type(holder) is tuple and len(holder) == len(things) and all(map(is_, holder, things))


def _kind(holder: Any) -> str:
    kind = type(holder)
    return IN.get(kind, f"a {kind.__name__}")


def _is_inner(holder: Any) -> bool:
    """Whether it is only a part of what holds it: a cell, the dictionary of an object."""
    return issubclass(type(holder), (CellType, tuple, dict, staticmethod, classmethod))
