"""Objects that stand for what is only where a real function is: a C function, an attribute, a default.

Each looks like what it stands for as far as that can be told without it.  What else is asked of it, the local
copy is asked, which is loaded then; a default is never needed here, as who leaves the argument out sends none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from .stubs import trimmed
from .target import Target


class Placeholder:
    """Stands for a default that exists only where the real function is; shows what that shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def __reduce__(self) -> str:
        raise TypeError(f"the default {self._text} exists only on the worker; leave the argument out")


class BuiltinProxy:
    """The proxy of a C function.  Like one, it does not become a method when a class holds it.

    Attributes that only the real function has are those of the local copy.  Where the module of which it says
    to be is not that of the proxy, ``path`` is the name that leads to it, as `pkgutil.resolve_name` takes it.
    """

    __slots__ = ("__dict__", "__weakref__", "__wrapped__", "_more", "_path", "_real")

    def __init__(self, function: FunctionType, real: Callable[[], Any], more: frozenset[str], path: str = "") -> None:
        self.__wrapped__ = function
        self._real = real
        self._more = more
        self._path = path
        self.__dict__.update((key, value) for key, value in function.__dict__.items() if key != "__wrapped__")
        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            setattr(self, name, getattr(function, name))
        if function.__annotations__:
            self.__annotations__ = function.__annotations__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.__wrapped__(*args, **kwargs)
        except BaseException as error:
            trimmed(error)
            raise

    def __get__(self, instance: object, owner: type | None = None) -> BuiltinProxy:
        return self

    def __getattr__(self, name: str) -> Any:
        if name in self._more:
            return getattr(self._real(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._more})

    def __reduce__(self) -> str | tuple[Any, ...]:
        if not self._path:
            return self.__qualname__  # type: ignore[no-any-return]
        import pkgutil  # not before it is needed: it loads much

        return pkgutil.resolve_name, (self._path,)

    def __repr__(self) -> str:
        return f"<built-in function {self.__name__}>"


class Method:
    """An attribute of a function that can be called: that of the local copy, loaded when it is needed."""

    def __init__(self, name: str, real: Callable[[], Any], target: Target) -> None:
        self.__name__ = name
        self._real = real
        self._target = target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.__name__ == "register":  # what the program adds to a generic function is known only here
            self._target.stay()
        return getattr(self._real(), self.__name__)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked of anything, by tools that look at it
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(getattr(self._real(), self.__name__), name)


class Late:
    """An attribute of a function that is an object: that of the local copy, loaded when it is needed."""

    def __init__(self, name: str, real: Callable[[], Any]) -> None:
        self._name = name
        self._real = real

    def _object(self) -> Any:
        return getattr(self._real(), self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._object(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._object()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._object()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._object())

    def __len__(self) -> int:
        return len(self._object())

    def __eq__(self, other: object) -> bool:
        return bool(self._object() == other)

    def __hash__(self) -> int:
        return hash(self._object())

    def __repr__(self) -> str:
        return repr(self._object())
