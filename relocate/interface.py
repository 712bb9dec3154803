"""A module's public face as data: made once by looking at the real module, never remade for a move.

`describing` makes it where the real module is; `proxy` builds a module object from it.  The description
holds no code.  What it says of each name:

* ``function``: its parameters, defaults, documentation; calls to it are relocated;
* ``value``: a constant, by value;
* ``reference``: something that lives in another module; it is that module's object there too;
* ``simple``: an exception class that needs none of its code to be rebuilt; of a module in C only where that is not;
* ``class``, ``object``: only the real module can give these.

Its *digest* names the version of the code, see `digests`.
"""

from __future__ import annotations

import os

import msgspec


class Value(msgspec.Struct, array_like=True, omit_defaults=True):
    """A Python value.  ``plain`` (marshal) needs no import to read; ``pickled`` may; else only text."""

    plain: bytes = b""
    pickled: bytes = b""
    modules: list[str] = []
    text: str = ""


class Parameter(msgspec.Struct, array_like=True, omit_defaults=True):
    """One parameter, in `inspect.Parameter`'s terms."""

    name: str
    kind: int
    default: Value | None = None
    annotation: Value | None = None


class Signature(msgspec.Struct, array_like=True, omit_defaults=True):
    """A parameter list and what is said of the result."""

    parameters: list[Parameter]
    returns: Value | None = None


class Function(msgspec.Struct, tag="function"):
    """A callable that is not a class.

    ``home`` is the module under which the same object is found as ``qualname``, if there is one:
    two modules that offer it then share one proxy.  ``name`` is the name under which it is counted
    and bound.  ``actual`` are the parameters it really takes, ``shown`` what `inspect.signature`
    says if that differs (a decorator that keeps ``__wrapped__`` takes what it likes).  ``generates``
    and ``awaits`` mark generator functions and coroutine functions, both together the functions of
    asynchronous generators.  ``attributes`` are those of its own that are values; the others have names
    only: those in ``methods`` can be called, those in ``objects`` cannot.
    """

    home: str
    qualname: str
    name: str
    module: str | None
    label: str
    doc: str | None
    actual: Signature | None
    shown: Signature | None = None
    builtin: bool = False
    generates: bool = False
    awaits: bool = False
    attributes: dict[str, Value] = {}
    methods: list[str] = []
    objects: list[str] = []


class Constant(msgspec.Struct, tag="value"):
    """A value."""

    value: Value


class Reference(msgspec.Struct, tag="reference"):
    """Another module's object; with an empty ``qualname`` the module itself."""

    module: str
    qualname: str = ""


class SimpleClass(msgspec.Struct, tag="simple"):
    """An exception class that can be rebuilt from its bases and plain attributes."""

    module: str
    qualname: str
    doc: str | None
    bases: list[Reference]
    members: dict[str, Value]
    in_c: bool = False
    """Whether its module is in C, which has it out of reach: then it is the real one, if that is here."""


class RealClass(msgspec.Struct, tag="class"):
    """A class that only the real module can give."""

    module: str
    qualname: str


class Opaque(msgspec.Struct, tag="object"):
    """An object that only the real module can give; ``kind`` says of what type."""

    kind: str


Step = tuple[str, bytes, bytes]
"""From an object to one of its attributes, by name; or to an item, by its key, and what that is when empty, pickled."""


class Entry(msgspec.Struct, array_like=True, omit_defaults=True):
    """What a module has entered in a table of another one, ``module``; see `entries`.

    ``path`` leads from there to the table.  ``key`` is empty for an item of a list or set, ``value`` if
    only the real module can make the entry; if that is a function, ``label`` is what it is called.
    """

    module: str
    path: list[Step]
    key: bytes = b""
    value: bytes = b""
    label: str = ""


Member = Function | Constant | Reference | SimpleClass | RealClass | Opaque


class Interface(msgspec.Struct):
    """The description of one module."""

    name: str
    digest: bytes
    package: bool
    doc: str | None
    file: str | None
    path: list[str]
    exported: list[str] | None
    dynamic: list[str]
    members: dict[str, Member]
    lines: dict[str, tuple[str, int]] = {}
    """Of functions: the file, as the worker has it, and the line where each begins.

    Not a part of `Function`, as one that has only moved in its file is described the same.
    """
    answers: bool = False
    """Whether it has a ``__getattr__``, which may give more than it tells by ``dir()``."""
    entries: list[Entry] = []
    """In tables of other modules."""
    gpu: bool = False
    """Whether it has names of a package that computes on a GPU where there is one."""

    @property
    def needs(self) -> set[str]:
        """The other modules that this one has names of."""
        return {m.module for m in self.members.values() if isinstance(m, Reference)}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Interface)


def encode(interface: Interface) -> bytes:
    """``interface`` as bytes."""
    return _encoder.encode(interface)


def decode(data: bytes | bytearray | memoryview) -> Interface:
    """The inverse of `encode`.

    Raises:
        ValueError: ``data`` is not an interface.
    """
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not an interface: {error}") from None


def uses_gpu(data: bytes) -> bool:
    """`Interface.gpu` of an encoded interface, without the rest."""
    return msgspec.msgpack.decode(data, type=_Glance).gpu


class _Glance(msgspec.Struct):
    gpu: bool = False


def here(file: str, there: str | None, local: str | None) -> str:
    """The path of ``file`` here, by where a module of the same package lies there and here."""
    folder = os.path.join(os.path.dirname(there or ""), "")
    if not there or not local or not file.startswith(folder):
        return file
    return os.path.join(os.path.dirname(local), file.removeprefix(folder))
