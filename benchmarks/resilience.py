"""Let workers die, freeze and be cut off, and count what becomes of the calls: ``python benchmarks/resilience.py``.

A run of all scenarios takes about 20 minutes and writes ``benchmarks/RESULTS.md``.  If only some
are named, the rows of the others are those of the run before.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import report
from faults import cables, cancels, deaths, show, slowness
from rich.console import Console

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
SCENARIOS = {
    "faults": deaths.faults,
    "killed": deaths.killed,
    "frozen": deaths.frozen,
    "restarts": deaths.restarts,
    "slow-worker": slowness.worker,
    "slow-link": slowness.link,
    "held": slowness.held,
    "link-down": cables.down,
    "one-way": cables.one_way,
    "deadline": cancels.deadline,
}


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Let workers fail in every way, and count what becomes of the calls.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which scenarios [default: all]: {', '.join(SCENARIOS)}"
    )
    parser.add_argument("--quick", action="store_true", help="few calls: shows that it runs, not how well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="[default: results/resilience.json]")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="[default: benchmarks/RESULTS.md; if quick, results/RESULTS.md]"
    )
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"unknown scenario {unknown[0]!r}; choose from {', '.join(SCENARIOS)}")
    file = options.json or RESULTS / ("resilience-quick.json" if options.quick else "resilience.json")
    text = options.markdown or (RESULTS if options.quick else HERE) / "RESULTS.md"
    progress = Console(stderr=True, highlight=False)
    rows = show.kept(file, options.quick)
    for name, scenario in SCENARIOS.items():
        if options.names and name not in options.names:
            continue
        progress.print(f"{name} ...", style="dim")
        made = []
        try:
            for row in scenario(options.quick):
                print(show.line(row), flush=True)
                made.append(row)
        except cables.Unable as error:
            progress.print(f"skipped: {name}: {error}", style="yellow")
        rows = [row for row in rows if row.scenario != name] + made
        rows.sort(key=lambda row: list(SCENARIOS).index(row.scenario))
        for path, content in (
            (file, show.as_json(rows, report.machine(), options.quick)),
            (text, show.markdown(rows, report.machine(), options.quick)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, "utf-8")
    progress.print(f"written: {file}, {text}", style="dim")
    return 0


if __name__ == "__main__":
    sys.exit(main())
