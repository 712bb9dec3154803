"""``relocate check``: what it prints, how it ends, and programs whose calls are made twice."""

from __future__ import annotations

import json
import re

import pytest
from conftest import Place
from test_modules import FILES, PROGRAMS

from relocate import check

SHOP = """
    import random
    import time

    SOLD = []

    def worth(prices):
        return sum(prices)

    def sell(stock, item):
        _note(item)
        stock.remove(item)

    def pick(stock, seed=None):
        return random.Random(seed).choice(stock)

    def fill(stock):
        stock.append(1)

    def run(text):
        return eval(text)

    def _note(item):
        SOLD.append((item, time.time()))
"""


def test_a_module_that_is_fit_ends_with_0(place: Place) -> None:
    place.write("pure.py", "def f(x): return x\ndef g(x, y): return f(x) + y\n")
    done = place.relocate("check", "pure")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "pure.f  pure\npure.g  pure\n\npure: 2 functions: 2 pure; fit\n"


def test_a_module_may_be_named_by_its_file(place: Place) -> None:
    place.write("pack/__init__.py", "")
    place.write("pack/pure.py", "def f(x): return x\n")
    for name in ("pack/pure.py", "./pack/pure.py", "pack.pure", str(place.folder / "pack" / "pure.py")):
        assert place.relocate("check", name).stdout.startswith("pack.pure.f  pure\n")


def test_what_is_found_is_told_with_its_place_and_1(place: Place) -> None:
    place.write("shop.py", SHOP)
    done = place.relocate("check", "shop")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        "shop.worth  pure",
        "shop.sell   impure",
        "    calls _note, which reads the clock, shop.py:23: SOLD.append((item, time.time()))",
        "    calls _note, which changes SOLD, shop.py:23: SOLD.append((item, time.time()))",
        "    changes stock, shop.py:11: stock.remove(item)",
        "shop.pick   pure if seed is given",
        "    draws random numbers unless seed is given, shop.py:14: return random.Random(seed).choice(stock)",
        "shop.fill   changes arguments",
        "    changes stock, shop.py:17: stock.append(1)",
        "shop.run    unknown",
        "    runs code that is made as it runs, shop.py:20: return eval(text)",
        "",
        "shop: 5 functions: 2 pure, 1 impure, 1 changes arguments, 1 unknown; 2 not fit",
    ]


def test_there_is_json_for_programs(place: Place) -> None:
    place.write("shop.py", SHOP)
    place.write("pure.py", "def f(x): return x\n")
    done = place.relocate("check", "pure", "shop", "--json")
    assert done.returncode == 1
    pure, shop = json.loads(done.stdout)
    assert (pure["module"], pure["fit"], [f["verdict"] for f in pure["functions"]]) == ("pure", True, ["pure"])
    functions = {f["name"]: f for f in shop["functions"]}
    assert (shop["fit"], functions["shop.pick"]["given"], functions["shop.pick"]["fit"]) == (False, ["seed"], True)
    found = functions["shop.sell"]["findings"][0]
    assert (found["kind"], found["line"], found["way"]) == ("time", 23, ["_note"])
    assert found["path"] == str(place.folder / "shop.py")
    assert functions["shop.pick"]["findings"][0]["unless given"] == "seed"


def test_the_module_is_not_imported_and_its_package_is_read_without_tests(place: Place) -> None:
    place.write("pack/__init__.py", "from ._impl import hidden\nfrom .deep.er import low\n")
    place.write("pack/_impl.py", "raise SystemExit('imported')\ndef hidden(): pass\ndef unseen(): pass\n")
    place.write("pack/deep/__init__.py", "")
    place.write("pack/deep/er.py", "raise SystemExit('imported')\ndef low(): pass\ndef lower(): pass\n")
    for name in ("tests/__init__", "tests/test_a", "test_b", "conftest", "__main__"):
        place.write(f"pack/{name}.py", "def no(): open('x')\n")
    done = place.relocate("check", "pack")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[:-2]] == [
        "pack.hidden",
        "pack.low",
        "pack.deep.er.lower",
    ]


@pytest.mark.parametrize("module", ["scipy.ndimage", "numpy.linalg", "networkx.algorithms.centrality"])
def test_large_packages_are_read(place: Place, module: str) -> None:
    pytest.importorskip(module.partition(".")[0])
    done = place.relocate("check", module)
    assert done.stderr == ""
    assert re.search(rf"\n{module}: \d{{2,}} functions: \d{{2,}} pure", done.stdout)
    if module == "scipy.ndimage":  # as the README has it
        found = re.search(r"scipy.ndimage.gaussian_filter +(.*?) \(", done.stdout)
        assert found is not None
        assert found[1] == "pure, changes arguments if output is given"


def test_a_folder_without_init_is_a_package_too(place: Place) -> None:
    place.write("pack/__init__.py", "from .bare.inner import f\n")
    place.write("pack/bare/inner.py", "def f(x): return x\ndef g(x): return x\n")
    done = place.relocate("check", "pack")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pack.f" in done.stdout
    assert place.relocate("check", "pack.bare").stdout.startswith("pack.bare.inner.f  pure\n")


def test_many_findings_are_counted(place: Place) -> None:
    lines = "".join(f"    {name}.append(1)\n    {name}.append(2)\n" for name in "abcde")
    place.write("many.py", f"def f(a, b, c, d, e):\n{lines}")
    shown = place.relocate("check", "many").stdout.splitlines()
    assert shown[1] == "    changes a, many.py:2: a.append(1) (and 1 more place)"
    assert shown[4] == "    and 2 more things (--json has all)"


def test_a_compiled_module_is_unknown(place: Place) -> None:
    done = place.relocate("check", "math")
    assert done.returncode == 1
    assert ["math.sin", "unknown", "(compiled)"] in [line.split() for line in done.stdout.splitlines()]
    done = place.relocate("check", "time")
    assert "time.perf_counter impure (reads the clock)" in [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_a_path_of_another_folder_is_shown_as_it_is_imported(place: Place) -> None:
    shown = place.relocate("check", "heapq").stdout
    assert "    changes heap, heapq.py:" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check"], "nothing to check; name a module"),
        (["check", "wrok"], "there is no module 'wrok' here; did you mean work?"),
        (["check", "work.busy"], "there is no module 'work.busy' here; work is a module, with none below it"),
        (["check", "json.lods"], "there is no module 'json.lods' here"),
        (["check", "no.such.thing"], "there is no module 'no.such.thing' here"),
        (["check", "broken"], "broken.py:1: cannot be read as Python"),
        (["check", "work", "-w", "2"], "-M, -w, -c and --report are for --run"),
        (["check", "--run", "-M", "work"], "nothing to run"),
        (["check", "--run", "--json", "-M", "work", "-c", "1"], "--json is for modules"),
        (
            ["check", "--run", "-M", "work", "-w", "1", "-c", "import work; list(work.count(2))"],
            "no call was compared, of 1 call: not compared are generators",
        ),
        (["check", "--run", "-c", "print(1)"], "no module is designated"),
        (["check", "--run", "-M", "work", "-w", "1", "-c", "1"], "no call was compared"),
    ],
)
def test_a_mistake_is_one_line_that_names_it_and_2(place: Place, arguments: list[str], says: str) -> None:
    place.write("broken.py", "def f(:\n")
    done = place.relocate(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr


# A program whose calls are made twice --------------------------------------------------------------


def test_a_program_whose_calls_agree_ends_as_it_does_by_itself(place: Place) -> None:
    script = place.write(
        "main.py", "import sys, work\nprint(work.echo([1]), work.say('x'), sys.argv[1:])\nsys.exit(int(sys.argv[1]))\n"
    )
    for status in (0, 7):
        done = place.relocate("check", "--run", "-M", "work", "-w", "1", str(script), str(status), "--json")
        assert done.returncode == status
        assert done.stdout == f"x\n[1] 1 ['{status}', '--json']\n"
        assert done.stderr == "to stderr\nrelocate: 2 calls, 2 compared: none differed\n"


def test_the_first_difference_of_each_function_is_told(place: Place) -> None:
    program = "import work\nfor i in range(4): work.pid(); work.echo(i); work.spin(0)"
    options = ["-M", "work", "-w", "1", "--sample", "0.5", "--report", "report.json"]
    done = place.relocate("check", *options, "--run", "-c", program)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert [lines[0], lines[3], *lines[6:]] == [
        "work.pid()",
        "work.spin(0)",
        check.NOT_COMPARED,
        "relocate: 12 calls, 6 compared: 4 differed",
    ]
    assert lines[1].startswith("    embedded/0: result is ")
    assert lines[2].startswith("    here: result is ")
    seen = place.report()
    assert (seen["verified"], seen["differing"]) == (6, 4)
    assert list(seen["differences"]) == ["work.pid", "work.spin"]  # type: ignore[call-overload]


@pytest.mark.parametrize("module", PROGRAMS)
def test_real_modules_give_the_same_there_and_here(place: Place, module: str) -> None:
    for name, text in FILES.items():
        place.write(name, text)
    script = place.write("main.py", PROGRAMS[module])
    done = place.relocate("check", "--run", "-M", module, "-w", "1", "--tolerance", "1e-12", str(script))
    assert done.returncode == 0, done.stderr
    found = re.search(r"relocate: (\d+) calls?, (\d+) compared: none differed\n$", done.stderr)
    assert found is not None, done.stderr
    # A function that would have its effects twice is not called by a second run.
    assert int(found[1]) - int(found[2]) == (module == "changes")


def test_the_tolerance_is_handed_on(place: Place) -> None:
    place.write("rough.py", "import time\ndef near(): return time.time()\n")
    command = ["check", "--run", "-M", "rough", "-w", "1"]
    program = ["-c", "import rough; rough.near()"]
    assert place.relocate(*command, *program).returncode == 1
    assert place.relocate(*command, "--tolerance", "0.001", *program).returncode == 0
