"""Calls that run twice, and what is found to differ."""

from __future__ import annotations

import datetime
import decimal
import doctest
import functools
import io
import logging
import math
import operator
import pickle
import re
import sys
import threading
import warnings
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from conftest import Place
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from relocate import difference as differences
from relocate import testing, verify
from relocate.difference import Raised, difference
from relocate.quiet import quiet
from relocate.testing import Clock, Kill, Network, Program
from relocate.values import dumps

NAN = float("nan")


@dataclass
class Point:
    """Has an ``==`` of its own."""

    x: float
    y: Any = None


class Plain:
    """Is equal to itself only."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Slotted:
    """Keeps what it has in slots."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Counting(Plain):
    """Is equal by less than it holds."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counting) and int(self.value) == int(other.value)

    __hash__ = None  # type: ignore[assignment]


def adder(n: float) -> Any:
    return lambda x: x + n


def loop() -> list[Any]:
    made: list[Any] = [1]
    made.append(made)
    return made


def written(stream: Any, data: Any) -> Any:
    stream.write(data)
    return stream


SAME = [
    (1, 1),
    ("a", "a"),
    (NAN, float("nan")),
    (complex(NAN, 1), complex(NAN, 1)),
    ([1, (2, {3: "x"})], [1, (2, {3: "x"})]),
    ({1: 2, 3: 4}, {3: 4, 1: 2}),
    ({1, 2}, {2, 1}),
    ({NAN}, {float("nan")}),
    (deque([1]), deque([1])),
    (np.array([1.0, NAN]), np.array([1.0, NAN])),
    (np.array(["2020-01-01", "NaT"], "M8[D]"), np.array(["2020-01-01", "NaT"], "M8[D]")),
    (np.array([None, [NAN]], object), np.array([None, [NAN]], object)),
    (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 3], mask=[0, 1])),
    (np.float64("nan"), np.float64("nan")),
    (np.array([], float), np.array([], float)),
    (sparse.csr_array(np.eye(3)), sparse.csr_array(np.eye(3))),
    (Point(NAN, [Plain(1)]), Point(NAN, [Plain(1)])),
    (Plain({"a": Slotted(1)}), Plain({"a": Slotted(1)})),
    (Counting(1.2), Counting(1.4)),
    (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
    (datetime.date(2020, 1, 1), datetime.date(2020, 1, 1)),
    (re.compile("a"), re.compile("a")),
    (range(3), range(3)),
    (memoryview(b"abc"), memoryview(bytearray(b"abc"))),
    (iter([1, 2]), iter([1, 2])),
    (math.sqrt, math.sqrt),
    ([].append, [].append),
    (adder(1), adder(1)),
    (functools.partial(operator.add, 1), functools.partial(operator.add, 1)),
    (loop(), loop()),
    (Raised(ValueError("x", [NAN])), Raised(ValueError("x", [NAN]))),
    (Raised(ValueError(f"no {object()!r}")), Raised(ValueError(f"no {object()!r}"))),
    (written(io.StringIO(), "ab"), written(io.StringIO("a"), "ab")),
    (written(io.BytesIO(), b"ab"), written(io.BytesIO(), b"ab")),
]


@pytest.mark.parametrize(("there", "here"), SAME, ids=[str(i) for i in range(len(SAME))])
def test_values_that_hold_the_same_are_the_same(there: Any, here: Any) -> None:
    assert difference(there, here) is None


APART = [
    (1, 2, ("result", "1", "2")),
    (1, 1.0, ("result", "1 (int)", "1.0 (float)")),
    (True, 1, ("result", "True (bool)", "1 (int)")),
    (np.float64(1), 1.0, ("result", "1.0 (float64)", "1.0 (float)")),
    ([1, 2], [1], ("len(result)", "2", "1")),
    ([1, [2, 3]], [1, [2, 4]], ("result[1][1]", "3", "4")),
    ({"a": {1: 2}}, {"a": {1: 3}}, ("result['a'][1]", "2", "3")),
    ({"a": 1}, {"b": 1}, ("result", "with the key 'a'", "without it")),
    ({1}, {2}, ("sorted(result)[0]", "1", "2")),
    (np.eye(2), np.eye(3), ("result", "<ndarray of 2x2 float64>", "<ndarray of 3x3 float64>")),
    (np.eye(2), np.diag([1.0, 2.0]), ("result[1, 1]", "1.0", "2.0")),
    (memoryview(b"abc"), memoryview(b"abd"), ("result[2]", "99", "100")),
    (memoryview(b"abc"), memoryview(b"ab"), ("result", "(3,) of B", "(2,) of B")),
    (memoryview(np.zeros(3, "i4,f8")), memoryview(np.ones(3, "i4,f8")), ("result", None, None)),
    (np.array([1, 2]), np.array([1.0, 2.0]), ("result", "<ndarray of 2 int64>", "<ndarray of 2 float64>")),
    (np.array([1, [2]], object), np.array([1, [3]], object), ("result[1][0]", "2", "3")),
    (Point(1.0), Point(2.0), ("result.x", "1.0", "2.0")),
    (Plain([Slotted(1)]), Plain([Slotted(2)]), ("result.value[0]", None, None)),
    (Counting(1), Counting(2), ("result.value", "1", "2")),
    (decimal.Decimal(1), decimal.Decimal(2), ("result", "Decimal('1')", "Decimal('2')")),
    (OrderedDict(a=1), OrderedDict(a=2), ("result['a']", "1", "2")),
    (math.sqrt, math.floor, ("result", None, None)),
    (adder(1), adder(2), ("what result encloses[2][0]", "1", "2")),
    ([1].append, [2].append, ("result", None, None)),
    (sparse.csr_array(np.eye(3)), sparse.csr_array(2 * np.eye(3)), ("result.data[0]", "1.0", "2.0")),
    (Raised(ValueError("x")), Raised(ValueError("y")), ("the exception.args[0]", "'x'", "'y'")),
    (io.StringIO("ab"), io.StringIO("ac"), ("result.getvalue()", "'ab'", "'ac'")),
    (io.BytesIO(b"ab"), written(io.BytesIO(), b"ab"), ("result.tell()", "0", "2")),
    (Raised(ValueError("x")), 3, ("the outcome", "raised ValueError('x')", "3")),
    (
        Raised(ValueError("x")),
        Raised(KeyError("x")),
        ("the exception", "ValueError('x') (ValueError)", "KeyError('x') (KeyError)"),
    ),
]


@pytest.mark.parametrize(("there", "here", "expected"), APART, ids=[str(i) for i in range(len(APART))])
def test_a_difference_is_found_where_it_is(there: Any, here: Any, expected: tuple[str, str | None, str | None]) -> None:
    found = difference(there, here)
    assert found is not None
    assert found.at == expected[0]
    if expected[1] is not None:
        assert (found.there, found.here) == expected[1:]


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.complex_numbers() | st.dates()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.builds(Plain, inner)
        | st.builds(Slotted, inner) | st.builds(Point, st.floats(), inner) | st.frozensets(leaves)
    ),
    max_leaves=20,
)  # fmt: skip


@given(values, values)
def test_a_copy_is_the_same_and_both_sides_are_alike(one: Any, two: Any) -> None:
    assert difference(one, pickle.loads(pickle.dumps(one))) is None
    assert (difference(one, two) is None) == (difference(two, one) is None)


@pytest.mark.parametrize(
    ("there", "here"), [(1.0, 1.001), (np.array([1.0]), np.array([1.001])), (Plain([1j]), Plain([1.001j]))]
)
def test_numbers_within_the_tolerance_are_the_same(there: Any, here: Any) -> None:
    assert difference(there, here, 0.01) is None
    found = difference(there, here, 0.0001)
    assert found is not None
    assert "0.001 of their size" in found.note


@pytest.mark.parametrize(
    ("there", "here"),
    [
        (np.array([1.0, 0.0]), np.array([1.0, 1e-17])),
        (np.array([1.0, 1e-17, np.inf]), np.array([1.0, 0.0, np.inf])),
        ({"a": 0.5, "b": -1e-19}, {"a": 0.5, "b": 0.0}),
        ([2j, 1e-17], [2j, 0.0]),
    ],
)
def test_noise_about_zero_is_measured_by_the_largest_number_beside_it(there: Any, here: Any) -> None:
    assert difference(there, here, 1e-12) is None
    assert difference(there, here, 1e-20) is not None


def test_numbers_in_a_tuple_have_nothing_to_do_with_each_other() -> None:
    assert difference((1.0, 1e-17), (1.0, 0.0), 1e-12) is not None
    assert difference([[1.0], [1e-17]], [[1.0], [0.0]], 1e-12) is not None


def test_the_note_says_how_many_items_differ_and_by_how_much() -> None:
    found = difference(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.5, 5.0]))
    assert found is not None
    assert found.note == "2 of 3 items differ, by up to 0.2 of their size"


def test_an_exception_that_travelled_as_text_is_the_same() -> None:
    class OddError(LookupError):
        """Cannot travel."""

    there = LookupError(f"{__name__}.{OddError.__qualname__}: odd")
    assert difference(Raised(there), Raised(OddError("odd"))) is None
    assert difference(Raised(there), Raised(OddError("even"))) is not None


def test_what_is_shown_is_one_short_line() -> None:
    for value in ("x" * 1000, list(range(1000)), np.zeros((99, 99)), Plain("\n"), {i: [[[[i]]]] for i in range(99)}):
        assert len(differences.short(value)) <= 120
        assert "\n" not in differences.short(value)


@pytest.mark.parametrize(("rate", "expected"), [(1.0, 20), (0.5, 10), (0.25, 5), (0.3, 6), (0.01, 1), (0.0, 0)])
def test_the_first_call_is_chosen_and_then_the_share(rate: float, expected: int) -> None:
    picked = [n for n in range(20) if verify.chosen(n, rate)]
    assert len(picked) == expected
    assert picked[:1] == ([0] if expected else [])


# Calls -------------------------------------------------------------------------------------------

SOURCE = """
import sys
ONE = {one}
def price(n): return n * {one}
def push(items):
    items.append(ONE)
    return items
def put(items, *, key):
    items.append(ONE)
    key["a"] = 1
def fail(n): raise ValueError(n, {one})
def either(n): return n if ONE == 1 else fail(n)
def total(items): return sum(items) + ONE
def count(n): yield from range(n + ONE)
def say(text):
    print(text)
    print(text, file=sys.stderr)
    sys.stdout.buffer.write(b"bytes")
def scale(a):
    a *= ONE
    return a.sum()
def odd(n): return __import__("sys").modules
"""


def shop(one: float) -> Any:
    return testing.module("shop", SOURCE.format(one=one))


def program(there: float = 1, here: float | None = 2, *, rate: float = 1.0, tolerance: float = 0.0) -> Program:
    """A program whose worker has another version of the module than it has itself."""
    network = Network(Clock())
    network.worker("desk", modules=[shop(there)])
    return Program(network, ["desk"], local=[] if here is None else [shop(here)], verify=rate, tolerance=tolerance)


def test_calls_that_agree_are_counted_and_nothing_is_said() -> None:
    made = program(1, 1)
    assert [made.load("shop").price(n) for n in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        made.load("shop").fail(3)
    found = made.statistics()
    assert (found.calls, found.remote, found.local, found.verified, found.differing) == (4, 4, 0, 4, 0)
    assert found.differences == {}
    assert made.told == []


def test_the_first_difference_of_a_function_is_told_and_all_are_counted() -> None:
    made = program()
    assert [made.load("shop").price(n) for n in range(4)] == [0, 1, 2, 3]
    found = made.statistics()
    assert (found.verified, found.differing) == (4, 3)
    assert made.told == ["shop.price(1): result is 1 on desk/0, and 2 here"]
    assert found.differences["shop.price"] == differences.Difference("shop.price(1)", "desk/0", "result", "1", "2")


def test_what_was_raised_is_compared_and_still_raised() -> None:
    made = program()
    with pytest.raises(ValueError, match="1"):
        made.load("shop").fail(7)
    assert made.load("shop").either(7) == 7
    assert made.told == [
        "shop.fail(7): the exception.args[1] is 1 on desk/0, and 2 here",
        "shop.either(7): the outcome is 7 on desk/0, and raised ValueError(7, 2) here",
    ]


def test_the_local_run_has_arguments_of_its_own() -> None:
    made = program()
    given = [0]
    assert made.load("shop").push(given) is given
    assert given == [0, 1]
    array = np.ones(800)
    assert made.load("shop").scale(array) == 800
    assert made.told == [
        "shop.push([0]): result[1] is 1 on desk/0, and 2 here",
        "shop.scale(<ndarray of 800 float64>): result is 800.0 on desk/0, and 1600.0 here (apart by 0.5 of their size)",
    ]


def test_what_a_function_makes_of_its_arguments_is_compared() -> None:
    made = program()
    given = [0]
    made.load("shop").put(given, key={})
    assert given == [0, 1]
    assert made.told == ["shop.put([0], key={}): argument 1[1] is 1 on desk/0, and 2 here"]
    made = program(1, 1)
    made.load("shop").put(given, key={})
    assert (given, made.told) == ([0, 1, 1], [])


def test_the_tolerance_is_the_configured_one() -> None:
    made = program(1.0, 1.001, tolerance=0.01)
    made.load("shop").price(1.0)
    assert (made.statistics().verified, made.statistics().differing) == (1, 0)


def test_a_share_of_each_functions_calls_is_run_twice() -> None:
    made = program(1, 1, rate=0.5)
    for n in range(6):
        made.load("shop").price(n)
        made.load("shop").push([])
    assert made.statistics().verified == 6


def test_a_call_that_was_run_again_elsewhere_is_compared_once() -> None:
    made = program(1, 1)
    loaded = made.load("shop")
    made.network.workers["desk"].next(Kill())
    loaded.price(1)
    assert (made.statistics().retried, made.statistics().verified) == (1, 1)


def test_generators_are_not_compared() -> None:
    made = program()
    assert list(made.load("shop").count(3)) == [0, 1, 2, 3]
    assert made.load("shop").total(n for n in (1, 2)) == 4
    assert made.statistics().verified == 0


def test_without_a_local_copy_it_is_told_that_nothing_is_compared() -> None:
    made = program(1, None)
    assert made.load("shop").price(1) == 1
    assert made.statistics().verified == 0
    assert made.told == ["shop.price is not verified: ModuleNotFoundError: No module named 'shop'"]


def test_what_the_second_run_prints_is_dropped(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    made = program(1, 1)
    made.load("shop").say("hello")
    sys.stdout.flush()
    out, err = capfdbinary.readouterr()
    assert out.count(b"hello") == 1
    assert out.count(b"bytes") == 1
    assert err == b"hello\n"


def test_nothing_is_copied_or_asked_when_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    made = program(rate=0.0)
    monkeypatch.setattr(verify, "Twin", None)
    assert made.load("shop").price(1) == 1
    assert made.driver.verifier is None


def test_only_the_quiet_threads_output_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with quiet():
        print("dropped")
        with quiet():
            thread = threading.Thread(target=lambda: print("kept"))
            thread.start()
            thread.join()
        print("dropped", file=sys.stderr)
        sys.stdout.writelines(["dropped"])
        assert sys.stdout.encoding == before.encoding
    print("and kept")
    assert sys.stdout is before
    assert capsys.readouterr() == ("kept\nand kept\n", "")


def test_warnings_and_log_records_of_the_quiet_thread_are_dropped_too(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("a.module")
    before = warnings.showwarning, logging.Logger.handle

    def speak(text: str) -> None:
        log.warning(text)
        warnings.warn(text, stacklevel=1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet():
            speak("dropped")
            thread = threading.Thread(target=speak, args=("kept",))
            thread.start()
            thread.join()
        speak("and kept")
    assert [str(w.message) for w in caught] == ["kept", "and kept"]
    assert [r.message for r in caplog.records] == ["kept", "and kept"]
    assert (warnings.showwarning, logging.Logger.handle) == before


def test_what_a_compared_call_says_is_said_once(place: Place) -> None:
    place.write(
        "loud.py",
        """
        import logging, warnings
        def speak(n):
            print("text", n)
            warnings.warn(f"warning {n}")
            logging.getLogger("loud").error("record %s", n)
        """,
    )
    script = place.write(
        "main.py",
        """
        import logging, warnings
        logging.basicConfig(format="%(name)s %(message)s")
        warnings.simplefilter("always")
        import loud
        loud.speak(1)
        """,
    )
    done = place.relocate("check", "--run", "-M", "loud", "-w", "1", str(script))
    assert (done.returncode, done.stdout) == (0, "text 1\n")
    for said in ("UserWarning: warning 1", "loud record 1"):
        assert done.stderr.count(said) == 1, done.stderr


def test_the_twin_keeps_what_was_sent() -> None:
    array = np.arange(5000.0)
    segments = dumps(((array,), {}))
    verifier = program().driver.verifier
    assert verifier is not None

    class Target:
        """As much of one as is needed."""

        name = "shop.scale"

    twin = verifier.twin(Target, segments)  # type: ignore[arg-type]
    array[:] = 0
    assert twin is not None
    assert twin._copy()[0][0].sum() == np.arange(5000.0).sum()


def test_the_examples_in_the_documentation_are_right() -> None:
    for module in (verify, differences):
        found = doctest.testmod(module)
        assert (found.failed, found.attempted) == (0, 1)


# Processes ---------------------------------------------------------------------------------------


def test_a_program_is_warned_once_for_each_function(place: Place) -> None:
    script = place.write(
        "main.py",
        """
        import warnings
        import relocate
        with relocate.enable(modules=["work"], workers=1, verify=1) as handle:
            import work
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for _ in range(3):
                    work.pid()
                    work.echo({"a": 1})
                work.say("once")
            seen = handle.statistics()
            print(len(caught), caught[0].category is relocate.RelocateWarning, caught[0].filename == __file__)
            print(seen.calls, seen.remote, seen.verified, seen.differing, list(seen.differences))
        """,
    )
    done = place.python(str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "once\n1 True True\n7 7 7 3 ['work.pid']\n"
    assert done.stderr == "to stderr\n"


def test_a_difference_can_be_made_an_error(place: Place) -> None:
    program = "import work; work.echo(1); print(1, flush=True); work.pid(); print(2)"
    on = {"RELOCATE_MODULES": "work", "RELOCATE_WORKERS": "1", "RELOCATE_VERIFY": "1"}
    done = place.python("-W", "error::RuntimeWarning", "-c", program, **on)
    assert (done.returncode, done.stdout) == (1, "1\n")
    assert "RelocateWarning: a worker and the local copy differ: work.pid(): result is" in done.stderr
