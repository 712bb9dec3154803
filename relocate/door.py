"""Where clients come in: a listening socket, and who may connect to it.

A worker's supervisor and a registry listen alike.  Every TCP connection is CURVE with a key that the
allow-list has; a Unix socket can be entered by its owner only.
"""

from __future__ import annotations

import errno
import logging
import os
import socket as sockets
import stat
from typing import Any, Literal
from urllib.parse import urlsplit

import zmq

from . import config, embedded, keys, transport
from .contact import SILENCE, calm
from .errors import ConfigError, RelocateError, WrongKey

log = logging.getLogger("relocate.door")


BACKLOG = 4096
"""Connections that may wait to be accepted: after a restart all clients come at once, and whoever finds no room
tries again a second later or more."""


class Door:
    """A ROUTER socket, bound to an address.

    Args:
        context: of the socket.
        url: the address; its port may be 0, its host a star.
        folder: of the keys.
        heartbeat: seconds of silence after which a client counts as cut off; 0: silence says nothing.
        unread: messages of one client that may wait.
        what: who listens, for messages to people.

    Raises:
        ConfigError: the address is wrong, taken, or needs keys that are not there.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], url: str, folder: str, heartbeat: float, unread: int, what: str
    ) -> None:
        self._context = context
        self._folder = folder
        self._authenticator: Any = None
        self._allowed: tuple[Any, frozenset[bytes]] | None = None
        """The keys that may come in, and the state of their files."""
        self.is_ipc = url.startswith("ipc://")
        self.key = b""
        """The public key that clients expect; empty on a Unix socket."""
        if self.is_ipc:
            config.check_url(url)
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        transport.configure(self.socket, heartbeat or SILENCE)
        if not heartbeat:
            calm(self.socket)
        self.socket.rcvhwm = unread
        self.socket.router_mandatory = True
        self.socket.linger = 500
        self.socket.backlog = BACKLOG
        taken = f"cannot listen on {url}: the address is taken; is another {what} running?"
        if not self.is_ipc:
            self._use_keys(url)
        elif answers(url):  # libzmq would put its own socket in the place of the other one
            raise ConfigError(taken)
        try:
            transport.bind(self.socket, resolved(url))
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise ConfigError(taken) from None
            raise ConfigError(f"cannot listen on {url}: {error.strerror}") from None
        self.port = transport.bound_to(self.socket).rpartition(":")[2]
        self.url = url if self.is_ipc else f"{url.rpartition(':')[0]}:{self.port}"
        """The address with its port."""

    def _use_keys(self, url: str) -> None:
        from zmq.auth.thread import ThreadAuthenticator

        loopback = embedded.is_loopback(url)
        try:
            mine = keys.load(self._folder, create=loopback)
        except WrongKey as error:
            raise ConfigError(f"{url} can be reached from other machines, so keys are needed: {error}") from None
        self.socket.curve_server = True
        self.socket.curve_secretkey = mine.secret
        self.key = mine.public
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain="*", credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the client that holds ``key`` (in Z85) may come in; called by the authenticator."""
        from zmq.utils import z85

        public = z85.decode(key)
        try:
            # Read anew if they have changed, so that `relocate keys allow` works on a running worker.
            state = keys.state(self._folder)
            if self._allowed is None or self._allowed[0] != state:
                self._allowed = state, frozenset(keys.load(self._folder).peers)
            if public in self._allowed[1]:
                return True
        except (RelocateError, OSError) as error:
            # It would end the authenticator's thread, and nobody could come in any more.
            log.error("a client was refused: %s", error)
            return False
        log.warning("a client was refused; to let it in: relocate keys allow %s", public.hex())
        return False

    def close(self) -> None:
        """Listen no more."""
        if self._authenticator is not None:
            self._authenticator.stop()
        self.socket.close()
        if self.is_ipc:
            transport.unbind(self.url)


def answers(url: str) -> bool:
    """Whether somebody listens on the Unix socket at ``url``, or may: it is busy, or another user's."""
    path = url.removeprefix("ipc://")
    with sockets.socket(sockets.AF_UNIX) as probe:
        return stat.S_ISSOCK(mode(path)) and probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)


def mode(path: str) -> int:
    """The mode of what is at ``path``, 0 if nothing is."""
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def resolved(url: str) -> str:
    """``url`` in the form that libzmq binds to: numeric host, or ``*`` for all interfaces."""
    parts = urlsplit(url)
    host, _, port = parts.netloc.rpartition(":")
    if parts.scheme != "tcp":
        return url
    if host in ("0.0.0.0", "*"):
        return f"tcp://0.0.0.0:{port if port != '0' else '*'}"
    try:
        family: Literal[sockets.AddressFamily.AF_UNSPEC] = sockets.AF_UNSPEC
        found = sockets.getaddrinfo(host.strip("[]"), None, family, sockets.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"cannot listen on {url}: {host}: {error.strerror}") from None
    address = str(sorted(found, key=lambda f: f[0] != sockets.AF_INET)[0][4][0])
    if ":" in address:
        address = f"[{address}]"
    return f"tcp://{address}:{port if port != '0' else '*'}"
