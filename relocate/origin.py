"""Where a function comes from: whose it is, and whether workers may be supposed to have it under its name."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.machinery import BuiltinImporter, ExtensionFileLoader
from types import FunctionType, ModuleType
from typing import Any

STUB = "__relocate_call"
"""A free variable that only the stubs of proxies have."""
ON_BEHALF = "<on behalf>"
"""The name of code that stands in the program's line, though it is of this package."""


def public(module: str) -> str:
    """The module of which ``module`` is the part in C, as `_heapq` is that of `heapq` (PEP 399); else itself."""
    return module[1:] if module[:1] == "_" and "." not in module and is_c(sys.modules.get(module)) else module


def is_c(module: ModuleType | None) -> bool:
    """Whether a module is made by code in C."""
    loader = getattr(module, "__loader__", None)
    return loader is BuiltinImporter or isinstance(loader, ExtensionFileLoader)


def is_installed(module: str | None) -> bool:
    """Whether workers may be supposed to have ``module``: it belongs to Python or to an installed package."""
    return module is not None and _is_installed(module.partition(".")[0])


@lru_cache
def _is_installed(package: str) -> bool:
    if package in sys.stdlib_module_names or package in sys.builtin_module_names or package == __package__:
        return True
    if package == "__main__" or package not in sys.modules:
        return False
    module = sys.modules[package]
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    import sysconfig

    roots = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    return any(place and (place.startswith(tuple(roots)) or "-packages" in place) for place in places)


def is_stub(value: FunctionType) -> bool:
    """Whether a function is a proxy's: the worker has the real one under its name."""
    return STUB in value.__code__.co_freevars


def is_named(value: Any) -> bool:
    """Whether a function is the one that its module has under its name."""
    found: Any = sys.modules.get(value.__module__ or "")
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value
