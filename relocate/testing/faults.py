"""What a test can let go wrong with one call on an executor."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Kill:
    """The executor ends.

    Args:
        returncode: of its process, as `subprocess` has it: minus the signal, or the exit status.
        before: it ends before it has read the call, so that the obituary does not blame the call.
        obituary: seconds until the supervisor says so; None: it never does.
        restart: seconds until its replacement is announced; None: there is none.
        memory: it took more memory than it may; the return code is then that of SIGKILL.
    """

    returncode: int = -signal.SIGSEGV
    before: bool = False
    obituary: float | None = 0.002
    restart: float | None = 0.1
    memory: bool = False


@dataclass(frozen=True)
class CutOff:
    """The connection is lost after a heartbeat's silence; the executor lives, and has run the call."""


@dataclass(frozen=True)
class Delay:
    """The call takes this many seconds more."""

    seconds: float


@dataclass(frozen=True)
class Refuse:
    """The executor refuses the channel."""

    code: str = "ticket"
    text: str = "the ticket is not one that this worker gave out"


@dataclass(frozen=True)
class Drain:
    """The worker begins to shut down; the call is handed back."""


@dataclass(frozen=True)
class Garble:
    """The reply is not a message of the protocol."""

    frames: tuple[bytes, ...] = (b"\xc1",)


Fault = Kill | CutOff | Delay | Refuse | Drain | Garble
