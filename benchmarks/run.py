"""Run the benchmarks: ``python benchmarks/run.py [NAME...]``."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

import report
from rich.console import Console
from stage import Stage

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("calls", "arrays", "peers", "parallel", "startup", "decisions", "placement", "overload", "registry")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Measure relocate against what it is compared with.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which benchmarks [default: all]: {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "benchmarks.json", metavar="FILE")
    parser.add_argument("--plot", type=Path, default=ROOT / "results" / "benchmarks.png", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="few repetitions: shows that it runs, not how fast")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a target is missed")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; choose from {', '.join(NAMES)}")
    names = [name for name in NAMES if name in options.names or not options.names]
    progress = Console(stderr=True, highlight=False)
    rows: list[report.Row] = []
    # Short, as Unix sockets are made in it.
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        stage = Stage(Path(folder), options.quick)
        for name in names:
            progress.print(f"{name} ...", style="dim")
            rows += importlib.import_module(name).run(stage)
    report.show(rows, stage.skipped)
    report.write_json(rows, stage.skipped, options.json, options.quick)
    written = [str(options.json)]
    if report.plot(rows, options.plot):
        written.append(str(options.plot))
    progress.print(f"written: {', '.join(written)}", style="dim")
    return 1 if options.strict and any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
