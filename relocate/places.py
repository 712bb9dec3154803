"""The places that a call can go to, as the client sees them: workers with their seats, and the local copy.

The links' thread writes what it learns here, calls read it.  Nothing that talks to the network is
loaded for it.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from . import config, memory
from .health import Health

if TYPE_CHECKING:
    from . import channel, embedded, keys, wire
    from .connection import Connection
    from .errors import RelocateError

SHORT = 0.05
"""Seconds, on the average of the last calls, below which one more call waits at the executor."""


class Seat(Health):
    """One executor as this client sees it.  The driver's lock guards what changes."""

    __slots__ = (
        "_base",
        "_pace",
        "depth",
        "endpoint",
        "gone",
        "id",
        "idle",
        "imported_at",
        "incarnation",
        "label",
        "link",
        "modules",
        "passed",
        "slot",
        "unfit",
    )

    def __init__(
        self, link: Link, executor: wire.Executor, endpoint: str, depth: int, prior: float = 1.0, gpus: int = 0
    ) -> None:
        super().__init__(prior, gpus)
        self.link = link
        self.slot = executor.slot
        self.incarnation = executor.incarnation
        self.label = f"{link.name}/{executor.slot}"
        # The ticket tells apart the lives of a supervisor, each of which counts from 0.
        self.id = f"{self.label}.{executor.incarnation}.{link.ticket[:4].hex()}"
        self.endpoint = endpoint
        self.depth = self._base = depth
        self._pace = 2 * SHORT
        self.passed = 0
        """Answers to short calls, of which each eighth is looked at."""
        self.modules: set[str] = set()
        self.imported_at = 0.0
        """When it last answered the first call of a module; by the driver's clock."""
        self.unfit: dict[tuple[str, bytes], wire.Rejected] = {}
        """The modules, each with the digest of its version, that it has not, and what it said of them."""
        self.idle: list[channel.Channel] = []
        self.gone = False

    def timed(self, seconds: float) -> None:
        """Note how long a call took; where calls are short, one more may wait at the executor.

        It then begins when the one before it ends, without the trip there and back in between.  Who
        waits behind a long call at one executor cannot go to another one that becomes free, so for
        long calls the trip is the smaller loss.
        """
        self._pace += 0.2 * (seconds - self._pace)
        if self.depth:  # else it waits for the program now
            self.depth = self._base + (self._pace < SHORT)

    def take(self) -> channel.Channel | None:
        """An idle channel, if there is one; those that told of another import path are closed."""
        try:
            while (taken := self.idle.pop()).path not in (None, sys.path):
                taken.close()
            return taken
        except IndexError:
            return None

    def dismiss(self) -> None:
        """The executor is gone: close what is idle, keep nothing more."""
        self.gone = True
        while self.idle:
            with contextlib.suppress(IndexError):  # another thread has just taken it
                self.idle.pop().close()


class Local:
    """The place where the local copies run."""

    local = True
    state = "up"
    seats: tuple[Seat, ...] = ()
    error: RelocateError | None = None

    def __init__(self, name: str = "local") -> None:
        self.name = name


class Link:
    """The connection to one worker."""

    local = False

    def __init__(self, name: str, spec: str) -> None:
        self.name = name
        self.spec = spec
        self.url = spec
        self.state = "starting"
        self.seats: tuple[Seat, ...] = ()
        self.error: RelocateError | None = None
        self.ticket = b""
        self.worker = ""
        self.obituaries: dict[tuple[int, int], wire.Obituary] = {}
        self.keys: keys.Keys | None = None
        """This side's."""
        self.key = b""
        """The public key of its executors."""
        self.capability: wire.Capability | None = None
        self.child: embedded.Child | None = None
        self.leaving = False
        """Whether it is unmounted, and kept for calls under way only."""
        self.doubted = False
        """Whether a call was lost there with no word on why, and nothing was heard since."""
        self.hint = b""
        """The key that it holds by the word of the registry."""
        # Only the links' thread uses what follows.
        self.connection: Connection | None = None
        self.attempts = 0
        self.began = time.monotonic()

    def doubt(self) -> None:
        """It may be cut off, all of it: each of its seats is probed with one call at a time."""
        self.doubted = True
        for seat in self.seats:
            seat.suspect = True

    def trust(self) -> None:
        """Something was heard: only seats that have failed themselves remain suspect."""
        self.doubted = False
        for seat in self.seats:
            seat.suspect = seat.failures > 0 or seat.ejections > 0

    @property
    def is_embedded(self) -> bool:
        """Whether this program started the worker."""
        return self.spec.startswith("local:")


def room(link: Link) -> int:
    """Bytes that a call can take there at most, if it runs alone."""
    offered = link.capability
    if offered is None:
        return memory.of_machine()
    return min(offered.each, offered.memory or offered.each) if offered.each else offered.memory


def nobody_at(url: str) -> str:
    """What is said of an address where nobody answers."""
    return f"nobody answers at {url}; is 'relocate worker --listen {url}' running there?"


def end_of(code: int) -> str:
    """What became of an executor, by its exit status as `subprocess` has it."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"


def place_name(spec: str) -> str:
    """The name under ``/n`` of the worker or the registry ``spec``; others may have the same."""
    if spec.startswith("local:"):
        return "embedded"
    if spec.startswith(config.REGISTRY):
        return "registry@" + place_name(config.registry(spec)[0])
    if spec.startswith("tcp:"):
        return spec.removeprefix("tcp://")
    name = "-".join(Path(spec.removeprefix("ipc://")).name.split())
    return name if name.strip(".") else "worker"


class Part:
    """A place of which a call can use some executors only.

    That is so for a call that another call of its thread waits for, which only idle executors can run, and
    where executors lack a module, or have another version of it.
    """

    def __init__(self, place: Link | Local | Part, usable: Callable[[Seat], bool]) -> None:
        self.name: str = place.name
        self.local: bool = place.local
        self.state: str = place.state
        self.seats: tuple[Seat, ...] = tuple(filter(usable, place.seats))


def trouble(place: Link | Local, version: tuple[str, bytes] = ("", b"")) -> str:
    """Why nothing runs at ``place``.

    Args:
        place: a worker.
        version: a module, with a digest, if calls of that are meant.
    """
    if place.error is not None:
        return str(place.error)
    for seat in place.seats:
        if version in seat.unfit:
            return f"{place.name}: {seat.unfit[version].text}"
    if isinstance(place, Link) and place.state == "starting" and not place.is_embedded:
        return nobody_at(place.url)
    return f"{place.name} is {place.state}" + (", but its executors cannot be reached" if place.state == "up" else "")
