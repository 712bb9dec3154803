"""`enable` and what it returns: a handle on one relocation, which undoes itself.

Puts the layers together: configuration, name space, finder, tables, the fleet of workers, the driver.  If
modules are designated that relocate itself may need, all is loaded before they are replaced.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import inspect
import logging  # its lock is taken before a fork; what was begun ahead needs it, and is waited for first
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.machinery import ModuleSpec
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from . import config as configuration
from . import events, opaque, reducers
from .config import Config
from .errors import ConfigError, ModuleUnavailable, RelocateError
from .exchange import Exchange
from .finder import Finder
from .notices import Notices
from .reals import Reals

if TYPE_CHECKING:
    from .driver import Driver
    from .interface import Interface
    from .observe import Statistics
    from .placement import Placement
    from .policies import Policy
    from .proxy import Registry
    from .servers import Servers
    from .target import Target
    from .tracing import Tracing
    from .verify import Verifier

OWN = {"blake3", "cloudpickle", "msgspec", "platformdirs", "typing_extensions", "zmq"}
"""What relocate itself imports, beside the standard library."""

_active: list[Handle] = []


class Mine(threading.local):
    """What is each thread's own."""

    inside = False
    """Whether what it does is relocate's own work."""


class Handle:
    """One relocation in effect.  A context manager: leaving it is `disable`."""

    def __init__(self, config: Config) -> None:
        from .cache import Cache
        from .descriptions import Descriptions
        from .far import Far
        from .fleet import Fleet
        from .methods import Methods
        from .mounts import LiveNamespace
        from .observe import Counters
        from .proxy import Registry
        from .tables import Tables

        self.config = config
        self._counters = Counters()
        self._notices = Notices(config, self._counters)
        self.namespace = LiveNamespace(
            connect=lambda added: self._fleet.connect(added),
            changed=lambda gone: self._fleet.rebound(gone),
            tell=events.emit,
        )
        self._fleet = Fleet(
            config, self.namespace, self._made_driver, started=self._serve, died=self._counters.died, tell=self._event
        )
        cache = Cache(config.cache, config.workers)
        ancestors = {m.rpartition(".")[0] for m in config.modules if not m.startswith("!")}
        for name in list(ancestors):
            while name := name.rpartition(".")[0]:
                ancestors.add(name)
        around = frozenset(ancestors - {""})
        self._reals = Reals(config.designates, around, lambda: self._registry)
        self._descriptions = Descriptions(
            config,
            cache,
            self._fleet,
            self._reals,
            self.namespace,
            self._counters,
            lambda: self._registry,
            self._notices.warn,
        )
        self._finder = Finder(
            config.designates,
            around,
            self._describe,
            lambda: self._registry,
            self._descriptions.may_be_real,
            self._reals,
        )
        self._finder.on_reload = self._reload
        self._registry: Registry = Registry(
            self._call, partial(self._real, far=True), self._reals.loaded.get, config.designates, cache.compiled
        )
        self._registry.wait = self._reals.wait
        self._methods = Methods(config.methods, config.modules, self._call, self._loaded, self._reload)
        self._finder.methods = self._methods
        self._tables = Tables(self._registry)
        self._registry.entered = self._tables.described
        self._reals.tables = self._tables
        self._reals.on_load = self._on_load
        self._policy: Policy | None = None
        self._placement: Placement | None = None
        if config.placement != "remote":
            from .placement import Placement

            always = config.placement == "local"
            self._placement = Placement(
                self._real,
                self._call_there,
                self._counters,
                slowness=self._fleet.slowness,
                battery=self._battery,
                always=always,
            )
        self._exchange = Exchange(config.designates, self._reals.loaded, self._descriptions.may_stay)
        self._outside: set[Any] = set()
        """Names of modules, among those that called, that are not designated."""
        self._mine = Mine()
        self._far = Far(self._ask_there, self._set_inside, lambda: self._mine.inside)
        self._finder.source = self._far.source
        self._finder.kept = lambda: self._far.kept
        self._enabled = self._exiting = self._asked = False
        self._pid = 0
        self._left: dict[str, ModuleType] = {}
        """The proxies that its end has taken away, and left nothing in their place."""
        self._servers: Servers | None = None
        self._tracing: Tracing | None = None
        if config.tracing:
            from .tracing import Tracing

            self._tracing = Tracing()
        self._fleet.mount()
        if config.namespace:
            self._load_namespace(config.namespace)
        if any(m.partition(".")[0] in sys.stdlib_module_names | OWN for m in (*config.modules, *config.methods)):
            from . import driver, embedded, links, servers  # noqa: F401

    def _made_driver(self) -> Driver:
        from .driver import Driver

        made = Driver(
            self.namespace, self._counters, self._real, self._descriptions.refresh, patience=self.config.patience
        )
        made.inside = self._set_inside
        made.fallback = self.config.fallback
        if self.config.queue != made.queue:
            made.queue = self.config.queue
        self._find_policy()
        if self._policy is not None:
            made.policy = self._policy
        if self.config.deadlines:
            from .deadlines import Limits

            made.limits = Limits(self.config.deadlines)
        made.gpu = self._registry.gpu
        made.missed = self._notices.fell_back
        made.unused = self._notices.unused
        if self._placement is not None:
            made.delayed = self._placement.delayed
        if self._tracing is not None:
            made.trace(self._tracing)
        if self.config.verify:
            made.verifier = self._verifier()
        return made

    def _find_policy(self) -> None:
        if self.config.policy and self._policy is None:
            from .policies import find

            self._policy = find(self.config.policy)

    def _serve(self) -> None:
        """Serve what a running program serves beside its calls."""
        from .servers import Servers

        self._servers = Servers(self, begin=lambda: self._set_inside(True))
        if self._servers.trouble:
            self._notices.warn(self._servers.trouble)

    def _verifier(self) -> Verifier:
        from .quiet import quiet
        from .verify import Verifier

        return Verifier(
            self.config.verify,
            self.config.tolerance,
            self._reals.real,
            compared=self._notices.compared,
            missed=self._notices.unverified,
            quiet=quiet,
        )

    # The user's side -------------------------------------------------------------------------------

    def disable(self) -> None:
        """Restore every module and name, end embedded executors, write the report.  Idempotent."""
        if self._enabled:
            self._end(report=True)

    def _at_exit(self) -> None:
        self._exiting = True
        self.disable()

    def _end(self, *, report: bool) -> None:
        self._enabled = self._fleet.open = False
        if self in _active:
            _active.remove(self)
            opaque.askers.remove(self._far)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        self._left = self._exchange.undo(self._descriptions.specs)
        self._tables.undo()
        self._methods.undo()
        reducers.remove(self._name_of)
        self.close()
        atexit.unregister(self._at_exit)
        if report and os.environ.get(configuration.ENV_REPORT_PID, "") in ("", str(os.getpid())):
            self._notices.report()
        if report and self._tell_of_misspelt() and self._exiting and not self.config.fallback:
            program = os.environ.get(configuration.ENV_REPORT_PID, "")
            if program == str(os.getpid()):
                _fail()

    def _tell_of_misspelt(self) -> bool:
        """Tell of designated names that nobody imported and that are no modules; whether there are any.

        In a program that merely inherited its environment nothing of a designated package need be
        there, and others may be on the workers only: then only of what resembles an imported module.
        """
        program = os.environ.get(configuration.ENV_REPORT_PID, "")
        if os.getpid() != self._pid or program not in ("", str(self._pid)):
            return False  # the program itself will tell
        told = False
        asked = self._asked or program
        here = asked and not self._fleet.directories and all(link.is_embedded for link in self._fleet.links)
        for said in self.misspelt(here=bool(here)):
            told = True
            if self._exiting:
                print(f"relocate: {said}", file=sys.stderr)
            else:
                self._notices.warn(said)
        return told

    def misspelt(self, *, here: bool) -> Iterator[str]:
        """What is to be said of each designated name that nobody imported and that is no module.

        Args:
            here: whether what is not here is nowhere; else only what resembles an imported module is told.
        """
        names = {*self._descriptions.specs, *list(sys.modules)}

        def known(name: str) -> bool:
            return name in self._methods.found or any(n == name or n.startswith(name + ".") for n in names)

        return self._notices.misspelt(known, self._finder.elsewhere, here=here)

    def statistics(self) -> Statistics:
        """What was called, where it ran, what it moved; see `observe.Statistics`."""
        return self._counters.statistics()

    @property
    def unreached(self) -> tuple[str, ...]:
        """What still holds real functions and modules, in words, where `enable` came after their import.

        Lists, closures, defaults, objects and the like: calls through these run here and are not counted.  It
        is looked for now, in all that is in memory, which takes a while in a large program: at most 64 functions
        and modules, and not in the variables of functions that are running.
        """
        return self._exchange.unreached()

    def workers(self, timeout: float = 0.0) -> list[dict[str, Any]]:
        """How things stand with each place, in the order of the configuration.

        Args:
            timeout: seconds to wait for those of which nothing is known yet.
        """
        self._fleet.wait(timeout)
        return self._fleet.places()

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disable()

    def __repr__(self) -> str:
        state = "enabled" if self._enabled else "disabled"
        names = ", ".join((*self.config.modules, *self.config.methods)) or "nothing"
        return f"<relocate handle, {state}: {names} on {self.config.workers}>"

    def _load_namespace(self, file: str) -> None:
        from . import nsfile

        try:
            with open(file, encoding="utf-8") as opened:
                text = opened.read()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"namespace: {file} cannot be read: {error}") from None
        self.namespace.change(lambda begun: nsfile.run(text, file, begun), file)

    # Putting it in effect --------------------------------------------------------------------------

    def enable(self, *, early: bool) -> None:
        """Install the finder.

        Args:
            early: start embedded executors now, not at the first designated import.
        """
        if early or ":" not in self.config.policy:  # a module may lie beside the script: not yet on the path
            self._find_policy()
        self._enabled = self._fleet.open = True
        _active.append(self)
        opaque.askers.append(self._far)
        atexit.register(self._at_exit)
        self._asked = early
        self._pid = os.getpid()
        if self.config.report or self.config.metrics or os.environ.get(configuration.ENV_SUMMARY):
            # Children inherit the name of the report and the address of the metrics, but they are this program's.
            os.environ.setdefault(configuration.ENV_REPORT_PID, str(os.getpid()))
        sys.meta_path.insert(0, self._finder)
        loaded = [n for n in list(sys.modules) if self.config.designates(n)]
        if early or loaded:
            self._fleet.start_embedded()
        try:
            self._exchange.make(loaded)
            if events.is_asked_for():
                self._tell_of_unreached()
            for real in list(self._reals.loaded.values()):
                self._on_load(real)
            for module in [m for n, m in list(sys.modules.items()) if self._methods.concerns(n)]:
                if isinstance(module, ModuleType) and not self.config.designates(module.__name__):
                    self._methods.executed(module)
        except BaseException:
            self._end(report=False)
            raise

    def _tell_of_unreached(self) -> None:
        try:
            unreached = self.unreached
        except Exception:  # it goes through all that is in memory, while other threads change it
            return
        if unreached:
            events.emit("not reached", count=len(unreached), references=list(unreached))

    def settle(self) -> None:
        """See `Fleet.settle`."""
        self._fleet.settle()

    def close(self) -> None:
        """End the links and embedded executors; they start again when they are needed."""

        def ended() -> None:
            servers, self._servers = self._servers, None
            if servers is not None:
                servers.stop()

        self._fleet.close(ended)

    def _reload(self, module: str) -> None:
        """``importlib.reload``: embedded executors start anew, so that they run the module as it is now."""
        self._descriptions.forget(module)
        self._far.forget(module)
        if self._placement is not None:
            self._placement.forget()
        if any(link.is_embedded for link in self._fleet.links):
            self.close()

    def forked(self) -> None:
        """In a forked child: leave all sockets and locks behind, and begin anew when needed."""
        self._reals.forked()
        self._far.forked()
        self.namespace.forked()
        self._mine = Mine()
        if self._servers is not None:
            self._servers.forked()
            self._servers = None
        self._counters.forked()
        self._fleet.forked()

    # What the finder and the proxies ask -----------------------------------------------------------

    def _call(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            caller: FrameType | None = sys._getframe(2)  # of the stub
        except ValueError:  # there is none, but a thread that has begun there
            caller = None
        if (
            not self._enabled
            or self._mine.inside
            or (
                target.own is None
                and caller is not None
                and caller.f_globals.get("__name__") not in self._outside
                and self._is_own(caller, target)
            )
        ):
            # Disabled; or our own work needs what is designated (json, say): that is done here.
            return target.local(self._real)(*args, **kwargs)
        return (self._call_there if self._placement is None else self._placement.call)(target, args, kwargs)

    def _call_there(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mine = self._mine
        mine.inside = True
        try:
            driver = self._fleet.driver
            if driver.links is None:
                self._fleet.start(late=True)
            return driver.call(target, args, kwargs)
        finally:
            mine.inside = False

    def _ask_there(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `_call`, for what only a worker can answer, wherever calls are placed."""
        if not self._enabled:
            return target.local(self._real)(*args, **kwargs)
        return self._call_there(target, args, kwargs)

    def _on_load(self, module: ModuleType) -> None:
        """A real module is loaded: its classes get their stubs, and its functions travel by name."""
        from .proxy import ProxyModule, unify

        self._methods.executed(module)
        proxy = sys.modules.get(module.__name__)
        if isinstance(proxy, ProxyModule) and (held := unify(proxy, module)):
            self._exchange.rebind(held, for_good=True)
        kinds = {type(v) for v in list(vars(module).values()) if inspect.isroutine(v)}
        reducers.install(self._name_of, {k for k in kinds if k is not FunctionType})
        reducers.adapt(module)

    def _name_of(self, value: Any) -> str | None:
        """The name of a real function in whose place a proxy has a stub."""
        home, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        found: Any = self._reals.loaded.get(home) if isinstance(home, str) else None
        if found is None or not isinstance(qualname, str):
            return None
        for part in qualname.split("."):
            found = getattr(found, part, None)
        return f"{home}:{qualname}" if found is value else None

    def _loaded(self, name: str) -> ModuleType | None:
        """The real module ``name``, if it is loaded."""
        found = self._reals.loaded.get(name)
        if found is None and not self.config.designates(name):
            found = sys.modules.get(name)
        return found if isinstance(found, ModuleType) else None

    def _real(self, name: str, member: str = "", *, far: bool = False) -> ModuleType:
        """The real module ``name``; after `disable` what an import gives, which a later handle may relocate."""
        if not self._enabled:
            from .proxy import ProxyModule

            module = importlib.import_module(name)
            if not isinstance(module, ProxyModule) or module._relocate_registry is not self._registry:
                return module
        return self._reals.real(name, member, far=far)

    def _battery(self) -> tuple[float, bool] | None:
        from .capability import battery

        return battery()

    def _set_inside(self, inside: bool) -> bool:
        """Set whether this thread's calls are relocate's own; whether they were."""
        before, self._mine.inside = self._mine.inside, inside
        return before

    def _event(self, event: str, **fields: Any) -> None:
        """Tell of what the links' thread saw; whoever listens must not wait for a call, and so for that thread."""
        before = self._set_inside(True)
        try:
            events.emit(event, **fields)
        finally:
            self._set_inside(before)

    def _is_own(self, caller: FrameType, target: Target) -> bool:
        """Whether designated code is the caller: a function that a designated one has made, say.

        A module's own code gets its own real functions.  What `doctest` runs in a module's name is
        not its code, and comes from no file; neither do functions from another process, which
        cloudpickle marks as such.
        """
        if caller.f_code is self._registry.through:
            if caller.f_back is None:
                return False
            caller = caller.f_back
        if (name := caller.f_globals.get("__name__")) in self._outside:
            return False
        if not isinstance(name, str) or not self.config.designates(name):
            self._outside.add(name)
            return False
        file = caller.f_code.co_filename
        if file.startswith("<") and file != "<dynamic-code>":
            return False
        try:
            self._reals.real(target.module)
        except ImportError:
            return False  # it is only on the workers
        return True

    def _describe(self, module: str, spec: ModuleSpec | None) -> Interface:
        self._find_policy()  # here, where no lock is held
        return self._descriptions.describe(module, spec)


def _fail() -> None:
    """End the program, which is at its end, with status 1: what was to run on workers only has run here.

    The interpreter takes no status from who is called at its end.  Of the others only `logging` is still to come.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(1)


def enable(
    source: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None, *, early: bool = True, **given: Any
) -> Handle:
    """Relocate the designated modules from now on.

    Args:
        source: a `Config`, a mapping, or the path of a TOML file; None: what the environment names,
            else ``relocate.toml`` or ``[tool.relocate]`` found from the working directory upward.
        early: start embedded executors at once, while the program goes on importing.
        **given: single keys of the configuration, for example ``modules=["scipy.ndimage"]``.

    Returns:
        The handle; also a context manager.

    Raises:
        ConfigError: the configuration is wrong; the message names the key and the remedy.
    """
    config = configuration.load(source, **given)
    left: dict[str, ModuleType] = {}
    for other in _active[:]:
        if config.overlaps(other.config):
            other.disable()  # as when a notebook's cell is run again
            left |= other._left
    handle = Handle(config)
    if configuration.ENV_EXECUTOR not in os.environ:
        designated = bool(config.modules or config.methods)
        handle.enable(early=early and designated)
        handle._exchange.adopt({name: proxy for name, proxy in left.items() if config.designates(name)})
        if source is None:
            for said in configuration.misspelt():
                handle._notices.warn(said)
        if early and not designated:
            handle._notices.warn("no module is designated, so nothing is relocated; write enable(modules=[...])")
    return handle


def active() -> Handle:
    """The handle that was enabled last.

    Raises:
        RelocateError: relocation is not enabled.
    """
    if not _active:
        raise RelocateError("relocation is not enabled; call relocate.enable() first")
    return _active[-1]


def _before_fork() -> None:
    for handle in _active:
        handle.settle()


def _after_fork() -> None:
    for handle in _active:
        handle.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)

__all__ = ["Handle", "ModuleUnavailable", "active", "enable"]
