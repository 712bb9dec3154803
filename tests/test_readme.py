"""README.md does what it says: every fenced block is run, and every table is held against the code."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Place

import relocate
from relocate import config, keys

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text("utf-8")
SOURCE = "".join(p.read_text("utf-8") for p in sorted((ROOT / "relocate").rglob("*.py")))
MACHINES = ("desk", "laptop")


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment above it says of it."""

    line: int
    language: str
    label: str
    text: str

    @property
    def kind(self) -> str:
        """What decides how it is run."""
        return self.label.split()[0] if self.label else self.language

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command of a console block, and what it prints as shown."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield command, shown


def blocks() -> list[Block]:
    """All blocks of the README."""
    found: list[Block] = []
    pattern = re.compile(r"(?:^<!-- test: ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for match in pattern.finditer(TEXT):
        line = TEXT.count("\n", 0, match.start(2)) + 1
        found.append(Block(line, match[2], match[1] or "", match[3]))
    return found


BLOCKS = blocks()


def words(text: str) -> list[list[str]]:
    """The lines of ``text`` with nothing in them that depends on how wide a column is."""
    return [line.split() for line in text.splitlines() if line.split()]


@pytest.fixture
def readme(place: Place) -> Place:
    """A place with the README's files, and its commands on the path."""
    for block in BLOCKS:
        if block.kind == "file":
            place.write(block.label.split()[1], block.text)
    (place.folder / "pyproject.toml").unlink()
    for name, arguments in (("python", ""), ("relocate", " -m relocate")):
        shim = place.write(f"bin/{name}", f'#!/bin/sh\nexec {sys.executable}{arguments} "$@"\n')
        shim.chmod(0o755)
    return place


def shell(readme: Place, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``command`` as somebody at a terminal would, its two streams together."""
    path = f"{readme.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    given = {"PATH": path, "PYTHONPATH": "", "COLUMNS": "120", **environment}
    return readme.run("bash", "-c", f"exec 2>&1\n{command}", **given)


# How each kind of block is run ---------------------------------------------------------------------


def run_python(block: Block, readme: Place) -> None:
    done = readme.python("-c", block.text)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def run_console(block: Block, readme: Place) -> None:
    commands = list(block.commands())
    if all(command.split()[0] in ("make", "pip") for command, _ in commands):
        for command, _ in commands:
            check_tool(command)
        return
    done = shell(readme, "\n".join(["set -e", *(command for command, _ in commands)]))
    assert done.returncode == 0, done.stdout
    assert words(done.stdout) == words("".join(shown for _, shown in commands))


def check_tool(command: str) -> None:
    """Commands that install things are only checked for what they name."""
    tool, *rest = command.split()
    if tool == "make":
        done = subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    else:
        name = re.search(r'^name = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
        assert name is not None
        assert rest in (["install", "."], ["install", name[1]])


def run_fails(block: Block, readme: Place) -> None:
    for command, shown in block.commands():
        done = shell(readme, command)
        assert done.returncode != 0
        assert words(done.stdout) == words(shown)


def run_toml(block: Block, readme: Place) -> None:
    found = config.load(readme.write("relocate.toml", block.text))
    assert found.modules
    assert config.ranks(found.workers)


def run_file(block: Block, readme: Place) -> None:
    path = readme.write(block.label.split()[1], block.text)
    if path.suffix == ".toml":
        assert config.load(path).modules
    elif "endless" not in block.label:
        done = readme.python(str(path))
        assert done.returncode == 0, done.stderr


HANDLERS: dict[str, Callable[[Block, Place], None]] = {
    "python": run_python,
    "console": run_console,
    "fails": run_fails,
    "toml": run_toml,
    "file": run_file,
}


def test_every_block_has_a_handler() -> None:
    assert TEXT.count("```") == 2 * len(BLOCKS)
    assert [b.line for b in BLOCKS if b.kind not in HANDLERS and b.kind not in MACHINES] == []
    assert {b.kind for b in BLOCKS} == {*HANDLERS, *MACHINES}
    assert len(re.findall(r"<!-- test: ", TEXT)) == sum(bool(b.label) for b in BLOCKS)


ALONE = [b for b in BLOCKS if b.kind in HANDLERS]


@pytest.mark.parametrize("block", ALONE, ids=[f"line-{b.line}-{b.kind}" for b in ALONE])
def test_block(block: Block, readme: Place) -> None:
    HANDLERS[block.kind](block, readme)


def test_two_machines(readme: Place) -> None:
    """The blocks for two machines, on one: a home, and so a key folder, for each."""
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        probes = (first, second, third)
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
    homes = {}
    for machine in MACHINES:
        homes[machine] = readme.folder / f"home-{machine}"
        homes[machine].mkdir()
    (homes["desk"] / "project").symlink_to(readme.folder)
    actual = {
        "tcp://0.0.0.0:7000": f"tcp://127.0.0.1:{ports[0]}",
        "desk:7000": f"127.0.0.1:{ports[0]}",
        "anna@desk": keys.whose(),
        "anna@laptop": keys.whose(),
        # Two free ports are seldom neighbours, so executors take what they get.
        " --ports 7001-7002": "",
    }

    def translated(text: str) -> str:
        for shown, real in actual.items():
            text = text.replace(shown, real)
        return text

    worker: subprocess.Popen[str] | None = None
    ran = []
    for block in BLOCKS:
        if block.kind not in MACHINES:
            continue
        home = str(homes[block.kind])
        for command, shown in block.commands():
            ran.append(command.split()[:3])
            if "relocate worker" in command:
                path = f"{readme.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
                worker = readme.start("bash", "-c", translated(command), HOME=home, PATH=path, PYTHONPATH="")
                assert worker.stdout is not None
                assert worker.stdout.readline() == translated(shown)
                continue
            done = shell(readme, translated(command), HOME=home)
            assert done.returncode == 0, done.stdout
            if command == "relocate keys new":
                actual[shown.split()[0]] = done.stdout.split()[0]
            assert words(done.stdout) == words(translated(shown))
    assert worker is not None
    assert len(ran) == 7
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0


# Tables --------------------------------------------------------------------------------------------


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose head begins with ``heading``."""
    lines = TEXT[TEXT.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_keys_has_every_key_and_its_default() -> None:
    import tomllib

    shown = {row[0].strip("`"): tomllib.loads(f"x = {row[1].strip('`')}")["x"] for row in rows("key")}
    defaults = {name: getattr(relocate.Config(), name) for name in relocate.Config.__struct_fields__}
    assert shown == defaults | {"modules": [], "methods": []}
    assert defaults["modules"] == defaults["methods"] == ()


INTERNAL = {"ENV_REPORT_PID", "ENV_EXECUTOR"}
"""Variables that relocate sets for processes of its own."""


def test_the_table_of_variables_has_every_variable() -> None:
    variables = {value for name, value in vars(config).items() if name.startswith("ENV_") and name not in INTERNAL}
    assert {row[0].strip("`") for row in rows("variable")} == variables


def test_every_message_of_the_troubleshooting_table_is_one_of_ours() -> None:
    said = re.sub(r'"\s*\n\s*f?"', "", SOURCE)
    for row in rows("message (`…` stands for what varies)"):
        message = re.findall(r"`([^`]*)`", row[0])[0]
        for part in message.split("…"):
            assert part.strip(" :;") in said, message


def test_errors_named_in_the_readme_exist() -> None:
    named = set(re.findall(r"`(?:relocate\.)?(\w+(?:Error|Left|Call|Key|Warning))`", TEXT))
    assert {
        n
        for n in named
        if not hasattr(relocate, n) and n not in ("ImportError", "MemoryError", "ModuleNotFoundError", "TimeoutError")
    } == set()


# Other documents -----------------------------------------------------------------------------------


def test_the_design_lists_the_modules_in_the_rows_that_hold() -> None:
    from test_layers import ROWS

    design = (ROOT / "DESIGN.md").read_text("utf-8").split("## Layers")[1].split("```")[1]
    shown = [re.sub(r"  .*", "", line).split() for line in design.splitlines() if re.match(r"\w", line)]
    assert [set(row) for row in shown] == [set(row) for row in ROWS]


@pytest.mark.parametrize("name", ["README.md", "DESIGN.md", "PROTOCOL.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_between_documents_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert [link for link in re.findall(r"\]\(([^):]+)\)", text) if not (ROOT / link).exists()] == []
