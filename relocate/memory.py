"""Memory: how much there is, what a process takes of it, and whether the kernel has ended one for it.

As Linux tells it; elsewhere nothing is known, and what is asked for is not done.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

WORTH = 500
"""Thousandths of the machine's memory that an executor seems to take more than it does, when the kernel
looks for a process to end: whoever runs calls that can be repeated goes before whoever cannot."""
AT_ONCE = 5.0
"""Seconds within which is heard of the ends of processes that the kernel has ended at once."""
CGROUPS = Path("/sys/fs/cgroup")


def of_machine() -> int:
    """Bytes that this process's machine or container has; 0 if that is not known."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (ValueError, OSError, AttributeError):  # not a system that tells
        return 0
    for name in ("memory.max", "memory.limit_in_bytes"):
        for text in _told(name):
            with contextlib.suppress(ValueError):  # "max"
                found.append(int(text))
    return max(min(found), 0)


def of_process(pid: int) -> int:
    """Bytes that a process has in memory; 0 if that is not known."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def volunteer() -> None:
    """Let the kernel end this process and what it starts before others, when memory runs out."""
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        file.write_text(str(min(int(file.read_text()) + WORTH, 1000)))


def kills() -> int:
    """How many processes the kernel has ended for want of memory: in this one's control group, or else at all."""
    for text in (*_told("memory.events"), *_told("memory.oom_control"), *_read(Path("/proc/vmstat"))):
        for line in text.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


class Toll:
    """Tells of processes that were killed whether it was the kernel, for want of memory.

    The kernel counts those, and does not say which they were.  It may take several at once, of whose ends is heard
    one after the other: each that it counts stands for one of them.
    """

    def __init__(self) -> None:
        self._counted = kills()
        self._left = 0
        self._until = 0.0

    def has(self, now: float) -> bool:
        """Whether a process of whose end by SIGKILL is heard now is one of those.

        Args:
            now: seconds, by a clock that only goes forward.
        """
        before, self._counted = self._counted, kills()
        left = self._counted - before + (self._left if now < self._until else 0)
        self._left, self._until = max(left - 1, 0), now + AT_ONCE
        return left > 0


def _told(name: str) -> Iterator[str]:
    """What the files of that name say of this process's control groups, the innermost first."""
    for line in "".join(_read(Path("/proc/self/cgroup"))).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controllers == "memory":
            mount = CGROUPS if number == "0" else CGROUPS / "memory"
            inner = mount / path.strip("/")
            # In a container the path may be the host's; what it names is then mounted at the top.
            for folder in (inner, *inner.parents):
                if folder.is_relative_to(mount):
                    yield from _read(folder / name)


def _read(file: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield file.read_text()
