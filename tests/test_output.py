"""What a call says beside its result: it is kept there, and shown here as if it had been said here."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
from conftest import Place

from relocate import output
from relocate.output import MOST, Output, show

PROGRAM = """
    import logging, warnings
    import shop
    shop.old(1)
    shop.warn_and_log(2)
    shop.warn_and_log(2)  # the second time, `warnings` shows less
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shop.old(1)
        shop.warn_and_log(1)
    print([(w.category.__name__, str(w.message), w.lineno, w.filename) for w in caught])
    warnings.simplefilter("error")
    try:
        shop.old(1)
    except DeprecationWarning as error:
        print("raised", error)
    logging.basicConfig(format="%(name)s %(levelname)s %(filename)s:%(lineno)s %(funcName)s %(message)s")
    warnings.simplefilter("ignore")
    shop.warn_and_log(3)
    shop.log_exception()
"""
SHOP = """
    import logging, warnings
    class OldThing(DeprecationWarning): pass
    def old(x):
        warnings.warn("old", DeprecationWarning, stacklevel=2)
    def warn_and_log(x):
        for _ in range(3):
            warnings.warn("here", UserWarning)
        print("between")
        logging.getLogger("shop").warning("logged %s", x)
        logging.getLogger("shop.sub").error("bad")
        warnings.warn("mine", OldThing, stacklevel=2)
    def log_exception():
        try:
            1 / 0
        except ZeroDivisionError:
            logging.getLogger("shop").exception("failed")
"""


def test_what_is_written_while_output_is_taken_stays() -> None:
    class Slow(str):
        """Something is written while its length is asked for."""

        def __len__(self) -> int:
            if not late:
                late.append(said.stream("stdout").write("late"))
            return super().__len__()

    late: list[int] = []
    said = Output()
    said.taken.append(("stdout", Slow("early ")))
    assert [*said.take(), *said.take()] == [("stdout", "early "), ("stdout", "late")]


def test_an_attempt_is_shown_from_where_the_last_one_ended_whatever_its_records_tell() -> None:
    said = [("log", "at 9.5"), ("stdout", "one\n"), ("log", "at 9.625"), ("stdout", "two\n")]
    again = [("log", "at 10.25"), ("stdout", "one\n"), ("log", "at 11.5"), ("stdout", "two\n"), ("log", "at 12")]
    for shown in range(5):
        assert output.unseen(again, output.length(said[:shown])) == again[shown:]


def test_warnings_and_logs_are_those_of_a_local_run(place: Place) -> None:
    place.write("shop.py", SHOP)
    script = place.write("main.py", PROGRAM)
    plain = place.python(str(script))
    assert "OldThing: mine" in plain.stderr
    assert "ZeroDivisionError" in plain.stderr
    under = place.relocate("run", "-M", "shop", "-w", "1", "--report", "report.json", str(script))
    assert (under.stdout, under.stderr) == (plain.stdout, plain.stderr)
    assert place.report()["local"] == 0
    assert place.report()["raised"] == 1


@pytest.fixture
def kept() -> Iterator[Output]:
    """Output that listens, with this process's own state put back afterwards."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    with warnings.catch_warnings():
        made = Output()
        made.listen()
        yield made
    root.handlers[:] = handlers


def test_neighbours_of_one_stream_are_joined_and_nothing_else(kept: Output) -> None:
    out, err = kept.stream("stdout"), kept.stream("stderr")
    out.write("a")
    out.write("b")
    err.write("c")
    for _ in range(2):
        warnings.warn_explicit("old", DeprecationWarning, "shop.py", 3)
    assert [(name, text[:3]) for name, text in kept.take()] == [
        ("stdout", "ab"), ("stderr", "c"), ("warning", '["b'), ("warning", '["b'),
    ]  # fmt: skip
    assert kept.take() == []


def test_a_warning_in_a_loop_does_not_fill_the_memory(kept: Output) -> None:
    for _ in range(MOST + 50):
        warnings.warn_explicit("old", DeprecationWarning, "shop.py", 3)
    assert len(kept.take()) == MOST
    warnings.warn_explicit("old", DeprecationWarning, "shop.py", 3)
    assert len(kept.take()) == 1


def test_a_category_that_is_not_here_is_named() -> None:
    with pytest.warns(UserWarning, match=r"nowhere\.Odd: text"):
        show([("warning", '["nowhere", "Odd", "text", null]')])


class Particular(UserWarning):
    def __init__(self, text: str, *, since: str) -> None:
        super().__init__(text)
        self.since = since


def test_a_category_that_wants_more_than_a_text_is_given_with_its_text() -> None:
    with pytest.warns(Particular, match="text"):
        show([("warning", f'["{__name__}", "Particular", "text", null]')])


def test_a_stream_that_was_exchanged_gets_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)
    show([("stdout", "text"), ("stderr", "nobody sees it")])
    assert stream.getvalue() == "text"


def test_log_records_pass_the_programs_own_levels(kept: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("shop").warning("for %s", ["you"])
    logging.getLogger("shop.quiet").warning("not for you")
    taken = [entry for entry in kept.take() if entry[0] == "log"]
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(f"{record.name} {record.getMessage()}")  # type: ignore[method-assign]
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger("shop.quiet"), "level", logging.ERROR)
    logging.getLogger("shop.quiet").manager._clear_cache()  # type: ignore[attr-defined]
    show(taken)
    assert seen == ["shop for ['you']"]


def test_the_caller_is_found_past_this_package() -> None:
    assert output.calling() is sys._getframe()


def test_how_arguments_travel_is_no_matter_of_a_warning(place: Place) -> None:
    place.write(
        "shop.py",
        "import warnings\ndef total(xs): return sum(xs)\ndef old(): warnings.warn('old', DeprecationWarning, 2)\n",
    )
    program = """
        import itertools
        import shop
        print(shop.total(itertools.chain([1], [2])))
        shop.old()
    """
    script = place.write("go.py", program)
    done = place.relocate("run", "-M", "shop", "-w", "1", "--no-fallback", str(script))
    assert done.stdout == "3\n"
    assert done.stderr.splitlines()[0].endswith("go.py:4: DeprecationWarning: old")
    assert len(done.stderr.splitlines()) == 2


def test_a_call_that_runs_here_has_the_programs_line_as_its_caller(place: Place) -> None:
    place.write(
        "shop.py",
        """
        import collections, sys, warnings
        def old(thing):
            warnings.warn("old", DeprecationWarning, stacklevel=2)
            return sys._getframe(1).f_lineno, collections.namedtuple("Pair", "a b").__module__
        def broken(thing):
            raise KeyError("gone")
        def named(thing, *, function, self=0):
            return function, self
        """,
    )
    program = """
        import sys, traceback, shop
        for _ in range(2):
            print(shop.old(sys.stdout), shop.named(sys.stdout, function=3, self=4))
        try:
            shop.broken(
                sys.stdout)
        except KeyError:
            traceback.print_exc()
    """
    script = place.write("main.py", program)
    plain = place.python("-W", "default", str(script))
    options = ("-M", "shop", "-w", "1", "--report", "report.json")
    under = place.run(sys.executable, "-W", "default", "-m", "relocate", "run", *options, str(script))
    assert under.stdout == plain.stdout
    assert under.stderr == plain.stderr
    assert place.report()["local"] == 5


def test_what_a_call_said_that_then_runs_here_is_said_once(place: Place) -> None:
    place.write(
        "shop.py",
        """
        import threading, warnings
        def lock():
            print("making")
            warnings.warn("made")
            return threading.Lock()
        def items():
            print("listing")
            return (n for n in range(2))
        def one():
            return 1
        """,
    )
    program = """
        import shop
        print(type(shop.lock()).__name__, shop.one())
        print(list(shop.items()), shop.one())
    """
    script = place.write("main.py", program)
    under = place.relocate("run", "-M", "shop", "-w", "1", "--report", "report.json", str(script))
    plain = place.python(str(script))
    assert (under.stdout, under.stderr) == (plain.stdout, plain.stderr)
    assert place.report()["members"]["shop.one"] == {"remote": 2, "local": 0}


def test_a_result_that_cannot_be_read_here_has_the_call_run_here(place: Place) -> None:
    place.write("shop.py", "def twice(function, x): return function(x), function(x + 1)\n")
    program = """
        from unittest.mock import Mock
        import shop
        seen = Mock(return_value=3)
        print(shop.twice(seen, 1), seen.call_args_list)
    """
    script = place.write("main.py", program)
    under = place.relocate("run", "-M", "shop", "-w", "1", str(script))
    assert (under.stdout, under.stderr) == (place.python(str(script)).stdout, "")
