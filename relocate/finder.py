"""The finder: stands first on `sys.meta_path` and gives a proxy where a designated module is imported.

Rules:

* Names match on the dot, and the longest entry decides.
* Finding decides by names only and never waits; the loader waits, for a bounded time.
* Other finders are asked (for where the real module is, and whether there is one) by walking a copy
  of `sys.meta_path` past this one; `importlib.util.find_spec` would deadlock here.
* What cannot be relocated (nobody describes it) is the real module, if it is here and the
  configuration allows; otherwise an ImportError, so that optional-import idioms work.
* The real module is loaded beside its proxy when it is needed: for a class, or to run a call here.
  While that happens, this thread's imports of designated names give the real ones, and
  `sys.modules` holds them, because C extensions look there; afterwards the proxies are back.

This module must not import anything heavy: it is there from interpreter start in programs that may
never import a designated module.
"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import ModuleUnavailable, RelocateError
from .gate import gate, wait_for

if TYPE_CHECKING:
    from .interface import Interface
    from .methods import Methods
    from .proxy import Registry
    from .resources import Kept
    from .tables import Tables


PAUSES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Seconds before a real module is loaded again, when that could not go on for what another thread imports."""

PATIENCE = 0.5
"""Seconds to wait for other threads' imports of what is to be taken out of `sys.modules`."""


class Finder:
    """Finds designated modules.  One for each handle."""

    def __init__(
        self,
        designated: Callable[[str], bool],
        ancestors: frozenset[str],
        describe: Callable[[str, ModuleSpec | None], Interface],
        registry: Callable[[], Registry],
        fallback: Callable[[str, RelocateError], bool],
    ) -> None:
        self.designated = designated
        self._ancestors = ancestors
        self._describe = describe
        self._registry = registry
        self._fallback = fallback
        self.loaded: dict[str, ModuleType] = {}
        """The real modules that are loaded, by name."""
        self._lock = _lock()
        self._aside: dict[str, ModuleType] = {}
        self._mine = threading.local()
        self.on_reload: Callable[[str], object] = bool
        """Told of a proxy that is reloaded, before it is described again."""
        self.on_load: Callable[[ModuleType], object] = bool
        """Told of each real module that was loaded beside its proxy."""
        self.source: Callable[[str], tuple[str, bool, str] | None] = lambda name: None
        """A worker's source of a module, whether that is a package, and its file."""
        self.kept: Callable[[], Kept] | None = None
        """Gives the workers' files of packages."""
        self.lacking: set[str] = set()
        """Top-level packages that have designated modules which are not installed here."""
        self.methods: Methods | None = None
        """Those that are replaced in classes, when the modules that hold them are executed."""
        self.tables: Tables | None = None
        """Those of other modules that are filled, when these are executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a proxy, if ``fullname`` is designated and can be relocated."""
        if not self.designated(fullname):
            watching: list[Executing] = [w.executing for w in (self.methods, self.tables) if w and w.concerns(fullname)]
            if watching:
                spec = self._next(fullname, path, target)
                if spec is not None:
                    for executing in watching:
                        spec = watched(spec, executing)
                    return spec
            if getattr(self._mine, "real", False):
                return None
            if fullname in self._ancestors and self._next(fullname, path, target) is None:
                # The package around a designated module that is not installed here.
                ancestor: Any = AncestorLoader()
                spec = ModuleSpec(fullname, ancestor, is_package=True)
                spec.submodule_search_locations = []
                return spec
            return None
        local = self._next(fullname, path, target)
        if getattr(self._mine, "real", False):
            if self.tables is not None:
                self.tables.withdraw(fullname)
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
        if not getattr(self._mine, "far", False):
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
        if local is not None and any(sys.modules.get(m, self) is None for m in interface.needs):
            return None  # somebody has blocked a part of it (sys.modules[part] = None) to get another one
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

    # The real modules ------------------------------------------------------------------------------

    def real(self, name: str, member: str = "", *, far: bool = False) -> ModuleType:
        """The real module ``name``, loaded beside its proxy.

        Args:
            name: the module.
            member: what will be asked of it.  A package that loads its parts when they are asked for
                does so among the real modules: it would find their proxies otherwise, and in them the
                stub of this very function.
            far: whether it may be made of a worker's source if it is not installed here.

        Raises:
            ImportError: it is not installed here, or fails.
        """
        first = member.partition(".")[0]
        found = self.loaded.get(name)
        if found is not None and (not first or first in found.__dict__):
            return found
        for pause in PAUSES:
            try:
                return self._real(name, first, far=far)
            except RuntimeError as error:
                if type(error).__name__ != "_DeadlockError":
                    raise
            # Another thread imports a part of it just now, and each waits for the other's: let that one go first.
            time.sleep(pause)
        return self._real(name, first, far=far)

    def _real(self, name: str, first: str, *, far: bool) -> ModuleType:
        try:
            self._lock.acquire()
        except RuntimeError:  # importlib's _DeadlockError
            # The thread that loads it waits for what this thread is importing.  As in a circular
            # import, this one gets what there is so far.
            partial = sys.modules.get(name)
            if partial is None:
                raise ImportError(f"{name!r} is being imported by a thread that waits for this one") from None
            return partial
        try:
            found = self.loaded.get(name)
            before = set(self.loaded)
            self._mine.far = far
            with self._real_world(), self._rebuilt_classes():
                if found is None:
                    found = self._imported(name)
                    self.loaded.setdefault(name, found)
                if first and first not in found.__dict__ and hasattr(found, first):
                    setattr(found, first, getattr(found, first))
            self._reconcile()
            self._tell(before)
            return found
        finally:
            self._lock.release()

    def _imported(self, name: str) -> ModuleType:
        """The real module, in the real world, in which another thread may just have put a proxy."""
        from .proxy import ProxyModule

        found = importlib.import_module(name)
        if isinstance(found, ProxyModule):
            self._aside[name] = found
            sys.modules.pop(name, None)
            found = importlib.import_module(name)
        return found

    def wait(self) -> None:
        """Until no other thread loads a real module: meanwhile `sys.modules` does not hold the proxies."""
        if not getattr(self._mine, "real", False):
            wait_for(self._lock)

    def reload(self, proxy: ModuleType, local: ModuleSpec | None) -> Interface:
        """What the module behind ``proxy`` is now, for `importlib.reload`; the real one, if it is loaded, is run again.

        Raises:
            ImportError: nobody describes it any more.
        """
        from .proxy import namespace_of

        name = proxy.__name__
        self.on_reload(name)
        interface = self.describe(name, local)
        if interface is None:
            raise ModuleUnavailable(f"{name!r} cannot be described any more", name=name)
        real = self.loaded.get(name)
        if real is not None and local is not None and local.loader is not None:
            self._lock.acquire()
            try:
                with self._real_world(), self._rebuilt_classes():
                    local.loader.exec_module(real)
                self._reconcile()
                self._tell(self.loaded.keys() - {name})
            finally:
                self._lock.release()
        for member in interface.members:  # they are taken anew, classes above all
            namespace_of(proxy).pop(member, None)
        return interface

    def _tell(self, before: Collection[str]) -> None:
        """Tell of the real modules that are not among those ``before``."""
        for name in [n for n in list(self.loaded) if n not in before]:
            self.on_load(self.loaded[name])

    @contextmanager
    def _real_world(self) -> Iterator[None]:
        """`sys.modules` holds the real modules for designated names."""
        if getattr(self._mine, "real", False):
            yield
            return
        with self.tables.kept() if self.tables is not None else nullcontext():
            self._mine.real = True
            gate.shut(self._hold)
            try:
                self._let_finish()
                self._aside = self._take_out()
                sys.modules.update(self.loaded)
                try:
                    yield
                finally:
                    self._restore()
            finally:
                self._mine.real = False
                gate.open(self._hold)

    def _hold(self, name: str) -> None:
        if not getattr(self._mine, "real", False) and (self.designated(name) or name in self._ancestors):
            self.wait()

    def _let_finish(self) -> None:
        """Let other threads finish imports of designated modules that they have begun."""
        until = time.monotonic() + PATIENCE
        locks: dict[str, Any] = importlib._bootstrap._module_locks  # type: ignore[attr-defined]
        me = threading.get_ident()
        while time.monotonic() < until:
            begun = [lock for name, of in list(locks.items()) if self.designated(name) and (lock := of()) is not None]
            if all(getattr(lock, "owner", None) in (None, me) for lock in begun):
                return
            time.sleep(0.001)

    @contextmanager
    def _rebuilt_classes(self) -> Iterator[None]:
        """A class statement whose class was rebuilt from an interface before yields the rebuilt one.

        So whoever takes hold of it while the module runs (a class's attribute, a tuple, a default,
        a closure) has the class that the program has.
        """
        made = self._registry().made
        if not any(isinstance(value, type) for value in made.values()):
            yield
            return
        usual = builtins.__build_class__

        def build(body: Any, name: str, /, *bases: Any, **keywords: Any) -> Any:
            built = usual(body, name, *bases, **keywords)
            if getattr(self._mine, "real", False) and isinstance(built, type):
                rebuilt = made.get((built.__module__, built.__qualname__))
                return rebuilt if isinstance(rebuilt, type) else built
            return built

        builtins.__build_class__ = build
        try:
            yield
        finally:
            if builtins.__build_class__ is build:  # not if another handle's has come on top of it
                builtins.__build_class__ = usual

    def _restore(self) -> None:
        """`sys.modules` holds the proxies again."""
        from .proxy import ProxyModule

        taken, aside, self._aside = self._take_out(), self._aside, {}
        proxies: dict[str, ModuleType] = {
            n: m for n, m in taken.items() if isinstance(m, ProxyModule)
        }  # other threads', made meanwhile
        self.loaded.update({n: m for n, m in taken.items() if n not in proxies})
        proxies.update(aside)
        sys.modules.update(proxies)
        for name, module in proxies.items():
            parent, _, last = name.rpartition(".")
            if parent in sys.modules and parent not in self.loaded:
                setattr(sys.modules[parent], last, module)

    def forked(self) -> None:
        """In a forked child: the thread that held the lock is not here, unless it is the one that forked."""
        if getattr(self._mine, "real", False):
            gate.forked([self._hold])
            return
        self._lock = _lock()
        gate.forked([])
        if self._aside:
            self._restore()
            if self.tables is not None:
                self.tables.restore()

    def _take_out(self) -> dict[str, ModuleType]:
        names = [n for n in list(sys.modules) if self.designated(n)]
        return {n: sys.modules.pop(n) for n in names}

    def _reconcile(self) -> None:
        """Let the classes that were rebuilt from interfaces be the real modules' classes too.

        Those that no class statement makes: C's, or what a call of `type` gives.  Identity counts:
        ``except`` compares classes by it.
        """
        for (home, qualname), rebuilt in list(self._registry().made.items()):
            module = self.loaded.get(home)
            if module is None or not isinstance(rebuilt, type):
                continue
            original: Any = module.__dict__.get(qualname)
            if original is rebuilt or not isinstance(original, type):
                continue
            for holder in list(self.loaded.values()):
                for key, value in list(holder.__dict__.items()):
                    if value is original:
                        holder.__dict__[key] = rebuilt
            for heir in original.__subclasses__():
                heir.__bases__ = tuple(rebuilt if base is original else base for base in heir.__bases__)


def _lock() -> Any:
    """A lock that takes part in importlib's detection of deadlocks.

    A thread that loads a real module takes import locks, and a thread that holds an import lock may
    want a real module; with a lock of another kind both could wait for ever.
    """
    return importlib._bootstrap._ModuleLock("relocate's real modules")  # type: ignore[attr-defined]


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
        populate(module, interface, self._finder._registry())  # type: ignore[arg-type]

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


Executing = Callable[[ModuleType], AbstractContextManager[None]]


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
