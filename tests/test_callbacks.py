"""Functions as arguments: they run here, in the thread that made the call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import Place

from relocate import errors, testing
from relocate.testing import Clock, CutOff, Kill, Network, Program, Worker

SOURCE = """
def apply(f, *args): return f(*args)
def each(f, items): return [f(item) for item in items]
def until(step, enough):
    count = 0
    while not enough() and count < 10:
        step()
        count += 1
    return count
def twice(f, g): return f(1), g(2), f(3)
def inside(functions, x): return functions["f"](x)
def same(f): return f
def write(f, buffer):
    f(buffer)
    return buffer
def caught(f):
    try:
        return f()
    except LookupError as error:
        return type(error).__name__, error.args
def around(f):
    print("before")
    f()
    print("after")
def shows(f): return getattr(f, "terminal", None), getattr(f, "lock", None)
def looks(f):
    import inspect
    return str(inspect.signature(f)), f.__name__, f.__doc__, f.__module__
def hands_on(f): return f(x for x in "ab")
def lock():
    import threading
    return threading.Lock()
def lists(f, n):
    for i in range(n):
        yield f(i)
def loud(f, n):
    for i in range(n):
        print(i)
        yield f(i)
def unlike(f): return f(next(arguments))
arguments = iter([1, 2])
kept = []
def keep(f): kept.append(f)
def late(): return kept[-1](1)
"""


def shop() -> ModuleType:
    return testing.module("shop", SOURCE, __version__="1")


@pytest.fixture
def network() -> Network:
    return Network(Clock())


@pytest.fixture
def desk(network: Network) -> Worker:
    return network.worker("desk", modules=[shop()])


@pytest.fixture
def program(network: Network, desk: Worker) -> Program:
    """A program that runs nothing itself."""
    return Program(network, ["desk"])


@pytest.fixture
def both(network: Network, desk: Worker) -> Program:
    """A program that has a local copy."""
    return Program(network, ["desk"], local=[shop()])


def counting(results: list[Any]) -> Callable[..., Any]:
    """A function that notes what it is called with."""

    def note(*args: Any) -> int:
        results.append(args)
        return len(results)

    return note


def test_a_function_runs_here_in_the_calling_thread(program: Program) -> None:
    seen: list[Any] = []

    def note(value: int) -> int:
        seen.append((value, threading.get_ident()))
        return value * 2

    assert program.load("shop").each(note, [1, 2]) == [2, 4]
    assert seen == [(1, threading.get_ident()), (2, threading.get_ident())]
    assert (program.statistics().remote, program.statistics().local) == (1, 0)


def test_several_functions_are_told_apart(program: Program) -> None:
    one: list[Any] = []
    two: list[Any] = []
    assert program.load("shop").twice(counting(one), counting(two)) == (1, 1, 2)
    assert (one, two) == ([(1,), (3,)], [(2,)])


def test_functions_of_one_call_see_what_the_others_change(program: Program) -> None:
    shop, seen, count = program.load("shop"), set[int](), 0

    def step() -> None:
        nonlocal count
        count += 1

    def steps() -> Iterator[int]:
        for n in range(3):
            seen.add(n)
            yield n

    assert shop.until(step, lambda: count > 3) == 4
    assert shop.until(lambda: seen.add(len(seen)), lambda: len(seen) > 2) == 3
    seen.clear()
    assert shop.each(lambda n: n in seen, steps()) == [True] * 3
    assert program.statistics().local == 0


def test_a_function_shows_its_plain_attributes(program: Program) -> None:
    def event(t: float) -> float:
        return t

    event.terminal = True  # type: ignore[attr-defined]
    event.lock = threading.Lock()  # type: ignore[attr-defined]
    assert program.load("shop").shows(event) == (True, None)


def test_the_same_function_twice_is_one_there(program: Program) -> None:
    seen: list[Any] = []
    note = counting(seen)
    assert program.load("shop").twice(note, note) == (1, 2, 3)
    assert program.load("shop").same(note) is note


def test_a_function_inside_an_argument_runs_here_too(program: Program) -> None:
    seen: list[Any] = []
    assert program.load("shop").inside({"f": counting(seen)}, 7) == 1
    assert seen == [(7,)]


def test_a_bound_method_changes_its_own_object(program: Program) -> None:
    class Account:
        total = 0

        def add(self, value: int) -> int:
            self.total += value
            return self.total

    account = Account()
    assert program.load("shop").each(account.add, [1, 2, 3]) == [1, 3, 6]
    assert account.total == 6


def test_what_it_does_to_its_arguments_is_done_there(program: Program) -> None:
    shop, done = program.load("shop"), []

    def fill(buffer: Any) -> None:
        buffer[0] = 9
        done.append(1)

    for own in ([1, 2], np.zeros(3), np.zeros(10_000)):
        assert shop.write(fill, own) is own
        assert own[0] == 9
    assert len(done) == 3


def test_what_it_raises_is_raised_there_and_is_the_very_same_here(program: Program) -> None:
    error, seen = KeyError("mine"), []

    def fail() -> None:
        seen.append(1)
        raise error

    assert program.load("shop").caught(fail) == ("KeyError", ("mine",))
    with pytest.raises(KeyError) as caught:
        program.load("shop").apply(fail)
    assert caught.value is error
    assert "fail" in [frame.name for frame in caught.traceback]


@pytest.mark.parametrize("fault", [Kill(), CutOff()])
def test_a_call_that_runs_again_does_not_call_again(program: Program, desk: Worker, fault: Any) -> None:
    seen: list[Any] = []
    shop = program.load("shop")
    desk.next(fault)
    assert shop.each(counting(seen), "abc") == [1, 2, 3]
    assert seen == [("a",), ("b",), ("c",)]
    assert desk.calls == ["shop.each"] * 2


def test_a_call_that_comes_home_does_not_call_again(both: Program, desk: Worker) -> None:
    seen: list[Any] = []
    shop = both.load("shop")
    desk.next(Kill(restart=None))
    assert shop.each(counting(seen), "abc") == [1, 2, 3]
    assert seen == [("a",), ("b",), ("c",)]
    assert both.statistics().local == 1


def test_what_it_raised_comes_home_as_well(both: Program, desk: Worker) -> None:
    seen: list[Any] = []

    def fail() -> None:
        seen.append(1)
        raise LookupError("mine")

    shop = both.load("shop")
    desk.next(Kill(restart=None))
    assert shop.caught(fail) == ("LookupError", ("mine",))
    assert seen == [1]


def test_a_call_that_asks_for_something_else_the_next_time_gets_that(program: Program, desk: Worker) -> None:
    seen: list[Any] = []
    proxy = program.load("shop")
    desk.next(Kill())
    # What it got for its first argument would be wrong for the other one that it has when it runs again.
    assert proxy.unlike(counting(seen)) == 2
    assert seen == [(1,), (2,)]


def test_a_result_that_cannot_travel_lets_the_call_run_here(both: Program) -> None:
    seen: list[Any] = []

    def lock(*args: Any) -> Any:
        seen.append(args)
        return threading.Lock()

    assert type(both.load("shop").apply(lock, 1)) is type(threading.Lock())
    assert seen == [(1,)]
    assert both.statistics().local == 1


def test_a_function_inside_an_argument_is_not_called_twice(both: Program, desk: Worker) -> None:
    seen: list[Any] = []
    shop = both.load("shop")
    desk.next(Kill(restart=None))
    with pytest.raises(errors.ArgumentError, match="called a function that is inside an argument"):
        shop.inside({"f": counting(seen)}, 7)
    assert seen == [(7,)]


def test_what_is_handed_to_it_and_cannot_travel_lets_the_call_run_here(both: Program) -> None:
    seen: list[Any] = []

    def note(items: Iterator[str]) -> list[str]:
        seen.extend(items)
        return seen

    assert both.load("shop").hands_on(note) is seen == ["a", "b"]
    assert both.statistics().local == 1


def test_after_its_call_nobody_answers(program: Program) -> None:
    shop = program.load("shop")
    seen: list[Any] = []
    shop.keep(counting(seen))
    with pytest.raises(errors.ArgumentError, match="is over; nobody answers any more"):
        shop.late()
    assert seen == []


def test_it_shows_its_name_its_text_and_its_parameters(program: Program) -> None:
    seen: list[Any] = []

    def note(a: int, b: float = 2.5, *rest: Any, c: object = object, **more: Any) -> None:
        """Notes."""
        seen.append(a)

    signature, *names = program.load("shop").looks(note)
    assert signature == "(a, b=2.5, *rest, c=None, **more)"
    assert names == ["note", "Notes.", __name__]


def test_what_is_printed_around_it_comes_in_order(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []

    def note() -> None:
        seen.append(1)
        print("here")

    program.load("shop").around(note)
    assert capsys.readouterr().out == "before\nhere\nafter\n"


def test_what_a_first_try_has_printed_is_not_printed_again(
    program: Program, desk: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    shop = program.load("shop")
    desk.next(Kill())
    shop.around(counting(seen))
    assert capsys.readouterr().out == "before\nafter\n"


def test_a_generator_calls_it_once_for_each_item(program: Program) -> None:
    seen: list[Any] = []
    assert list(program.load("shop").lists(counting(seen), 100)) == list(range(1, 101))
    assert seen == [(n,) for n in range(100)]


def test_what_a_generator_prints_comes_once(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []
    assert list(program.load("shop").loud(counting(seen), 10)) == list(range(1, 11))
    assert capsys.readouterr().out == "".join(f"{n}\n" for n in range(10))


def test_a_relocated_call_inside_it_needs_another_executor(network: Network) -> None:
    network.worker("desk", modules=[shop()], executors=2)
    program = Program(network, ["desk"])
    proxy, seen = program.load("shop"), []

    def again(x: int) -> Any:
        seen.append(x)
        return proxy.apply(len, "abc")

    assert proxy.apply(again, 1) == 3
    assert program.statistics().remote == 2


def test_a_proven_function_travels_by_value(program: Program) -> None:
    offset = 3
    assert program.load("shop").each(lambda x: x + offset, [1, 2]) == [4, 5]
    lists = program.load("shop").looks(lambda x: x + offset)
    assert lists[1] == "<lambda>"


# Real processes ----------------------------------------------------------------------------------

RUN = """
import os, sys, relocate
handle = relocate.enable(modules=["work"], workers=2)
import work
"""


def test_functions_of_a_script_run_in_it(place: Place) -> None:
    script = place.write(
        "main.py",
        RUN
        + """
import threading
calls = 0
def note(x):
    global calls
    calls += 1
    assert threading.current_thread() is threading.main_thread()
    return x, os.getpid() == me
me = os.getpid()
print(work.apply(note, 1), work.apply(lambda x: note(x), 2), calls)
class Mine(Exception): pass
def fail(x):
    raise Mine(calls)
try:
    work.apply(fail, 1)
except Mine as error:
    print("mine", error)
def again(x): return work.apply(note, x)
print(work.apply(again, 3), calls)
results = []
def in_thread(n):
    results.append(work.apply(lambda x: (results.append, x)[1], n))
threads = [threading.Thread(target=in_thread, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(results))
""",
    )
    done = place.python(str(script))
    assert done.stdout == "(1, True) (2, True) 2\nmine 2\n(3, True) 3\n[0, 1, 2, 3]\n", done.stderr
    assert place.left_behind() == []


def test_a_function_that_waits_for_another_call_of_the_program_is_not_waited_for(place: Place) -> None:
    """With one executor, which is waiting for the function."""
    program = """
import threading
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(1) as pool:
    print(work.apply(lambda x: pool.submit(work.echo, x).result(), 7))
"""
    done = place.python("-c", RUN.replace("workers=2", "workers=1") + program)
    assert done.stdout == "7\n", done.stderr


def test_an_exit_in_a_function_that_is_called_back_passes_through_its_caller(place: Place) -> None:
    place.write(
        "passing.py",
        """
def through(f):
    try:
        f()
    except BaseException as error:
        return type(error).__name__
""",
    )
    program = """
import sys, relocate
relocate.enable(modules=["passing"], workers=1)
import passing
print(passing.through(lambda: sys.exit(3)), relocate.statistics().local)
"""
    done = place.python("-c", program)
    assert done.stdout == "SystemExit 0\n", done.stderr


def test_an_interrupt_in_a_function_that_is_called_back_ends_the_call(place: Place) -> None:
    program = """
import signal
def interrupted(x):
    signal.raise_signal(signal.SIGINT)
try:
    work.apply(interrupted, 1)
except KeyboardInterrupt:
    print("interrupted", work.echo(1))
"""
    done = place.python("-c", RUN + program)
    assert done.stdout == "interrupted 1\n", done.stderr


def test_a_minimizer_calls_back_and_gives_what_it_gives_here(place: Place) -> None:
    script = place.write(
        "main.py",
        """
import relocate
relocate.enable(modules=["scipy.optimize"], workers=1)
from scipy import optimize
history = []
def f(p):
    history.append(float(p[0]))
    return (p[0] - 2) ** 2 + (p[1] + 1) ** 2
found = optimize.minimize(f, [0.0, 0.0])
print([round(float(v), 3) for v in found.x], len(history) == found.nfev, relocate.statistics().local)
""",
    )
    done = place.python(str(script))
    assert done.stdout == "[2.0, -1.0] True 0\n", done.stderr


def test_a_long_call_shows_what_it_prints_while_it_runs(place: Place) -> None:
    place.write(
        "steps.py",
        """
import os, time
def until_seen(path):
    while not os.path.exists(path):
        print("step")
        time.sleep(0.02)  # until the other process has seen it
""",
    )
    program = """
import io, sys, relocate
relocate.enable(modules=["steps"], workers=1)
import steps
class Watching(io.StringIO):
    def write(self, text):
        open("seen", "w").close()
        return super().write(text)
sys.stdout = Watching()
steps.until_seen(__import__("os").path.abspath("seen"))
print(set(sys.stdout.getvalue().split()), relocate.statistics().local, file=sys.__stdout__)
"""
    done = place.python("-c", program)
    assert done.stdout == "{'step'} 0\n", done.stderr


def test_a_thread_that_its_function_leaves_behind_is_answered_before_the_next_call(place: Place) -> None:
    place.write(
        "leaves.py",
        """
        import threading
        def leaves(f, x):
            threading.Thread(target=f, args=(x,)).start()
            return x
        """,
    )
    script = place.write(
        "main.py",
        """
        import relocate, time
        handle = relocate.enable(modules=["leaves"], workers=1)
        import leaves
        seen = []
        def note(x):
            time.sleep(0.01)  # the function has ended meanwhile
            seen.append(x)
        for n in range(50):
            assert leaves.leaves(note, n) == n
        print(len(seen) >= 45, handle.statistics().retried)  # a thread may begin when its call is over
        """,
    )
    done = place.python(str(script))
    assert done.stdout == "True 0\n", done.stderr


def test_functions_of_pythons_own_that_look_at_the_outside_run_here(place: Place) -> None:
    place.write(
        "shop.py",
        """
        def one(function, *args): return function(*args)
        def each(functions, *args): return [function(*args) for function in functions]
        """,
    )
    program = """
        import os, time, shop
        os.environ["MINE"] = "here"
        os.chdir("/")
        print(shop.each([os.getenv, os.path.abspath, len, str.upper], "MINE"), shop.each([os.getcwd]))
        print(shop.each([os.getpid]) == [os.getpid()], abs(shop.each([time.monotonic])[0] - time.monotonic()) < 60)
        print(shop.one(open, __file__).readline())
    """
    script = place.write("main.py", program)
    under = place.relocate("run", "-M", "shop", "-w", "1", "--report", "report.json", str(script))
    assert (under.stdout, under.stderr) == (place.python(str(script)).stdout, "")
    members = place.report()["members"]
    assert members["shop.each"] == {"remote": 4, "local": 0}
    assert members["shop.one"] == {"remote": 0, "local": 1}  # an open file is of this process
