"""Counts of a whole test suite: of several handles, and of several processes."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .observe import Statistics

COUNTED = ("calls", "remote", "local", "failed", "retried", "bytes_out", "bytes_in")


class Tally:
    """Counts, of several handles or processes."""

    def __init__(self) -> None:
        self.used = False
        self._counts: collections.Counter[str] = collections.Counter()
        self._executors: set[str] = set()
        self.unrelocated: dict[str, str] = {}
        """Designated modules of which the real one was used, with the reasons."""
        self.misspelt: set[str] | None = None
        """What is to be said of names that no process has imported and that are no modules; None: nobody looked."""

    def add(self, statistics: Statistics) -> None:
        """Add what a handle counted."""
        self.used = True
        for name in COUNTED:
            self._counts[name] += getattr(statistics, name)
        self._executors.update(label for label, seen in statistics.workers.items() if seen.calls)
        self.unrelocated |= statistics.unrelocated

    def as_data(self) -> dict[str, Any] | None:
        """The counts as xdist can send them; None if nothing was relocated."""
        if not self.used:
            return None
        misspelt = None if self.misspelt is None else sorted(self.misspelt)
        told = {"executors": sorted(self._executors), "unrelocated": self.unrelocated, "misspelt": misspelt}
        return {**self._counts, **told}

    def add_data(self, data: Mapping[str, Any], process: str = "") -> None:
        """Add another's `as_data`, which counted in ``process``: embedded executors are its own."""
        self.used = True
        for name in COUNTED:
            self._counts[name] += data.get(name, 0)
        self._executors.update(f"{process}:{e}" if e.startswith("embedded/") else e for e in data["executors"])
        self.unrelocated |= data.get("unrelocated", {})
        misspelt = data.get("misspelt")
        if misspelt is not None:
            self.misspelt = set(misspelt) if self.misspelt is None else self.misspelt & set(misspelt)

    def lacking(self) -> list[str]:
        """What was designated and not relocated, each in a line that says why."""
        said = [f"{module} is not relocated: {why}" for module, why in sorted(self.unrelocated.items())]
        return said + sorted(self.misspelt or ())

    def __str__(self) -> str:
        counts = self._counts
        where = f"{counts['remote']:,} on workers ({_count(len(self._executors), 'executor')})"
        said = [f"relocate: {_count(counts['calls'], 'call')}: {where}, {counts['local']:,} here"]
        said += [f"{counts['failed']:,} failed"] if counts["failed"] else []
        said += [f"{counts['retried']:,} retried", f"{_size(counts['bytes_out'])} out, {_size(counts['bytes_in'])} in"]
        if self.unrelocated:
            from .config import outermost

            said.append(f"not relocated: {', '.join(outermost(self.unrelocated))}")
        return "; ".join(said)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(octets: float) -> str:
    unit = "B"
    for larger in ("kB", "MB", "GB"):
        if octets >= 1000:
            octets, unit = octets / 1000, larger
    return f"{octets:.0f} B" if unit == "B" else f"{octets:,.1f} {unit}"
