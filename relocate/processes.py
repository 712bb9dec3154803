"""The processes that are executors, or will be, as the supervisor has them: started, told, heard, ended.

The *reserve* is one that was started ahead, and has done all that is the same for every slot; the line
that makes an executor of it is the slot's (see `executor`).  So who is ended is replaced at once.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from . import embedded, executor

REST = 0.2
"""Seconds for what an executor has reported before its end to be read: who else holds its streams is not waited for."""


class Process:
    """An executor's process, and its slate.

    Args:
        post: is given what it reports, and that it has ended (``ended``: the return code), by another thread.
        settings: what is the same for every slot.

    Raises:
        OSError: there is no memory, no process or no file left.
    """

    def __init__(self, post: Callable[[Process, dict[str, Any]], None], **settings: Any) -> None:
        self._post = post
        with shared_file() as file:
            file.truncate(executor.SLATE)
            self.slate: Any = mmap.mmap(file.fileno(), executor.SLATE)
            posix: dict[str, Any] = {"pass_fds": [file.fileno()], "process_group": 0} if os.name == "posix" else {}
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-P", "-c", embedded.boot("executor")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=embedded.environment(),
                **posix,
            )
            self.tell(**settings, supervisor=os.getpid(), slate=file.fileno() if posix else None)
        self.pid = self._process.pid
        threading.Thread(target=self._watch, daemon=True).start()

    def tell(self, **what: Any) -> None:
        """Say something to it, unless it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()

    def has_ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._process.returncode is not None

    def interrupt(self) -> None:
        """Interrupt the call that its slate names."""
        if os.name == "posix":
            with contextlib.suppress(OSError):
                self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it; its end is posted."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def bury(self) -> None:
        """End it and whatever it started, and wait until it is gone."""
        self._kill_all()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def running(self) -> tuple[bytes, float]:
        """The call that runs there, and until when its answer is wanted; 0 if that is not known."""
        call = bytes(self.slate[executor.RUNNING])
        (moment,) = executor.MOMENT.unpack(self.slate[executor.DUE])
        return (call, moment) if call == self.slate[executor.RUNNING] else (call, 0.0)

    def ended(self) -> int:
        """How many calls have ended there, if that is counted."""
        return int.from_bytes(self.slate[executor.ENDED], "little")

    def _kill_all(self) -> None:
        with contextlib.suppress(OSError):
            if os.name == "posix":
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def _watch(self) -> None:
        """In a thread: pass on its reports, and its end."""
        # A process that the function started may hold the pipe open, even beyond this group: the end of
        # the executor, not of the stream, is what counts.
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        self._process.wait()
        self._kill_all()
        reader.join(REST)
        self._post(self, {"ended": self._process.returncode})

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._post(self, json.loads(line))


def standing(pid: int) -> tuple[str, float]:
    """The state of a process as proc(5) has it, ``R`` if it runs or waits for a processor, and seconds that it ran.

    Both are of its main thread.  Nothing and 0 where the system does not tell.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        return state.decode(), int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return "", 0.0


def shared_file() -> IO[bytes]:
    """A file to share memory with another process; where the system can, it lies in no folder, which may be full."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("relocate"), "w+b")
    return tempfile.TemporaryFile()
