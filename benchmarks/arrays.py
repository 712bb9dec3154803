"""Arrays there and back against plain pyzmq with out-of-band buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median

from raw import connected
from report import Row
from stage import LABELS, TRANSPORTS, Stage
from timing import ratio, take_turns

TARGET = 1.1
MIB = 1 << 20


def run(stage: Stage) -> Iterator[Row]:
    """One row for each transport and size."""
    try:
        import numpy
    except ImportError:
        stage.skip("arrays: numpy is not installed")
        return
    for transport in ("straight", "ipc", "tcp"):
        with ExitStack() as stack:
            stack.enter_context(stage.over(transport))
            workers = stack.enter_context(stage.worker()) if transport == "tcp" else "1"
            module, _ = stack.enter_context(stage.relocated(f"tasks_arrays_{transport}", workers))
            client = stack.enter_context(connected(stage, TRANSPORTS[transport]))
            for size, rounds, calls in ((1, 40, 20), (64, 12, 3)):
                array = numpy.random.default_rng(0).random(size * MIB // 8)
                for echo in (module.echo, client.echo):
                    assert numpy.array_equal(echo(array), array)
                taken = take_turns(
                    {
                        "relocate": partial(module.echo, array),
                        "pyzmq": partial(client.echo, array),
                    },
                    rounds=stage.rounds(rounds),
                    calls=stage.calls(calls),
                )
                found = ratio(taken["relocate"], taken["pyzmq"])
                yield Row(
                    "arrays",
                    f"{size} MiB there and back, {LABELS[transport]}",
                    "plain pyzmq, out-of-band",
                    median(taken["relocate"]),
                    median(taken["pyzmq"]),
                    "ms",
                    found.middle,
                    found.low,
                    found.high,
                    at_most=TARGET,
                )
