"""Another host: a network namespace that is joined to this one by a cable, which can be pulled.

    with Host() as host:
        worker = subprocess.Popen([*host.inside, "relocate", "worker", "--listen", f"tcp://{host.address}:0"])
        host.cut()

Linux only, with root's rights and iproute2's ``ip``; `possible` tells.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType

NOBODY = "02:00:00:00:00:00"
"""A hardware address that no interface has."""


def possible() -> bool:
    """Whether this user may make network namespaces on this machine."""
    if not shutil.which("ip") or os.getuid() != 0:
        return False
    name = f"probe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        _ip("netns", "del", name)
    return made


class Host:
    """One other host; there may be one at a time for each process."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.name = f"relocate{os.getpid()}"
        """Of the network namespace."""
        self.cable = f"rl{os.getpid()}"
        """The interface here that leads there."""
        self.address = f"10.231.{number}.2"
        self.here = f"10.231.{number}.1"
        """This side's address, as seen from there."""

    @property
    def inside(self) -> tuple[str, ...]:
        """The prefix of commands that run there."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Pull the cable."""
        _ip("link", "set", self.cable, "down")

    def join(self) -> None:
        """Undo `cut` and `lose`."""
        _ip("link", "set", self.cable, "up")
        for side, address, device in self._ways():
            subprocess.run(["ip", *side, "neigh", "del", address, "dev", device], capture_output=True, check=False)

    def lose(self, *, to_here: bool) -> None:
        """Lose all that is sent one way, to this side or to the other; the other way stays whole.

        Frames are addressed to nobody, so that no side is told: it looks like loss on the way.
        """
        side, address, device = self._ways()[to_here]
        _ip(*side, "neigh", "replace", address, "lladdr", NOBODY, "dev", device, "nud", "permanent")

    def __enter__(self) -> Host:
        """Make it.

        Raises:
            subprocess.CalledProcessError: this user may not, or the machine cannot.
        """
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self.cable, "type", "veth", "peer", "name", "far0", "netns", self.name)
            _ip("addr", "add", f"{self.here}/24", "dev", self.cable)
            _ip("link", "set", self.cable, "up")
            _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "far0")
            _ip("-n", self.name, "link", "set", "far0", "up")
            _ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _ways(self) -> tuple[tuple[tuple[str, ...], str, str], tuple[tuple[str, ...], str, str]]:
        """Of what is sent there, and here: options for ``ip`` at the sender, the address, the interface."""
        return ((), self.address, self.cable), (("-n", self.name), self.here, "far0")

    def _remove(self) -> None:
        subprocess.run(["ip", "link", "del", self.cable], capture_output=True, check=False)
        _ip("netns", "del", self.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
