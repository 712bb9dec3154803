"""State beside its arguments that a call depends on."""

from __future__ import annotations

import contextvars
import decimal
import locale
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy
import pytest
from conftest import Place

from relocate import ambient


@contextmanager
def limit(get: Callable[[], int], put: Callable[[int], None], value: int) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="nothing")


@contextmanager
def locally(name: str) -> Iterator[None]:
    before = locale.setlocale(locale.LC_NUMERIC)
    locale.setlocale(locale.LC_NUMERIC, name)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


@contextmanager
def variable(value: Any) -> Iterator[None]:
    token = VARIABLE.set(value)
    try:
        yield
    finally:
        VARIABLE.reset(token)


STATES: dict[str, tuple[Callable[[], AbstractContextManager[Any]], Callable[[], Any]]] = {
    "precision": (lambda: decimal.localcontext(prec=50), lambda: decimal.getcontext().prec),
    "traps": (
        lambda: decimal.localcontext(traps=[decimal.Inexact]),
        lambda: decimal.getcontext().traps[decimal.Inexact],
    ),
    "numpy": (lambda: numpy.errstate(divide="raise", under="warn"), numpy.geterr),
    "locale": (lambda: locally("C.UTF-8"), lambda: locale.setlocale(locale.LC_NUMERIC)),
    "variable": (lambda: variable("something"), VARIABLE.get),
    "recursion": (lambda: limit(sys.getrecursionlimit, sys.setrecursionlimit, 1234), sys.getrecursionlimit),
    "digits": (lambda: limit(sys.get_int_max_str_digits, sys.set_int_max_str_digits, 5000), sys.get_int_max_str_digits),
}


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Whatever pytest or another test has set."""
    before = decimal.getcontext()
    decimal.setcontext(decimal.Context())
    with limit(sys.getrecursionlimit, sys.setrecursionlimit, ambient.RECURSION):
        yield
    decimal.setcontext(before)


def test_what_is_at_its_default_costs_nothing() -> None:
    assert ambient.capture() == b""
    assert contextvars.Context().run(ambient.is_default)


@pytest.mark.parametrize("name", STATES)
def test_what_is_set_there_is_what_was_set_here_and_only_for_the_call(name: str) -> None:
    setting, value = STATES[name]
    before = value()
    with setting():
        expected, captured = value(), ambient.capture()
    assert expected != before
    assert value() == before
    context = contextvars.copy_context()
    with ambient.applied(captured, context):
        assert context.run(value) == expected
    assert value() == before


def test_a_module_that_another_thread_is_importing_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decimal", types.ModuleType("decimal"))
    assert contextvars.Context().run(ambient.is_default)
    assert contextvars.Context().run(ambient.capture) == b""


@pytest.mark.parametrize("name", STATES)
def test_what_is_set_is_seen_at_a_glance(name: str) -> None:
    def looked() -> bool:
        with STATES[name][0]():
            return ambient.is_default()

    assert not contextvars.Context().run(looked)


def test_to_look_at_the_state_makes_no_decimal_context_that_tasks_would_share() -> None:
    """Also where the context has something else in it."""

    def looked() -> int:
        VARIABLE.set("something")
        ambient.capture()
        contextvars.copy_context().run(lambda: setattr(decimal.getcontext(), "prec", 5))
        return contextvars.copy_context().run(lambda: decimal.getcontext().prec)

    assert contextvars.Context().run(looked) == decimal.DefaultContext.prec


def test_a_changed_default_context_is_not_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decimal.DefaultContext, "prec", 50)
    with decimal.localcontext(decimal.Context()):
        assert ambient.capture() != b""
    assert not contextvars.Context().run(ambient.is_default)


def test_nor_is_one_that_was_changed_before_anybody_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    ambient._usual.cache_clear()
    ambient._plain.cache_clear()
    monkeypatch.setattr(decimal.DefaultContext, "prec", 50)
    assert not contextvars.Context().run(ambient.is_default)


def test_nor_are_changed_traps_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(decimal.DefaultContext.traps, decimal.Inexact, True)
    assert not contextvars.Context().run(ambient.is_default)


def test_a_variable_whose_value_cannot_travel_keeps_its_default() -> None:
    with variable(threading.Lock()):
        captured = ambient.capture()
    context = contextvars.copy_context()
    with ambient.applied(captured, context) if captured else nullcontext():
        assert context.run(VARIABLE.get) == "nothing"


def test_a_variable_that_no_module_has_does_not_travel() -> None:
    private = contextvars.ContextVar("private")
    token = private.set(1)
    try:
        assert ambient.capture() == b""
    finally:
        private.reset(token)


def test_a_locale_that_is_not_there_is_told() -> None:
    with locally("C.UTF-8"):
        captured = ambient.capture().replace(b"C.UTF-8", b"xx_XX.8")
    with (
        pytest.raises(ambient.Unavailable, match="there is no locale"),
        ambient.applied(captured, contextvars.copy_context()),
    ):
        pass


# What comes back --------------------------------------------------------------------------------------

SHARED = """
    import contextvars
    VAR = contextvars.ContextVar("VAR", default="none")
    MORE = contextvars.ContextVar("MORE", default=())
"""
CALLED = """
    import contextvars, decimal
    from decimal import Decimal
    import shared
    OWN = contextvars.ContextVar("OWN", default=0)
    def third(n):
        return Decimal(n) / 3
    def halve(n):
        return n / 2
    def exact():
        decimal.getcontext().clear_flags()
        Decimal(1) / 4
        return decimal.getcontext().flags[decimal.Inexact]
    def seen():
        return decimal.getcontext().flags[decimal.Inexact]
    def prec(n):
        decimal.getcontext().prec = n
    def trap():
        decimal.getcontext().traps[decimal.Inexact] = True
    def replaced():
        decimal.setcontext(decimal.Context(prec=9, rounding=decimal.ROUND_UP))
    def third_and(call):
        third(1)
        call()
    def numpys_and(call, **how):
        numpys(**how)
        call()
    def divided():
        return Decimal(1) / 0
    def within():
        with decimal.localcontext() as context:
            context.prec = 3
            return third(2)
    def put(value):
        shared.VAR.set(value)
    def put_and_fail(value):
        shared.VAR.set(value)
        raise KeyError(value)
    def reset(value):
        token = shared.VAR.set(value)
        shared.VAR.reset(token)
    def append(value):
        shared.MORE.set((*shared.MORE.get(), value))
    def get():
        return shared.VAR.get()
    def put_own(value):
        OWN.set(value)
    def get_own():
        return OWN.get()
    def lock():
        import threading
        shared.MORE.set(threading.Lock())
    def numpys(**how):
        import numpy
        return numpy.seterr(**how)["divide"]
    def each(value):
        for i in range(9):
            yield i
        shared.VAR.set(value)
    async def later(value):
        third(1)
        shared.VAR.set(value)
    async def all(value):
        yield 1
        shared.VAR.set(value)
"""
SAME = {
    "flags": """
        called.third(1)
        say(flags())
        called.halve(4)
        say(flags())
        decimal.getcontext().clear_flags()
        say(called.seen(), flags(), called.halve(Decimal("1.5")), flags())
    """,
    "flags that were set before": """
        called.third(1)
        say(called.seen(), called.exact(), flags(), called.seen())
    """,
    "flags of a call that raises": """
        try:
            called.divided()
        except decimal.DivisionByZero:
            say(flags())
    """,
    "precision": """
        called.prec(7)
        say(decimal.getcontext().prec, Decimal(1) / 3, called.third(1))
        with decimal.localcontext() as context:
            called.prec(4)
            say(context.prec, called.third(1))
        say(decimal.getcontext().prec)
    """,
    "traps": """
        with decimal.localcontext() as context:
            called.trap()
            say(context.traps[decimal.Inexact])
        say(decimal.getcontext().traps[decimal.Inexact])
    """,
    "another context": """
        called.replaced()
        say(decimal.getcontext().prec, Decimal(2) / 3)
    """,
    "what a function that is called back does": """
        def narrow():
            decimal.getcontext().prec = 7
            decimal.getcontext().traps[decimal.Overflow] = False
            decimal.getcontext().flags[decimal.Clamped] = True
        called.third_and(narrow)
        say(decimal.getcontext())
        import numpy
        called.numpys_and(lambda: numpy.seterr(over="raise"), divide="raise")
        say(numpy.geterr())
    """,
    "a local context": "say(called.within(), decimal.getcontext().prec, called.third(1))",
    "a variable": """
        called.put("x")
        say(shared.VAR.get(), called.get())
        called.reset("y")
        say(shared.VAR.get())
        for i in range(3):
            called.append(i)
        say(shared.MORE.get())
    """,
    "a variable of the module's own": """
        called.put_own(5)
        say(called.OWN.get(), called.get_own())
    """,
    "a variable of a call that raises": """
        try:
            called.put_and_fail("y")
        except KeyError:
            say(shared.VAR.get())
    """,
    "each caller has its own": """
        contextvars.copy_context().run(called.put, "inner")
        say(shared.VAR.get(), called.get())
        import threading
        thread = threading.Thread(target=called.put, args=["thread"])
        thread.start()
        thread.join()
        say(shared.VAR.get(), called.get())
    """,
    "numpy": """
        import numpy
        say(called.numpys(divide="raise"), numpy.geterr()["divide"], called.numpys(divide="print"))
        with numpy.errstate(divide="ignore"):
            called.numpys(over="raise")
        say(numpy.geterr()["over"], numpy.geterr()["divide"])
    """,
    "a generator that has ended": """
        say(list(called.each("all")), shared.VAR.get())
    """,
    "a coroutine": """
        import asyncio
        async def main():
            await called.later("task")
            say(shared.VAR.get(), flags())
            async for item in called.all("items"):
                say(item)
            say(shared.VAR.get())
            await asyncio.create_task(called.later("inner"))
            say(shared.VAR.get())
        asyncio.run(main())
        say(shared.VAR.get())
    """,
}
SAID = """
import contextvars, decimal
from decimal import Decimal
import called, shared
def flags():
    return [flag.__name__ for flag, is_set in decimal.getcontext().flags.items() if is_set]
def say(*what):
    print(*what)
"""


@pytest.mark.parametrize("name", SAME)
def test_what_a_call_does_to_the_state_beside_its_arguments_is_done_here(place: Place, name: str) -> None:
    place.write("shared.py", SHARED)
    place.write("called.py", CALLED)
    script = place.write("main.py", SAID + textwrap.dedent(SAME[name]))
    plain = place.python(str(script))
    assert plain.returncode == 0, plain.stderr
    done = place.relocate("run", "-M", "called", "-w", "1", "--report", "report.json", str(script))
    assert (done.stdout, done.returncode) == (plain.stdout, 0), done.stderr
    report = place.report()
    assert report["local"] == 0
    assert report["remote"] > 0  # type: ignore[operator]


def test_what_a_call_does_to_a_decimal_context_that_an_import_has_made_is_for_its_caller_alone(place: Place) -> None:
    place.write("shared.py", SHARED)
    place.write("called.py", CALLED + "\n    THIRD = Decimal(1) / 3\n")
    program = """
        import threading
        def changes():
            say(called.seen(), called.third(1), flags())
            called.prec(5)
            called.trap()
            say(decimal.getcontext(), flags())
        def looks():
            say(called.seen(), called.halve(5), called.third(1), decimal.getcontext())
        for one in (changes, looks, changes):  # each thread begins with a decimal context of its own
            thread = threading.Thread(target=one)
            thread.start()
            thread.join()
    """
    script = place.write("main.py", SAID + textwrap.dedent(program))
    plain = place.python(str(script))
    assert plain.returncode == 0, plain.stderr
    done = place.relocate("run", "-M", "called", "-w", "1", "--no-fallback", str(script))
    assert (done.stdout, done.returncode) == (plain.stdout, 0), done.stderr


def test_what_cannot_travel_back_stays_there_and_the_call_is_one(place: Place) -> None:
    place.write("shared.py", SHARED)
    place.write("called.py", CALLED)
    script = place.write(
        "main.py", SAID + "called.lock()\nsay(shared.MORE.get(), called.append(1), shared.MORE.get())\n"
    )
    done = place.relocate("run", "-M", "called", "-w", "1", "--no-fallback", str(script))
    assert done.stdout == "() None (1,)\n", done.stderr


def test_what_nobody_changed_is_not_told(place: Place) -> None:
    place.write("shared.py", SHARED)
    place.write("called.py", CALLED)
    program = """
        from relocate import ambient
        told = []
        restore = ambient.restore
        ambient.restore = lambda done: told.append(1) or restore(done)
        shared.VAR.set("here")
        called.halve(4), called.get(), called.reset("z"), called.within(), called.third(3)
        say(told)
        called.third(1)
        say(told)
        called.third(1), called.halve(4)
        say(told)
    """
    script = place.write("main.py", SAID + textwrap.dedent(program))
    done = place.relocate("run", "-M", "called", "-w", "1", str(script))
    assert done.stdout == "[]\n[1]\n[1]\n", done.stderr


def test_looking_for_variables_loads_no_real_module(place: Place) -> None:
    place.write("shared.py", SHARED)
    place.write("called.py", CALLED + "\n    class Kind:\n        pass\n")
    program = "shared.VAR.set('here')\nimport relocate\nsay(called.get(), relocate.active()._reals.loaded)\n"
    done = place.relocate("run", "-M", "called", "-w", "1", str(place.write("main.py", SAID + program)))
    assert done.stdout == "here {}\n", done.stderr


def test_a_call_that_is_compared_changes_the_state_once(place: Place) -> None:
    place.write("shared.py", SHARED)
    place.write("called.py", CALLED)
    program = """
        import relocate
        with relocate.enable(modules=["called"], workers=1, verify=1.0) as handle:
            import called
            for i in range(3):
                called.append(i)
                called.prec(5 + i)
            say(shared.MORE.get(), decimal.getcontext().prec, called.seen(), called.third(1), called.exact(), flags())
            seen = handle.statistics()
            say(seen.remote, seen.verified, seen.differing)
    """
    done = place.python(str(place.write("main.py", SAID + textwrap.dedent(program))))
    assert done.stdout == "(0, 1, 2) 7 False 0.3333333 False []\n9 9 0\n", done.stderr


def test_a_call_that_writes_into_a_lent_array_and_runs_again_leaves_its_state_once(place: Place) -> None:
    place.write("shared.py", SHARED)
    body = """
    def write(array, at):
        shared.MORE.set((*shared.MORE.get(), at))
        if at:
            array[0] = at
    """
    place.write("called.py", CALLED + body)
    program = """
        import numpy
        large = numpy.zeros(100_000)
        for at in (0, 0, 1):  # at the third call the memory is lent read-only, and the function objects
            called.write(large, at)
        say(shared.MORE.get(), large[0])
    """
    script = place.write("main.py", SAID + textwrap.dedent(program))
    done = place.relocate("run", "-M", "called", "-w", "1", "--no-fallback", str(script))
    assert done.stdout == "(0, 0, 1) 1.0\n", done.stderr


def test_state_comes_back_from_an_executor_that_is_tried_second(place: Place) -> None:
    place.write("shared.py", SHARED)
    body = """
    def once(mark, value):
        import os
        shared.VAR.set(value)
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), 9)
    """
    place.write("called.py", CALLED + body)
    program = "called.once('mark', 'again')\nsay(shared.VAR.get())\n"
    script = place.write("main.py", SAID + program)
    done = place.relocate("run", "-M", "called", "-w", "1", "--report", "report.json", str(script))
    assert done.stdout == "again\n", done.stderr
    assert place.report()["retried"] == 1


def test_the_programs_own_random_numbers_are_not_disturbed(place: Place) -> None:
    place.write("called.py", "def one(n): return n\n")
    program = """
        import random, called
        random.seed(1)
        print([called.one(n) for n in range(5)], random.random())
    """
    script = place.write("main.py", program)
    under = place.relocate("run", "-M", "called", "-w", "2", "--report", "report.json", str(script))
    assert (under.stdout, under.stderr) == (place.python(str(script)).stdout, "")
    assert place.report()["remote"] == 5


def test_children_draw_other_numbers_than_each_other(place: Place) -> None:
    """Or all of them would choose the same executors."""
    program = """
        import os
        from relocate.chance import draw
        for _ in range(2):
            child = os.fork()
            if child == 0:
                print(draw(), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
    """
    drawn = place.python(str(place.write("main.py", program))).stdout.split()
    assert len(set(drawn)) == 2
