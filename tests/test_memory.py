"""Calls that take more memory than there is."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import Place

from relocate import memory

HUNGRY = """
import os, time

def take(mib, seconds=0.0, mark=None):
    if mark is not None:
        with open(mark, "a") as file:
            print(os.getppid(), file=file)
    kept = b"x" * (mib << 20)
    time.sleep(seconds)
    return os.getppid(), len(kept) >> 20

def deaf():
    sum(range(10**15))

def nap(seconds):
    time.sleep(seconds)
    return os.getpid()
"""
PROGRAM = """
import sys, threading, relocate
handle = relocate.enable(modules=["hungry"], workers={workers!r}, keys={keys!r})
import hungry
"""


@pytest.fixture
def group() -> Iterator[tuple[str, ...]]:
    """A command that runs another one in a control group with 250 MiB."""
    for top, name in ((memory.CGROUPS / "memory", "memory.limit_in_bytes"), (memory.CGROUPS, "memory.max")):
        folder = top / f"relocate-test-{uuid.uuid4().hex}"
        try:
            folder.mkdir()
            (folder / name).write_text(str(250 << 20))
        except OSError:
            continue
        yield "sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$@"', "-"
        folder.rmdir()
        return
    pytest.skip("needs control groups, and root")


def test_a_call_that_takes_more_than_an_executor_may_is_tried_on_a_larger_worker(place: Place) -> None:
    place.write("hungry.py", HUNGRY)
    small = place.worker("-n", "2", "--memory", "200MiB")
    large = place.worker("-n", "1")
    program = (
        PROGRAM.format(workers=f"{small.url}; {large.url}", keys=str(small.keys))
        + """
neighbour = []
thread = threading.Thread(target=lambda: neighbour.append(hungry.nap(1.0)))
thread.start()
print(*hungry.take(300, 0.5))
thread.join()
seen = handle.statistics()
print(neighbour[0], seen.retried, {name: one.deaths for name, one in seen.workers.items() if one.deaths})
"""
    )
    executors = [process.pid for process in small.executors()]
    done = place.python("-c", program)
    said = done.stdout.split(maxsplit=4)
    assert said[:2] == [str(large.process.pid), "300"], done.stderr
    assert int(said[2]) in executors
    assert said[3] == "1"
    assert small.process.poll() is None
    assert len(small.executors()) == 2


def test_what_takes_too_much_on_the_largest_worker_too_is_a_typed_error(place: Place) -> None:
    place.write("hungry.py", HUNGRY)
    only = place.worker("-n", "2", "--memory", "200MiB")
    program = (
        PROGRAM.format(workers=only.url, keys=str(only.keys))
        + """
try:
    hungry.take(300, 5)
except MemoryError as error:
    print(type(error).__name__, error)
print(hungry.take(1)[1], handle.statistics().local)
"""
    )
    done = place.python("-c", program)
    assert done.stdout.startswith("OutOfMemory hungry.take ran out of memory on "), done.stderr
    assert "(0.2 GiB)" in done.stdout
    assert done.stdout.endswith("\n1 0\n")


def test_the_kernel_ends_the_executor_that_takes_too_much_and_the_supervisor_knows_why(
    place: Place, group: tuple[str, ...]
) -> None:
    place.write("hungry.py", HUNGRY)
    small, other = (place.worker("-n", "1", prefix=group) for _ in range(2))
    large = place.worker("-n", "1")
    mark = place.folder / "mark"
    supervisor = Path(f"/proc/{small.process.pid}/oom_score_adj").read_text()
    assert [
        int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) - int(supervisor) for process in small.executors()
    ] == [memory.WORTH]
    program = (
        PROGRAM.format(workers=f"{small.url}, {other.url}; {large.url}", keys=str(small.keys))
        + f"""
import logging
logging.basicConfig(format="%(message)s", stream=sys.stdout)
logging.getLogger("relocate.events").setLevel("INFO")
print(*hungry.take(300, mark={str(mark)!r}))
"""
    )
    done = place.python("-c", program)
    assert f"{large.process.pid} 300\n" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("died of SIGKILL, for want of memory") == 1
    first, second = map(int, mark.read_text().split())
    assert first in (small.process.pid, other.process.pid)
    assert second == large.process.pid
    small.stop()
    other.stop()


def test_what_the_supervisor_ends_itself_was_not_short_of_memory_though_something_beside_it_was(
    place: Place, group: tuple[str, ...]
) -> None:
    place.write("hungry.py", HUNGRY)
    worker = place.worker("-n", "1", prefix=group)
    take = "open('/proc/self/oom_score_adj', 'w').write('1000'); b'x' * (300 << 20)"
    assert place.run(*group, sys.executable, "-c", take).returncode == -9
    program = (
        PROGRAM.format(workers=worker.url, keys=str(worker.keys))
        + """
import logging
logging.basicConfig(format="%(message)s", stream=sys.stdout)
logging.getLogger("relocate.events").setLevel("INFO")
hungry.nap(0)
try:
    with relocate.deadline(0.3):
        hungry.deaf()
except relocate.DeadlineExceeded:
    hungry.nap(0)
"""
    )
    done = place.python("-c", program)
    assert "/0 died of SIGKILL\n" in done.stdout, done.stdout + done.stderr
    worker.stop()


def test_each_process_that_the_kernel_ends_stands_for_one_end_that_is_heard_of_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = 3
    monkeypatch.setattr(memory, "kills", lambda: counted)
    toll = memory.Toll()
    assert not toll.has(1.0)
    counted = 5  # two at once
    assert [toll.has(now) for now in (2.0, 2.1, 2.2)] == [True, True, False]
    counted = 9  # one executor, and others that are no executors
    assert toll.has(3.0)
    assert not toll.has(60.0)


def test_an_allowance_that_is_too_small_for_any_call_is_named(place: Place) -> None:
    process = place.start(sys.executable, "-m", "relocate", "worker", "--listen=tcp://127.0.0.1:0", "--memory=1MiB")
    assert process.stderr is not None
    said = process.stderr.readline()
    assert said == "relocate: an executor takes more than --memory before it is ready; allow it more\n"


@pytest.mark.parametrize("text", ["2", "2GB", "0GiB", "-1GiB", "much"])
def test_a_size_that_is_none_is_named(place: Place, text: str) -> None:
    done = place.relocate("worker", "--listen", "tcp://127.0.0.1:0", f"--memory={text}")
    assert done.returncode == 2
    assert f"--memory {text!r}: write for example 500MiB or 2GiB" in done.stderr


def test_what_processes_and_the_machine_have_is_known() -> None:
    assert 0 < memory.of_process(os.getpid()) <= psutil.virtual_memory().total
    assert 1 << 20 < memory.of_machine() <= psutil.virtual_memory().total
    assert memory.of_process(1 << 30) == 0
    assert memory.kills() >= 0


def test_the_limit_of_a_control_group_counts_and_so_do_those_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text(f"{1 << 20}\n")
    (inner / "memory.events").write_text("low 0\noom 7\noom_kill 5\n")
    real = Path.read_text
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(Path, "read_text", lambda self: "0::/a/b\n" if str(self) == "/proc/self/cgroup" else real(self))
    assert memory.of_machine() == 1 << 20
    assert memory.kills() == 5
