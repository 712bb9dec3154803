"""Every exception that relocate raises by itself, and who should act on each.

A function's own exception is never wrapped: what the remote function raised is raised here as the
same class.  The classes below are about relocation only::

    RelocateError
    +-- ConfigError            the user: mend the configuration
    +-- ModuleUnavailable      the user: nobody can describe or load that module (an ImportError)
    +-- ArgumentError          the caller: an argument or a result cannot travel
    +-- WorkerError            the operator of the worker
    |   +-- WorkerUnreachable      start it, or mend the address or the network
    |   +-- WrongKey               exchange keys
    |   +-- IncompatibleWorker     bring both sides to one version
    +-- NoWorkerLeft           the operator: every place that could run the call is gone
    +-- Overloaded             the caller: ask less, or later; the operator: add workers
    +-- PolicyError            the author of the configured policy
    +-- DeadlineExceeded       the caller: the answer did not come in time (a TimeoutError)
    +-- CrashingCall           the author of the function: it ends the process that runs it
    |   +-- OutOfMemory            the caller: smaller arguments; the operator: more memory (a MemoryError)
    +-- ProtocolError
        +-- LocalProtocolError     a defect of relocate: report it
        +-- RemoteProtocolError    the peer is not a relocate of this version, or is defective
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "ConfigError",
    "CrashingCall",
    "DeadlineExceeded",
    "IncompatibleWorker",
    "LocalProtocolError",
    "ModuleUnavailable",
    "NoWorkerLeft",
    "OutOfMemory",
    "Overloaded",
    "PolicyError",
    "ProtocolError",
    "RelocateError",
    "RemoteProtocolError",
    "WorkerError",
    "WorkerUnreachable",
    "WrongKey",
]


class RelocateError(Exception):
    """Base of every error that relocate raises by itself."""


class ConfigError(RelocateError, ValueError):
    """The configuration is wrong; the message names the key and the remedy.  The user acts."""


class ModuleUnavailable(RelocateError, ImportError):
    """A designated module can be neither described by a worker nor loaded here.

    An ImportError, so that ``try: import m except ImportError`` means what it always meant.
    """


class ArgumentError(RelocateError, TypeError):
    """A value cannot travel between processes; the message names the argument.  The caller acts."""


class WorkerError(RelocateError):
    """Something is wrong with one worker.  Its operator acts."""


class WorkerUnreachable(WorkerError, ConnectionError):
    """Nobody answers at the worker's address."""


class WrongKey(WorkerError):
    """One of the two sides does not hold a key that the other allows."""


class IncompatibleWorker(WorkerError):
    """The two sides differ in protocol or Python version; the message names both."""


class NoWorkerLeft(RelocateError):
    """No worker could run the call within the configured patience, and no local copy may.

    The message lists what was tried.  The operator acts.
    """


class Overloaded(RelocateError):
    """All executors are busy, and as many calls wait for them as are allowed to.

    Raised at once, where a ``queue`` is configured.  The caller asks less, or again later; or the operator
    adds workers.
    """


class PolicyError(RelocateError):
    """The configured policy raised an exception, or gave what is no decision.  Its author acts."""


class DeadlineExceeded(RelocateError, TimeoutError):
    """The call's deadline passed before its answer came, or would have before it could be run.

    It is interrupted where it runs.  The caller acts.
    """


class CrashingCall(RelocateError):
    """The call ended every executor it ran on, so it is not tried again.

    Its function crashes the process (a segmentation fault, ``os._exit``, out of memory).  The
    author of the function, or the caller who chose the arguments, acts.
    """


class OutOfMemory(CrashingCall, MemoryError):
    """The call took more memory than there is, on the worker that has the most too.

    The caller gives it less to do, or the operator adds memory.
    """


class ProtocolError(RelocateError):
    """A message came that the protocol does not allow at that point."""


class LocalProtocolError(ProtocolError):
    """This side broke the protocol: a defect of relocate."""


class RemoteProtocolError(ProtocolError):
    """The other side broke the protocol."""
