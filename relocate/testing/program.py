"""The caller's side of a simulation: what `relocate.Handle` puts together, without the finder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from .. import interface as face
from ..difference import Difference
from ..driver import Driver
from ..mounts import LOCAL, LiveNamespace, Mounts
from ..namespace import Where
from ..observe import Counters, Statistics
from ..places import Link, Local
from ..proxy import ProxyModule, Registry, populate
from ..quiet import quiet
from ..verify import Verifier
from .network import Network


class Program:
    """A program that uses relocated modules.

    Args:
        network: where its workers are.
        ranks: names of workers: each a rank by itself, or a sequence of names that share a rank.
        local: modules that are installed here; if given, calls may fall back to them.
        patience: seconds that a call waits while no worker is up.
        seed: of the choices among equals.
        verify: share of the calls that run here too, see `relocate.verify`; what differs is counted, and
            told in ``told``.
        tolerance: by which fraction two numbers may then differ.
    """

    def __init__(
        self,
        network: Network,
        ranks: Iterable[str | Sequence[str]],
        *,
        local: Mapping[str, ModuleType] | Iterable[ModuleType] | None = None,
        patience: float = 30.0,
        seed: int = 0,
        verify: float = 0.0,
        tolerance: float = 0.0,
    ) -> None:
        self.network = network
        self.namespace = LiveNamespace(connect=self._connect, changed=self._rebound)
        self.counters = Counters()
        self.modules: dict[str, ProxyModule] = {}
        self.refreshed: list[str] = []
        """The modules that were described again because a worker found the call stale."""
        if local is not None and not isinstance(local, Mapping):
            local = {m.__name__: m for m in local}
        self._local = local
        self.told: list[str] = []
        self.driver = Driver(
            self.namespace,
            self.counters,
            self._real,
            self._refresh,
            patience=patience,
            clock=network.clock.now,
            chance=random.Random(seed).random,
            turn=network.turn,  # type: ignore[arg-type]
        )
        self.driver.links = network
        if verify:
            self.driver.verifier = Verifier(
                verify, tolerance, self._real, compared=self._compared, missed=self._missed, quiet=quiet
            )
        network.on_death = self.counters.died
        network.on_change = self.driver.places_changed
        self.registry = Registry(self._call, self._real, lambda name: None, lambda name: False)
        self.driver.gpu = self.registry.gpu
        for rank, names in enumerate(ranks):
            for name in (names,) if isinstance(names, str) else names:
                self.namespace.mount(f"tcp://{name}:7000", name)
                self.namespace.bind(f"/n/{name}/chan", "/chan", Where.AFTER, rank)
        self.namespace.mount(LOCAL)
        if local is not None:
            self.namespace.bind("/n/local/chan", "/chan", Where.AFTER)

    def load(self, name: str, timeout: float = 30.0) -> Any:
        """The proxy of module ``name``, described by a worker."""
        if name not in self.modules:
            interface = face.decode(self.driver.describe(name, timeout))
            self.modules[name] = ProxyModule(name)
            populate(self.modules[name], interface, self.registry)
        return self.modules[name]

    def statistics(self) -> Statistics:
        """What was called and where it ran."""
        return self.counters.statistics()

    def later(self, seconds: float, call: Callable[[], Any]) -> list[Any]:
        """Make ``call`` from another thread, so to speak, after so many seconds; the list gets its result."""
        results: list[Any] = []
        self.network.clock.after(seconds, lambda: results.append(call()))
        return results

    def _connect(self, added: Mounts) -> None:
        self.driver.place({name: Local(name) if url == LOCAL else self._link(url) for name, url in added})

    def _rebound(self, gone: Mounts) -> None:
        self.driver.place({}, [name for name, _ in gone])

    def _link(self, url: str) -> Link:
        """To ``tcp://name:7000``, the address of the network's worker ``name``."""
        return self.network.workers[url.removeprefix("tcp://").removesuffix(":7000")].link

    def _call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.driver.call(target, args, kwargs)

    def _compared(self, name: str, difference: Difference | None) -> None:
        if self.counters.compared(name, difference):
            self.told.append(str(difference))

    def _missed(self, name: str, why: str) -> None:
        self.told.append(f"{name} is not verified: {why}")

    def _real(self, name: str, member: str = "") -> ModuleType:
        if self._local is None or name not in self._local:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return self._local[name]

    def _refresh(self, name: str) -> None:
        self.refreshed.append(name)
        populate(self.modules[name], face.decode(self.driver.describe(name, 30.0)), self.registry)
