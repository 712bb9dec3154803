"""Other threads' imports while real modules are loaded.

Meanwhile `sys.modules` holds real modules where these threads want proxies.  So who begins to import such a
module waits; before it holds import locks, which the thread may want that loads.
"""

from __future__ import annotations

import builtins
import importlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

Hold = Callable[[str], object]
"""Waits with the import of a module, if that is to wait."""
PATIENCE = 5.0
"""Seconds to wait at most: the thread that loads may itself wait for the one that imports, by a lock or a join."""


class Gate:
    """Stands in the place of ``__import__`` for as long as somebody loads real modules."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shut: list[Hold] = []
        self._stands = False
        self._usual: Any = None

    def shut(self, hold: Hold) -> None:
        """Let imports wait as ``hold`` says."""
        with self._lock:
            self._shut.append(hold)
            if not self._stands:
                self._stands = True
                self._usual, builtins.__import__ = builtins.__import__, self._import

    def open(self, hold: Hold) -> None:
        """Let them pass."""
        with self._lock:
            if hold in self._shut:
                self._shut.remove(hold)
            self._step_aside()

    def forked(self, kept: list[Hold]) -> None:
        """In a forked child: only what its one thread does goes on."""
        self._lock = threading.Lock()
        self._shut = [hold for hold in self._shut if hold in kept]
        self._step_aside()

    def _step_aside(self) -> None:
        # If another one stands before it, which has it as the usual one, it stays, and lets all pass.
        if self._stands and not self._shut and builtins.__import__ == self._import:
            builtins.__import__ = self._usual
            self._stands = False

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        for hold in self._shut[:]:
            hold(_absolute(name, globals or {}, level) if level else name)
        found: ModuleType = self._usual(name, globals, locals, fromlist, level)
        return found

    # `warnings` does not count frames of importlib's among those of a warning's callers.
    _import.__code__ = _import.__code__.replace(co_filename="<frozen importlib._bootstrap>")


gate = Gate()


def _absolute(name: str, space: Mapping[str, Any], level: int) -> str:
    package = str(space.get("__package__") or space.get("__name__") or "")
    for _ in range(level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{name}" if name else package


def wait_for(lock: Any) -> None:
    """Until no other thread holds ``lock``, one of importlib's; but not for one that waits for this thread."""
    me, until = threading.get_ident(), time.monotonic() + PATIENCE
    while (owner := lock.owner) not in (None, me) and time.monotonic() < until and not waits(owner, me):
        time.sleep(0.001)


def waits(one: int, other: int) -> bool:
    """Whether one thread waits for a module that another one imports."""
    blocking: Any = importlib._bootstrap._blocking_on.get(one, ())  # type: ignore[attr-defined]
    locks = blocking if isinstance(blocking, (list, tuple)) else [blocking]
    return any(getattr(lock, "owner", None) == other for lock in list(locks))
