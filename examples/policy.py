"""A policy of one's own: large models on machines with a GPU, everything else on the others.

Run it with two workers, whose names tell which is which::

    relocate worker --listen ipc:///tmp/gpu-desk &
    relocate worker --listen ipc:///tmp/attic &
    RELOCATE_WORKERS=ipc:///tmp/gpu-desk,ipc:///tmp/attic python examples/policy.py

A package offers a policy to others by an entry point::

    [project.entry-points."relocate.policies"]
    gpu-first = "my_package:policy"

and they write ``policy = "gpu-first"`` into their configuration.
"""

from __future__ import annotations

import sys

from relocate.policies import only, prefer, when
from relocate.policy import Call, Place


def has_gpu(place: Place) -> bool:
    """Whether the worker's name says so."""
    return "gpu" in place.name


def is_heavy(call: Call) -> bool:
    """Whether the call is one for a GPU."""
    return call.name == "colorsys.hls_to_rgb"


policy = when(is_heavy, prefer(has_gpu), only(lambda place: not has_gpu(place)))


def main() -> int:
    """Call two functions, and tell where each of them ran."""
    import relocate

    with relocate.enable(modules=["colorsys"], policy="policy:policy", fallback=False) as handle:
        import colorsys

        handle.workers(10)  # both are known: a preferred place that is not there yet would be passed over
        for _ in range(10):
            colorsys.hls_to_rgb(0.5, 0.5, 0.5)
            colorsys.rgb_to_hsv(0.5, 0.5, 0.5)
        for place, did in handle.statistics().workers.items():
            print(f"{place}: {did.calls} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
