"""What this machine has to offer, as far as that can be told in a few milliseconds."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from time import thread_time

from . import memory
from .config import cores
from .wire import Capability

KINDS = ("type", "scope")
"""Files that say what a power supply is."""
STEPS = 20_000
ROUNDS = 5


def spin(steps: int = STEPS) -> int:
    """Work by which machines are compared: Python's own, and nothing but the processor."""
    total = 0
    for i in range(steps):
        total += i * i % 7
    return total


@cache
def speed() -> float:
    """Steps a second, the best of a few rounds: in this thread's processor time, so that neighbours do not count."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = thread_time()
        spin()
        best = min(best, thread_time() - began)
    return STEPS / max(best, 1e-6)


@cache
def gpus() -> int:
    """GPUs of NVIDIA's that Linux shows."""
    try:
        return sum(re.fullmatch("nvidia[0-9]+", name) is not None for name in os.listdir("/dev"))
    except OSError:
        return 0


def battery(folder: Path = Path("/sys/class/power_supply")) -> tuple[float, bool] | None:
    """How full this machine's battery is, from 0 to 1, and whether it runs on that; None: Linux shows none."""
    found = []
    for supply in sorted(folder.glob("*")):
        try:
            kind, scope = ((supply / name).read_text().strip() if (supply / name).exists() else "" for name in KINDS)
            if kind == "Battery" and scope != "Device":  # not a mouse's
                status = (supply / "status").read_text().strip()
                found.append((int((supply / "capacity").read_text()) / 100, status == "Discharging"))
        except (OSError, ValueError):
            continue
    if not found:
        return None
    return sum(charge for charge, _ in found) / len(found), any(discharging for _, discharging in found)


def offered(each: int = 0) -> Capability:
    """Of this machine.

    Args:
        each: bytes that each executor may take at most; 0: as many as there are.
    """
    return Capability(cores(), memory.of_machine(), gpus(), speed(), each)
