"""Simulate the policy: ``python benchmarks/simulate.py [SCENARIO...]``.

The code that decides is relocate's own (`relocate.policy`, `health`, `cost`, `budget`); time, workers
and calls are virtual.  In the same run, with the same calls: round robin, random, and least-loaded
with perfect knowledge, which is the bound.  Equal seeds give equal results, byte for byte.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from simulation import show
from simulation.clients import WAYS
from simulation.scenarios import SCENARIOS, play

RESULTS = Path(__file__).resolve().parent.parent / "results"
USUAL = (200, 40_000, 1000)
"""Workers, calls, and clients at most."""
FULL = (10_000, 1_000_000, 10_000)


def main() -> int:
    """Entry point."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description="Simulate relocate's policy with many workers and calls.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"[default: all]: {', '.join(names)}")
    parser.add_argument("--workers", type=_positive, help=f"[default: {USUAL[0]}]")
    parser.add_argument("--calls", type=_positive, help=f"[default: {USUAL[1]}]")
    parser.add_argument("--full", action="store_true", help=f"{FULL[0]:,} workers and {FULL[1]:,} calls (half an hour)")
    parser.add_argument("--seed", type=int, default=0, help="[default: 0]")
    parser.add_argument("--json", type=Path, default=RESULTS / "simulation.json", metavar="FILE")
    parser.add_argument("--plot", type=Path, default=RESULTS / "simulation.png", metavar="FILE")
    options = parser.parse_args()
    unknown = [name for name in options.scenarios if name not in names]
    if unknown:
        parser.error(f"unknown scenario {unknown[0]!r}; choose from {', '.join(names)}")
    workers, calls, clients = FULL if options.full else USUAL
    workers, calls = options.workers or workers, options.calls or calls
    progress = Console(stderr=True, highlight=False)
    results = []
    for scenario in SCENARIOS:
        if options.scenarios and scenario.name not in options.scenarios:
            continue
        progress.print(f"{scenario.name} ...", style="dim")
        scenario = replace(scenario, clients=min(scenario.clients, clients))
        for name, way in WAYS.items():
            results.append(play(scenario, way, name, workers=workers, calls=calls, seed=options.seed))
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    console.print(show.table(results))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(show.as_json(results, workers, calls, options.seed), "utf-8")
    written = [str(options.json)]
    if show.plot(results, options.plot):
        written.append(str(options.plot))
    progress.print(f"written: {', '.join(written)}", style="dim")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
