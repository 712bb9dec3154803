"""The workers of one program: the links to them, which are started when the first call needs them, and ended.

What starts workers and talks to them takes longer to load than all else, so that it is loaded as late as can
be: in a thread, when the program has imported a module whose interface is in the cache; else by the first
call, or by the first import of a module that a worker has to describe.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import config as configuration
from .mounts import LOCAL, LiveNamespace, Mounts, free_name
from .namespace import Namespace, Where
from .places import Link, Local

if TYPE_CHECKING:
    from .config import Config
    from .directory import Directory
    from .driver import Driver
    from .links import Links

AHEAD = 0.05
"""Seconds that a program may go on importing before what the first call needs is loaded beside it."""

_abandoned: list[Any] = []
"""Locks and sockets of the parent, in a forked child: to end them is the parent's business."""


class Fleet:
    """The workers of one handle.

    Args:
        config: says which.
        namespace: where they are mounted.
        driver: makes the driver.
        started: is told that the links were started.
        died: is told the label of an executor's place when the executor dies.
        tell: is told of events, see `events.emit`.
    """

    def __init__(
        self,
        config: Config,
        namespace: LiveNamespace,
        driver: Callable[[], Driver],
        *,
        started: Callable[[], None],
        died: Callable[[str], None],
        tell: Callable[..., None],
    ) -> None:
        self._config = config
        self._namespace = namespace
        self._make_driver = driver
        self._started = started
        self._died = died
        self._tell = tell
        self.links: list[Link] = []
        self.directories: list[Directory] = []
        self.open = False
        """Whether workers may be started."""
        self.lock = threading.RLock()
        """Held while links are started, mounted, or parted with."""
        self._ending = threading.RLock()
        """Held, outside that lock, while they are started, and as long as it takes to end them."""
        self._ahead: threading.Thread | None = None
        self._hurry = threading.Event()
        """Set when somebody waits for that thread."""

    @cached_property
    def driver(self) -> Driver:
        """The driver, made when it is needed."""
        from . import driver  # noqa: F401 -- not under the lock: whoever imports may wait for another thread's import

        with self.lock:
            made = self.known_driver
            if made is None:
                made = self.__dict__["driver"] = self._make_driver()
                made.places = {
                    name: Local(name) for name, spec in self._namespace.snapshot.mounts.items() if spec == LOCAL
                }
                made.places |= {link.name: link for link in self.links}
                made.places |= {place.name: place for place in self.directories}  # type: ignore[misc]
        return made

    @property
    def known_driver(self) -> Driver | None:
        """The driver, if there is one yet."""
        return self.__dict__.get("driver")

    # What is mounted -------------------------------------------------------------------------------

    def mount(self) -> None:
        """Mount and bind what the configuration names."""
        rank = 0
        for specs in configuration.ranks(self._config.workers):
            registries = [spec for spec in specs if spec.startswith(configuration.REGISTRY)]
            for spec in specs:
                if spec not in registries:
                    name = free_name(spec, self._namespace.snapshot.mounts)
                    self._namespace.mount(spec, name)
                    self._namespace.bind(f"/n/{name}/chan", "/chan", Where.AFTER, rank)
            if registries:
                rank += self._look_into(registries, rank)
            rank += 1
        self._namespace.mount(LOCAL)
        if self._config.fallback:
            self._namespace.bind("/n/local/chan", "/chan", Where.AFTER, rank)

    def _look_into(self, registries: list[str], rank: int) -> int:
        """Let the workers that these registries name be found; how many further ranks they take."""
        from .directory import Directory

        names = [name for name in (*self._config.modules, *self._config.methods) if not name.startswith("!")]
        directory = Directory(registries, names, rank, self._namespace, lambda: self.links)
        self.directories.append(directory)
        Namespace.mount(self._namespace, registries[0], directory.name)
        self._namespace.bind(f"/n/{directory.name}/chan", "/chan", Where.AFTER, rank)
        return directory.ranks - 1

    def connect(self, added: Mounts) -> None:
        """Have links to what will be mounted."""
        with self.lock:
            places = [p for p in added if p[1] != LOCAL and not p[1].startswith(configuration.REGISTRY)]
            links = [Link(name, spec) for name, spec in places]
            self.links = [*self.links, *links]
            driver = self.known_driver
            if driver is None:
                return
            driver.place({name: Local(name) for name, spec in added if spec == LOCAL})
            driver.place({link.name: link for link in links})
            if driver.links is not None:
                for link in links:
                    driver.links.add(link)

    def rebound(self, gone: Mounts) -> None:
        """Names lead elsewhere; what is not mounted any more is let go."""
        with self.lock:
            dropped = [link for link in self.links if (link.name, link.spec) in gone]
            self.links = [link for link in self.links if link not in dropped]
            driver = self.known_driver
            links = driver.links if driver is not None else None
            if driver is not None:
                driver.place({}, {name for name, _ in gone} - set(self._namespace.snapshot.mounts))
            for link in dropped:
                if links is not None:
                    links.drop(link)
                elif link.child is not None:
                    link.child.stop()

    # Start and end ---------------------------------------------------------------------------------

    def start_embedded(self) -> None:
        """Start the workers of this program's own, if workers may be started."""
        from . import embedded

        with self._ending, self.lock:
            for link in self.links if self.open else ():
                if link.is_embedded and link.child is None:
                    link.child = embedded.start(int(link.spec.partition(":")[2]))

    def start(self, *, late: bool = False) -> None:
        """Start the links, once.

        Args:
            late: for a call or an import, which `close` may have overtaken: not if no workers may be started now.
        """
        if self.driver.links is None:
            with self._ending, self.lock:
                if self.driver.links is None and (self.open or not late):
                    self.driver.links = self._linked()
                    if self.open:
                        self._started()

    def _linked(self) -> Links:
        from .links import Links

        return Links(
            list(self.links),
            self.directories,
            depth=self._config.depth,
            heartbeat=self._config.heartbeat,
            keys_folder=self._config.keys,
            turn=self.driver.turn,
            on_change=self.driver.places_changed,
            on_death=self._died,
            tell=self._tell,
        )

    def start_soon(self) -> None:
        """Start all that in a thread, once: the first call will need it."""
        if self._ahead is None:
            self._hurry = threading.Event()
            self._ahead = threading.Thread(target=self._start_ahead, name="relocate-start", daemon=True)
            self._ahead.start()

    def _start_ahead(self) -> None:
        with contextlib.suppress(Exception):  # the first call will say what is wrong
            self.start_embedded()
            # The program goes on importing, and two that import wait for one another.
            self._hurry.wait(AHEAD)
            self.start(late=True)

    def settle(self) -> None:
        """Wait until what was begun ahead is done: a fork in between would leave the child with its locks."""
        ahead = self._ahead
        if ahead is not None and ahead is not threading.current_thread():
            self._hurry.set()
            ahead.join(10)

    def close(self, ended: Callable[[], None]) -> None:
        """End the links and embedded workers; they start again when they are needed.

        Args:
            ended: is called when no more calls are begun, and before the links end.
        """
        self.settle()  # before the lock, which what was begun ahead may want
        self._ahead = links = None
        with self._ending:
            with self.lock:
                driver = self.known_driver
                if driver is not None:
                    links = driver.detach()
            ended()
            if links is not None:
                links.stop()  # its thread may want the other lock
            for link in self.links:
                if link.child is not None:
                    link.child.stop()
                    link.child = None
            with self.lock:
                self._begin_anew()

    def forked(self) -> None:
        """In a forked child: leave all sockets and locks behind, and begin anew when needed."""
        driver = self.known_driver
        known = [vars(directory).copy() for directory in self.directories]
        _abandoned.append((driver and (driver.links, driver.turn), self.links, self.lock, self._ending, known))
        self.lock = threading.RLock()
        self._ending = threading.RLock()
        self._ahead = None
        if driver is not None:
            driver.forked()
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget what was known of the workers: the next links learn it."""
        links = []
        for old in self.links:
            link = Link(old.name, old.spec)
            link.child, link.hint = old.child, old.hint
            links.append(link)
        self.links = links
        for directory in self.directories:
            directory.begin_anew()
        driver = self.known_driver
        if driver is not None:
            driver.place({link.name: link for link in links})

    # How things stand ------------------------------------------------------------------------------

    def wait(self, timeout: float) -> None:
        """Start the links, and wait so many seconds at most for those of which nothing is known yet."""
        self.start()
        until = time.monotonic() + timeout
        with self.driver.turn:
            while time.monotonic() < until and (
                any(link.state == "starting" or _coming(link) for link in self.links)
                or any(directory.state == "starting" for directory in self.directories)
            ):
                self.driver.turn.wait(until - time.monotonic())

    def places(self) -> list[dict[str, Any]]:
        """How things stand with each worker as of now, whether the links are started or not."""
        with self.driver.turn:
            return [
                {
                    "name": link.name,
                    "url": link.url,
                    "state": link.state,
                    "executors": len(link.seats),
                    "outstanding": sum(seat.outstanding for seat in link.seats),
                    "error": str(link.error) if link.error and link.state != "up" else None,
                }
                for link in self.links
            ] + [trouble for directory in self.directories for trouble in directory.troubles()]

    def slowness(self) -> float:
        """Of the fastest executor, in units of this machine."""
        return min((seat.prior for link in self.links for seat in link.seats), default=1.0)


def _coming(link: Link) -> bool:
    """Whether some of an embedded worker's executors are still to come."""
    return link.is_embedded and len(link.seats) < int(link.spec.partition(":")[2])
