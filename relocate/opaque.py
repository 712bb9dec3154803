"""Values whose class cannot be real here: they say what they are, and their methods run on a worker.

A *stand-in* is a class made for a name that leads nowhere here.  Unpickling makes its objects as it
would make the real ones, and they note how; pickling says the same again, so that a worker has the
real object.  What a method changes is told by attributes, and those an object has of its own.

The functions from `attribute` on run where the real class is.
"""

from __future__ import annotations

import copy
import copyreg
import importlib
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

_SPECIAL = """
    abs add and bool bytes call ceil complex contains delitem divmod enter eq exit float floor floordiv format ge
    getitem gt hash iadd iand ifloordiv ilshift imatmul imod imul index int invert ior ipow irshift isub iter
    itruediv ixor le len lshift lt matmul mod mul ne neg next or pos pow radd rand rdivmod reversed rfloordiv rlshift
    rmatmul rmod rmul ror round rpow rrshift rshift rsub rtruediv rxor setitem str sub truediv trunc xor
"""
SPECIAL = frozenset(f"__{name}__" for name in _SPECIAL.split())
"""Special methods that a stand-in has if the real class has one of its own."""


class Asker(Protocol):
    """Who reaches the workers."""

    def ask(self, function: str, module: str, name: str, args: tuple[Any, ...]) -> Any:
        """What ``function`` of this module gives where ``module`` is; counted as ``name``."""

    def reads(self) -> bool:
        """Whether this thread is unpickling what a worker has sent."""


askers: list[Asker] = []
_made: dict[tuple[str, str], StandIn] = {}


def stand_in(module: str, qualname: str) -> StandIn:
    """The class that stands for ``qualname`` of ``module``; always the same one."""
    found = _made.get((module, qualname))
    if found is None:
        space = {"__module__": module, "__qualname__": qualname, "__slots__": ()}
        found = _made.setdefault((module, qualname), StandIn(qualname.rpartition(".")[2], (Opaque,), space))
        try:
            special: dict[str, bool] = _ask("specials", found, "", (found,))
        except Exception:
            special = {}  # nobody can tell now
        for name, there in special.items():
            setattr(found, name, _special(name) if there else None)
    return found


def _ask(function: str, kind: StandIn, name: str, args: tuple[Any, ...]) -> Any:
    if not askers:
        raise AttributeError(f"{kind._name}: it is not installed here, and relocation is not enabled")
    return askers[-1].ask(function, kind.__module__, f"{kind._name}.{name}" if name else kind._name, args)


def _reads() -> bool:
    return bool(askers) and askers[-1].reads()


def _special(name: str) -> Callable[..., Any]:
    def special(self: Opaque, *args: Any, **kwargs: Any) -> Any:
        if name == "__setitem__" and _reads():
            self._relocate_pairs.append(args)
            return None
        if name == "__hash__" and _reads():
            return object.__hash__(self)  # only the worker knows its own, which it tells when it is asked
        if name == "__exit__":
            args = (*args[:2], None)  # a traceback is of this process
        return _call(type(self), self, name, args, kwargs)

    special.__name__ = name
    return special


def _call(kind: StandIn, value: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _ask("method", kind, name, (value, name, args, kwargs))


def _attribute(kind: StandIn, value: Any, name: str) -> Any:
    """An attribute of an object, or of the class itself, that only the worker knows."""
    if name.startswith("__") or _reads():
        raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")
    is_method, found = _ask("attribute", kind, name, (value, name))
    return partial(_forward, kind, value, name) if is_method else found


def _forward(kind: StandIn, value: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
    return _call(kind, value, name, args, kwargs)


class StandIn(type):
    """The class of stand-ins."""

    @property
    def _name(cls) -> str:
        return f"{cls.__module__}.{cls.__qualname__}"

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if not _reads():
            return _ask("construct", cls, "", (cls, args, kwargs))
        made: Any = cls.__new__(cls, *args, **kwargs)  # type: ignore[arg-type]
        made._relocate_called = True
        return made

    def __getattr__(cls, name: str) -> Any:
        return _attribute(cls, cls, name)

    def __repr__(cls) -> str:
        return f"<class {cls._name!r}, which is not installed here>"


class Opaque(metaclass=StandIn):
    """The base of all stand-ins."""

    __slots__ = (
        "__dict__", "__weakref__", "_relocate_args", "_relocate_called", "_relocate_items", "_relocate_kwargs",
        "_relocate_pairs", "_relocate_slots", "_relocate_state",
    )  # fmt: skip
    _relocate_args: tuple[Any, ...]
    _relocate_kwargs: dict[str, Any]
    _relocate_called: bool
    _relocate_items: list[Any]
    _relocate_pairs: list[Any]
    _relocate_slots: frozenset[str]
    _relocate_state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = object.__new__(cls)
        made._relocate_args, made._relocate_kwargs = args, kwargs
        made._relocate_called = False
        made._relocate_items, made._relocate_pairs = [], []
        made._relocate_slots, made._relocate_state = frozenset(), None
        return made

    def __init_subclass__(cls) -> None:
        if Opaque not in cls.__bases__:
            raise TypeError(f"{cls.__bases__[0]!r} cannot be a base: install its module here")

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        elif isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            self.__dict__.update({**(state[0] or {}), **state[1]})
            self._relocate_slots = frozenset(state[1])
        else:
            self._relocate_state = state

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        kind, args, kwargs = type(self), self._relocate_args, self._relocate_kwargs
        state: Any = self._relocate_state
        if state is None and self.__dict__:
            inner = {k: v for k, v in self.__dict__.items() if k not in self._relocate_slots}
            slots = {k: v for k, v in self.__dict__.items() if k in self._relocate_slots}
            state = (inner or None, slots) if slots else inner
        how: tuple[Any, ...] = (copyreg.__newobj__, (kind, *args))  # type: ignore[attr-defined]
        if self._relocate_called:
            how = (kind, args)
        elif kwargs:
            how = (copyreg.__newobj_ex__, (kind, args, kwargs))  # type: ignore[attr-defined]
        if self._relocate_items or self._relocate_pairs:
            # Pickle's own way to add items calls methods, which cannot be told from the program's calls of them.
            return filled, (*how, state, self._relocate_items, self._relocate_pairs)
        return (*how, state)

    def append(self, item: Any) -> Any:
        """What unpickling adds; otherwise the method of that name."""
        return self._relocate_items.append(item) if _reads() else _call(type(self), self, "append", (item,), {})

    def extend(self, items: Any) -> Any:
        """Likewise."""
        return self._relocate_items.extend(items) if _reads() else _call(type(self), self, "extend", (items,), {})

    def __getattr__(self, name: str) -> Any:
        return _attribute(type(self), self, name)

    def __repr__(self) -> str:
        return f"<{type(self)._name} object, whose class is not installed here>"


def by_name(kind: StandIn) -> tuple[Any, ...]:
    """How a stand-in is pickled: as the name of the real class."""
    return named, (kind.__module__, kind.__qualname__)


def filled(make: Any, args: tuple[Any, ...], state: Any, items: list[Any], pairs: list[Any]) -> Any:
    """An object that holds items: a list or a mapping of its own kind."""
    if any(isinstance(value, StandIn) for value in (make, *args[:1])):
        kind: Any = make if isinstance(make, StandIn) else args[0]
        made = kind.__new__(kind, *(args if kind is make else args[1:]))
        made._relocate_called = kind is make
        made._relocate_items, made._relocate_pairs = items, pairs
        if state is not None:
            made.__setstate__(state)
        return made
    how = (make, args, state, iter(items) if items else None, iter(pairs) if pairs else None)
    return copy._reconstruct(None, None, *how)  # type: ignore[attr-defined]


def named(module: str, qualname: str) -> Any:
    """The real class, or what stands for it here."""
    try:
        import pkgutil

        return pkgutil.resolve_name(f"{module}:{qualname}")
    except (ImportError, AttributeError):
        if not askers:
            raise
        return stand_in(module, qualname)


copyreg.pickle(StandIn, by_name)


class Unpickler(pickle.Unpickler):
    """Makes stand-ins for what is not here."""

    def find_class(self, module: str, name: str, /) -> Any:
        """The real one, if there is one."""
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            if not askers:
                raise
            return stand_in(module, name)


# There -------------------------------------------------------------------------------------------


def attribute(value: Any, name: str) -> tuple[bool, Any]:
    """Whether the attribute can be called, and if not, what it is."""
    found = getattr(value, name)
    return (True, None) if callable(found) else (False, found)


def method(value: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the method gives."""
    kind = type(value)
    if name == "__iter__":
        return (item for item in value)  # an iterator would take the object with it
    if name in SPECIAL:
        return getattr(kind, name)(value, *args, **kwargs)
    return getattr(value, name)(*args, **kwargs)


def construct(kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An object of the class."""
    return kind(*args, **kwargs)


def specials(kind: Any) -> dict[str, bool]:
    """The special methods of its own that a class has; False: that it refuses, as lists do ``__hash__``."""
    if not isinstance(kind, type):
        return {}
    own = {name: getattr(kind, name) for name in sorted(SPECIAL) if hasattr(kind, name)}
    return {n: v is not None for n, v in own.items() if v is not getattr(object, n, None)}


def source(name: str) -> tuple[str, bool, str] | None:
    """The source of a module, whether it is a package, and its file; None if it has no source."""
    module = importlib.import_module(name)
    spec = module.__spec__
    loader: Any = spec.loader if spec is not None else None
    text = loader.get_source(name) if hasattr(loader, "get_source") else None
    return None if text is None else (text, hasattr(module, "__path__"), module.__file__ or name)
