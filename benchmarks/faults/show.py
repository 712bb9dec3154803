"""Rows as a table on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .ledger import Row, milliseconds

COUNTS = ("calls", "failed", "doubled", "wrong", "lost", "hung", "retried")
HEAD = ("scenario", *COUNTS, "p50", "p99", "aim", "figure", "")
INTRODUCTION = """\
# Figures under faults

Written by `make results` (`python benchmarks/resilience.py`): real processes, and networks that are really
cut; what each scenario does is said in `benchmarks/faults/`.  All workers and the program shared one machine.
Scenarios can be run one by one: rows may come from different runs on the same machine.

*Doubled*: two answers for one call; *lost*: no answer and no exception; *hung*: neither after two minutes
without any other answer; *retried*: attempts beyond the first, hedges among them.  Times are those of the
calls, but where the row says from when to when.
"""


def cells(row: Row) -> list[str]:
    """One row, for people."""
    counts = [f"{getattr(row, name):,}" for name in COUNTS]
    times = [milliseconds(row.p50), milliseconds(row.p99)]
    return [f"{row.scenario}: {row.case}", *counts, *times, row.aim, row.figure, "met" if row.met else "**missed**"]


def line(row: Row) -> str:
    """One row as it is printed when its scenario has ended."""
    counts = ", ".join(f"{getattr(row, name):,} {name}" for name in COUNTS)
    said = f"{row.scenario}: {row.case}: {counts}; p50 {milliseconds(row.p50)}, p99 {milliseconds(row.p99)}"
    said += f"; aim: {row.aim}; {row.figure}: {'met' if row.met else 'MISSED'}"
    return said + (f" ({row.note})" if row.note else "")


def markdown(rows: list[Row], machine: dict[str, Any], quick: bool) -> str:
    """The file of results."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    text = f"{INTRODUCTION}\n{machine['processors']} processors, {machine['system']}, "
    text += f"Python {machine['python']}, {versions}.\n"
    if quick:
        text += "\nA quick run: it shows that it runs, not how well.\n"
    text += f"\n| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}\n"
    text += "".join(f"| {' | '.join(cells(row))} |\n" for row in rows)
    notes = [f"* {row.scenario}, {row.case}: {row.note}.\n" for row in rows if row.note]
    return text + (f"\n{''.join(notes)}" if notes else "")


def as_json(rows: list[Row], machine: dict[str, Any], quick: bool) -> str:
    """The same for programs."""
    data = {"quick": quick, "machine": machine, "rows": [asdict(row) for row in rows]}
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def kept(path: Path, quick: bool) -> list[Row]:
    """The rows of an earlier run of the same length; none if there was none."""
    if not path.exists():
        return []
    data = json.loads(path.read_text("utf-8"))
    return [Row(**row) for row in data["rows"]] if data["quick"] == quick else []
