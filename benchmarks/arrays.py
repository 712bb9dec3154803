"""Arrays there and back against plain pyzmq with out-of-band buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median

from raw import connected
from report import Row
from stage import Stage
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
    for transport in ("ipc", "tcp"):
        with ExitStack() as stack:
            workers = "1" if transport == "ipc" else stack.enter_context(stage.worker())
            module, _ = stack.enter_context(stage.relocated(f"tasks_arrays_{transport}", workers))
            client = stack.enter_context(connected(stage, transport))
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
                    f"{size} MiB there and back, {transport}{' with CURVE' if transport == 'tcp' else ''}",
                    "plain pyzmq, out-of-band",
                    median(taken["relocate"]),
                    median(taken["pyzmq"]),
                    "ms",
                    found.middle,
                    found.low,
                    found.high,
                    at_most=TARGET,
                )
