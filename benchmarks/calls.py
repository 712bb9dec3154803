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
from timing import ratio, take_turns

TARGET = 1.25


def run(stage: Stage) -> Iterator[Row]:
    """One row for each transport."""
    for transport in ("straight", "ipc", "tcp"):
        with ExitStack() as stack:
            stack.enter_context(stage.over(transport))
            workers = stack.enter_context(stage.worker()) if transport == "tcp" else "1"
            module, handle = stack.enter_context(stage.relocated(f"tasks_calls_{transport}", workers))
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
                rounds=stage.rounds(60),
                calls=stage.calls(200),
                first=20,
            )
            found = ratio(taken["relocate"], taken["pyzmq"])
            yield Row(
                "calls",
                f"add(2, 3), {LABELS[transport]}",
                "plain pyzmq",
                median(taken["relocate"]),
                median(taken["pyzmq"]),
                "us",
                found.middle,
                found.low,
                found.high,
                at_most=TARGET,
                note=f"{len(request)} B there, {reply} B back",
            )
