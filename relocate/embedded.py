"""The worker that a program starts for itself when it names none: same code, own process.

It listens on a Unix socket in a folder that only this user can enter, ends when the program ends,
however it ends, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from .config import ENV_EXECUTOR
from .errors import ConfigError

SOCKET = "worker"
_PREFIX = "relocate-"


class Child:
    """A worker process that this program started."""

    def __init__(self, process: subprocess.Popen[bytes], folder: str) -> None:
        self.process = process
        self.folder = folder
        self.url = f"ipc://{folder}/{SOCKET}"
        self._pid = os.getpid()

    def ended(self) -> bool:
        """Whether the process is gone.  A forked child of this program cannot know, and says no."""
        return os.getpid() == self._pid and self.process.poll() is not None

    def stop(self) -> None:
        """End the worker and its executors, and wait until they are gone."""
        if os.getpid() != self._pid:
            return
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.clean()

    def clean(self) -> None:
        """Remove what the worker may have left."""
        shutil.rmtree(self.folder, ignore_errors=True)


def start(executors: int) -> Child:
    """Start a worker with ``executors`` executors that lives as long as this process at most.

    Raises:
        ConfigError: this platform has no Unix sockets.
    """
    if os.name != "posix":
        raise ConfigError(
            "embedded executors need Unix sockets, which this platform lacks; "
            "start 'relocate worker --listen tcp://127.0.0.1:7000' and name it in workers"
        )
    _sweep()
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_runtime_folder())
    spec = {
        "listen": f"ipc://{folder}/{SOCKET}",
        "executors": executors,
        "parent": os.getpid(),
    }
    # -P: a program's folder may hold a random.py; workers get the program's path later, whole.
    command = [sys.executable, *subprocess._args_from_interpreter_flags(), "-P", "-c", boot("worker")]  # type: ignore[attr-defined]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=2,
        env=environment(),
        # Ctrl-C at the terminal is for the program; the worker hears of its end by the pipe.
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(spec).encode() + b"\n")
    process.stdin.flush()
    return Child(process, folder)


def boot(module: str) -> str:
    """The program text that runs ``relocate.<module>.main`` from where this relocate lies."""
    root = str(Path(__file__).parent.parent)
    return f"import sys; sys.path.append({root!r}); from relocate.{module} import main; sys.exit(main())"


def environment() -> dict[str, str]:
    """The environment of workers and executors: this one's, marked."""
    return {**os.environ, ENV_EXECUTOR: "1"}


def is_loopback(url: str) -> bool:
    """Whether ``url`` can be reached from this machine only."""
    parts = urlsplit(url)
    if parts.scheme == "ipc":
        return True
    host = parts.netloc.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _runtime_folder() -> str:
    """Where sockets go: short enough for a Unix socket's address (about 100 bytes)."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()):
        if folder and len(folder) < 60 and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return "/tmp"


def _sweep() -> None:
    """Remove folders of programs that were killed together with their workers."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(_runtime_folder()):
            pid = entry.name.removeprefix(_PREFIX).partition("-")[0]
            if entry.name.startswith(_PREFIX) and pid.isdigit():
                status = entry.stat()
                old = time.time() - status.st_mtime > 60
                if old and status.st_uid == os.getuid() and not _alive(int(pid)) and not _answers(entry.path):
                    shutil.rmtree(entry.path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _answers(folder: str) -> bool:
    """Whether somebody listens there: a process id says nothing across containers that share /tmp."""
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(f"{folder}/{SOCKET}") == 0
