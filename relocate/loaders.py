"""The loaders of what the finder finds.

* `ProxyLoader`: of a proxy.  It waits for the interface, for a bounded time.
* `FarLoader`: what tools ask, of a module that is only on a worker; `SourceLoader` makes a real one of its source.
* `AncestorLoader`: of the empty package around a module that is not installed here.
* `WatchedLoader`: of any module during whose execution something is to be done.

This module must not import anything heavy, see `finder`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .finder import Finder
    from .interface import Interface

Executing = Callable[[ModuleType], AbstractContextManager[None]]


class ProxyLoader:
    """Makes the proxy, and answers what tools ask a loader about the module's source.

    The interface is asked for here and not in the finder: while finders are asked, the interpreter
    holds a lock that keeps every other thread from importing anything.
    """

    def __init__(self, finder: Finder, name: str, local: ModuleSpec | None) -> None:
        self._finder = finder
        self._name = name
        self._local = local
        self._interface: Interface | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """An empty proxy; or what the real loader makes, which ``spec`` then names."""
        try:
            interface = self._interface = self._finder.describe(spec.name, self._local)
        except ImportError as error:
            raise error.with_traceback(None)  # noqa: B904 -- the same: how it was found out is nothing to its reader
        if interface is None:
            assert self._local is not None
            spec.loader = self._local.loader
            spec.loader_state = self._local.loader_state
            assert spec.loader is not None
            return spec.loader.create_module(spec) if hasattr(spec.loader, "create_module") else None
        if self._local is None:
            spec.origin = interface.file
            spec.has_location = interface.file is not None
            spec.submodule_search_locations = [] if interface.package else None
        from .proxy import ProxyModule

        return ProxyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Fill the proxy; on reload, with what the module is now."""
        from .proxy import populate

        interface, self._interface = self._interface, None
        if interface is None:
            interface = self._finder.reload(module, self._local)
        populate(module, interface, self._finder.registry())  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        # get_code, get_source, get_data, get_filename, get_resource_reader, is_package, archive, ...:
        # whatever the real loader has, so that runpy, inspect, linecache and resources work.
        if name.startswith("__") or "_interface" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(FarLoader(self._finder, self._name) if self._local is None else self._local.loader, name)


class FarLoader:
    """What tools ask a loader, of a module that is only on a worker."""

    def __init__(self, finder: Finder, name: str) -> None:
        self._finder = finder
        self._name = name

    def get_source(self, name: str) -> str | None:
        """For `inspect` and tracebacks; None if it has none, or nobody can be asked."""
        found = self._finder.source(name)
        return None if found is None else found[0]

    def get_resource_reader(self, name: str) -> Any:
        """For `importlib.resources`."""
        from .resources import Reader

        assert self._finder.kept is not None
        return Reader(name, self._finder.kept())

    def get_data(self, path: str) -> bytes:
        """For `pkgutil`: a file whose path begins with the folder in which the module lies there.

        Raises:
            OSError: there is no such file.
        """
        from .resources import data

        assert self._finder.kept is not None
        file = getattr(sys.modules.get(self._name), "__file__", None) or ""
        return data(self._finder.kept(), self._name, os.path.join(os.path.dirname(file), ""), path)


def watched(spec: ModuleSpec, executing: Executing) -> ModuleSpec:
    """``spec``, so that its module is executed within ``executing``."""
    if hasattr(spec.loader, "exec_module"):
        loader: Any = WatchedLoader(spec.loader, executing)
        spec.loader = loader
    return spec


class WatchedLoader:
    """Stands for a module's loader until the module is executed."""

    def __init__(self, loader: Any, executing: Executing) -> None:
        self._loader = loader
        self._executing = executing

    def exec_module(self, module: ModuleType) -> None:
        """Execute it, by its own loader."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with self._executing(module):
            self._loader.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        # create_module, and what tools ask a loader.
        loader = self.__dict__.get("_loader")
        if loader is None:
            raise AttributeError(name)
        return getattr(loader, name)


class SourceLoader(FarLoader):
    """Makes a real module of the source that a worker has, where it is not installed."""

    _text = ""

    def create_module(self, spec: ModuleSpec) -> None:
        """Ask for the source.

        Raises:
            ModuleNotFoundError: nobody has it.
        """
        found = self._finder.source(spec.name)
        if found is None:
            raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)
        self._text, package, spec.origin = found
        spec.has_location = True
        spec.submodule_search_locations = [] if package else None

    def exec_module(self, module: ModuleType) -> None:
        """Run it.

        Raises:
            ImportError: it fails here.
        """
        try:
            exec(compile(self._text, str(module.__spec__ and module.__spec__.origin), "exec"), module.__dict__)
        except ImportError:
            raise
        except Exception as error:
            raise ImportError(f"its source, which a worker has, fails here: {error!r}", name=module.__name__) from error

    def get_source(self, name: str) -> str:
        """For `inspect` and tracebacks."""
        return self._text


class AncestorLoader:
    """Makes the empty package around a designated module that is not installed here."""

    def create_module(self, spec: ModuleSpec) -> None:
        """The default."""

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""
