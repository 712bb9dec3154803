"""The interfaces of one handle's modules: from the disk, from a worker, or from the local copy where names lead there.

What cannot be described may stay the real module, if the configuration allows that, and the user is told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

from . import config as configuration
from .errors import RelocateError

if TYPE_CHECKING:
    from .cache import Cache
    from .config import Config
    from .fleet import Fleet
    from .interface import Interface
    from .namespace import Namespace
    from .observe import Counters
    from .proxy import Registry
    from .reals import Reals


class Descriptions:
    """Describes modules for their proxies.

    Args:
        config: of the handle.
        cache: keeps interfaces on disk.
        fleet: the workers, started when one has to be asked.
        reals: the real modules.
        namespace: where the modules' names lead.
        counters: note what is not relocated.
        registry: gives what the proxies are made with.
        warn: tells the user; of texts with the same second argument only the first.
    """

    def __init__(
        self,
        config: Config,
        cache: Cache,
        fleet: Fleet,
        reals: Reals,
        namespace: Namespace,
        counters: Counters,
        registry: Callable[[], Registry],
        warn: Callable[[str, str], object],
    ) -> None:
        self._config = config
        self._cache = cache
        self._fleet = fleet
        self._reals = reals
        self._namespace = namespace
        self._counters = counters
        self._registry = registry
        self._warn = warn
        self.specs: dict[str, ModuleSpec | None] = {}
        """Of the modules that were described, where each is here; None: nowhere."""

    def describe(self, module: str, spec: ModuleSpec | None) -> Interface:
        """The interface of ``module``.

        Raises:
            RelocateError: nobody describes it.
        """
        from . import entries
        from . import interface as face

        self.specs[module] = spec
        file, path = _files(spec)
        if self.leads_here(module):
            return entries.describe(self._reals.real(module))
        found = self._cache.get(module, file, path)
        if found is None:
            self._fleet.start_embedded()
            self._fleet.start(late=True)
            local = spec is not None and self._config.fallback
            data = self._fleet.driver.describe(module, self._config.start_timeout, local=local)
            found = face.decode(data)
            self._cache.put(module, file, path, found, data)
        else:
            self._fleet.start_soon()
        self._counters.unrelocated.pop(module, None)
        return found

    def leads_here(self, module: str) -> bool:
        """Whether the module's name leads to the local copy first, which then describes itself."""
        from .mounts import LOCAL

        snapshot = self._namespace.snapshot
        aims = snapshot.resolve(("chan", *module.split(".")))
        return bool(aims) and snapshot.mounts[aims[0].place] == LOCAL

    def forget(self, module: str) -> None:
        """The module may be another one now."""
        self._cache.forget(module, _files(self.specs.get(module))[0])

    def refresh(self, module: str) -> None:
        """A worker says that the description is stale: take a new one.

        Raises:
            RelocateError: nobody describes it any more.
        """
        from . import interface as face
        from .proxy import ProxyModule, inner_slot, populate

        file, path = _files(self.specs.get(module))
        self._cache.forget(module, file)
        data = self._fleet.driver.describe(module, self._config.start_timeout)
        found = face.decode(data)
        self._cache.put(module, file, path, found, data)
        proxy = sys.modules.get(module)
        if isinstance(proxy, ProxyModule):
            before: Interface | None = inner_slot(proxy, "_relocate_interface")
            if before is not None and before.digest != found.digest and self._counters.has(module):
                self._warn(f"{module} is described anew: earlier calls ran another version than later ones will", "")
            populate(proxy, found, self._registry())

    def may_stay(self, module: str, error: ImportError) -> bool:
        """Whether a module that was imported before stays the real one.

        What was made while the program ran, below a designated package, is nowhere to be found: that stays.
        """
        asked = isinstance(error, RelocateError) or module in self._config.modules
        return self.may_be_real(module, error) if asked else True

    def may_be_real(self, module: str, error: Exception) -> bool:
        """Whether the real module may be used instead, which the user is told then, and why."""
        if not self._config.fallback:
            return False
        # What is missing of a package is missing of all that is designated with it.
        entries = [m for m in self._config.modules if configuration.designates([m], module)]
        missing = "No module named" in str(error) and entries
        why = str(error).removeprefix(f"{module}: ")
        self._counters.unrelocated[module] = why
        self._warn(f"{module} is not relocated: {why}", f"missing: {max(entries, key=len)}" if missing else "")
        return True


def _files(spec: ModuleSpec | None) -> tuple[str | None, list[str]]:
    """The module's file, and where the modules of a package are looked for."""
    if spec is None:
        return None, []
    return spec.origin if spec.has_location else None, list(spec.submodule_search_locations or ())
