"""The finder: stands first on `sys.meta_path` and gives a proxy where a designated module is imported.

Rules:

* Names match on the dot, and the longest entry decides.
* Finding decides by names only and never waits; the loader waits, for a bounded time.
* Other finders are asked (for where the real module is, and whether there is one) by walking a copy
  of `sys.meta_path` past this one; `importlib.util.find_spec` would deadlock here.
* What cannot be relocated (nobody describes it) is the real module, if it is here and the
  configuration allows; otherwise an ImportError, so that optional-import idioms work.
* While this thread loads a real module (see `reals`), its imports of designated names give the real ones.

This module must not import anything heavy: it is there from interpreter start in programs that may
never import a designated module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import ModuleUnavailable, RelocateError
from .loaders import AncestorLoader, Executing, ProxyLoader, SourceLoader, watched

if TYPE_CHECKING:
    from .interface import Interface
    from .methods import Methods
    from .proxy import Registry
    from .reals import Reals
    from .resources import Kept


class Finder:
    """Finds designated modules.  One for each handle."""

    def __init__(
        self,
        designated: Callable[[str], bool],
        ancestors: frozenset[str],
        describe: Callable[[str, ModuleSpec | None], Interface],
        registry: Callable[[], Registry],
        fallback: Callable[[str, RelocateError], bool],
        reals: Reals,
    ) -> None:
        self.designated = designated
        self._ancestors = ancestors
        self._describe = describe
        self.registry = registry
        self._fallback = fallback
        self._reals = reals
        self.on_reload: Callable[[str], object] = bool
        """Told of a proxy that is reloaded, before it is described again."""
        self.source: Callable[[str], tuple[str, bool, str] | None] = lambda name: None
        """A worker's source of a module, whether that is a package, and its file."""
        self.kept: Callable[[], Kept] | None = None
        """Gives the workers' files of packages."""
        self.lacking: set[str] = set()
        """Top-level packages that have designated modules which are not installed here."""
        self.methods: Methods | None = None
        """Those that are replaced in classes, when the modules that hold them are executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a proxy, if ``fullname`` is designated and can be relocated."""
        if not self.designated(fullname):
            watching: list[Executing] = [
                w.executing for w in (self.methods, self._reals.tables) if w and w.concerns(fullname)
            ]
            if watching:
                spec = self._next(fullname, path, target)
                if spec is not None:
                    for executing in watching:
                        spec = watched(spec, executing)
                    return spec
            if self._reals.wanted():
                return None
            if fullname in self._ancestors and self._next(fullname, path, target) is None:
                # The package around a designated module that is not installed here.
                ancestor: Any = AncestorLoader()
                spec = ModuleSpec(fullname, ancestor, is_package=True)
                spec.submodule_search_locations = []
                return spec
            return None
        local = self._next(fullname, path, target)
        if self._reals.wanted():
            if self._reals.tables is not None:
                self._reals.tables.withdraw(fullname)
            return self._far(fullname) if local is None else None
        if local is not None and local.loader is None:
            return None  # a namespace package: nothing to describe, its modules come here one by one
        if local is None:
            self.lacking.add(fullname.partition(".")[0])
        loader: Any = ProxyLoader(self, fullname, local)
        spec = ModuleSpec(fullname, loader, origin=local.origin if local is not None else None)
        if local is not None:
            spec.has_location = local.has_location
            spec.cached = local.cached
            spec.submodule_search_locations = local.submodule_search_locations
        return spec

    def _far(self, fullname: str) -> ModuleSpec | None:
        """The spec of a real module that is not here, and will be made of a worker's source."""
        parent = sys.modules.get(fullname.rpartition(".")[0])
        if not self._reals.from_afar():
            return None
        if parent is not None and not isinstance(parent.__loader__, (SourceLoader, AncestorLoader)):
            return None  # a package that is here lacks it, perhaps on purpose
        loader: Any = SourceLoader(self, fullname)
        return ModuleSpec(fullname, loader)

    def describe(self, name: str, local: ModuleSpec | None) -> Interface | None:
        """The interface of ``name``; None if the real module is to be imported instead.

        Raises:
            ImportError: there is neither.
        """
        try:
            interface = self._describe(name, local)
        except RelocateError as error:
            if local is not None and self._fallback(name, error):
                return None
            if isinstance(error, ModuleUnavailable):
                if local is None:
                    raise ModuleNotFoundError(f"No module named {name!r}, here or on a worker", name=name) from None
                raise
            why = str(error).removeprefix(f"{name}: ")
            raise ModuleUnavailable(f"cannot relocate {name!r}: {why}", name=name) from error.with_traceback(None)
        parts = {*interface.needs, "_" + name.partition(".")[0]}  # the latter: its part in C, as `origin.public` says
        if local is not None and any(sys.modules.get(part, self) is None for part in parts):
            return None  # somebody has blocked a part of it (sys.modules[part] = None) to get another one
        return interface

    def reload(self, proxy: ModuleType, local: ModuleSpec | None) -> Interface:
        """What the module behind ``proxy`` is now, for `importlib.reload`; the real one, if it is loaded, is run again.

        Raises:
            ImportError: nobody describes it any more.
            SyntaxError: its source is none; the module stays as it is.
        """
        from .proxy import namespace_of

        name = proxy.__name__
        compiled: Callable[[str], object] | None = getattr(local and local.loader, "get_code", None)
        if compiled is not None:
            compiled(name)
        self.on_reload(name)
        interface = self.describe(name, local)
        if interface is None:
            raise ModuleUnavailable(f"{name!r} cannot be described any more", name=name)
        if local is not None and local.loader is not None:
            self._reals.run_again(name, local.loader)
        for member in interface.members:  # they are taken anew, classes above all
            namespace_of(proxy).pop(member, None)
        return interface

    def _next(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders say."""
        for finder in list(sys.meta_path):
            if isinstance(finder, Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None

    def elsewhere(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """What the other finders say of ``name``; nothing is imported."""
        return self._next(name, path)

    def find_distributions(self, context: Any) -> Iterable[Any]:
        """For `importlib.metadata`: a designated package that is only on a worker, if it is asked for by its name."""
        if not self.lacking or not context.name or self.kept is None:
            return
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_distributions", None)
            if find is not None and not isinstance(finder, Finder) and next(iter(find(context)), None) is not None:
                return  # it is installed here
        from .resources import FarDistribution

        for package in sorted(self.lacking):
            try:
                texts = self.kept().ask("metadata", package, context.name, (package,))
            except RelocateError:
                continue  # as good as not installed
            if texts is not None:
                yield FarDistribution(texts)
                return

    def invalidate_caches(self) -> None:
        """Nothing is kept here that could be stale."""
