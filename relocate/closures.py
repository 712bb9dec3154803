"""Whether a function of the program may travel by value, or has to be called where it is.

By value: its code and what it captures are sent, and it runs on the worker.  That is right if nobody
can tell, which is proven from its bytecode or else not assumed:

* what it captures (free variables, globals, defaults) are plain values, functions for which the
  same holds, and functions of packages that are known to be pure;
* it binds no name outside itself, and sets no attribute;
* it changes nothing in place, if any captured value could be changed;
* no function of its module binds a name that it reads, as another thread may call that one;
* and nothing else that is lent with the same call could change what it captures (`lending`).

A function of an installed package travels by its name: the worker has the package too.
"""

from __future__ import annotations

import dis
import re
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from functools import lru_cache, partial
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple

from .origin import is_installed, is_stub
from .purity import known

ATOMS = (type(None), bool, int, float, complex, str, bytes, range, slice, type(...), type(NotImplemented), re.Pattern)
CONTAINERS = (list, dict, set, bytearray, deque)
KNOWN = frozenset(
    known.names(
        "bisect builtins cmath collections copy decimal fractions functools heapq itertools json math numbers numpy",
        "operator re scipy statistics string struct textwrap",
    )
)
"""Packages whose functions are pure, but for those that `purity.known` tells of."""
UNKNOWN = frozenset(
    known.names(
        "__import__ breakpoint compile delattr eval exec exit getattr globals hash help id input locals memoryview",
        "next open quit setattr super vars",
    )
)
"""Built-in functions that reach more than their arguments show, or give something else in each process."""
REBINDS = frozenset(
    known.names(
        "STORE_GLOBAL DELETE_GLOBAL STORE_ATTR DELETE_ATTR IMPORT_NAME IMPORT_STAR LOAD_BUILD_CLASS LOAD_CLASSDEREF",
        "LOAD_FROM_DICT_OR_DEREF LOAD_FROM_DICT_OR_GLOBALS",
    )
)
INSIDES = frozenset(known.names("__globals__ __closure__ __code__ __dict__ __defaults__ __kwdefaults__ __subclasses__"))
"""Attributes that lead from a function or class to what it captures."""
CHANGING = known.CHANGES | known.CHANGES_SILENTLY
CHANGING |= frozenset(
    known.names(
        "__init__ __setstate__ __iadd__ __isub__ __imul__ __imatmul__ __itruediv__ __ifloordiv__ __imod__ __ipow__",
        "__ilshift__ __irshift__ __iand__ __ixor__ __ior__ byteswap methodcaller partition resize",
    )
)
"""Attributes that may change what they are asked of."""
CHANGES = frozenset(("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"))
LOADS = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"))
MEMBERS = frozenset(("LOAD_ATTR", "LOAD_METHOD"))
DATA = (*ATOMS, *CONTAINERS, tuple, frozenset)
BUILT_IN = (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType)
MOST = 10_000
"""Captured values that are looked at before a function is held to be unproven."""


class Unproven(Exception):
    """It may not travel by value."""


class _Code(NamedTuple):
    """What the bytecode of a function, and of those inside it, does."""

    rebinds: bool
    binds: frozenset[str]
    """Names of its module that it binds."""
    changes: bool
    loads: tuple[tuple[str, ...], ...]
    """Names from outside, each with the attributes that are asked of it."""
    free: tuple[tuple[str, ...], ...]
    """The same for free variables."""


def proof(function: FunctionType) -> Proof | None:
    """That nobody can tell that ``function`` runs elsewhere, by value; None if it is not proven."""
    found = Proof()
    try:
        found.function(function)
    except (Unproven, RecursionError):
        return None
    return None if found.changes and found.changeable else found


class Proof:
    """What was found while a function was looked through."""

    def __init__(self) -> None:
        self.changes = False
        """Whether something is changed in place, an argument perhaps."""
        self.changeable = False
        """Whether a captured value could be."""
        self.variable = False
        """Whether a captured name could be bound to another value."""
        self._seen: dict[int, Any] = {}

    @property
    def depends(self) -> bool:
        """Whether another function that runs meanwhile could make a difference."""
        return self.changeable or self.variable

    def function(self, function: FunctionType) -> None:
        """One that travels, or is captured."""
        if vars(function):
            raise Unproven
        code = _code(function.__code__)
        if code.rebinds:
            raise Unproven
        self.changes = self.changes or code.changes
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.value(value)
        for name, *members in code.loads:
            if name in function.__globals__:
                if isinstance(function.__globals__[name], DATA) and _is_bound_in(name, function.__globals__):
                    raise Unproven
                self._used(function.__globals__[name], members)
            else:
                self._built_in(name, function.__globals__)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for name, *members in code.free:
            try:
                self._used(cells[name].cell_contents, members)
            except ValueError:  # not yet bound
                raise Unproven from None

    def _built_in(self, name: str, space: dict[str, Any]) -> None:
        builtins = space.get("__builtins__", {})
        builtins = vars(builtins) if isinstance(builtins, ModuleType) else builtins
        if name in UNKNOWN or name not in builtins or known.of_call(name):
            raise Unproven
        value = builtins[name]
        found = getattr(value, "__module__", None), getattr(value, "__name__", None)
        if value is not NotImplemented and found != ("builtins", name):
            raise Unproven  # no worker has what the program has put there

    def _used(self, value: Any, members: list[str]) -> None:
        """A captured value, and what is asked of it."""
        self.variable = self.variable or isinstance(value, DATA)
        for member in members:
            if not isinstance(value, ModuleType):
                break
            if known.of_call(f"{value.__name__}.{member}"):
                raise Unproven
            value = getattr(value, member, None)
            if value is None:
                raise Unproven
        self.value(value)

    def value(self, value: Any) -> None:
        """A captured value."""
        if isinstance(value, ATOMS):
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if len(self._seen) > MOST:
            raise Unproven
        kind = type(value)
        if kind in CONTAINERS:
            self.changeable = True
            self._each(value.values() if kind is dict else () if kind is bytearray else value)
            if kind is dict:
                self._each(value)
        elif kind in (tuple, frozenset):
            self._each(value)
        elif kind is FunctionType and is_stub(value):
            return  # designated, which is to say pure
        elif kind is FunctionType and not is_installed(value.__module__):
            self.function(value)
        elif callable(value) and not isinstance(value, ModuleType):
            self._known(value)
        elif kind.__module__ == "numpy" and (kind.__name__ == "ndarray" or hasattr(value, "dtype")):
            self.changeable = self.changeable or kind.__name__ == "ndarray"
            if value.dtype.hasobject:
                raise Unproven
        elif not (isinstance(value, Enum) and is_installed(kind.__module__)):
            raise Unproven

    def _each(self, values: Any) -> None:
        for value in values:
            self.value(value)

    def _known(self, value: Callable[..., Any]) -> None:
        """A function or class of a package that is known."""
        if isinstance(value, partial):
            self._each((value.func, *value.args, *value.keywords.values()))
            return
        if type(value).__name__ not in ("ufunc", "_ArrayFunctionDispatcher") and not isinstance(
            value, (type, FunctionType, *BUILT_IN)
        ):
            raise Unproven
        owner = getattr(value, "__objclass__", value) if not hasattr(value, "__module__") else value
        module, name = owner.__module__ or "", getattr(value, "__name__", "")
        if isinstance(value, BuiltinFunctionType) and not isinstance(value.__self__, (ModuleType, type, type(None))):
            raise Unproven  # a method of some object
        if module.partition(".")[0].lstrip("_") not in KNOWN or known.of_call(f"{module.lstrip('_')}.{name}"):
            raise Unproven
        if module == "builtins" and name in UNKNOWN:
            raise Unproven
        if name in known.CHANGED_ARGUMENT or f"{module.lstrip('_')}.{name}" in known.CHANGED_ARGUMENT:
            self.changes = True


def _is_bound_in(name: str, space: dict[str, Any]) -> bool:
    """Whether a function of the module with that name space, or a method of its classes, binds the name: then it may
    do so while the call runs, in another thread."""
    for value in list(space.values()):
        for each in (value, *vars(value).values()) if type(value) is type else (value,):
            if type(each) is FunctionType and each.__globals__ is space and name in _code(each.__code__).binds:
                return True
    return False


@lru_cache(1024)
def _code(code: CodeType) -> _Code:
    rebinds = changes = False
    binds: set[str] = set()
    loads: set[tuple[str, ...]] = set()
    free: set[tuple[str, ...]] = set()
    for each, outside in _all(code, frozenset(code.co_freevars)):
        steps = [i for i in dis.get_instructions(each) if i.opname not in ("CACHE", "EXTENDED_ARG")]
        for at, step in enumerate(steps):
            name, what = step.opname, step.argval
            if name in REBINDS or (name in ("STORE_DEREF", "DELETE_DEREF") and what in outside):
                rebinds = True
                if name in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                    binds.add(what)
            elif name in CHANGES or (name == "BINARY_OP" and step.argrepr.endswith("=")):
                changes = True
            elif name in MEMBERS:
                rebinds = rebinds or known.of_method(what) is not None or what in INSIDES
                changes = changes or what in CHANGING
            elif isinstance(what, tuple) and "out" in what:  # the name of an argument
                changes = True
            if name in LOADS and (name != "LOAD_DEREF" or what in outside):
                members = []
                for later in steps[at + 1 :]:
                    if later.opname not in MEMBERS:
                        break
                    members.append(later.argval)
                (free if name == "LOAD_DEREF" else loads).add((what, *members))
    return _Code(rebinds, frozenset(binds), changes, tuple(sorted(loads)), tuple(sorted(free)))


def _all(code: CodeType, outside: frozenset[str]) -> Iterator[tuple[CodeType, frozenset[str]]]:
    """``code`` and all code inside it, each with which of its free variables are outside the function."""
    yield code, outside
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all(constant, outside & frozenset(constant.co_freevars))
