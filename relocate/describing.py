"""A real module looked at: its `Interface`.

Rules:

* What is there is told; nothing is imported or called for it but what an attribute gives.  What does not
  let itself be looked at is not there.
* A function is a reference if it is another module's, unless it is of the same package and exported: then
  it is counted and bound under the public name.
* A value goes in the simplest form that is faithful: `marshal`, which loads nothing, else `pickle`, else as text.
"""

from __future__ import annotations

import inspect
import io
import marshal
import pickle
import pickletools
import re
import sys
import types
from typing import Any

from .digests import digest
from .interface import (
    Constant,
    Function,
    Interface,
    Member,
    Opaque,
    Parameter,
    RealClass,
    Reference,
    Signature,
    SimpleClass,
    Value,
)
from .origin import is_c, public

PLAIN_LIMIT = 1 << 20
"""Constants that pickle to more bytes than this stay where they are until they are touched."""
GPU = frozenset(("cupy", "jax", "tensorflow", "torch"))
"""Packages whose users compute on a GPU where there is one."""


def describe(module: types.ModuleType, version: bytes | None = None) -> Interface:
    """Look at the real ``module``.

    Args:
        module: as imported.
        version: its digest as of when it was imported; its files may have changed since.
    """
    name = module.__name__
    names = list(module.__dict__)
    # A lazily populated package (lazy_loader, PEP 562) says by dir() and __all__ what it has.
    exported = getattr(module, "__all__", None)
    exported = [str(n) for n in exported] if exported is not None else None
    dynamic = [n for n in {*dir(module), *(exported or ()), *_of_class(module)} if n not in module.__dict__]
    members: dict[str, Member] = {}
    lines: dict[str, tuple[str, int]] = {}
    for member in [*names, *sorted(dynamic)]:
        if member in _MODULE_DUNDERS:
            continue
        try:
            value = getattr(module, member)
            described = _member(module, member, value, exported or ())
        except Exception:
            # Announced, but not there (an optional dependency), or it does not let itself be looked
            # at: it is not there for us either.
            continue
        if described is not None:
            members[member] = described
            if isinstance(described, Function) and (line := _line(value)) is not None:
                lines[member] = line
    return Interface(
        name=name,
        digest=version or digest(module),
        package=hasattr(module, "__path__"),
        doc=module.__doc__,
        file=getattr(module, "__file__", None),
        path=[str(p) for p in getattr(module, "__path__", ())],
        exported=exported,
        dynamic=[d for d in dynamic if d in members],
        members=members,
        lines=lines,
        answers=callable(module.__dict__.get("__getattr__")),
        gpu=any(map(_is_of_gpu, [module, *vars(module).values()])),
    )


def _is_of_gpu(value: object) -> bool:
    if isinstance(value, types.ModuleType):
        home = vars(value).get("__name__")
    else:
        home = value.__module__ if isinstance(value, (type, types.FunctionType)) else None
    return isinstance(home, str) and home.partition(".")[0] in GPU


def _of_class(module: types.ModuleType) -> set[str]:
    """The names that a module has from a class of its own, which dir() does not tell."""
    mro = type(module).__mro__
    own = mro[: mro.index(types.ModuleType)] if types.ModuleType in mro else ()
    return {name for kind in own for name in vars(kind) if not name.startswith("__")}


_MODULE_DUNDERS = frozenset(
    {
        "__name__",
        "__doc__",
        "__package__",
        "__loader__",
        "__spec__",
        "__file__",
        "__path__",
        "__cached__",
        "__builtins__",
        "__all__",
        "__getattr__",
        "__dir__",
        "__dict__",
        "__warningregistry__",
        "__conditional_annotations__",
    }
)


# One member --------------------------------------------------------------------------------------


def _member(module: types.ModuleType, name: str, value: Any, exported: Any) -> Member | None:
    if isinstance(value, types.ModuleType):
        return Reference(value.__name__)
    if isinstance(value, type):
        return _class(module, name, value)
    home = getattr(value, "__module__", None)
    if _is_function(value):
        return _function(module, name, value, exported)
    if isinstance(home, str) and home != module.__name__ and found(home, getattr(value, "__qualname__", None), value):
        return Reference(home, value.__qualname__)
    described = capture(value)
    if described.plain or (described.pickled and not _is_name_in(module.__name__, described)):
        return Constant(described)
    kind = type(value)
    return Opaque(f"{kind.__module__}.{kind.__qualname__}")


def _is_function(value: Any) -> bool:
    if inspect.isroutine(value):
        return True
    if not callable(value) or hasattr(type(value), "__getitem__"):
        return False  # `typing.Optional` is called, among other things
    # numpy's ufuncs, functools' wrappers, Cython's and other libraries' callables.
    return isinstance(getattr(value, "__name__", None), str) and not hasattr(value, "__origin__")


def found(home: str | None, qualname: Any, value: object) -> bool:
    if not isinstance(home, str) or not isinstance(qualname, str) or "<" in qualname:
        return False
    holder: Any = sys.modules.get(home)
    if getattr(holder, "__name__", home) != home:
        return False  # a second name that C has given to a module, which may not be there elsewhere
    for part in qualname.split("."):
        holder = getattr(holder, part, None)
    return holder is value


def _function(module: types.ModuleType, name: str, value: Any, exported: Any) -> Member:
    said = getattr(value, "__module__", None)
    label = getattr(value, "__qualname__", None) or value.__name__
    if not isinstance(label, str):
        label = name
    home, qualname = module.__name__, name
    if found(said, label, value):
        assert isinstance(said, str)
        home, qualname = said, label
    if home != public(home) == module.__name__.partition(".")[0]:  # the module's own part in C
        home, qualname = module.__name__, label if getattr(module, label, None) is value else name
    inside = home == module.__name__ or home.startswith(module.__name__ + ".")
    same_package = home.split(".")[0] == module.__name__.split(".")[0]
    if not inside and not (same_package and name in exported):
        return Reference(home, qualname)
    counted = home
    # A private module behind a public one is a detail: count and bind under the public name.
    while "." in counted and counted.rpartition(".")[2].startswith("_"):
        parent = counted.rpartition(".")[0]
        if getattr(sys.modules.get(parent), qualname, None) is not value:
            break
        counted = parent
    builtin = not isinstance(value, types.FunctionType)
    actual, shown = _signatures(value)
    attributes, methods, objects = _attributes(value)
    doc = getattr(value, "__doc__", None)
    return Function(
        home=home,
        qualname=qualname,
        name=f"{counted}.{qualname}",
        module=said if isinstance(said, str) else None,
        label=label,
        doc=doc if isinstance(doc, str) else None,
        actual=actual,
        shown=shown,
        builtin=builtin,
        generates=inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value),
        awaits=inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value),
        attributes=attributes,
        methods=methods,
        objects=objects,
    )


def _attributes(value: Any) -> tuple[dict[str, Value], list[str], list[str]]:
    """What a function has beside what every function has: values, names of callables, other names."""
    values: dict[str, Value] = {}
    methods, objects = [], []
    for key in sorted({*dir(value), *getattr(value, "__dict__", ())}):
        if key.startswith("__"):
            continue
        try:
            item = getattr(value, key)
        except Exception:
            continue  # a property of the callable's class that has nothing to say
        captured = capture(item)
        if captured.plain or (captured.pickled and (isinstance(item, type) or not callable(item))):
            values[key] = captured
        elif callable(item):
            methods.append(key)
        else:
            objects.append(key)
    return values, methods, objects


def _line(value: Any) -> tuple[str, int] | None:
    """The file and line where a function begins, behind what decorates it; None of a C function."""
    try:
        code = inspect.unwrap(value).__code__
    except (AttributeError, ValueError):
        return None
    return (code.co_filename, code.co_firstlineno) if isinstance(code, types.CodeType) else None


def _signatures(value: Any) -> tuple[Signature | None, Signature | None]:
    if isinstance(value, types.FunctionType):
        # The code's own parameters: __signature__ and __wrapped__ are what is said, not what is.
        bare = types.FunctionType(value.__code__, {}, value.__name__, value.__defaults__, value.__closure__)
        bare.__kwdefaults__ = value.__kwdefaults__
        bare.__annotations__ = value.__annotations__ if not hasattr(value, "__wrapped__") else {}
        actual = _signature(inspect.signature(bare))
        if not hasattr(value, "__wrapped__") and not hasattr(value, "__signature__"):
            return actual, None
    else:
        actual = None
    try:
        said = inspect.signature(value)
    except (TypeError, ValueError):
        return actual, None
    shown = _signature(said)
    if actual is not None or not inspect.isbuiltin(value):
        return actual, shown  # of a callable that is no function we know nothing
    if value.__self__ is None and (getattr(value, "__text_signature__", "") or "").startswith("($"):
        # Made without its module: it is not given what it calls ``$self``, which `inspect` does not know.
        return Signature(shown.parameters[1:], shown.returns), shown
    return shown, None  # the parser of a C function is its text signature


def _signature(signature: inspect.Signature) -> Signature:
    empty = inspect.Parameter.empty
    return Signature(
        [
            Parameter(
                p.name,
                int(p.kind),
                None if p.default is empty else capture(p.default),
                None if p.annotation is empty else _hint(p.annotation),
            )
            for p in signature.parameters.values()
        ],
        None if signature.return_annotation is inspect.Signature.empty else _hint(signature.return_annotation),
    )


def _hint(annotation: Any) -> Value:
    """An annotation; its text is an expression of dotted names, as postponed evaluation has it."""
    captured = capture(annotation)
    if not captured.plain:
        text = repr(annotation)
        if isinstance(annotation, type) and not hasattr(annotation, "__origin__"):
            text = f"{annotation.__module__}.{annotation.__qualname__}".removeprefix("builtins.")
        text = re.sub(r"ForwardRef\('([^']*)'[^)]*\)", r"\1", text)
        captured.text = re.sub(r"[~+-](?=[^\W\d])", "", text)  # of type variables
    return captured


def _class(module: types.ModuleType, name: str, value: type) -> Member:
    home, qualname = value.__module__, value.__qualname__
    if home != module.__name__ and found(home, qualname, value):
        inside = home.startswith(module.__name__ + ".")
        if not inside:
            return Reference(home, qualname)
    simple = _simple(value)
    if simple is not None and found(home, qualname, value):
        raises = _in_c(value)
        return simple if raises is None else Reference(raises, qualname)
    return RealClass(module.__name__, name)


def _in_c(value: type) -> str | None:
    """The module in C that has an exception class under its name, though it says to be another's.

    It is what that module raises: no class that is rebuilt elsewhere would do, `xml.parsers.expat.ExpatError` say.
    Python's own ones; elsewhere it may well be one that has imported the class.
    """
    for name in sys.stdlib_module_names & sys.modules.keys():
        other = sys.modules[name]
        if name != value.__module__ and is_c(other) and vars(other).get(value.__qualname__) is value:
            return name
    return None


_CLASS_DUNDERS = frozenset(
    {
        "__module__",
        "__qualname__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__firstlineno__",
        "__static_attributes__",
        "__slots__",
    }
)


def _simple(value: type) -> SimpleClass | None:
    """``value`` as a class that needs none of its code, or None."""
    if issubclass(value, BaseException):
        members = {}
        for key, item in value.__dict__.items():
            if key in _CLASS_DUNDERS:
                continue
            captured = capture(item)
            if not captured.plain:
                return None
            members[key] = captured
        if type(value) is not type:
            return None
        return SimpleClass(
            value.__module__,
            value.__qualname__,
            value.__doc__,
            [Reference(b.__module__, b.__qualname__) for b in value.__bases__],
            members,
            is_c(sys.modules.get(value.__module__)),
        )
    return None


# Values ------------------------------------------------------------------------------------------


def capture(value: Any) -> Value:
    """``value`` in the simplest form that is faithful."""
    if is_plain(value):
        data = marshal.dumps(value)
        if len(data) <= PLAIN_LIMIT:
            return Value(plain=data)
    elif not isinstance(value, types.ModuleType):
        try:
            data = pickle.dumps(value, 5)
            if len(data) <= PLAIN_LIMIT and _faithful(value, data):
                return Value(pickled=data, modules=sorted(_modules(data)), text=_text(value))
        except Exception:
            pass  # whatever pickle says, the value stays where it is and shows as text
    return Value(text=_text(value))


def _faithful(value: Any, data: bytes) -> bool:
    """Whether a copy will do: ``object()`` as a mark is compared by identity, and a copy is not it."""
    equality: object = type(value).__eq__
    if equality is object.__eq__ and not isinstance(value, (types.FunctionType, type)):
        return pickle.loads(data) is value
    return True


def is_plain(value: Any) -> bool:
    """Whether ``value`` is made of exact built-in types only."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind in (tuple, list, set, frozenset):
        return all(map(is_plain, value))
    if kind is dict:
        return all(map(is_plain, value)) and all(map(is_plain, value.values()))
    return False


_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))


def _is_name_in(module: str, value: Value) -> bool:
    """Whether ``value`` is pickled as a name in ``module``, as type variables are: nothing else would give it."""
    made = [opcode.name for opcode, _, _ in pickletools.genops(value.pickled)][-3:]
    return module in value.modules and made == ["STACK_GLOBAL", "MEMOIZE", "STOP"]


def _modules(data: bytes) -> set[str]:
    """The modules that unpickling ``data`` imports."""
    found: set[str] = set()
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        if isinstance(argument, str):
            strings.append(argument)
        if opcode.name == "GLOBAL" and isinstance(argument, str):
            found.add(argument.split(" ")[0])
    # STACK_GLOBAL takes its names from the stack; any string of the pickle that names a loaded
    # module may be one.  Too many is harmless: the value is then read later.
    found.update(s for s in strings if s in sys.modules)
    return found


def _text(value: Any) -> str:
    try:
        return repr(value)[:200]
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
