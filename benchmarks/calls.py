"""A small call against the same bytes over plain pyzmq."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median

from raw import connected
from report import Row
from stage import LABELS, TRANSPORTS, Stage
from timing import Rounds, ratio, take_turns

TARGET = 1.25


def run(stage: Stage) -> Iterator[Row]:
    """One row for each transport.

    All processes are started several times: how fast one runs the same code depends on where in memory its objects
    happen to lie, for as long as it lives.
    """
    for transport in ("straight", "ipc", "tcp"):
        ours: list[float] = []
        theirs: list[float] = []
        for launch in range(stage.rounds(5)):
            taken, sizes = _launched(stage, transport, f"tasks_calls_{transport}_{launch}")
            ours += taken["relocate"]
            theirs += taken["pyzmq"]
        found = ratio(ours, theirs)
        yield Row(
            "calls",
            f"add(2, 3), {LABELS[transport]}",
            "plain pyzmq",
            median(ours),
            median(theirs),
            "us",
            found.middle,
            found.low,
            found.high,
            at_most=TARGET,
            note=sizes,
        )


def _launched(stage: Stage, transport: str, name: str) -> tuple[Rounds, str]:
    """What both take, with new processes, and the bytes of a call."""
    with ExitStack() as stack:
        stack.enter_context(stage.over(transport))
        workers = stack.enter_context(stage.worker()) if transport == "tcp" else "1"
        module, handle = stack.enter_context(stage.relocated(name, workers))
        add = module.add
        for _ in range(200):
            add(2, 3)
        before = handle.statistics()
        add(2, 3)
        after = handle.statistics()
        request = os.urandom(after.bytes_out - before.bytes_out)
        reply = after.bytes_in - before.bytes_in
        call = stack.enter_context(connected(stage, TRANSPORTS[transport], reply)).call
        assert len(call(request)) == reply
        taken = take_turns(
            {"relocate": partial(add, 2, 3), "pyzmq": partial(call, request)},
            rounds=stage.rounds(12),
            calls=stage.calls(200),
            first=20,
        )
        return taken, f"{len(request)} B there, {reply} B back"
