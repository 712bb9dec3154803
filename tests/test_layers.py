"""Which module may import which, and what the pure ones may not touch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import relocate

HOME = Path(relocate.__file__).parent
ROWS = tuple(
    set(row.split())
    for row in (
        "errors origin purity opaque reducers views",
        "closures unreached digests",
        "config interface namespace lending ambient output changes difference health cost budget pool latency tracing",
        "stubs wire describing target",
        "arrays",
        "lookalikes values",
        "proxy",
        "entries",
        "session raising restoring policy verify methods leases tables",
        # Pure above, I/O below.
        "memory",
        """keys embedded observe cache places quiet running caller answering items tally spelling
        deadlines policies capability events resources gate chance looking""",
        "transport",
        "channel placement mounts control metrics ranks reals loaders",
        "connection direct hedging seating",
        "contact",
        "door reception",
        "announcer directory upstream",
        "executor links trip streaming nsfile shortcut",
        "driver processes registry",
        "explain worker",
        "finder exchange far verbs fleet descriptions notices",
        "servers",
        "handle check launch registry_command",
        "commands",
        "cli _startup __init__ dist suite",
        "testing",
        "__main__ pytest_plugin",
    )
)
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
PURE = sorted(set().union(*ROWS[:9]))
PURITY = (
    {"known", "sources"},
    {"values"},
    {"record"},
    {"expressions"},
    {"flow"},
    {"verdicts"},
    {"__init__"},
)
"""The rows of the package `purity`, which is one module to the others."""

NO_TIME_NO_CHANCE = {
    "asyncio", "datetime", "multiprocessing", "psutil", "random", "secrets", "select", "selectors", "signal",
    "socket", "subprocess", "tempfile", "threading", "time", "uuid", "zmq",
}  # fmt: skip
NO_FILES = {"os", "pathlib", "shutil"}
ALLOWED = {
    "namespace": {"threading"},  # one lock, so that verbs of two threads do not undo each other
    "config": {"os", "pathlib"},  # reads its own file and environment
    "digests": {"os"},  # reads the code that it makes a digest of
    "interface": {"os"},  # takes paths apart
}


def files(name: str) -> list[Path]:
    """The files of one module."""
    return sorted((HOME / name).glob("*.py")) or [HOME / f"{name}.py"]


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """('relocate', sibling) or ('', top-level package) for all that runs; not what only types need."""
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.level:
            home = path.parents[node.level - 1]
            for name in [node.module] if node.module else [a.name for a in node.names]:
                first = name.split(".")[0]
                if (home / f"{first}.py").exists() or first in ROW:
                    yield home.name, first
        elif isinstance(node, ast.ImportFrom):
            yield "", str(node.module).split(".")[0]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield "", alias.name.split(".")[0]


def test_every_module_has_a_row() -> None:
    assert {p.stem for p in HOME.glob("*.py")} == set(ROW) - {"purity", "testing", "commands"}
    assert {p.stem for p in files("purity")} == set().union(*PURITY)


@pytest.mark.parametrize("name", sorted(ROW))
def test_a_lower_row_never_imports_a_higher_one(name: str) -> None:
    found = {sibling for path in files(name) for kind, sibling in imports(path) if kind == "relocate"}
    assert {s for s in found if s != "testing" and ROW[s] >= ROW[name]} == set()


@pytest.mark.parametrize("row", range(len(PURITY)))
def test_the_rows_of_the_checker_hold_too(row: int) -> None:
    paths = [HOME / "purity" / f"{name}.py" for name in PURITY[row]]
    found = {sibling for path in paths for kind, sibling in imports(path) if kind == "purity"}
    assert found <= set().union(*PURITY[:row])


@pytest.mark.parametrize("name", PURE)
def test_the_pure_part_imports_no_io_thread_clock_or_chance(name: str) -> None:
    found = {package for path in files(name) for kind, package in imports(path) if kind == ""}
    assert found & (NO_TIME_NO_CHANCE | NO_FILES) <= ALLOWED.get(name, set())


@pytest.mark.parametrize("name", sorted(set(PURE) - {"digests"}))
def test_the_pure_part_opens_nothing(name: str) -> None:
    nodes = [n for path in files(name) for n in ast.walk(ast.parse(path.read_text("utf-8")))]
    called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert called & {"open", "print", "input"} == set()


def test_the_import_of_relocate_and_its_finder_loads_no_network() -> None:
    program = "import sys, relocate, relocate.finder; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "relocate" in loaded
    assert loaded & {"zmq", "numpy", "cloudpickle", "msgspec", "asyncio", "socket", "subprocess"} == set()
