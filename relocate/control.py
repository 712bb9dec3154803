"""The control socket of a running program: where its user looks at its name space, and changes it.

The program listens on a Unix socket, in a folder that only its user can enter; on Linux, the user of
whoever connects is asked of the kernel too.  Each connection carries one request and one reply, each
a line of JSON.  Nothing is unpickled, and nothing can be asked for but the verbs that are given.

The socket is there as long as the program has links to workers: a program that has none has no
thread for this.  Its file goes when the program ends; what a killed program left is removed by whoever
comes next.  Windows has no such sockets, so that running programs cannot be looked at there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from .errors import ConfigError, RelocateError

LONGEST = 1 << 20
"""Bytes of a request."""
PATIENCE = 1.0
"""Seconds that a program waits for the rest of a request."""
ANSWER = 30.0
"""Seconds that is waited for a program's answer."""
LONGEST_FOLDER = 70
"""Bytes: a Unix socket's address holds 107 (unix(7)), and the names of the folder and of the socket are appended."""
TRIES = 3
"""To make the socket, while others that end remove the empty folder."""

_taken: set[str] = set()
"""Names of this process's sockets."""

Verbs = Mapping[str, Callable[..., Any]]


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A verb, with its arguments by their names."""

    verb: str
    arguments: dict[str, Any] = {}


class Reply(msgspec.Struct):
    """What a verb gave; or why it could not, and whether the request was at fault."""

    value: Any = None
    error: str | None = None
    mistake: bool = False


# In the program ------------------------------------------------------------------------------------


class Control:
    """Listens, in a thread of its own, and runs one verb at a time.

    Args:
        verbs: what may be asked for.
        begin: called in the thread before all else.

    Raises:
        OSError: the socket cannot be made.
        RelocateError: the folder for it is not safe.
    """

    def __init__(self, verbs: Verbs, begin: Callable[[], object] = lambda: None) -> None:
        self._verbs = verbs
        self._begin = begin
        self._listener, self.path = _listen()
        self._ear, self._mouth = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="relocate-control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more, and remove the socket's file."""
        _remove(self.path)
        sweep(self.path.parent)  # of children that were forked, most likely, and ended without a word
        _taken.discard(self.path.name)
        with contextlib.suppress(OSError):
            self._mouth.send(b"\0")
        self._thread.join(PATIENCE)

    def forked(self) -> None:
        """In a forked child: the socket is the parent's."""
        _taken.discard(self.path.name)
        for end in (self._listener, self._ear, self._mouth):
            end.close()

    def _run(self) -> None:
        self._begin()
        with self._listener, self._ear, self._mouth:
            while True:
                ready, _, _ = select.select([self._listener, self._ear], [], [])
                if self._ear in ready:
                    return
                try:
                    peer, _ = self._listener.accept()
                except OSError:  # it has gone away again
                    continue
                with peer, contextlib.suppress(OSError):
                    self._serve(peer)

    def _serve(self, peer: socket.socket) -> None:
        peer.settimeout(PATIENCE)
        if not _is_mine(peer):
            return
        line = _line(peer, LONGEST)
        if line:
            peer.sendall(msgspec.json.encode(self._reply(line)) + b"\n")

    def _reply(self, line: bytes) -> Reply:
        try:
            request = msgspec.json.decode(line, type=Request)
            verb = self._verbs.get(request.verb)
            if verb is None:
                raise ConfigError(f"{request.verb!r} is not known to this program's version of relocate")
            return Reply(msgspec.to_builtins(verb(**request.arguments)))
        except (ConfigError, msgspec.MsgspecError, TypeError) as error:
            return Reply(error=str(error), mistake=True)
        except Exception as error:
            return Reply(error=str(error) or repr(error))


def _listen() -> tuple[socket.socket, Path]:
    number = tries = 1
    while (name := str(os.getpid()) + (f".{number}" if number > 1 else "")) in _taken:
        number += 1
    _taken.add(name)
    listener = socket.socket(socket.AF_UNIX)
    try:
        while True:
            path = _own_folder() / name
            draft = path.with_name(f".{name}")  # it gets its name when it listens: before, it would pass for dead
            try:
                draft.unlink(missing_ok=True)
                listener.bind(str(draft))
                listener.listen(16)
                draft.rename(path)
            except FileNotFoundError:
                if tries == TRIES:
                    raise
                tries += 1
            else:
                return listener, path
    except BaseException:
        listener.close()
        _taken.discard(name)
        raise


def _own_folder() -> Path:
    """The folder of the sockets, made if there is none.

    Raises:
        RelocateError: it is somebody else's, or others can enter it.
    """
    made = folder()
    with contextlib.suppress(FileExistsError):
        made.mkdir(mode=0o700)
    _check(made)
    return made


def _check(made: Path) -> None:
    status = made.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise RelocateError(f"{made} is not a folder that only you can enter; remove it, or set XDG_RUNTIME_DIR")


def _remove(path: Path) -> None:
    """Remove a socket's file, and its folder if that was the last one."""
    with contextlib.suppress(OSError):
        path.unlink()
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def _is_mine(peer: socket.socket) -> bool:
    """Whether the process at the other end is this user's; elsewhere than on Linux only the folder tells."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.geteuid())


def _line(peer: socket.socket, longest: int | None = None) -> bytes:
    """What comes up to the end of the line; empty if that does not come."""
    found = bytearray()
    while not found.endswith(b"\n"):
        data = peer.recv(1 << 16)
        found += data
        if not data or (longest is not None and len(found) > longest):
            return b""
    return bytes(found)


# Outside of it -------------------------------------------------------------------------------------


def folder() -> Path:
    """Where this user's programs have their sockets: below ``XDG_RUNTIME_DIR``, or in the temporary folder.

    In ``/tmp`` if their paths are too long for the address of a Unix socket.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and len(os.fsencode(runtime)) <= LONGEST_FOLDER and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime) / "relocate"
    temporary = tempfile.gettempdir()
    if len(os.fsencode(temporary)) > LONGEST_FOLDER:
        temporary = "/tmp"
    return Path(temporary) / f"relocate-run-{os.geteuid()}"


def clean(pid: int) -> None:
    """Remove what a program that is gone left."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder()):
            path = folder() / name
            if name.partition(".")[0] == str(pid) and not _answers(path):
                _remove(path)


def ask(program: str, verb: str, *, timeout: float = ANSWER, **arguments: Any) -> Any:
    """What ``verb`` gives in a running program of this user.

    Args:
        program: its process id; of a program with several relocations, ``pid.2`` is the second.
        verb: see `verbs`.
        timeout: seconds to wait for an answer.
        **arguments: the verb's.

    Raises:
        ConfigError: there is no such program, or the verb found the arguments to be wrong.
        RelocateError: it does not answer, or the verb failed.
    """
    path = folder() / program
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            _check(path.parent)
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise ConfigError(f"no relocated program {program} is running; see 'relocate ps'") from None
        if not _is_mine(connection):
            raise RelocateError(f"{path} is another user's")
        try:
            connection.sendall(msgspec.json.encode(Request(verb, arguments)) + b"\n")
            line = _line(connection)
        except TimeoutError:
            raise RelocateError(f"program {program} does not answer") from None
        except OSError:
            line = b""
    if not line:
        raise RelocateError(f"program {program} has ended")
    reply = msgspec.json.decode(line, type=Reply)
    if reply.error is not None:
        raise (ConfigError if reply.mistake else RelocateError)(reply.error)
    return reply.value


def available() -> bool:
    """Whether this platform has what is needed."""
    return hasattr(socket, "AF_UNIX") and os.name == "posix"


def running() -> Iterator[str]:
    """The relocated programs of this user, for `ask`; what killed ones left is removed.

    Raises:
        ConfigError: this platform has no Unix sockets.
    """
    if not available():
        raise ConfigError("running programs cannot be looked at on this platform, which lacks Unix sockets")
    try:
        _check(folder())
        yield from sweep(folder())
    except FileNotFoundError:
        return


def sweep(where: Path) -> list[str]:
    """The sockets in a folder that somebody listens on; others are removed: what ended without a word left them."""
    try:
        names = sorted(os.listdir(where), key=lambda name: [part.zfill(9) for part in name.split(".")])
    except FileNotFoundError:
        return []
    alive = []
    for name in names:
        if name.startswith("."):
            continue
        if _answers(where / name):
            alive.append(name)
        else:
            _remove(where / name)
    return alive


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)
