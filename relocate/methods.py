"""Methods of designated classes, made into remote calls: which are replaced, and what a call of one says.

Rules:

* A name in ``methods`` leads to a class, to one method of it, or to a module, which means the public
  classes defined in it and below.  A name in ``modules`` that leads to a class means the same.
* Replaced are public methods, and ``__call__``: functions, class methods, static methods, and what
  a descriptor with ``__wrapped__`` holds (methods that are there under a condition).  Properties,
  other special methods, abstract methods and coroutine functions stay.
* Of what a class inherits, the methods that its own package defines.  One that is named by itself may
  be any, a special one too.
* The package's own code gets the real methods: of calls within calls only the outermost is remote.

A remote method is a remote function whose first argument is the object: it travels, and what the
method has made of it is made of it here (see `restoring`).  So no worker keeps anything.

The stub takes the place of the function in the class that *defines* it, so that inheritance and
``super()`` are what they were.  Which classes are designated is told at the call, by the object's
class; an object of another one gets the real method.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, update_wrapper
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from .config import designates, longest
from .digests import source_digest
from .interface import Function, Parameter, Signature, Value
from .stubs import parameters, placed, source, trimmed
from .target import Described, Target

Call = Callable[[Target, tuple[Any, ...], dict[str, Any]], Any]


class Method:
    """A method that has a stub."""

    __slots__ = ("function", "holder", "kind", "name", "put", "targets", "was")

    def __init__(self, holder: type, name: str, was: Any, function: Callable[..., Any]) -> None:
        self.holder = holder
        self.name = name
        self.was = was
        """What the class had."""
        self.put: Any = None
        """What it has instead."""
        self.function = function
        """The real one, neither bound nor wrapped."""
        self.kind = type(was) if isinstance(was, (staticmethod, classmethod)) else FunctionType
        self.targets: dict[type, tuple[Target, str]] = {}
        """By designated class; and the package whose own code does not get this stub."""

    def target(self, args: tuple[Any, ...]) -> tuple[Target, str] | None:
        """What a call with these arguments means; None if it is not one of a designated class."""
        if self.kind is staticmethod:
            return next(iter(self.targets.values()), None)
        if not args:
            return None
        given = args[0] if self.kind is classmethod else type(args[0])
        for kind in getattr(given, "__mro__", ()):
            found = self.targets.get(kind)
            if found is not None:
                return found
        return None


class Methods:
    """The methods replaced for one handle.

    Args:
        named: names of methods, classes and modules; ``!name`` takes a part out.
        modules: designated modules, among which there may be classes.
        call: runs a call that is the program's.
        loaded: gives a real module, if it is loaded.
        again: is told of a module that is executed again.
    """

    def __init__(
        self,
        named: Sequence[str],
        modules: Sequence[str],
        call: Call,
        loaded: Callable[[str], ModuleType | None],
        again: Callable[[str], object] = bool,
    ) -> None:
        self._named = named
        self._again = again
        self._modules = modules
        self._call = call
        self._loaded = loaded
        self._made: dict[tuple[type, str], Method] = {}
        self._described: dict[str, Described] = {}
        self._own: dict[tuple[str, Any], bool] = {}
        self._executing: set[str] = set()
        self._seen: set[str] = set()
        self._pending: dict[str, ModuleType] = {}
        self._undone = False
        self.found: set[str] = set()
        """Of the names, those that led to a class or a method."""

    # Modules come into being -------------------------------------------------------------------------

    def concerns(self, module: str) -> bool:
        """Whether ``module`` may hold what is designated."""
        return any(
            entry == module or entry.startswith(module + ".") or module.startswith(self._below(entry, entries))
            for entries in (self._named, self._modules)
            for entry in entries
        )

    def _below(self, entry: str, entries: Sequence[str]) -> tuple[str, ...]:
        """Prefixes of the modules that may hold what ``entry`` names, without being a part of its name."""
        if entries is self._modules and not any(part[:1].isupper() for part in entry.split(".")):
            return ()  # most likely a module: not worth a look at all others of its package
        above = entry.rpartition(".")[0]  # a class that its package loads late may be defined anywhere in it
        return tuple(f"{name}." for name in (entry, above, above.rpartition(".")[0]) if name)

    @contextmanager
    def executing(self, module: ModuleType) -> Iterator[None]:
        """While ``module`` is executed; then its classes are what they will be."""
        name = module.__name__
        if name in self._seen:
            self._again(name)
        self._seen.add(name)
        self._executing.add(name)
        try:
            yield
        except BaseException:
            for other in [n for n in list(self._pending) if n.startswith(name + ".")]:
                self._pending.pop(other, None)
            raise
        finally:
            self._executing.discard(name)
        self.executed(sys.modules.get(name, module))

    def executed(self, module: ModuleType) -> None:
        """Replace methods of classes in ``module``; if its package is not ready, when that is.

        A class may have a public name there.
        """
        name = module.__name__
        self._pending[name] = module
        parts = name.split(".")
        if any(".".join(parts[:i]) in self._executing for i in range(1, len(parts))):
            return
        for waiting in list(self._pending):
            if waiting == name or waiting.startswith(name + "."):
                found = self._pending.pop(waiting, None)
                if found is not None:
                    self._look_into(found)

    def _look_into(self, module: ModuleType) -> None:
        name = module.__name__
        for home, described in self._described.items():
            if name == home or name.startswith(home + "."):
                described.digest = b""  # if it was executed before, it may be another version now
        for entries in (self._named, self._modules):
            for entry in (e for e in entries if not e.startswith("!")):
                if designates([entry], name):
                    if entries is self._named:
                        for kind in _classes_of(module):
                            self._designate(kind, entry, *self._public(kind), entries)
                    continue
                parts = entry.split(".")
                for i in range(1, len(parts)):
                    owner = ".".join(parts[:i])
                    if name == owner or name.startswith(owner + "."):
                        self._name(entry, owner, parts[i:], module, entries)

    def _name(self, entry: str, owner: str, rest: Sequence[str], module: ModuleType, entries: Sequence[str]) -> None:
        """Designate what ``rest`` names in ``owner``, if ``module`` has it: a class, or a method."""
        kind: Any = vars(module).get(rest[0])
        package = self._loaded(owner)
        if not isinstance(kind, type) or package is None:
            return
        if module is not package and (kind.__module__ != module.__name__ or rest[0] not in dir(package)):
            return
        label = rest[0]
        for i, part in enumerate(rest[1:], 1):
            inner = getattr(kind, part, None)
            if not isinstance(inner, type):
                if i == len(rest) - 1 and self._designate(kind, owner, owner, label, entries, only=part):
                    self.found.add(entry)
                return
            kind, label = inner, f"{label}.{part}"
        if self._designate(kind, owner, owner, label, entries):
            self.found.add(entry)

    def _public(self, kind: type) -> tuple[str, str]:
        """The module under which a class is counted: a private one behind a public one is a detail."""
        parts = kind.__module__.split(".")
        private = next((i for i, part in enumerate(parts) if part.startswith("_")), len(parts))
        for i in range(max(private, 1), len(parts)):
            home = ".".join(parts[:i])
            if getattr(self._loaded(home), kind.__qualname__, None) is kind:
                return home, kind.__qualname__
        return kind.__module__, kind.__qualname__

    # Classes -----------------------------------------------------------------------------------------

    def _designate(
        self, kind: type, package: str, module: str, label: str, entries: Sequence[str], only: str | None = None
    ) -> bool:
        """Give stubs to the methods of ``kind``, which is ``label`` in ``module``; whether there are any."""
        if issubclass(kind, (type, BaseException)):
            return False
        given = False
        homes: dict[str, type] = {}
        for holder in kind.__mro__:
            for name in vars(holder):
                homes.setdefault(name, holder)
        for name, holder in homes.items():
            if only is not None:
                if name != only:
                    continue
            elif (name.startswith("_") and name != "__call__") or not designates([package], holder.__module__):
                continue
            if not (longest(entries, f"{module}.{label}.{name}") or "").startswith("!"):
                given = self._replace(kind, holder, name, package, module, label) or given
        return given

    def _replace(self, kind: type, holder: type, name: str, package: str, module: str, label: str) -> bool:
        method = self._made.get((holder, name)) or self._make(holder, name)
        if method is None:
            return False
        if kind in method.targets:
            return True
        described = self._described.setdefault(module, Described(module, b""))
        # Of a class method the function, as the class is among the arguments: it may be a subclass.
        member = f"{label}.{name}.__func__" if method.kind is classmethod else f"{label}.{name}"
        function = Function(
            home=holder.__module__, qualname=f"{holder.__qualname__}.{name}", name=f"{module}.{label}.{name}",
            module=module, label=label, doc=None, actual=None,
            generates=inspect.isgeneratorfunction(method.function),
        )  # fmt: skip
        method.targets[kind] = Target(described, member, function, method.function), package
        return True

    def _make(self, holder: type, name: str) -> Method | None:
        was = vars(holder)[name]
        function = _function_in(was)
        if function is None:
            return None
        method = Method(holder, name, was, function)
        stub = self._stub(method)
        method.put = stub
        if method.kind is not FunctionType:
            method.put = method.kind(stub)
        elif was is not function:
            method.put = copy.copy(was)
            vars(method.put).update({key: stub for key, value in vars(was).items() if value is function})
        made = self._made.setdefault((holder, name), method)
        if made is method:  # and not another thread's
            try:
                setattr(holder, name, method.put)
            except (TypeError, AttributeError):  # a class written in C, or one that guards itself
                del self._made[holder, name]
                return None
        return made

    def _stub(self, method: Method) -> FunctionType:
        function: Any = method.function
        signature, defaults = _signature(function)
        makers: dict[str, Any] = {}
        generates = inspect.isgeneratorfunction(function)
        text = source(0, signature, generates=generates)
        exec(compile(text, "<relocated method>", "exec", dont_inherit=True), function.__globals__, makers)
        stub: FunctionType = makers["_0"](partial(self.call, method), trimmed, *defaults)
        update_wrapper(stub, function)
        code: CodeType = function.__code__
        stub.__code__ = placed(stub.__code__, stub.__qualname__, (code.co_filename, code.co_firstlineno))
        return stub

    def undo(self) -> None:
        """Put back what was replaced."""
        self._undone = True
        while self._made:
            (holder, name), method = self._made.popitem()
            if vars(holder).get(name) is method.put:  # the program has put nothing else there meanwhile
                setattr(holder, name, method.was)

    # Calls -------------------------------------------------------------------------------------------

    def call(self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a stub does."""
        if self._undone:  # it is kept somewhere: what the class has now, which a later handle may relocate
            function: Any = _function_in(vars(method.holder).get(method.name)) or method.function
            return function(*args, **kwargs)
        found = method.target(args)
        if found is None or self._is_own(sys._getframe(1).f_back, found[1]):
            return method.function(*args, **kwargs)
        target = found[0]
        described = target.described
        if not described.digest:
            module = self._loaded(described.name)
            assert module is not None
            described.digest = source_digest(module)
        return self._call(target, args, kwargs)

    def _is_own(self, caller: FrameType | None, package: str) -> bool:
        """Whether the caller is code of the class's own package, which gets the real method."""
        if caller is None:
            return False
        name = caller.f_globals.get("__name__")
        key = package, name
        own = self._own.get(key)
        if own is None:
            own = self._own[key] = isinstance(name, str) and designates([package], name)
        file = caller.f_code.co_filename
        # What doctest runs in a module's name is not its code.
        return own and not (file.startswith("<") and file != "<dynamic-code>")


def _classes_of(module: ModuleType) -> list[type]:
    """The public classes that ``module`` defines."""
    name = module.__name__
    return [
        value
        for value in list(vars(module).values())
        if isinstance(value, type)
        and value.__module__ == name
        and "." not in value.__qualname__
        and not value.__name__.startswith("_")
    ]


def _function_in(value: Any) -> Callable[..., Any] | None:
    """The function behind an entry of a class's dictionary, if that is a method which can be relocated."""
    found = value
    if isinstance(value, (staticmethod, classmethod)):
        found = value.__func__
    elif not callable(value) and hasattr(type(value), "__get__"):
        found = getattr(value, "__dict__", {}).get("__wrapped__")
    code = getattr(found, "__code__", None)  # Cython's functions have one, too
    if not isinstance(code, CodeType) or not isinstance(getattr(found, "__globals__", None), dict):
        return None
    if inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
        return None
    return None if getattr(found, "__isabstractmethod__", False) else found


def _signature(function: Any) -> tuple[Signature | None, list[Any]]:
    """The parameters that ``function`` really takes, and its default objects."""
    bare = function
    if isinstance(function, FunctionType):  # __wrapped__ and __signature__ are what is said, not what is
        bare = FunctionType(function.__code__, {}, function.__name__, function.__defaults__, function.__closure__)
        bare.__kwdefaults__ = function.__kwdefaults__
    try:
        found = inspect.signature(bare).parameters.values()
    except (TypeError, ValueError):
        return None, []
    empty = inspect.Parameter.empty
    signature = Signature([Parameter(p.name, int(p.kind), None if p.default is empty else Value()) for p in found])
    taken = {p.name for p in parameters(signature)}
    return signature, [p.default for p in found if p.default is not empty and p.name in taken]
