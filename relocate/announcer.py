"""A worker's offer, told to registries: while it has executors, three times in a lease, until it drains.

Part of the supervisor's loop, as it waits for nothing.  A registry that comes back hears the offer at
once.  Each connection is an incarnation of its own, numbered by the clock, or above what the registry
says it knows: so that nothing that the last one left on its way counts any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket as sockets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import zmq

from . import __version__, config, embedded, session, wire
from .connection import Polled, myself
from .contact import Contact
from .errors import ConfigError

log = logging.getLogger("relocate.worker")

FIRST = 1.0
"""Seconds after which an announcement that was not answered is repeated."""
SOONEST = 0.05
"""Seconds after which one that was answered is repeated, at least."""
LINGER = 500
"""Milliseconds in which a withdrawal may still leave."""


@dataclass
class Told:
    """How things stand with one registry."""

    contact: Contact
    incarnation: int = 0
    again_at: float = 0.0
    trouble: str = ""
    """What is wrong, once it was said."""


class Announcer:
    """Tells registries what this worker offers.

    Args:
        context: of the connections.
        registries: their addresses.
        folder: of the keys.
        listens: where the supervisor listens.
        advertise: the address that clients are told; empty: worked out from ``listens``.
        labels: of this worker.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        registries: Sequence[str],
        folder: str,
        listens: str,
        advertise: str,
        labels: dict[str, str],
    ) -> None:
        self._listens, self._advertise, self._labels = listens, advertise, labels
        self._modules: tuple[wire.Module, ...] = ()
        self._executors = 0
        self._ended = False
        self._told = [
            Told(
                Contact(
                    context,
                    url,
                    folder,
                    myself(),
                    on_up=self._up,
                    on_message=self._message,
                    on_down=self._down,
                )
            )
            for url in registries
        ]

    def update(self, executors: int, modules: tuple[wire.Module, ...]) -> None:
        """There are so many executors now, and these are the modules offered (none: any)."""
        if (executors, modules) != (self._executors, self._modules):
            self._executors, self._modules = executors, modules
            for told in self._told:
                told.again_at = 0.0

    def withdraw(self) -> None:
        """The worker drains, or ends: offer nothing any more."""
        self._ended = True
        for told in self._told:
            told.contact.send(wire.Withdraw(told.incarnation, self._url(told)))

    def close(self) -> None:
        """End the connections."""
        for told in self._told:
            told.contact.close(LINGER)

    def polled(self) -> Polled:
        """What to poll."""
        return [polled for told in self._told for polled in told.contact.polled()]

    def serve(self, ready: Any) -> bool:
        """See to a socket that is ready; False: it is none of these."""
        return any(told.contact.serve(ready) for told in self._told)

    def tend(self) -> None:
        """Connect, and announce what is due."""
        now = time.monotonic()
        for told in self._told:
            told.contact.tend()
            if told.contact.state == "up" and now >= told.again_at:
                self._announce(told, now)

    def patience(self) -> int:
        """Milliseconds until `tend` should be called again, at most; -1: there is no need."""
        return min((told.contact.patience() for told in self._told), default=-1)

    def _announce(self, told: Told, now: float) -> None:
        told.again_at = now + FIRST
        if self._ended:
            return
        if not self._executors:
            told.contact.send(wire.Withdraw(told.incarnation, self._url(told)))
            told.incarnation += 1
            return
        url = self._url(told)
        offer = wire.Offer(
            url,
            __version__,
            session.PYTHON,
            self._executors,
            platform.node() if embedded.is_loopback(url) else "",
            self._modules,
            self._labels,
            capabilities(),
        )
        told.contact.send(wire.Announce(told.incarnation, offer))

    def _up(self, contact: Contact) -> None:
        for told in self._told:
            if told.contact is contact:
                told.incarnation = max(told.incarnation + 1, time.time_ns())
                told.again_at = 0.0

    def _down(self, contact: Contact) -> None:
        for told in self._told:
            if told.contact is contact:
                self._warn(told, f"not announced: {contact.error}")

    def _warn(self, told: Told, trouble: str) -> None:
        if trouble and trouble != told.trouble:
            log.warning("%s", trouble)
        told.trouble = trouble

    def _message(self, contact: Contact, message: wire.AnyMessage) -> None:
        for told in self._told:
            if told.contact is contact and isinstance(message, wire.Leased):
                self._warn(told, message.trouble and f"the registry at {contact.url}: {message.trouble}")
                if message.lease:
                    contact.lease = message.lease
                    told.again_at = time.monotonic() + max(message.lease / 3, SOONEST)
                else:
                    told.incarnation = max(told.incarnation, message.incarnation + 1)

    def _url(self, told: Told) -> str:
        """The address that clients of that registry are told."""
        return self._advertise or reachable(self._listens, told.contact.url)


def reachable(listens: str, registry: str) -> str:
    """The address at which clients of ``registry`` reach who ``listens`` on all interfaces."""
    parts = urlsplit(listens)
    if parts.scheme != "tcp" or parts.hostname not in ("0.0.0.0", "*", "::"):
        return listens
    wanted = sockets.AF_UNSPEC if parts.hostname == "::" else sockets.AF_INET
    # The one from which the registry is reached, or else the machine's way out; nothing is sent for it.
    for host in (urlsplit(registry).hostname, "192.0.2.1"):
        with contextlib.suppress(OSError):
            family, kind, _, _, address = sockets.getaddrinfo(host, 9, wanted, sockets.SOCK_DGRAM)[0]
            with sockets.socket(family, kind) as probe:
                probe.connect(address)
                name = str(probe.getsockname()[0])
            found = f"tcp://{f'[{name}]' if ':' in name else name}:{parts.port}"
            if not embedded.is_loopback(found):
                return found
    return f"tcp://127.0.0.1:{parts.port}"


def capabilities() -> dict[str, str]:
    """What this machine is."""
    found = {"system": platform.system(), "machine": platform.machine(), "cores": str(config.cores())}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20} MiB"
    return found


def check_advertised(url: str) -> str:
    """``url`` itself, if clients can connect to it.

    Raises:
        ConfigError: it is not one address.
    """
    config.check_url(url, "tcp://host:port or ipc:///path")
    if urlsplit(url).hostname in ("0.0.0.0", "*", "::") or url.endswith(":0"):
        raise ConfigError(f"--advertise {url}: clients cannot connect to that; write the host by which they know it")
    return url
