"""The embedded worker: nothing configured, real processes."""

from __future__ import annotations

import os
import signal
import sys

import psutil
from conftest import Place, alive, family, until

RUN = """
import os, sys, relocate
handle = relocate.enable(modules=["work"], workers=2)
import work
"""


def test_a_call_runs_in_another_process(place: Place) -> None:
    done = place.python("-c", RUN + "print(work.pid() != os.getpid(), work.echo({'a': [1]}))")
    assert done.stdout == "True {'a': [1]}\n", done.stderr
    assert place.left_behind() == []


def test_a_second_start_describes_nothing(place: Place) -> None:
    program = RUN + "print('described' if handle._fleet.driver.links else 'cached')"
    # The first import has to ask an executor; the second finds the interface on disk.
    assert place.python("-c", program).stdout == "described\n"
    text = RUN + "import threading; print(work.echo.__doc__, type(sys.modules['work']).__name__)"
    assert place.python("-c", text).stdout == "Give the value back. ProxyModule\n"


LATE = """
import os, sys, relocate
handle = relocate.enable(modules=[{modules}], workers=1, early=False)
import {module}
"""


def test_a_program_that_forks_or_ends_while_its_worker_is_being_started(place: Place) -> None:
    late = LATE.format(modules="'work'", module="work")
    place.python("-c", late)  # from now on the interface is known, and a thread starts the worker
    for _ in range(3):
        done = place.python("-c", late + "print('ready')")
        assert (done.stdout, done.stderr) == ("ready\n", "")
        assert place.left_behind() == []
        program = late + "child = os.fork()\nos.write(1, b'%d' % work.echo(7))\nchild and os.waitpid(child, 0)"
        assert place.python("-c", program).stdout == "77"
        until(lambda: place.left_behind() == [], "the end of all files")


def test_before_a_fork_what_was_begun_ahead_is_waited_for_before_the_lock_of_logging_is_taken(place: Place) -> None:
    """What was registered last runs first."""
    program = """
import os
order, register = [], os.register_at_fork
def noted(**hooks):
    order.extend(hook.__module__ for name, hook in hooks.items() if name == "before")
    register(**hooks)
os.register_at_fork = noted
import relocate
relocate.enable(modules=["work"], workers=1, early=False)
print(order.index("logging") < order.index("relocate.handle"))
"""
    done = place.python("-c", program)
    assert done.stdout == "True\n", done.stderr


def test_relocate_itself_needs_no_module_that_is_relocated(place: Place) -> None:
    late = LATE.format(modules="'hmac', 'tempfile'", module="hmac, tempfile")
    program = late + "from relocate import embedded, session\nprint(hmac is session.hmac, type(hmac).__name__)"
    for _ in range(2):
        assert place.python("-c", program).stdout == "False ProxyModule\n"


def test_an_edited_module_is_described_anew(place: Place) -> None:
    assert place.python("-c", RUN + "print(work.echo(1))").stdout == "1\n"
    source = (place.folder / "work.py").read_text()
    place.write("work.py", source + "\n\ndef added():\n    return 'added'\n")
    done = place.python("-c", RUN + "print(work.added(), work.echo(2))")
    assert done.stdout == "added 2\n", done.stderr


def test_the_programs_path_and_folder_are_the_executors(place: Place) -> None:
    place.write("lib/helper.py", "def where():\n    import os\n    return os.getcwd()\n")
    program = """
        import os, sys, relocate
        relocate.enable(modules=["helper"], workers=1)
        sys.path.insert(0, "lib")
        import helper
        print(helper.where() == os.getcwd())
    """
    script = place.write("main.py", program)
    done = place.python(str(script))
    assert done.stdout == "True\n", done.stderr


def test_everything_ends_with_a_killed_program(place: Place) -> None:
    program = RUN + "work.pid(); print('ready', flush=True); work.wait(100)"
    process = place.start(sys.executable, "-c", program)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    processes = family(process.pid)
    assert len(processes) == 3  # the supervisor and two executors
    process.kill()
    until(lambda: not any(map(alive, processes)), "the end of all processes")
    until(lambda: place.left_behind() == [], "the end of all files")


def test_executors_end_with_a_killed_supervisor_and_the_program_goes_on(place: Place) -> None:
    program = (
        RUN
        + """
import psutil
first = work.pid()
supervisor, = psutil.Process().children()
executors = supervisor.children()
supervisor.kill()
psutil.wait_procs(executors, 10)
print(any(e.is_running() and e.status() != "zombie" for e in executors))
print(work.pid() != first)
print(handle.statistics().local)
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "False\nTrue\n0\n", done.stderr
    assert place.left_behind() == []


def test_a_forked_child_calls_and_outlives_nothing(place: Place) -> None:
    program = (
        RUN
        + """
first = work.pid()
child = os.fork()
if child == 0:
    ok = work.echo(5) == 5 and work.pid() > 0
    os._exit(0 if ok else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), work.echo(6))
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "0 6\n", done.stderr
    assert place.left_behind() == []


def test_a_forked_child_whose_parent_has_gone_starts_its_own_worker(place: Place) -> None:
    program = (
        RUN
        + """
import time
work.echo(1)
if os.fork():
    os._exit(0)
while os.getppid() != 1 and not os.path.exists("never"):
    time.sleep(0.01)  # its parent's end is no event to it
print(work.echo("orphan"), flush=True)
handle.disable()
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "orphan\n", done.stderr


def test_ctrl_c_ends_a_call_at_once_and_the_next_one_works(place: Place) -> None:
    mark = place.folder / "mark"
    program = (
        RUN
        + f"""
try:
    work.touch_and_wait({str(mark)!r}, 100)
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(sorted([work.echo(2), work.echo(3), work.wait(0, 4)]))
"""
    )
    process = place.start(sys.executable, "-c", program)
    until(mark.exists, "the call to run")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out == "interrupted\n[2, 3, 4]\n", err
    assert process.returncode == 0


def test_an_interrupted_call_frees_its_executor(place: Place) -> None:
    program = """
import os, signal, threading, relocate
handle = relocate.enable(modules=["work"], workers=1)
import work
mark = os.path.abspath("mark")
def interrupt():
    while not os.path.exists(mark):
        pass
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    work.touch_and_wait(mark, 100)
except KeyboardInterrupt:
    print("interrupted")
print(work.echo("free again"))
"""
    done = place.python("-c", program)
    assert done.stdout == "interrupted\nfree again\n", done.stderr


def test_threads_run_on_all_executors_at_once(place: Place) -> None:
    program = (
        RUN
        + """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    pids = set(pool.map(lambda i: work.spin(0.1), range(8)))
print(len(pids))
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "2\n", done.stderr


def test_calls_one_after_the_other_go_to_an_executor_that_has_imported_the_module(place: Place) -> None:
    place.write("heavy.py", "import os\ndef f(): return os.getpid()\n")
    worker = place.worker("--executors", "3")
    program = (
        "import collections, relocate\n"
        f"with relocate.enable(modules=['heavy'], workers={worker.url!r}, depth=2):\n"
        "    import heavy\n"
        "    print(max(collections.Counter(heavy.f() for _ in range(20)).values()))\n"
    )
    # One that takes long on a busy machine may be tried elsewhere, too.
    assert min(int(place.python("-c", program).stdout) for _ in range(2)) >= 15


def test_asyncio_to_thread(place: Place) -> None:
    program = (
        RUN
        + """
import asyncio
async def main():
    return await asyncio.gather(*(asyncio.to_thread(work.echo, i) for i in range(20)))
print(asyncio.run(main()) == list(range(20)))
"""
    )
    assert place.python("-c", program).stdout == "True\n"


def test_what_a_call_prints_appears_here_before_it_returns(place: Place) -> None:
    done = place.python("-c", RUN + "print(work.say('hello')); work.say('again')")
    assert done.stdout == "hello\n5\nagain\n"
    assert done.stderr == "to stderr\nto stderr\n"


def test_generators_travel_both_ways(place: Place) -> None:
    program = (
        RUN
        + """
print(work.total(i * i for i in range(3000)), list(work.count(2000)) == list(range(2000)))
print(next(iter(work.count(10**9))), handle.statistics().local)
def bad():
    yield 1
    raise LookupError("mine")
try:
    work.total(bad())
except LookupError as error:
    print(error)
"""
    )
    done = place.python("-c", program)
    assert done.stdout == f"{sum(i * i for i in range(3000))} True\n0 0\nmine\n", done.stderr


def test_what_pickle_refuses_travels_by_value(place: Place) -> None:
    script = place.write(
        "main.py",
        RUN
        + """
class Point:
    def __init__(self, x): self.x = x
point = work.echo(Point(3))
print(type(point) is Point, point.x, work.apply(lambda x: x + 1, 2), work.apply(max, [1, 5]))
""",
    )
    done = place.python(str(script))
    assert done.stdout == "True 3 3 5\n", done.stderr


def test_what_cannot_travel_runs_here_or_is_a_named_error(place: Place) -> None:
    program = """
import threading, relocate
handle = relocate.enable(modules=["work"], workers=1, fallback={})
import work
try:
    print(type(work.echo(threading.Lock())).__name__)
except relocate.ArgumentError as error:
    print("argument 1" in str(error), "lock" in str(error))
print(handle.statistics().local)
"""
    assert place.python("-c", program.format(True)).stdout == "lock\n1\n"
    assert place.python("-c", program.format(False)).stdout == "True True\n0\n"


def test_disable_restores_every_module_and_name(place: Place) -> None:
    program = """
import os, work, relocate
from work import pid
real = [work, pid]  # a list: names in modules are exchanged
handle = relocate.enable(modules=["work"], workers=1)
import work
print(work is real[0], pid is real[1], pid() != os.getpid(), work.pid() != os.getpid())
proxy = work
handle.disable()
import work
print(work is real[0], pid is real[1], pid() == os.getpid(), proxy.pid() == os.getpid())
"""
    done = place.python("-c", program)
    assert done.stdout == "False False True True\nTrue True True True\n", done.stderr


def test_no_executor_relocates_what_it_serves(place: Place) -> None:
    place.write("outer.py", "import os, work\n\ndef both():\n    return os.getpid(), work.pid()\n")
    done = place.python("-c", "import outer; a, b = outer.both(); print(a == b)", RELOCATE_MODULES="outer,work")
    assert done.stdout == "True\n", done.stderr


def test_stale_folders_of_killed_programs_are_swept(place: Place) -> None:
    stale = place.home / "run" / "relocate-999999999-x"
    stale.mkdir()
    os.utime(stale, (1, 1))
    assert not psutil.pid_exists(999999999)
    place.python("-c", RUN + "work.echo(1)")
    assert place.left_behind() == []


def test_any_amount_of_output_arrives(place: Place) -> None:
    done = place.python("-c", RUN + "print(work.say('x' * 20_000_000))")
    assert len(done.stdout) == 20_000_000 + 1 + len("20000000\n"), done.stderr


def test_an_import_does_not_wait_for_a_worker_that_is_down_if_there_is_a_local_copy(place: Place) -> None:
    program = """
import relocate, time
began = time.monotonic()
relocate.enable(modules=["work"], workers="tcp://127.0.0.1:9", start_timeout=60)
import work
print(work.echo(1), time.monotonic() - began < 30)
"""
    done = place.python("-c", program)
    assert done.stdout == "1 True\n", done.stderr
    assert "<string>:5: RelocateWarning" in done.stderr or "<string>:5" in done.stderr


def test_nothing_hangs_or_complains_after_disable(place: Place) -> None:
    done = place.python("-W", "error", "-c", RUN + "work.echo(1); handle.disable(); del handle; print('done')")
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_function_that_gives_a_generator_is_relocated_like_a_generator_function(place: Place) -> None:
    place.write("gen.py", "def squares(n):\n    return (i * i for i in range(n))\n")
    program = """
import relocate
handle = relocate.enable(modules=["gen"], workers=1)
import gen
print(list(gen.squares(5)), next(gen.squares(10**12)), handle.statistics().local, handle.statistics().calls)
"""
    done = place.python("-c", program)
    assert done.stdout == "[0, 1, 4, 9, 16] 0 0 2\n", done.stderr


def test_a_call_under_way_when_relocation_is_disabled_ends_here(place: Place) -> None:
    mark = place.folder / "mark"
    program = (
        RUN
        + f"""
import threading
answers = []
thread = threading.Thread(target=lambda: answers.append(work.touch_and_wait({str(mark)!r}, 0.5)))
thread.start()
while not os.path.exists({str(mark)!r}):
    pass
handle.disable()
thread.join()
print(answers == [os.getpid()])
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "True\n", done.stderr


def test_what_calls_under_way_keep_open_is_closed_by_the_next_handle(place: Place) -> None:
    program = """
import os, sys, threading, relocate
from relocate import direct
direct.AVAILABLE = False  # so that they are ZeroMQ's

def used(mark):
    handle = relocate.enable(modules=["work"], workers=1)
    import work
    work.echo(1)
    thread = threading.Thread(target=work.touch_and_wait, args=(mark, 0.3))
    if mark:
        thread.start()
        while not os.path.exists(mark):
            pass
    handle.disable()
    if mark:
        thread.join()
    return len(os.listdir("/proc/self/fd"))

before = used("")
for mark in sys.argv[1:]:
    used(mark)
print(used("") - before)
"""
    done = place.python("-c", program, *(str(place.folder / f"mark{n}") for n in range(3)))
    assert done.stdout == "0\n", done.stderr


def test_a_handle_that_may_not_fall_back_is_not_enabled_if_a_loaded_module_cannot_be_relocated(place: Place) -> None:
    program = """
import sys, work, relocate
from work import pid
real = work
try:
    relocate.enable(modules=["work"], workers="tcp://127.0.0.1:9", fallback=False, start_timeout=0.3)
except relocate.ModuleUnavailable as error:
    print("'work'" in str(error), "nobody answers at tcp://127.0.0.1:9" in str(error))
print(sys.modules["work"] is real, work is real, pid is real.pid)
try:
    relocate.active()
except relocate.RelocateError:
    print("nothing is enabled")
"""
    done = place.python("-c", program)
    assert done.stdout == "True True\nTrue True True\nnothing is enabled\n", done.stderr


def test_a_loaded_module_that_stays_is_not_loaded_twice_and_the_program_is_warned(place: Place) -> None:
    program = """
import sys, work, relocate
real = work
handle = relocate.enable(modules=["work", "os"], workers="tcp://127.0.0.1:9", start_timeout=0.3)
print(sys.modules["work"] is real, work is real, work.echo(1))
"""
    done = place.python("-c", program)
    assert done.stdout == "True True 1\n", done.stderr
    assert done.stderr.count("<string>:4: RelocateWarning: work is not relocated: nobody answers") == 1
    assert "os.path" not in done.stderr


def test_what_the_program_holds_works_under_the_next_handle(place: Place) -> None:
    program = (
        RUN
        + """
from work import echo
handle.disable()
real = __import__("work")
print(work.pid() == os.getpid(), type(work) is not type(real))
handle = relocate.enable(modules=["work"], workers=1)
print(work.pid() != os.getpid(), echo(1), handle.statistics().remote)
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "True True\nTrue 1 2\n", done.stderr


def test_disable_leaves_what_the_program_has_assigned_meanwhile(place: Place) -> None:
    program = """
import relocate, work
from work import pid, echo
handle = relocate.enable(modules=["work"], workers=1)
pid = "mine"
handle.disable()
print(pid, echo is work.echo)
"""
    done = place.python("-c", program)
    assert done.stdout == "mine True\n", done.stderr


def test_a_call_that_was_begun_just_before_disable_starts_no_worker_after_it(place: Place) -> None:
    program = """
import threading
begun, go, there, found = threading.Event(), threading.Event(), handle._call_there, []
def call_there(*call):
    begun.set(), go.wait(30)
    return there(*call)
work.echo(1)
handle._call_there = call_there
thread = threading.Thread(target=lambda: found.append(work.echo(2)))
thread.start()
begun.wait(30)
handle.disable()
go.set()
thread.join(30)
print(found, handle._fleet.driver.links, [link.child for link in handle._fleet.links])
"""
    done = place.python("-c", RUN + program)
    assert (done.stdout, done.stderr) == ("[2] None [None]\n", "")
    assert place.left_behind() == []


def test_a_call_while_embedded_executors_are_ended_to_start_anew_runs_on_the_new_ones(place: Place) -> None:
    program = """
import threading
from relocate.embedded import Child
asked, start, stop, found = threading.Event(), handle._fleet.start, Child.stop, []
def started(**how):
    asked.set()
    start(**how)
def stopped(child):
    thread.start()
    asked.wait(30)
    thread.join(0.5)  # it waits for this
    stop(child)
before = work.pid()
handle._fleet.start, Child.stop = started, stopped
thread = threading.Thread(target=lambda: found.append(work.pid()), daemon=True)
handle.close()
Child.stop = stop
thread.join(20)
print(len(found), before in found, os.getpid() in found, work.pid() == os.getpid())
"""
    done = place.python("-c", RUN + program)
    assert (done.stdout, done.stderr) == ("1 False False False\n", "")
    assert place.left_behind() == []


def test_a_call_that_waits_for_a_worker_does_not_hold_up_disable(place: Place) -> None:
    program = """
import os, threading, time, relocate
handle = relocate.enable(modules=["work"], workers=1, patience=60)
import work
work.echo(1)
handle.close()
answers = []
begin = threading.Event()
def call():
    begin.set()
    answers.append(work.pid())
thread = threading.Thread(target=call)
thread.start()
begin.wait()
began = time.monotonic()
handle.disable()
thread.join()
print(len(answers), time.monotonic() - began < 15)
"""
    done = place.python("-c", program)
    assert done.stdout == "1 True\n", done.stderr


def test_a_forked_child_can_bind_though_a_thread_held_the_lock(place: Place) -> None:
    program = (
        RUN
        + """
work.echo(1)
with handle.namespace._lock:
    handle._mine.inside = True  # as in the middle of a call
    child = os.fork()
    if child == 0:
        handle.namespace.bind("/n/local/chan/work/echo", "/chan/work/echo")
        os._exit(0 if work.pid() != os.getpid() else 1)
    handle._mine.inside = False
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    done = place.python("-c", program)
    assert done.stdout == "0\n", done.stderr


def test_a_generator_that_is_lent_may_call_what_is_only_on_the_worker(place: Place) -> None:
    place.write("far/deep.py", "def square(n):\n    return n * n\ndef total(items):\n    return sum(items)\n")
    worker = place.worker("--executors", "2", PYTHONPATH=str(place.folder / "far"))
    program = f"""
import relocate
handle = relocate.enable(modules=["deep"], workers="{worker.url}")
import deep
print(deep.total(deep.square(i) for i in range(4)), handle.statistics().remote)
"""
    done = place.python("-c", program)
    assert done.stdout == "14 5\n", done.stderr


def test_a_program_is_told_once_that_its_calls_run_here(place: Place) -> None:
    worker = place.worker("--executors", "1")
    place.write("more.py", "def one():\n    return 1\n")
    program = f"""
import relocate
handle = relocate.enable(modules=["work", "more"], workers="{worker.url}")
import work, more
work.echo(0)
work.echo(1)
more.one()
print(handle.statistics().remote, handle.statistics().local)
"""
    done = place.python("-c", program)
    assert (done.stdout, done.stderr) == ("3 0\n", "")
    worker.stop()
    done = place.python("-c", program)  # its description is in the cache
    assert done.stdout == "0 3\n"
    assert done.stderr.count("RelocateWarning") == 1
    assert "<string>:5: RelocateWarning: work.echo runs here, not on a worker: nobody answers at" in done.stderr


def test_a_reload_takes_the_new_code_to_the_executors(place: Place) -> None:
    place.write("rate.py", "class Kind:\n    value = 1\ndef of(n):\n    return n * 2\n")
    program = """
import importlib, os, relocate
handle = relocate.enable(modules=["rate"], workers=1)
import rate
kept = rate.of
print(kept(1), rate.Kind.value)
with open("rate.py", "w") as file:
    file.write("class Kind:\\n    value = 200\\ndef of(n):\\n    return n * 300\\ndef more():\\n    return 4\\n")
print(importlib.reload(rate) is rate)
print(rate.of(1), kept(1), rate.more(), rate.Kind.value, handle.statistics().local)
"""
    done = place.python("-c", program, PYTHONDONTWRITEBYTECODE="1")
    assert done.stdout == "2 1\nTrue\n300 300 4 200 0\n", done.stderr
    assert place.left_behind() == []


def test_what_a_worker_lacks_is_told_once_for_a_package_with_the_remedy(place: Place) -> None:
    for name in ("__init__", "a", "b"):
        place.write(f"near/pack/{name}.py", "")
    worker = place.worker("--executors", "1")
    program = f"""
import sys, relocate
sys.path.insert(0, "near")
relocate.enable(modules=["pack"], workers="{worker.url}")
import pack, pack.a, pack.b
"""
    done = place.python("-c", program)
    assert done.stderr.count("RelocateWarning") == 1, done.stderr
    assert "No module named 'pack'; install it there, or set PYTHONPATH of the worker" in done.stderr


def test_an_error_of_relocates_own_is_said_once(place: Place) -> None:
    program = """
import relocate
handle = relocate.enable(modules=["work"], workers="tcp://127.0.0.1:9", fallback=False, start_timeout=0.2)
import work
"""
    done = place.python("-c", program)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert "ModuleUnavailable: cannot relocate 'work': nobody answers at" in done.stderr


def test_an_executor_that_was_drained_did_not_die(place: Place) -> None:
    worker = place.worker("--executors", "1")
    program = f"""
import sys, relocate
handle = relocate.enable(modules=["work"], workers="{worker.url}")
import work
print(work.echo(1), flush=True)
sys.stdin.readline()
work.echo(1)
print([seen.deaths for seen in handle.statistics().workers.values()])
"""
    client = place.start(sys.executable, "-W", "ignore", "-c", program, talk=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "1\n"
    assert worker.stop() == 0
    assert client.communicate("\n", timeout=20) == ("[0]\n", "")


def test_a_generator_lent_to_a_generator_leaves_the_next_calls_what_they_are(place: Place) -> None:
    place.write(
        "shop.py", "def doubled(items):\n    for item in items:\n        yield item * 2\ndef price(n):\n    return n\n"
    )
    script = place.write("a.py", "import shop\nprint(list(shop.doubled(i for i in range(3))), shop.price(1))\n")
    done = place.relocate("run", "-M", "shop", "-w", "1", "--report", "report.json", str(script))
    assert done.stdout == "[0, 2, 4] 1\n"
    assert place.report()["remote"] == 2
