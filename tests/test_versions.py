"""Workers that have different versions of a module, or of which some lack it."""

from __future__ import annotations

import sys

from conftest import Place, Worker

MODULE = """
import time

__version__ = "{version}.0"

def f(n):
    time.sleep(0.05)  # so that all executors are needed
    return {version}, n
"""
PROGRAM = """
import sys, warnings
import relocate
from concurrent.futures import ThreadPoolExecutor

warned = []
warnings.showwarning = lambda message, *_: warned.append(str(message))
fallback, workers = sys.argv[1] == "fallback", sys.argv[2:]
handle = relocate.enable(modules=["vm"], workers=",".join(workers), fallback=fallback, patience=5.0)
import vm

with ThreadPoolExecutor(4) as pool:
    found = list(pool.map(vm.f, range(8)))
seen = handle.statistics()
print(sorted({version for version, _ in found}), seen.remote, seen.local, seen.failed)
print(*warned, sep="\\n")
"""


def worker(place: Place, version: int | None, executors: int = 1) -> Worker:
    """A worker with that version of ``vm``; None: with none."""
    folder = f"version{version}"
    if version is not None:
        place.write(f"{folder}/vm.py", MODULE.format(version=version))
    return place.worker("--executors", str(executors), PYTHONPATH=str(place.folder / folder))


def test_a_worker_with_another_version_than_the_described_one_gets_no_calls_of_the_module(place: Place) -> None:
    one, two = worker(place, 1), worker(place, 2)
    for mode in ("fallback", "strict"):
        for local in (True, False):
            copy = place.write("vm.py", MODULE.format(version=1))
            if not local:
                copy.unlink()
            done = place.python("-c", PROGRAM, mode, one.url, two.url)
            versions, *warned = done.stdout.splitlines()
            assert versions in ("[1] 8 0 0", "[2] 8 0 0"), done
            other, ours = (two, "1.0") if versions.startswith("[1]") else (one, "2.0")
            theirs = "2.0" if other is two else "1.0"
            name = other.url.removeprefix("tcp://")
            why = f"this worker has another version of 'vm', {theirs}; the program uses {ours}"
            assert warned == [f"{name} is not used for vm: {why}"], done


def test_explain_tells_that_a_worker_is_not_used_for_a_module(place: Place) -> None:
    one, two = worker(place, 1), worker(place, 2)
    place.write("vm.py", MODULE.format(version=1))
    program = PROGRAM + "sys.stdout.flush()\nsys.stdin.read()\n"
    process = place.start(sys.executable, "-c", program, "strict", one.url, two.url, talk=True)
    assert process.stdout is not None
    assert process.stdout.readline().endswith(" 8 0 0\n")
    told = place.relocate("explain", "vm.f").stdout
    assert told.count("/0: not used, this worker has another version of 'vm', ") == 1
    process.communicate("")


def test_when_no_worker_has_the_described_version_any_more_it_is_described_anew_and_that_is_told(place: Place) -> None:
    one, two = worker(place, 1), worker(place, 2)
    place.write("vm.py", MODULE.format(version=1))
    done = place.python("-c", PROGRAM, "strict", one.url)  # the description is in the cache now
    assert done.stdout.splitlines() == ["[1] 8 0 0", ""], done
    program = f"""
import relocate, warnings
warned = []
warnings.showwarning = lambda message, *_: warned.append(str(message))
handle = relocate.enable(modules=["vm"], workers={one.url!r}, fallback=False)
import vm
print(vm.f(0))
handle.namespace.mount({two.url!r}, "two")
handle.namespace.bind("/n/two/chan", "/chan")
print(vm.f(1), vm.f(2), warned)
"""
    done = place.python("-c", program)
    told = "vm is described anew: earlier calls ran another version than later ones will"
    assert done.stdout == f"(1, 0)\n(2, 1) (2, 2) [{told!r}]\n", done


def test_a_description_in_the_cache_that_no_worker_has_is_taken_anew_by_all_threads_without_a_word(
    place: Place,
) -> None:
    two = worker(place, 1)
    place.write("vm.py", MODULE.format(version=1))
    first = place.python("-c", PROGRAM, "fallback", two.url)
    assert first.stdout.splitlines() == ["[1] 8 0 0", ""], first
    # Of another length: bytecode that was compiled within the same second would count as this file's.
    place.write("version1/vm.py", MODULE.format(version=3) + "\n# The third.\n")
    two.stop()
    two = place.worker("--executors", "2", PYTHONPATH=str(place.folder / "version1"), listen=two.url)
    again = place.python("-c", PROGRAM, "fallback", two.url)
    assert again.stdout.splitlines() == ["[3] 8 0 0", ""], again


def test_a_worker_that_lacks_a_module_is_not_used_for_it_and_another_one_describes_and_runs_it(place: Place) -> None:
    none, one = worker(place, None), worker(place, 1)
    for mode in ("fallback", "strict"):
        place.write("vm.py", MODULE.format(version=1))
        done = place.python("-c", PROGRAM, mode, none.url, one.url)
        versions, *warned = done.stdout.splitlines()
        assert versions == "[1] 8 0 0", done
        name = none.url.removeprefix("tcp://")
        assert len(warned) == 1, done
        assert warned[0].startswith(f"{name} is not used for vm: the worker cannot import 'vm'"), done


def test_a_module_that_no_worker_has_is_not_relocated(place: Place) -> None:
    none = worker(place, None)
    place.write("vm.py", MODULE.format(version=1))
    done = place.python("-c", PROGRAM, "fallback", none.url)
    assert done.stdout.startswith("[1] 0 0 0\nvm is not relocated: "), done
    assert "No module named 'vm'" in done.stdout
