"""Coroutine functions and asynchronous generator functions, in real programs."""

from __future__ import annotations

import textwrap

import pytest
from conftest import Place

MODULE = """
import asyncio, contextvars, os, threading
limit = contextvars.ContextVar("limit", default="none")

async def add(a, b=1):
    await asyncio.sleep(0)
    return a + b, os.getpid()
async def fail():
    await asyncio.sleep(0)
    raise LookupError("mine")
async def fill(items):
    items.append(1)
    return items
async def call(f, x):
    return f(x)
async def lock():
    return threading.Lock()
async def sleep(path):
    open(path, "w").close()
    try:
        await asyncio.sleep(600)
    finally:
        os.unlink(path)
async def count(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i
async def count_then_fail(n):
    for i in range(n):
        yield i
    raise LookupError(n)
async def echo():
    got = None
    while True:
        try:
            got = yield got
        except ValueError as error:
            got = str(error)
def limited(): return limit.get()
"""

START = """
import asyncio, inspect, os, sys, threading, relocate
handle = relocate.enable(modules=["later"], workers=2)
import later
"""

END = """
asyncio.run(main())
print("local:", handle.statistics().local)
"""


@pytest.fixture
def place(place: Place) -> Place:
    place.write("later.py", MODULE)
    return place


def told(place: Place, program: str) -> list[str]:
    done = place.python("-c", START + textwrap.dedent(program) + END)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_coroutine_function_runs_in_an_executor_and_the_loop_goes_on(place: Place) -> None:
    program = """
    async def main():
        print(inspect.iscoroutinefunction(later.add), inspect.isasyncgenfunction(later.count))
        found = await asyncio.gather(*(later.add(n) for n in range(20)))
        print([value for value, _ in found] == list(range(1, 21)), os.getpid() in {pid for _, pid in found})
        try:
            await later.fail()
        except LookupError as error:
            print(error)
    """
    assert told(place, program) == ["True True", "True False", "mine", "local: 0"]


def test_what_it_does_to_its_arguments_and_calls_happens_in_the_thread_of_the_loop(place: Place) -> None:
    program = """
    def note(x):
        seen.append(threading.current_thread() is threading.main_thread())
        return x * 2
    seen = []
    async def main():
        items = []
        print(await later.fill(items) is items, items)
        print(await later.call(note, 4), seen)
    """
    assert told(place, program) == ["True [1]", "8 [True]", "local: 0"]


def test_what_cannot_travel_is_awaited_here(place: Place) -> None:
    program = """
    async def main():
        print(type(await later.lock()).__name__)
        print(await later.call(lambda x: threading.Lock() and x, 3))
    """
    assert told(place, program) == ["lock", "3", "local: 1"]


def test_a_task_that_is_cancelled_ends_the_call(place: Place) -> None:
    program = """
    async def main():
        task = asyncio.create_task(later.sleep("running"))
        while not os.path.exists("running"):
            await asyncio.sleep(0.01)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled")
        while os.path.exists("running"):
            await asyncio.sleep(0.01)
        print((await later.add(1))[0])
    """
    assert told(place, program) == ["cancelled", "2", "local: 0"]


def test_a_call_that_waits_for_an_executor_can_be_cancelled(place: Place) -> None:
    program = """
    async def main():
        tasks = [asyncio.create_task(later.sleep(f"running{n}")) for n in range(8)]
        while sum(os.path.exists(f"running{n}") for n in range(8)) < 2:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        print((await later.add(1))[0])
    """
    assert told(place, program) == ["2", "local: 0"]


def test_an_asynchronous_generator_streams(place: Place) -> None:
    program = """
    async def main():
        print([n async for n in later.count(1000)] == list(range(1000)))
        taken = []
        try:
            async for n in later.count_then_fail(7):
                taken.append(n)
        except LookupError as error:
            print(taken, error)
        async for n in later.count(10**9):
            if n == 20:
                break
        print(n)
    """
    assert told(place, program) == ["True", "[0, 1, 2, 3, 4, 5, 6] 7", "20", "local: 0"]


def test_what_is_sent_to_an_asynchronous_generator_reaches_it(place: Place) -> None:
    program = """
    async def main():
        stream = later.echo()
        print(await stream.asend(None), await stream.asend(5), await stream.asend(6))
        print(await stream.athrow(ValueError("thrown")))
        await stream.aclose()
    """
    assert told(place, program) == ["None 5 6", "thrown", "local: 0"]


def test_an_asynchronous_generator_survives_its_executors(place: Place) -> None:
    program = """
    import signal, psutil
    async def main():
        taken = []
        async for n in later.count(5000):
            taken.append(n)
            if n == 1000:
                for child in psutil.Process().children(recursive=True):
                    if "relocate.executor" in " ".join(child.cmdline()):
                        child.send_signal(signal.SIGKILL)
        print(taken == list(range(5000)))
    """
    assert told(place, program) == ["True", "local: 0"]


def test_a_context_variable_of_the_module_is_what_it_is_here(place: Place) -> None:
    program = """
    async def main():
        print(later.limited())
        later.limit.set("seven")
        print(later.limited())
    """
    assert told(place, program) == ["none", "seven", "local: 0"]


def test_without_an_event_loop_of_asyncio_the_local_copy_runs(place: Place) -> None:
    done = place.python(
        "-c",
        START
        + """
async def main():
    return (await later.call(len, "abc")), [n async for n in later.count(3)]
steps = main()
try:
    while True: steps.send(None)
except StopIteration as end:
    print(end.value)
""",
    )
    assert done.stdout == "(3, [0, 1, 2])\n", done.stderr


def test_what_a_generator_says_when_a_piece_of_it_ends_is_not_said(place: Place) -> None:
    place.write(
        "shop.py",
        """
        def each(n):
            try:
                for i in range(n):
                    yield i
            finally:
                print("closing")
        """,
    )
    script = place.write("main.py", "import shop\nprint(list(shop.each(300)) == list(range(300)))\n")
    under = place.relocate("run", "-M", "shop", "-w", "1", "--report", "report.json", str(script))
    assert (under.stdout, under.stderr) == ("closing\nTrue\n", "")
    assert place.report()["local"] == 0
