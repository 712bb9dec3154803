"""An `Interface` and a way to call, made into a module object.

The module is a genuine one: whoever looks into its ``__dict__`` finds every name.  Functions are
generated with the real parameter list, so that a wrong call is Python's own TypeError before any
traffic, and their globals are the module's dictionary.  What would load other code to exist here
(classes, constants of other libraries' types, other modules) is made when it is first touched.

A generated function sends only what the caller gave: an argument that *is* the default object is
left out, and the real function fills in its own.  So a default that cannot travel (a mark made by
``object()``) need not.  The stub of a generator function or coroutine function is one too, and sends
nothing before its first item is asked for or it is awaited.
"""

from __future__ import annotations

import builtins
import copyreg
import importlib
import marshal
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.machinery import PathFinder
from inspect import CO_ASYNC_GENERATOR
from types import CodeType, FunctionType, ModuleType
from typing import Any

from . import interface as face
from . import opaque
from .interface import Function, Interface, Signature, Value
from .lookalikes import BuiltinProxy, Late, Method, Placeholder
from .stubs import parameters, placed, source, trimmed
from .target import Call, Described, Real, Target


def compiled(text: str, name: str) -> CodeType:
    """The code of ``text``, which tracebacks call ``name``."""
    return compile(text, name, "exec", dont_inherit=True)


class Registry:
    """The objects made so far, by home, so that two modules that offer one function share one proxy."""

    def __init__(
        self,
        call: Call,
        real: Real,
        loaded: Callable[[str], ModuleType | None],
        designated: Callable[[str], bool],
        compiled: Callable[[str, str], CodeType] = compiled,
    ) -> None:
        self.call = call
        self.real = real
        self.loaded = loaded
        self.designated = designated
        self.compiled = compiled
        """Gives the code of a text, which is also given a name."""
        self.wait: Callable[[], object] = bool
        """Waits while another thread loads a real module."""
        self.made: dict[tuple[str, str], Any] = {}
        self.targets: dict[tuple[str, str], Target] = {}
        self.entered: Callable[[Interface], object] = bool
        """Told of an interface that has entries in tables, when its functions are made."""
        self.gpu: set[str] = set()
        """The modules that compute on a GPU where there is one."""
        self.through = BuiltinProxy.__call__.__code__
        """The code that stands between a caller and the stub of a C function."""

    def function(self, target: Target) -> Any:
        """The local copy of a function.

        Raises:
            AttributeError: it is not installed here.
        """
        try:
            found: Any = self.real(target.module)
        except ImportError as error:
            raise AttributeError(
                f"this attribute of {target.name} needs the real module, which is not installed here ({error})"
            ) from error
        for part in target.member.split("."):
            found = getattr(found, part)
        return found

    def asked(self, module: ModuleType, name: str) -> Any:
        """What the ``__getattr__`` of the real module gives: a deprecated name, say.

        Raises:
            AttributeError: nothing; or the real module is not installed here.
        """
        path = namespace_of(module).get("__path__")
        if path is not None and PathFinder.find_spec(f"{module.__name__}.{name}", path) is not None:
            # ``from package import module`` asks first.
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        try:
            real = self.real(module.__name__)
        except ImportError as error:
            raise AttributeError(
                f"{module.__name__}.{name} needs the real module, which is not installed here ({error})"
            ) from error
        from . import output  # not before: it loads much

        value = output.on_behalf(getattr, real, name)  # a warning, say that the name is an old one
        home = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
        target = self.targets.get(home) if callable(value) else None
        return self.made[home] if target is not None and self.function(target) is value else value


class ProxyModule(ModuleType):
    """A module generated from an interface."""

    __slots__ = (
        "_relocate_copies",
        "_relocate_described",
        "_relocate_interface",
        "_relocate_late",
        "_relocate_registry",
    )
    _relocate_copies: dict[str, Any]
    _relocate_described: Described
    _relocate_late: dict[str, face.Member]
    _relocate_registry: Registry
    _relocate_interface: Interface

    def __getattr__(self, name: str) -> Any:
        late = _late(self)
        member = late.get(name)
        if member is None:
            made = namespace_of(self)
            if name in made:  # another thread has just made it
                return made[name]
            interface: Interface | None = inner_slot(self, "_relocate_interface")
            if interface is not None and interface.answers and not name.startswith("__"):
                return self._relocate_registry.asked(self, name)
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self._relocate_registry.wait()
        value = namespace_of(self).setdefault(name, _make_late(self, name, member))
        late.pop(name, None)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*namespace_of(self), *_late(self)})

    def __delattr__(self, name: str) -> None:
        if _late(self).pop(name, None) is None or name in namespace_of(self):
            super().__delattr__(name)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        # Whoever takes the dictionary (import *, vars, doctest) must find everything in it.
        for name in list(_late(self)):
            try:
                getattr(self, name)
            except AttributeError:
                continue  # not installed here and not asked for by name: absent, as far as vars() goes
        return namespace_of(self)


def _import(module: ProxyModule) -> tuple[Any, ...]:
    return importlib.import_module, (module.__name__,)


copyreg.pickle(ProxyModule, _import)  # for cloudpickle, as functions use modules


def _late(module: ProxyModule) -> dict[str, face.Member]:
    late: dict[str, face.Member] = inner_slot(module, "_relocate_late") or {}
    return late


def namespace_of(module: ModuleType) -> dict[str, Any]:
    """The module's dictionary as it is, without making what is still to be made."""
    inner: dict[str, Any] = _dictionary.__get__(module)
    return inner


_dictionary: Any = vars(ModuleType)["__dict__"]


class Builtins(dict[str, Any]):
    """What a proxy's namespace holds as ``__builtins__``.

    It finds the names in annotations, which `typing.get_type_hints` evaluates there: those that are
    still to be made, and modules, as the text of an annotation names a class with its module.
    """

    def __missing__(self, name: str) -> Any:
        module = sys.modules.get(sys._getframe(1).f_globals.get("__name__", ""))
        if isinstance(module, ProxyModule) and name in _late(module):
            return getattr(module, name)
        try:
            return importlib.import_module(name)
        except ImportError:
            raise KeyError(name) from None


_builtins = Builtins(vars(builtins))


def populate(module: ProxyModule, interface: Interface, registry: Registry) -> None:
    """Fill ``module`` from ``interface``.

    Again, with another version's interface: functions that are still described the same go on
    working under the new digest; those that are not keep the old one, with which a worker refuses
    them; names that are gone are removed.
    """
    inner = namespace_of(module)
    before: Interface | None = inner_slot(module, "_relocate_interface")
    described: Described = inner_slot(module, "_relocate_described") or Described(interface.name, b"")
    known = before.members if before is not None else {}
    for name, member in known.items():
        if interface.members.get(name) != member:
            inner.pop(name, None)
            old = registry.targets.get((member.home, member.qualname)) if isinstance(member, Function) else None
            if old is not None and old.described is described:
                old.described = Described(described.name, described.digest)
                del registry.made[old.home], registry.targets[old.home]
    described.digest = interface.digest
    (registry.gpu.add if interface.gpu else registry.gpu.discard)(interface.name)
    module._relocate_interface = interface
    module._relocate_described = described
    module._relocate_registry = registry
    module._relocate_late = late = {}
    module._relocate_copies = copies = {}
    inner["__doc__"] = interface.doc
    inner["__builtins__"] = _builtins
    if interface.file is not None and "__file__" not in inner:
        inner["__file__"] = interface.file
    if interface.exported is not None:
        inner["__all__"] = list(interface.exported)
    functions: list[tuple[str, Function]] = []
    for name, member in interface.members.items():
        if isinstance(member, Function):
            made = registry.made.get((member.home, member.qualname))
            if type(made) is FunctionType and made.__closure__ is None:
                # Its code was replaced, as IPython's autoreload does: it is a stub no more.
                del registry.made[member.home, member.qualname], registry.targets[member.home, member.qualname]
                made = None
            if made is not None:
                inner[name] = made
            else:
                functions.append((name, member))
        elif isinstance(member, face.Constant) and member.value.plain:
            inner[name] = copies[name] = marshal.loads(member.value.plain)
        elif not (name in inner and known.get(name) == member):
            late[name] = member
    lines = {
        name: (face.here(file, interface.file, inner.get("__file__")), line)
        for name, (file, line) in interface.lines.items()
    }
    for (name, member), stub in zip(functions, _functions(functions, described, inner, registry, lines), strict=True):
        # Names that the module gives to one object are one object here too.
        inner[name] = registry.made.setdefault((member.home, member.qualname), stub)
    real = registry.loaded(interface.name)
    if real is not None:
        unify(module, real)
    if interface.entries or (before is not None and before.entries):
        registry.entered(interface)


def unify(module: ProxyModule, real: ModuleType) -> dict[int, tuple[Any, Any]]:
    """Let the proxy have the real module's own constants in the place of the copies that it was made with.

    The classes' code, which runs here, may go by their identity: ``if help is SUPPRESS``.

    Returns:
        by the id of each copy that somebody else has, too: it, and the real module's own.
    """
    inner = namespace_of(module)
    copies: dict[str, Any] = inner_slot(module, "_relocate_copies") or {}
    held = {}
    while copies:
        name, copy = copies.popitem()
        own = real.__dict__.get(name)
        if own is not copy and inner.get(name) is copy and type(own) is type(copy) and _is_equal(own, copy):
            inner[name] = own
            if sys.getrefcount(copy) > 2:
                held[id(copy)] = copy, own
    return held


def _is_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return False  # the program has put something into the other, of which this cannot be said


def inner_slot(module: ProxyModule, name: str) -> Any:
    """One of the module's own slots, None if it is not set yet."""
    try:
        return object.__getattribute__(module, name)
    except AttributeError:
        return None


def _make_late(module: ProxyModule, name: str, member: face.Member) -> Any:
    registry = module._relocate_registry
    if isinstance(member, face.Constant):
        return pickle.loads(member.value.pickled)
    if isinstance(member, face.Reference):
        return _refer(member, module.__name__, name)
    if isinstance(member, face.SimpleClass):
        return simple_class(member, registry)
    try:
        real = registry.real(module.__name__, name)
    except ImportError as error:
        if isinstance(member, face.RealClass) and opaque.askers:
            return opaque.stand_in(member.module, member.qualname)
        what = "class" if isinstance(member, face.RealClass) else "object"
        raise AttributeError(
            f"{what} {module.__name__}.{name} needs the real module, which is not installed here ({error}); "
            f"install it, or use only the module's functions"
        ) from error
    value = getattr(real, name)
    if type(value) is object:
        from . import lending

        lending.marks[id(value)] = value
    return value


def _refer(member: face.Reference, module: str, name: str) -> Any:
    try:
        value: Any = importlib.import_module(member.module)
        for part in member.qualname.split(".") if member.qualname else ():
            value = getattr(value, part)
        return value
    except ImportError as error:
        raise AttributeError(f"{module}.{name} comes from {member.module!r}, which is not installed here") from error


def simple_class(member: face.SimpleClass, registry: Registry) -> type:
    """The class that ``member`` describes; always the same one."""
    key = (member.module, member.qualname)
    made = registry.made.get(key)
    if made is None and (real := registry.loaded(member.module)) is not None:
        made = registry.made[key] = getattr(real, member.qualname)
    if made is None and member.in_c:
        with suppress(ImportError, AttributeError):  # the module or the class is not here
            made = registry.made[key] = getattr(registry.real(member.module), member.qualname)
    if made is None:
        bases = tuple(_refer(b, member.module, member.qualname) for b in member.bases)
        space = {name: marshal.loads(value.plain) for name, value in member.members.items()}
        space |= {"__module__": member.module, "__qualname__": member.qualname, "__doc__": member.doc}
        made = registry.made.setdefault(key, type(bases[0])(member.qualname.rpartition(".")[2], bases, space))
    kind: type = made
    return kind


# Functions ---------------------------------------------------------------------------------------


def _functions(
    functions: list[tuple[str, Function]],
    described: Described,
    inner: dict[str, Any],
    registry: Registry,
    lines: dict[str, tuple[str, int]],
) -> list[Any]:
    """The function objects; all are compiled in one go, as that costs a third of one by one."""
    if not functions:
        return []
    count = len(functions)
    texts = [source(i, f.actual, generates=f.generates, awaits=f.awaits) for i, (_, f) in enumerate(functions)]
    texts += [source(count + i, f.shown) for i, (_, f) in enumerate(functions) if f.shown is not None]
    text = "\n".join(texts)
    makers: dict[str, Any] = {}
    exec(registry.compiled(text, f"<relocated {described.name}>"), inner, makers)
    made = []
    for index, (name, function) in enumerate(functions):
        target = Target(described, name, function)
        registry.targets.setdefault(target.home, target)
        values = [v for v in map(_default, parameters(function.actual)) if v is not None]
        stub: Any = makers[f"_{index}"](partial(registry.call, target), trimmed, *(v[0] for v in values))
        if function.generates and function.awaits:
            stub = _looking_asynchronous(stub)
        _dress(stub, function, function.actual, registry, lines.get(name))
        if function.shown is not None:
            stub.__wrapped__ = _shown(target, function, makers[f"_{count + index}"], registry, lines.get(name))
            stub.__annotations__ = stub.__wrapped__.__annotations__
        real = partial(registry.function, target)
        if function.builtin:
            more = frozenset({*function.attributes, *function.methods, *function.objects} - stub.__dict__.keys())
            in_c = (function.module or "").startswith("_") and function.module != function.home
            stub = BuiltinProxy(stub, real, more, ":".join(target.home) if in_c else "")
        else:
            stub.__dict__.update((key, Method(key, real, target)) for key in function.methods)
            stub.__dict__.update((key, Late(key, real)) for key in function.objects)
        made.append(stub)
    return made


def _looking_asynchronous(stub: FunctionType) -> FunctionType:
    """``stub``, which returns an asynchronous generator, with the mark of who is one's function."""
    code = stub.__code__.replace(co_flags=stub.__code__.co_flags | CO_ASYNC_GENERATOR)
    made = FunctionType(code, stub.__globals__, stub.__name__, stub.__defaults__, stub.__closure__)
    made.__kwdefaults__ = stub.__kwdefaults__
    return made


def _shown(
    target: Target,
    function: Function,
    maker: Callable[..., FunctionType],
    registry: Registry,
    line: tuple[str, int] | None,
) -> FunctionType:
    """What `inspect.signature` finds behind ``__wrapped__``; who calls it gets what the local copy has there."""

    def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return registry.function(target).__wrapped__(*args, **kwargs)

    values = [v for v in map(_default, parameters(function.shown)) if v is not None]
    wrapped = maker(call, trimmed, *(v[0] for v in values))
    _dress(wrapped, function, function.shown, registry, line)
    return wrapped


def _dress(
    stub: Any, function: Function, signature: Signature | None, registry: Registry, line: tuple[str, int] | None
) -> None:
    stub.__name__ = function.label.rpartition(".")[2]
    stub.__qualname__ = function.label
    stub.__code__ = placed(stub.__code__, function.label, line)
    stub.__doc__ = function.doc
    stub.__module__ = function.module
    if signature is not None:
        notes = {p.name: p.annotation for p in signature.parameters if p.annotation is not None}
        if signature.returns is not None:
            notes["return"] = signature.returns
        stub.__annotations__ = {name: _annotation(value, registry) for name, value in notes.items()}
    for name, value in function.attributes.items():
        if (found := _read(value)) is not None:
            stub.__dict__[name] = found[0]


def _default(parameter: face.Parameter) -> tuple[Any] | None:
    value = parameter.default
    return None if value is None else _read(value) or (Placeholder(value.text),)


def _read(value: Value) -> tuple[Any] | None:
    """The value itself if that loads nothing."""
    if value.plain:
        return (marshal.loads(value.plain),)
    if value.pickled and all(m in sys.modules and not isinstance(sys.modules[m], ProxyModule) for m in value.modules):
        return (pickle.loads(value.pickled),)
    return None


def _annotation(value: Value, registry: Registry) -> Any:
    """The annotation itself if that loads nothing, else its text, as postponed evaluation has it."""
    if value.plain:
        return marshal.loads(value.plain)
    if value.pickled and all(m in sys.modules and not registry.designated(m) for m in value.modules):
        return pickle.loads(value.pickled)
    return value.text
