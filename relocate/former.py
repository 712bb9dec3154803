"""What a program still holds of a relocated module when relocation has ended: the real module, under a second object.

Who imported the module meanwhile has the proxy under some name, in a list or a closure, where nothing can be
exchanged.  So the proxy becomes a view of what an import gives from then on: the real module, which is loaded when
the first attribute is asked for, or the proxy of a later handle.
"""

from __future__ import annotations

import copyreg
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .proxy import ProxyModule, import_again, namespace_of


class FormerProxy(ProxyModule):
    """A view of the module of its name."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return object.__getattribute__(self, name)
        module = _successor(self)
        try:
            return getattr(module, name)
        except AttributeError:
            if isinstance(namespace_of(self).get(name), ProxyModule):  # the program has imported this part of it
                return importlib.import_module(f"{module.__name__}.{name}")
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_successor(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_successor(self), name)

    def __dir__(self) -> list[str]:
        return dir(_successor(self))

    def __repr__(self) -> str:
        return repr(_successor(self))


_OWN = frozenset(("__class__", *ProxyModule.__slots__))
"""What is asked of the object itself."""
copyreg.pickle(FormerProxy, import_again)


def has_successor(proxy: ProxyModule) -> bool:
    """Whether an import gives the module here when relocation has ended."""
    spec = namespace_of(proxy).get("__spec__")
    return spec is not None and bool(spec.loader.is_here)


def retire(proxy: ProxyModule, found: Callable[[str, ModuleType], object]) -> None:
    """Let ``proxy`` be a view of what an import gives from now on, if it gives something; ``found`` is told what."""
    if has_successor(proxy):
        proxy._relocate_found = found
        proxy.__class__ = FormerProxy


def _successor(former: ProxyModule) -> ModuleType:
    """What an import gives instead of it.

    Raises:
        AttributeError: the module cannot be imported any more.
    """
    name: str = namespace_of(former)["__name__"]
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise AttributeError(f"{name!r}, which was relocated, cannot be imported any more: {error}") from error
    if module is former:  # the program has put it into sys.modules again
        raise AttributeError(f"{name!r} was relocated, and is the real module no more; import it anew")
    object.__getattribute__(former, "_relocate_found")(name, module)
    return module
