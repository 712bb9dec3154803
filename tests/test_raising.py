"""Exceptions as values, and back: same class, state, notes, cause, context and traceback."""

from __future__ import annotations

import gc
import linecache
import symtable
import threading
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate import raising, wire


class Custom(Exception):
    """Its ``__init__`` does not take its ``args``."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


class Rich(Custom):
    """A second class that inherits from it."""

    def __init__(self) -> None:
        super().__init__(9, hint="inherited")


class Slow(OSError):
    """An OSError that takes more than it passes on."""

    def __init__(self, code: int, text: str, seconds: float) -> None:
        super().__init__(code, text)
        self.seconds = seconds


class Holding(Exception):
    """Holds what cannot travel."""

    def __init__(self) -> None:
        super().__init__("held")
        self.lock = threading.Lock()


def caught(raise_it: Callable[[], object]) -> BaseException:
    try:
        raise_it()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def travelled(error: BaseException) -> BaseException:
    frames = wire.pack(wire.Raised(b"c" * 16, 0, []), raising.dump(error))
    _, segments = wire.unpack([bytes(f) for f in frames])
    return raising.load(segments, "desk/0")


def throw(error: BaseException) -> Callable[[], object]:
    def raise_it() -> object:
        raise error

    return raise_it


def test_an_exception_goes_with_its_last_name() -> None:
    """It and its frames are no circle, which would keep what the caller of the function has passed."""
    gc.disable()
    try:
        error = travelled(caught(throw(ExceptionGroup("two", [KeyError(1), caught(lambda: {}["x"])]))))
        assert error.__traceback__ is not None
        seen = weakref.ref(error)
        del error
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ValueError("a", 1, None),
        KeyError("k"),
        StopIteration(5),
        SystemExit(3),
        KeyboardInterrupt(),
        FileNotFoundError(2, "none", "here.txt"),
        ConnectionResetError(104, "reset"),
        OSError("only text"),
        ImportError("no", name="m", path="/p"),
        SyntaxError("bad", ("f.py", 3, 4, "x x", 3, 5)),
        ZeroDivisionError("division by zero"),
        Custom(3, hint="h"),
        Rich(),
    ],
    ids=repr,
)
def test_an_exception_is_the_same_again(error: BaseException) -> None:
    back = travelled(error)
    assert type(back) is type(error)
    assert back.args == error.args
    assert str(back) == str(error)
    assert repr(back) == repr(error)
    assert vars(back) == vars(error)
    for name in ("errno", "strerror", "filename", "name", "path", "value", "code", "lineno", "offset", "text"):
        assert getattr(back, name, "absent") == getattr(error, name, "absent")


class NoConvergence(ArithmeticError):
    """As NetworkX has it: ``super().__init__(self, text)``."""

    def __init__(self, steps: int) -> None:
        super().__init__(self, f"not after {steps} steps")


def test_an_exception_among_its_own_arguments_is_so_again() -> None:
    again = travelled(caught(throw(NoConvergence(3))))
    assert type(again) is NoConvergence
    assert again.args == (again, "not after 3 steps")


@pytest.mark.parametrize(
    "error",
    [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), UnicodeEncodeError("ascii", "é", 0, 1, "bad")],
    ids=["decode", "encode"],
)
def test_a_unicode_error_keeps_what_it_says(error: UnicodeError) -> None:
    assert str(travelled(error)) == str(error)


def test_a_syntax_error_from_c_keeps_where_it_is() -> None:
    error = caught(lambda: symtable.symtable("def f(x): global x", "spam", "exec"))
    again = travelled(error)
    assert type(again) is SyntaxError
    assert again.args == error.args == ("name 'x' is parameter and global",)
    for name in ("msg", "filename", "lineno", "offset", "end_lineno", "end_offset", "text", "print_file_and_line"):
        assert getattr(again, name) == getattr(error, name), name
    assert again.filename == "spam"


class Errors(ExceptionGroup[ValueError]):
    """As the documentation of groups has it."""

    def __new__(cls, errors: list[ValueError], code: int) -> Errors:
        made = super().__new__(cls, "several", errors)
        made.code = code
        return made

    code: int


class Unnamed(ImportError):
    """Has in the place of a field one of its own, which fails."""

    @property
    def name(self) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


def test_classes_that_change_what_built_in_ones_keep_are_themselves_again() -> None:
    group = travelled(caught(throw(Errors([ValueError(1)], 7))))
    assert (type(group), group.code, str(group.exceptions[0])) == (Errors, 7, "1")  # type: ignore[attr-defined]
    assert not hasattr(group, "__notes__")
    holding = travelled(caught(throw(ExceptionGroup("several", [Holding()]))))
    assert not hasattr(holding, "__notes__")
    assert type(travelled(caught(throw(Unnamed("a"))))) is Unnamed


def test_an_attribute_error_keeps_the_name_and_the_argument_that_it_is_about() -> None:
    class Thing:
        pass

    thing = Thing()
    error = caught(lambda: thing.size)  # type: ignore[attr-defined]
    (node,) = raising.describe(error, given=(thing,))
    again = raising.rebuild([{**node, "given": {0: thing}}], "desk/0")
    assert (again.name, again.obj) == ("size", thing)  # type: ignore[attr-defined]
    module = travelled(caught(lambda: threading.nothing))  # type: ignore[attr-defined]
    assert (module.name, module.obj) == ("nothing", None)  # type: ignore[attr-defined]
    assert not hasattr(module, "__notes__")


def test_an_oserror_with_an_init_of_its_own_keeps_its_class() -> None:
    back = travelled(Slow(11, "wait", 2.5))
    assert type(back) is Slow
    assert (back.errno, back.strerror, back.seconds) == (11, "wait", 2.5)


arguments = st.recursive(st.integers() | st.text() | st.none() | st.binary(), st.lists, max_leaves=4)


@given(st.lists(arguments, max_size=3), st.dictionaries(st.sampled_from("abc"), arguments), st.lists(st.text()))
def test_arguments_attributes_and_notes_travel(args: list[Any], state: dict[str, Any], notes: list[str]) -> None:
    error = LookupError(*args)
    error.__dict__.update(state)
    for note in notes:
        error.add_note(note)
    back = travelled(error)
    assert (type(back), back.args) == (LookupError, error.args)
    assert vars(back) == vars(error)


def chained(outer: BaseException, inner: BaseException, *, by: str) -> BaseException:
    def raise_it() -> object:
        try:
            raise inner
        except type(inner) as error:
            if by == "from":
                raise outer from error
            if by == "from None":
                raise outer from None
            raise outer  # noqa: B904

    return caught(raise_it)


@pytest.mark.parametrize("by", ["from", "from None", "during"])
def test_cause_and_context_travel(by: str) -> None:
    error = chained(Custom(1, hint="outer"), KeyError("inner"), by=by)
    back = travelled(error)
    assert type(back.__context__) is KeyError
    assert (type(back.__cause__) is KeyError) == (by == "from")
    assert back.__suppress_context__ == (by != "during")
    if by == "from":
        assert back.__cause__ is back.__context__
    headings = [line for line in traceback.format_exception(error) if not line.startswith("  ")]
    assert [line for line in traceback.format_exception(back) if not line.startswith("  ")] == headings


def test_a_circle_of_contexts_ends() -> None:
    one, other = ValueError(1), ValueError(2)
    one.__context__, other.__context__ = other, one
    back = travelled(one)
    assert back.__context__ is not None
    assert back.__context__.__context__ is back


def test_a_group_brings_its_members() -> None:
    error = ExceptionGroup("several", [ValueError(1), KeyError("k")])
    error.add_note("noted")
    back = travelled(error)
    assert isinstance(back, ExceptionGroup)
    assert (back.message, back.__notes__) == ("several", ["noted"])
    assert list(map(repr, back.exceptions)) == ["ValueError(1)", "KeyError('k')"]


@pytest.mark.parametrize("member", [Custom(2, hint="h"), Holding()], ids=["rebuilt", "text"])
def test_a_group_brings_members_that_pickle_refuses(member: Exception) -> None:
    back = travelled(ExceptionGroup("several", [ValueError(1), member]))
    assert isinstance(back, ExceptionGroup)
    assert back.message == "several"
    assert str(member) in str(back.exceptions[1])


def test_what_cannot_travel_is_left_out_and_named() -> None:
    error = Holding()
    error.add_note("by hand")
    error.args = ("held", error.lock, 3)
    error.code = 7  # type: ignore[attr-defined]
    back = travelled(error)
    assert type(back) is Holding
    assert back.args == ("held", repr(error.lock), 3)
    left_out = "relocate: of this exception cannot travel, and stayed on the worker: argument 2, attribute lock"
    assert vars(back) == {"code": 7, "__notes__": ["by hand", left_out]}
    assert error.__notes__ == ["by hand"]


def test_one_whose_class_cannot_travel_comes_as_its_nearest_builtin_with_its_name_and_notes() -> None:
    class Local(LookupError):
        lock = threading.Lock()

    error = Local("held")
    error.add_note("by hand")
    back = travelled(error)
    assert type(back) is LookupError
    assert str(back) == f"{__name__}.{Local.__qualname__}: held"
    assert back.__notes__ == ["by hand"]


def test_a_local_class_travels_by_value() -> None:
    class Local(ValueError):
        pass

    back = travelled(Local("x"))
    assert isinstance(back, ValueError)
    assert (type(back).__name__, back.args) == ("Local", ("x",))


def test_the_traceback_shows_the_frames_and_lines_of_where_it_was_raised() -> None:
    error = caught(throw(ValueError("deep")))
    back = travelled(error)
    frames = traceback.extract_tb(back.__traceback__)
    assert [f.name for f in frames] == ["caught", "raise_it"]
    assert [f.line for f in frames] == ["raise_it()", "raise error"]
    assert [f.lineno for f in frames] == [f.lineno for f in traceback.extract_tb(error.__traceback__)]


SHAPES = (
    """
def fail(*a, **k):
    raise ValueError('far')


def call(): return [fail(1, 2)]
def operator(): return 1 + (2 / 0) * 3
def unicode(): return 'ä€😀' + ('ü' + 1) + 'x'
def subscript(x={}): return x['a']['b'][3]
def attribute(x=None): return x.real.imag
def statement():
    raise ValueError(
        'several',
        'lines')
def lines():
    return (1 + fail(
        1,
        2,
    ) + 3)
def many_lines():
    return fail(
"""
    + "".join(f"        {n},\n" for n in range(90))
    + """    )
def whole_line():
    fail()
def chained():
    try:
        operator()
    except ZeroDivisionError as error:
        raise KeyError('k') from error
def away(): return fail(                                                                          [fail(1)])
def made(): return eval('1 + fail(2)')
def compiled(): return list(map(fail, [1]))
def bare():
    try: fail()
    finally: pass
"""
)
SHAPE_NAMES = [line.split("(")[0].removeprefix("def ") for line in SHAPES.splitlines() if line.startswith("def ")][1:]


@pytest.mark.parametrize("name", SHAPE_NAMES)
@pytest.mark.parametrize("here", [True, False])
def test_a_remote_traceback_reads_like_a_local_one(tmp_path: Path, name: str, here: bool) -> None:
    source = tmp_path / "remote.py"
    source.write_text(SHAPES, "utf-8")
    space: dict[str, Any] = {}
    exec(compile(SHAPES, str(source), "exec"), space)
    error = caught(space[name])
    expected = "".join(traceback.format_exception(error))
    segments = raising.dump(error)
    if not here:
        source.unlink()
        linecache.clearcache()  # the other process's memory of the file
    text = "".join(traceback.format_exception(raising.load(segments, "desk/0")))
    assert "remote.py" in expected
    assert text.replace("<desk/0>", "") == expected


def test_a_frame_without_columns_stays_without(tmp_path: Path) -> None:
    source = tmp_path / "remote.py"
    source.write_text("def f(): return 1 + (2 / 0)\n")
    space: dict[str, Any] = {}
    exec(compile(source.read_text(), str(source), "exec"), space)
    code = space["f"].__code__
    units = len(code.co_code) // 2
    table = b"".join(bytes([0x80 | 13 << 3 | min(8, units - at) - 1, 0]) for at in range(0, units, 8))
    space["f"].__code__ = code.replace(co_linetable=table)
    error = caught(space["f"])
    back = raising.load(raising.dump(error), "desk/0")
    text = "".join(traceback.format_exception(back))
    assert text == "".join(traceback.format_exception(error))
    assert text.count("^") == text.partition("remote.py")[0].count("^")


def test_the_outermost_frames_can_be_left_out() -> None:
    error = caught(throw(ValueError("deep")))
    back = raising.load(raising.dump(error, skip=1), "desk/0")
    assert [f.name for f in traceback.extract_tb(back.__traceback__)] == ["raise_it"]


def test_lines_of_files_that_are_missing_here_are_shown_under_the_workers_name(tmp_path: Path) -> None:
    source = tmp_path / "remote.py"
    source.write_text("def price():\n    raise ValueError('far')\n")
    space: dict[str, Any] = {}
    exec(compile(source.read_text(), str(source), "exec"), space)
    segments = raising.dump(caught(space["price"]), skip=1)
    source.unlink()
    linecache.clearcache()  # the other process's memory of the file
    text = "".join(traceback.format_exception(raising.load(segments, "desk/0")))
    assert f"File \"<desk/0>{source}\", line 2, in price\n    raise ValueError('far')\n" in text
