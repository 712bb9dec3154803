"""Calls whose executor dies, freezes or is cut off; workers that are gone."""

from __future__ import annotations

import json
import signal
import sys
import textwrap

import pytest
from conftest import WAIT, Place, Worker, until

EMBEDDED = """
import os, signal, sys, time, psutil, relocate
handle = relocate.enable(modules=["work"], workers={workers!r}, fallback=False)
import work
work.echo(0)
"""


def test_a_call_whose_executor_is_killed_runs_again(place: Place) -> None:
    mark = place.folder / "mark"
    program = (
        EMBEDDED.format(workers=2)
        + f"""
import threading
mark = {str(mark)!r}
def kill():
    while not (os.path.exists(mark) and open(mark).read()):
        time.sleep(0.001)  # the file of another process is no event
    os.kill(int(open(mark).read()), signal.SIGKILL)
    killed.append(int(open(mark).read()))
killed = []
killer = threading.Thread(target=kill)
killer.start()
answer = work.touch_and_wait(mark, 0.5)
killer.join()
seen = handle.statistics()
print(answer != killed[0], seen.retried, seen.calls, seen.remote, sum(w.deaths for w in seen.workers.values()))
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "True 1 2 2 1\n", done.stderr


@pytest.mark.parametrize("call", ["work.leave(3)", "work.crash()"])
def test_a_call_that_ends_two_executors_is_named_and_its_neighbours_are_unharmed(place: Place, call: str) -> None:
    program = (
        EMBEDDED.format(workers=2)
        + f"""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    neighbours = [pool.submit(work.wait, 0.05, i) for i in range(20)]
    bad = pool.submit(lambda: {call})
print([f.result() for f in neighbours] == list(range(20)))
try:
    bad.result()
except relocate.CrashingCall as error:
    print({call!r}.partition("(")[0] in str(error), "not tried again" in str(error))
print(work.echo("after"))
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "True\nTrue True\nafter\n", done.stderr


def test_the_functions_own_exception_is_itself_and_is_not_retried(place: Place) -> None:
    program = (
        EMBEDDED.format(workers=2)
        + """
import traceback
try:
    work.fail("no", number=7)
except work.WorkError as error:
    print(type(error) is work.WorkError, error.args)
    print("raise WorkError(text, number)" in "".join(traceback.format_exception(error)))
try:
    work.chain()
except work.WorkError as error:
    cause = error.__cause__
    print(type(cause).__name__, cause.__notes__, error.__suppress_context__)
    print("1 / 0" in "".join(traceback.format_exception(error)))
seen = handle.statistics()
print(seen.raised, seen.retried, "work" in sys.modules and type(sys.modules["work"]).__name__)
"""
    )
    done = place.python("-c", program)
    assert done.stdout == ("True ('no', 7)\nTrue\nZeroDivisionError ['a note'] True\nTrue\n2 0 ProxyModule\n"), (
        done.stderr
    )


def test_a_module_that_is_only_on_the_worker_is_used_like_a_local_one(place: Place) -> None:
    place.write("far/pack/__init__.py", "from .deep import fail, add\n")
    place.write(
        "far/pack/deep.py",
        """
        class DeepError(Exception):
            pass

        def fail(text):
            raise DeepError(text)  # the line

        def add(a, *, b=2):
            \"\"\"Add.\"\"\"
            return a + b
    """,
    )
    worker = place.worker("--executors", "1", PYTHONPATH=str(place.folder / "far"))
    program = f"""
import inspect, traceback, relocate
handle = relocate.enable(modules=["pack.deep"], workers="{worker.url}")
import pack.deep
from pack.deep import add
print(add(1), add(1, b=5), inspect.signature(add), add.__doc__)
try:
    pack.deep.fail("no")
except pack.deep.DeepError as error:
    print("raise DeepError(text)  # the line" in "".join(traceback.format_exception(error)))
try:
    import pack.absent
except ImportError as error:
    print(error.name)
"""
    done = place.python("-c", program)
    assert done.stdout == "3 6 (a, *, b=2) Add.\nTrue\npack.absent\n", done.stderr


def test_a_frozen_executor_is_left_for_another(place: Place) -> None:
    program = (
        EMBEDDED.format(workers=2)
        + """
supervisor, = psutil.Process().children()
frozen = supervisor.children()[0]
frozen.suspend()
began = time.monotonic()
print(sorted(set(work.pid() for _ in range(20))) == [supervisor.children()[1].pid])
print(time.monotonic() - began < 10)
frozen.resume()
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "True\nTrue\n", done.stderr


def test_a_busy_executor_that_holds_the_interpreter_is_not_taken_for_dead(place: Place) -> None:
    # The expression backtracks for a few seconds without ever giving up the interpreter.
    place.write("hold.py", "import re\ndef on(n):\n    return re.match('(a+)+$', 'a' * n + 'b')\n")
    program = """
import relocate, time
handle = relocate.enable(modules=["hold"], workers=1, fallback=False, heartbeat=0.3)
import hold
began = time.monotonic()
n = 22
while time.monotonic() - began < 1.5:
    began = time.monotonic()
    n += 1
    hold.on(n)
print(handle.statistics().retried)
"""
    done = place.python("-c", program)
    assert done.stdout == "0\n", done.stderr


def test_with_nobody_left_the_local_copy_runs(place: Place) -> None:
    worker = place.worker("--executors", "1")
    program = f"""
import os, relocate, sys
handle = relocate.enable(modules=["work"], workers="{worker.url}")
import work
print(work.pid() != os.getpid(), flush=True)
sys.stdin.readline()
print(work.pid() == os.getpid())
"""
    run_until_stopped(place, worker, program, "True\n", "True\n")


def test_with_nobody_left_and_no_local_copy_allowed_it_is_a_typed_error_in_bounded_time(place: Place) -> None:
    worker = place.worker("--executors", "1")
    program = f"""
import relocate, sys, time
handle = relocate.enable(modules=["work"], workers="{worker.url}", fallback=False, patience=1)
import work
print(work.echo(1), flush=True)
sys.stdin.readline()
began = time.monotonic()
try:
    work.echo(2)
except relocate.NoWorkerLeft as error:
    print("{worker.url}" in str(error), "work.echo" in str(error), time.monotonic() - began < 5)
"""
    run_until_stopped(place, worker, program, "1\n", "True True True\n")


def run_until_stopped(place: Place, worker: Worker, program: str, first: str, then: str) -> None:
    """Run ``program`` to its first line, kill the worker, let it go on."""
    client = place.start(sys.executable, "-c", program, talk=True)
    assert client.stdout is not None
    assert client.stdin is not None
    assert client.stdout.readline() == first
    worker.process.kill()
    worker.process.wait()
    out, err = client.communicate("\n", timeout=WAIT)
    assert out == then, err


def test_a_spare_takes_over_and_the_better_rank_comes_back(place: Place) -> None:
    first, spare = place.worker("--executors", "1"), place.worker("--executors", "1")
    port = first.url.rpartition(":")[2]
    program = f"""
import relocate, sys
handle = relocate.enable(modules=["work"], workers="{first.url};{spare.url}", fallback=False)
import work
for line in sys.stdin:
    print(work.pid(), flush=True)
"""
    client = place.start(sys.executable, "-c", program, talk=True)

    def ask() -> int:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("\n")
        client.stdin.flush()
        return int(client.stdout.readline())

    assert ask() == first.executors()[0].pid
    first.process.kill()
    first.process.wait()
    assert ask() == spare.executors()[0].pid
    again = place.worker("--executors", "1", listen=f"tcp://127.0.0.1:{port}")
    until(lambda: ask() == again.executors()[0].pid, "the return to the better rank")


def test_a_worker_that_nobody_started_is_told_at_once(place: Place) -> None:
    program = """
import relocate
try:
    handle = relocate.enable(modules=["work"], workers="tcp://127.0.0.1:9", fallback=False, patience=1, start_timeout=3)
    import work
except relocate.ModuleUnavailable as error:
    print("nobody answers at tcp://127.0.0.1:9" in str(error), "relocate worker --listen" in str(error))
"""
    done = place.python("-c", program)
    assert done.stdout == "True True\n", done.stderr


CHAOS = """
import json, os, random, signal, sys, threading, time, psutil, relocate
from concurrent.futures import ThreadPoolExecutor

calls, threads, seed = (int(a) for a in sys.argv[1:])
handle = relocate.enable(modules=["work"], workers=3, fallback=False)
import work
work.echo(0)
stop, kills, chance = threading.Event(), [], random.Random(seed)

def kill():
    supervisor, = psutil.Process().children()
    while not stop.wait(chance.uniform(0.02, 0.1)):
        executors = supervisor.children()
        if executors:
            try:
                victim = chance.choice(executors)
                victim.kill()
                kills.append(victim.pid)
            except psutil.NoSuchProcess:
                pass

killer = threading.Thread(target=kill)
killer.start()
with ThreadPoolExecutor(threads) as pool:
    answers = list(pool.map(work.echo, range(calls)))
stop.set()
killer.join()
seen = handle.statistics()
handle.disable()
left = [p.pid for p in psutil.Process().children(recursive=True)]
print(json.dumps({
    "right": answers == list(range(calls)), "kills": len(kills), "calls": seen.calls, "remote": seen.remote,
    "returned": seen.returned, "retried": seen.retried, "left": left,
}))
"""


@pytest.mark.slow
def test_20_000_calls_from_8_threads_while_executors_are_killed(place: Place) -> None:
    done = place.python("-c", CHAOS, "20000", "8", "1")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["right"]
    assert seen["calls"] == seen["remote"] == seen["returned"] == 20001
    assert seen["kills"] > 20
    assert seen["left"] == []
    assert place.left_behind() == []


def test_1_000_calls_while_executors_are_killed_and_none_runs_here(place: Place) -> None:
    # With a local copy allowed: executors that are about to return are worth waiting for.
    done = place.python("-c", CHAOS.replace(", fallback=False", ""), "1000", "4", "2")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["right"]
    assert seen["calls"] == seen["remote"] == 1001
    assert seen["left"] == []
    assert place.left_behind() == []


def test_a_call_that_crashes_the_only_executor_of_a_worker_is_not_run_here(place: Place) -> None:
    worker = place.worker("--executors", "1")
    program = f"""
import relocate, relocate.links
handle = relocate.enable(modules=["work"], workers="{worker.url}")
import work
work.echo(1)
relocate.links.FIRST_CONTACT = 0.01  # the worker counts as long known
try:
    work.crash()
except relocate.CrashingCall:
    print("told")
"""
    done = place.python("-c", program)
    assert (done.stdout, done.returncode) == ("told\n", 0), done.stderr


def test_an_exception_whose_class_is_not_here_keeps_its_text(place: Place) -> None:
    place.write("far/odd.py", "class Odd(Exception):\n    def __init__(self, a):\n        super().__init__(a)\n")
    place.write("far/pack/__init__.py", "import odd\n\ndef fail():\n    raise odd.Odd('boom')\n")
    worker = place.worker("--executors", "1", PYTHONPATH=str(place.folder / "far"))
    program = f"""
import relocate
handle = relocate.enable(modules=["pack"], workers="{worker.url}")
import pack
try:
    pack.fail()
except Exception as error:
    print(type(error).__name__, error, handle.statistics().raised)
"""
    done = place.python("-c", program)
    assert done.stdout == "Exception odd.Odd: boom 1\n", done.stderr


def test_a_reloaded_module_that_was_edited_goes_on(place: Place) -> None:
    program = """
import importlib, os, relocate
handle = relocate.enable(modules=["work"], workers=1)
import work
work.echo(1)
with open("work.py", "a") as file:
    file.write("\\n\\ndef added():\\n    return 1\\n")
importlib.reload(work)
print(work.echo(2))
"""
    done = place.python("-c", program)
    assert done.stdout == "2\n", done.stderr


def test_a_function_whose_code_was_replaced_in_place_is_relocated_again_once_it_is_reloaded(place: Place) -> None:
    program = """
        import ctypes, importlib, relocate
        handle = relocate.enable(modules=["work"], workers=1)
        import work
        def edited(value):
            return "edited"
        ctypes.pythonapi.PyFunction_SetClosure(ctypes.py_object(work.echo), ctypes.py_object(None))  # as IPython does
        work.echo.__code__ = edited.__code__
        print(work.echo(1), handle.statistics().remote)
        importlib.reload(work)
        print(work.echo(2), handle.statistics().remote)
    """
    done = place.python("-c", textwrap.dedent(program))
    assert done.stdout == "edited 0\n2 1\n", done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals of POSIX")
@pytest.mark.parametrize("kind", ["TimeoutError", "ConnectionResetError", "BlockingIOError", "ValueError"])
def test_what_a_signals_handler_raises_ends_the_call_whatever_it_is(place: Place, kind: str) -> None:
    place.write("slow.py", "import time\ndef sleep(seconds): time.sleep(seconds)\n")
    program = f"""
        import signal, slow
        slow.sleep(0)
        def rings(*about):
            raise {kind}("alarm")
        signal.signal(signal.SIGALRM, rings)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            slow.sleep(50)
        except {kind} as error:
            print(repr(error))
        slow.sleep(0)
    """
    options = ("-M", "slow", "-w", "1", "--report", "report.json")
    under = place.relocate("run", *options, str(place.write("main.py", program)))
    assert (under.stdout, under.stderr) == (f"{kind}('alarm')\n", "")
    assert place.report()["retried"] == 0
