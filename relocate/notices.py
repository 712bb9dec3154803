"""What one handle tells its user: warnings, each once; names that lead to nothing; at the end what was asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

from . import config as configuration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import Config
    from .difference import Difference
    from .observe import Counters


class RelocateWarning(RuntimeWarning):
    """Something is not as configured, and the program goes on without it."""


class Notices:
    """Tells the user of one handle.

    Args:
        config: of the handle.
        counters: what it counts.
    """

    def __init__(self, config: Config, counters: Counters) -> None:
        self._config = config
        self._counters = counters
        self._warned: set[str] = set()

    def warn(self, text: str, once: str = "") -> None:
        """Warn of ``text``, unless that was done, or of another text with the same ``once``."""
        if (once or text) not in self._warned:
            self._warned.add(once or text)
            from .output import warn

            warn(text, RelocateWarning)

    def fell_back(self, name: str, why: str) -> None:
        """A function runs here, as no worker could run it."""
        self.warn(f"{name} runs here, not on a worker: {why}", once=why)

    def unused(self, worker: str, module: str, why: str) -> None:
        """A worker has another version of a module than the others."""
        from .proxy import namespace_of

        version = namespace_of(sys.modules[module]).get("__version__") if module in sys.modules else None
        ours = f"; the program uses {version}" if isinstance(version, str) else ""
        self.warn(f"{worker} is not used for {module}: {why}{ours}", once=f"unused: {worker} {module}")

    def unverified(self, name: str, why: str) -> None:
        """A call was not compared."""
        self.warn(f"{name} is not verified: {why}")

    def compared(self, name: str, difference: Difference | None) -> None:
        """A call was compared; only a function's first difference is told."""
        from .verify import DIFFER

        if self._counters.compared(name, difference):
            self.warn(f"{DIFFER}: {difference}")

    def misspelt(
        self,
        known: Callable[[str], bool],
        elsewhere: Callable[[str, Sequence[str] | None], ModuleSpec | None],
        *,
        here: bool,
    ) -> Iterator[str]:
        """What is to be said of each designated name that nobody imported and that is no module.

        Args:
            known: whether a name has led to a module, a class or a method.
            elsewhere: where other finders see a module.
            here: whether what is not here is nowhere; else only what resembles an imported module is told.
        """
        for name in (m for m in (*self._config.modules, *self._config.methods) if not m.startswith("!")):
            if known(name):
                continue
            from . import spelling

            said = spelling.unknown(name, elsewhere)
            if said is not None and not here:
                said = spelling.imported(name)
            if said is not None:
                yield said

    def report(self) -> None:
        """Write what was asked for: the report, the summary."""
        if self._config.report:
            from .observe import write_report

            try:
                write_report(self._counters.statistics(), self._config.report)
            except OSError as error:
                print(f"relocate: the report was not written: {error}", file=sys.stderr)
        if os.environ.get(configuration.ENV_SUMMARY):
            from .observe import summary

            print(f"relocate: {summary(self._counters.statistics())}", file=sys.stderr)
