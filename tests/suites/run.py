"""Other people's test suites, run plainly and relocated; the result is `LEDGER.md`.

    python tests/suites/run.py                  all suites, and write the ledger
    python tests/suites/run.py statistics json  only these; the ledger stays as it is

Suites run as they are: no test is edited, left out or softened; what they draw at random is the same in
both runs.  Those that a package does not install come from its source distribution, which is found where pip
looks for packages and kept in the user's cache; nothing of it is built.  A test that passes plainly and not
relocated is a difference.  Each difference must be explained below, and each explanation must still be needed;
otherwise the exit status is 1.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import platformdirs
from rich.console import Console

LEDGER = Path(__file__).with_name("LEDGER.md")
WORKERS = "2"
LIMIT = 1800
"""Seconds that one run of a suite may take."""
SEEDED = "relocate_suites_seeded"
SEEDING = """import random

def pytest_runtest_setup(item):
    random.seed(item.nodeid)
"""
"""A plugin of pytest: tests that draw their data at random have the same in both runs.  Some of CPython's
fail on a part of them (`statistics.pstdev` and the root of `pvariance` may differ in the last bit)."""
SOURCES = platformdirs.user_cache_path("relocate") / "suites"
"""Source distributions, unpacked."""


@dataclass
class Suite:
    """A suite, and what it is about."""

    name: str
    tests: str
    """What pytest finds them by: a module; with ``source`` a folder."""
    package: str = ""
    """The distribution whose version is told; empty: Python's own."""
    explained: dict[str, str] = field(default_factory=dict)
    """Tests that pass plainly and not relocated, and why."""
    methods: bool = False
    """Whether the methods of its classes are relocated, too."""
    source: bool = False
    """Whether the tests are in the source distribution."""
    options: tuple[str, ...] = ()
    """Of pytest, for both runs."""

    @property
    def targets(self) -> list[str]:
        """What pytest is told to run."""
        if not self.source:
            return ["--pyargs", self.tests]
        folder = sources(self.package) / self.tests
        # Its own configuration wants plugins, and makes errors of warnings about other things.
        empty = SOURCES / "empty.ini"  # pytest wants a file of a kind that it knows
        empty.touch()
        return ["-c", str(empty), "--rootdir", str(folder), "--confcutdir", str(folder.parent), str(folder)]


def is_installed(package: str) -> bool:
    """Whether the distribution ``package`` is."""
    return next(iter(importlib.metadata.distributions(name=package)), None) is not None


def pip_settings() -> dict[str, list[str]]:
    """What pip's files and variables say; of two that say the same thing the later counts, as it does for pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT).stdout
    found = {}
    for section in ("global", "download", ":env:"):
        for key, value in re.findall(rf"^{section}\.([\w-]+)=(.+)$", said, re.MULTILINE):
            found[key] = ast.literal_eval(value).split()
    return found


def sources(package: str) -> Path:
    """The folder with the source distribution of ``package``, in the version that is installed.

    `pip download` does not give it without the package's metadata, for which some packages compile everything.
    """
    wanted = f"{package}=={importlib.metadata.version(package)}"
    folder = SOURCES / wanted
    if not folder.exists():
        from unearth import PackageFinder  # here, as only these suites need it

        settings = pip_settings()
        finder = PackageFinder(
            index_urls=settings.get("index-url", []),  # none: the one that is pip's own default
            trusted_hosts=settings.get("trusted-host", []),
            no_binary=[package],
        )
        for url in settings.get("extra-index-url", []):
            finder.add_index_url(url)
        for place in settings.get("find-links", []):
            finder.add_find_links(place)
        best = finder.find_best_match(wanted).best
        if best is None:
            raise LookupError(f"no source distribution of {wanted} where pip looks for packages (pip config list)")
        SOURCES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=SOURCES) as draft:
            unpacked = Path(draft, "unpacked")
            finder.download_and_unpack(best.link, unpacked)
            unpacked.rename(folder)
    return folder


def own(name: str, tests: str = "", *, methods: bool = False) -> Suite:
    """One of Python's own suites, that of the module ``name`` unless ``tests`` is another name."""
    return Suite(name, f"test.test_{tests or name}", methods=methods)


SUITES = [
    own("statistics"),
    own("textwrap"),
    own("colorsys"),
    own("heapq"),
    own("bisect"),
    own("struct"),
    own("operator"),
    own("graphlib", methods=True),
    own("html"),
    own("json"),
    own("difflib"),
    own("fnmatch"),
    own("ipaddress"),
    own("base64"),
    own("binascii"),
    own("calendar"),
    own("cmath"),
    own("quopri"),
    own("shlex"),
    own("urllib.parse", "urlparse"),
    Suite(
        "ast",
        "test.test_ast",
        explained={
            "test_ast.AST_Tests::test_import_deprecated": "it imports the module afresh, and wants its first warnings; "
            "behind the fresh proxy is the real module that other tests have asked already",
            "test_ast.AST_Tests::test_issue31592": "it replaces `unicodedata.normalize` in this process, where the "
            "function does not run",
        },
    ),
    Suite(
        "tokenize",
        "test.test_tokenize",
        explained=dict.fromkeys(
            (
                ".TestDetectEncoding::test_filename_in_exception",
                ".TestDetectEncoding::test_open_error",
                ".TestTokenize::test_tokenize",
            ),
            "it replaces a function of the module in this process, where the one that calls it does not run",
        ),
    ),
    Suite("networkx.algorithms.centrality", "networkx.algorithms.centrality", "networkx"),
    Suite("networkx.algorithms.shortest_paths", "networkx.algorithms.shortest_paths", "networkx"),
    Suite("networkx.algorithms.community", "networkx.algorithms.community", "networkx"),
    Suite("networkx.algorithms.flow", "networkx.algorithms.flow", "networkx"),
    Suite("networkx.algorithms.tree", "networkx.algorithms.tree", "networkx"),
    Suite("numpy.linalg", "numpy.linalg", "numpy"),
    Suite("scipy.ndimage", "scipy.ndimage", "scipy"),
    Suite(
        "sklearn.cluster",
        "sklearn.cluster",
        "scikit-learn",
        {
            "tests.test_spectral::test_spectral_clustering_not_infinite_loop": "it replaces `numpy.linalg.svd` in this "
            "process, where the function does not run"
        },
        methods=True,
    ),
    Suite("sklearn.metrics", "sklearn.metrics", "scikit-learn"),
    Suite("skimage.restoration", "tests/skimage/restoration", "scikit-image", source=True),
    Suite(
        "markdown",
        "tests",
        "markdown",
        {"test_apis.TestConvertFile::testStdinStdout": "the function reads standard input, which workers do not have"},
        methods=True,
        source=True,
        options=("-o", "python_classes=-"),  # a class that is called TestSuite and is none
    ),
]


@dataclass
class Result:
    """One run of a suite."""

    passed: set[str]
    other: set[str]
    said: str
    calls: int = 0
    remote: int = 0


def run(suite: Suite, *options: str) -> Result:
    """Run it in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", SEEDED,
            f"--junitxml={report}",
            *suite.targets, *suite.options, *options,
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RELOCATE_")}
        Path(folder, f"{SEEDED}.py").write_text(SEEDING, "utf-8")
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        result = Result(set(), set(), done.stdout + done.stderr)
        if report.exists():
            for case in ElementTree.parse(report).iter("testcase"):
                name = f"{case.get('classname')}::{case.get('name')}"
                bad = any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
                (result.other if bad else result.passed).add(name)
        if found := re.search(r"^relocate: ([\d,]+) calls?: ([\d,]+) on", done.stdout, re.MULTILINE):
            result.calls, result.remote = (int(text.replace(",", "")) for text in found.groups())
        return result


@dataclass
class Entry:
    """A line of the ledger."""

    suite: Suite
    plain: Result
    relocated: Result

    @property
    def differences(self) -> list[str]:
        """Tests that pass plainly only."""
        return sorted(self.plain.passed - self.relocated.passed)

    @property
    def troubles(self) -> list[str]:
        """What is not explained, or not needed."""
        explained = self.suite.explained
        found = [f"{name}: passes plainly, not relocated" for name in self.differences if name not in explained]
        return found + [f"{name}: is explained, but passes" for name in explained if name not in self.differences]

    def line(self) -> str:
        """As a row of a table."""
        version = importlib.metadata.version(self.suite.package) if self.suite.package else platform.python_version()
        share = f"{self.relocated.remote / self.relocated.calls:.1%}" if self.relocated.calls else "-"
        name = f"`{self.suite.name}`" + (", methods too" if self.suite.methods else "")
        cells = [
            name, version, f"{len(self.plain.passed):,}",
            f"{len(self.plain.passed & self.relocated.passed):,}", f"{self.relocated.calls:,}", share,
            f"{len(self.differences)}",
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |"


def ledger(entries: list[Entry]) -> str:
    """The file."""
    rows = "\n".join(entry.line() for entry in entries)
    reasons = []
    for suite, names in ((entry.suite, entry.differences) for entry in entries):
        reasons += [f"* `{suite.name}`, `{name}`: {suite.explained.get(name, 'not explained')}." for name in names]
    why = "\n".join(reasons)
    return f"""# Ledger

Other people's test suites, run plainly and with the module of their name (where it says so, the methods of its
classes, too) on {WORKERS} executors. Written by
`python tests/suites/run.py`, on Python {platform.python_version()}.

| suite | version | pass plainly | of these, relocated | calls | on a worker | differences |
|---|---|---|---|---|---|---|
{rows}

## Differences

{why or "None."}
"""


def main() -> int:
    """Run the suites; the exit status."""
    parser = argparse.ArgumentParser(description="Run other people's test suites plainly and relocated.")
    parser.add_argument("suite", nargs="*", choices=[[], *(s.name for s in SUITES)], help="suites to run; all if none")
    chosen = parser.parse_args().suite
    console = Console(highlight=False, soft_wrap=True)
    suites = [suite for suite in SUITES if not chosen or suite.name in chosen]
    needed = {suite.package for suite in suites if suite.package} | {"unearth" for suite in suites if suite.source}
    lacking = sorted(package for package in needed if not is_installed(package))
    if lacking:
        said = f"not installed: {', '.join(lacking)}; run: {sys.executable} -m pip install -e '.[suites]'"
        console.print(said, style="red", markup=False)
        return 2
    entries = []
    for suite in suites:
        console.print(f"{suite.name} ...")
        plain = run(suite)
        methods = ["--relocate-methods", suite.name] if suite.methods else []
        relocated = run(suite, "--relocate", suite.name, *methods, "--relocate-workers", WORKERS)
        entry = Entry(suite, plain, relocated)
        entries.append(entry)
        console.print(f"  {entry.line()}", markup=False)
        for trouble in entry.troubles:
            console.print(f"  {trouble}", style="red", markup=False)
        if not plain.passed:
            console.print(plain.said[-2000:], style="red", markup=False)
    if not chosen:
        LEDGER.write_text(ledger(entries), "utf-8")
    return int(any(entry.troubles or not entry.plain.passed for entry in entries))


if __name__ == "__main__":
    sys.exit(main())
