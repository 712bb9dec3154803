"""Run the heavy, pure modules of an unchanged program on other processes and machines.

    import relocate
    handle = relocate.enable(modules=["scipy.ndimage"], workers="tcp://desk:7000")

From here on, ``import scipy.ndimage`` gives a proxy whose functions run on the worker.  See
`enable`, `Handle`, `statistics`; ``relocate --help`` for the command line.

PYTEST_DONT_REWRITE: under ``relocate run -m pytest`` this is loaded before pytest is, which would warn.
"""

from __future__ import annotations

# Not from typing: importing that would cost more than all the rest of this file.
TYPE_CHECKING = False

__version__ = "0.1.0"

if TYPE_CHECKING:
    from typing import Any

    from .config import Config
    from .deadlines import deadline
    from .errors import (
        ArgumentError,
        ConfigError,
        CrashingCall,
        DeadlineExceeded,
        IncompatibleWorker,
        ModuleUnavailable,
        NoWorkerLeft,
        OutOfMemory,
        Overloaded,
        PolicyError,
        RelocateError,
        WorkerError,
        WorkerUnreachable,
        WrongKey,
    )
    from .handle import Handle, active, enable
    from .notices import RelocateWarning
    from .observe import Statistics

_HOMES = {
    "config": ("Config",),
    "deadlines": ("deadline",),
    "errors": (
        "ArgumentError",
        "ConfigError",
        "CrashingCall",
        "DeadlineExceeded",
        "IncompatibleWorker",
        "ModuleUnavailable",
        "NoWorkerLeft",
        "OutOfMemory",
        "Overloaded",
        "PolicyError",
        "RelocateError",
        "WorkerError",
        "WorkerUnreachable",
        "WrongKey",
    ),
    "handle": ("Handle", "active", "enable"),
    "notices": ("RelocateWarning",),
    "observe": ("Statistics",),
}

__all__ = [
    "ArgumentError",
    "Config",
    "ConfigError",
    "CrashingCall",
    "DeadlineExceeded",
    "Handle",
    "IncompatibleWorker",
    "ModuleUnavailable",
    "NoWorkerLeft",
    "OutOfMemory",
    "Overloaded",
    "PolicyError",
    "RelocateError",
    "RelocateWarning",
    "Statistics",
    "WorkerError",
    "WorkerUnreachable",
    "WrongKey",
    "active",
    "deadline",
    "enable",
    "statistics",
]


def statistics() -> Statistics:
    """The statistics of the active handle.

    Raises:
        RelocateError: relocation is not enabled.
    """
    from .handle import active

    return active().statistics()


def __getattr__(name: str) -> Any:
    # Nothing is loaded before it is asked for: activation happens at interpreter start.
    for home, names in _HOMES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(f"relocate.{home}"), name)
    raise AttributeError(f"module 'relocate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])  # no submodules
