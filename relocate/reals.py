"""The real modules, loaded beside their proxies.

Rules:

* A real module is loaded when it is needed: for a class, or to run a call here.
* While that happens, this thread's imports of designated names give the real ones, and `sys.modules`
  holds them, because C extensions look there; afterwards the proxies are back.  Other threads wait (see
  `gate`), for a bounded time.
* A class that was rebuilt from an interface before is the real module's class, too: identity counts.

This module must not import anything heavy, see `finder`.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from .gate import gate, wait_for, waits

if TYPE_CHECKING:
    from .proxy import Registry
    from .tables import Tables

PAUSES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Seconds before a real module is loaded again, when that could not go on for what another thread imports."""

FIND_AND_LOAD = importlib._bootstrap._find_and_load.__code__  # type: ignore[attr-defined]
"""Of the function in which a thread is from just after the gate until a module is imported."""
PATIENCE = 0.5
"""Seconds to wait for other threads' imports of what is to be taken out of `sys.modules`."""


class Reals:
    """The real modules of one handle."""

    def __init__(
        self, designated: Callable[[str], bool], ancestors: frozenset[str], registry: Callable[[], Registry]
    ) -> None:
        self._designated = designated
        self._ancestors = ancestors
        self._registry = registry
        self.loaded: dict[str, ModuleType] = {}
        """Those that are loaded, by name."""
        self._lock = _lock()
        self._aside: dict[str, ModuleType] = {}
        """The proxies, while `sys.modules` holds the real ones."""
        self._mine = threading.local()
        self.on_load: Callable[[ModuleType], object] = bool
        """Told of each that was loaded."""
        self.tables: Tables | None = None
        """Tables of other modules, in which a real module makes its entries when it is executed."""

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

    def wanted(self) -> bool:
        """Whether this thread loads a real module, so that its imports of designated names are to give real ones."""
        return getattr(self._mine, "real", False)

    def from_afar(self) -> bool:
        """Whether those may be made of a worker's source if they are not installed here."""
        return getattr(self._mine, "far", False)

    def run_again(self, name: str, loader: Any) -> None:
        """Run the real module ``name`` again by its own loader, if it is loaded, for `importlib.reload`."""
        real = self.loaded.get(name)
        if real is None:
            return
        self._lock.acquire()
        try:
            with self._real_world(), self._rebuilt_classes():
                loader.exec_module(real)
            self._reconcile()
            self._tell(self.loaded.keys() - {name})
        finally:
            self._lock.release()

    def wait(self) -> None:
        """Until no other thread loads a real module: meanwhile `sys.modules` does not hold the proxies."""
        if not self.wanted():
            wait_for(self._lock)

    def _tell(self, before: Collection[str]) -> None:
        """Tell of the real modules that are not among those ``before``."""
        for name in [n for n in list(self.loaded) if n not in before]:
            self.on_load(self.loaded[name])

    @contextmanager
    def _real_world(self) -> Iterator[None]:
        """`sys.modules` holds the real modules for designated names."""
        if self.wanted():
            yield
            return
        with self.tables.kept() if self.tables is not None else nullcontext():
            self._mine.real = True
            gate.shut(self._hold)
            try:
                self._let_finish()
                self._aside = {}
                try:
                    self._put(self.loaded, self._aside)
                    yield
                finally:
                    self._restore()
            finally:
                self._mine.real = False
                gate.open(self._hold)

    def _hold(self, name: str) -> None:
        if not self.wanted() and (self._designated(name) or name in self._ancestors):
            self.wait()

    def _let_finish(self) -> None:
        """Let other threads finish imports of designated modules that they have begun.

        They are told by their frames, as who has passed the gate may not yet hold the module's lock.
        """
        until = time.monotonic() + PATIENCE
        while self._others_import() and time.monotonic() < until:
            time.sleep(0.001)

    def _others_import(self) -> bool:
        me = threading.get_ident()
        for thread, innermost in sys._current_frames().items():
            frame: FrameType | None = innermost if thread != me else None
            while frame is not None:
                if frame.f_code is FIND_AND_LOAD and self._designated(frame.f_locals["name"]):
                    if not waits(thread, me):
                        return True
                    break
                frame = frame.f_back
        return False

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
            if self.wanted() and isinstance(built, type):
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

        aside, self._aside = self._aside, {}
        held: dict[str, ModuleType] = {}
        self._put(aside, held)
        others = {n: m for n, m in held.items() if isinstance(m, ProxyModule)}  # threads', made meanwhile
        self.loaded.update({n: m for n, m in held.items() if n not in others})
        proxies = {**others, **aside}
        sys.modules.update(proxies)
        for name, module in proxies.items():
            parent, _, last = name.rpartition(".")
            if parent in sys.modules and parent not in self.loaded:
                setattr(sys.modules[parent], last, module)
            elif name in others and parent in aside:  # importlib has made it a part of the real package
                setattr(aside[parent], last, module)

    def forked(self) -> None:
        """In a forked child: the thread that held the lock is not here, unless it is the one that forked."""
        if self.wanted():
            gate.forked([self._hold])
            return
        self._lock = _lock()
        gate.forked([])
        if self._aside:
            self._restore()
            if self.tables is not None:
                self.tables.restore()

    def _put(self, modules: dict[str, ModuleType], held: dict[str, ModuleType]) -> None:
        """Let `sys.modules` hold ``modules`` for designated names, and note in ``held`` what it held for them.

        One is put in another one's place if there is one, so that no thread finds nothing where it has just seen
        a package.  An interrupt may come between any two lines: what is noted can be put back.
        """
        for name in [n for n in list(sys.modules) if self._designated(n)]:
            try:
                held[name] = sys.modules[name]
            except KeyError:  # another thread's import has just taken it out
                continue
            if name in modules:
                sys.modules[name] = modules[name]
            else:
                sys.modules.pop(name, None)
        sys.modules.update(modules)

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
