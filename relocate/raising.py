"""An exception as values, and back: same class, args, attributes, notes, cause, context, traceback.

An exception whose ``__init__`` does not match its ``args`` cannot be rebuilt by calling its class,
so it is not called: it is made with ``__new__`` and its state is put back.  What a
built-in class keeps in C beside its arguments (where a SyntaxError is) is put back, too.  Classes that
define their own reduction go through pickle, if pickle is known to give the same back.
Arguments and attributes that cannot travel are left out, and a note names them.

The remote frames become real traceback objects, of code that raises at the same lines and columns, so
that carets stand where they stand there.  Their source lines travel too and are put into
`linecache` under a name of their own where this host's file is missing or differs.
"""

from __future__ import annotations

import builtins
import linecache
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from types import MemberDescriptorType, TracebackType
from typing import Any

from . import values, wire
from .changes import attributes, make

Node = dict[str, Any]
_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes, type(...)))
PICKLING = (__name__.partition(".")[0], "cloudpickle", "copyreg", "pickle")
"""Whose frames tell nothing of why a value cannot travel."""
Frame = tuple[str, int, int, int | None, int | None, str, list[str]]
"""Of a traceback: file, first and last line, column and end column, name, the lines' text."""


class Itself:
    """Stands, among the arguments of an exception, for the exception."""


class Given:
    """Stands, among what an exception holds, for an argument of the call."""

    def __init__(self, number: int) -> None:
        self.number = number


def dump(error: BaseException, skip: int = 0) -> list[wire.Buffer]:
    """Segments of what `describe` gives."""
    return values.dumps(describe(error, skip))


def load(segments: wire.Segments, where: str) -> BaseException:
    """The exception that `dump` described; see `rebuild`."""
    return rebuild(values.loads(segments), where)


def describe(error: BaseException, skip: int = 0, given: Sequence[Any] = ()) -> list[Node]:
    """``error`` and all that it was caused by, as values.

    Args:
        error: the exception as caught.
        skip: how many of the outermost traceback frames to leave out (those of the executor).
        given: the arguments of the call; they are left as they are, for whoever knows them by number.
    """
    nodes: list[Node] = []
    seen: dict[int, int] = {}
    _describe(error, nodes, seen, skip, given)
    return nodes


def rebuild(nodes: list[Node], where: str) -> BaseException:
    """The exception that `describe` described.

    Args:
        nodes: as `describe` gave them.
        where: the executor's name, shown for source files that this host does not have.
    """
    made: dict[int, BaseException] = {}
    errors = [_rebuild(nodes, index, made) for index in range(len(nodes))]
    for node, error in zip(nodes, errors, strict=True):
        if node["cause"] is not None:
            error.__cause__ = errors[node["cause"]]
        if node["context"] is not None:
            error.__context__ = errors[node["context"]]
        error.__suppress_context__ = node["suppress"]
        error.__traceback__ = _traceback(node["frames"], where)
    try:
        return errors[0]
    finally:  # its frames lead back to this one: what goes round would keep the arguments
        made.clear()
        errors.clear()
        del error


def _describe(error: BaseException, nodes: list[Node], seen: dict[int, int], skip: int, given: Sequence[Any]) -> int:
    if id(error) in seen:
        return seen[id(error)]
    index = seen[id(error)] = len(nodes)
    node: Node = {"made": ("text", ()), "cause": None, "context": None, "members": None}
    nodes.append(node)
    node["suppress"] = error.__suppress_context__
    node["frames"] = [_frame(frame) for frame in traceback.extract_tb(error.__traceback__)[skip:]]
    if isinstance(error, BaseExceptionGroup):
        node["members"] = [_describe(member, nodes, seen, 0, given) for member in error.exceptions]
    node["given"] = {}
    node["made"] = _reduce(error, given, node["given"])
    node["text"] = _as_text(error)
    if error.__cause__ is not None:
        node["cause"] = _describe(error.__cause__, nodes, seen, 0, given)
    if error.__context__ is not None:
        node["context"] = _describe(error.__context__, nodes, seen, 0, given)
    return index


def _reduce(error: BaseException, given: Sequence[Any], held: dict[int, Any]) -> tuple[str, Any]:
    """How to make the exception again: ('pickle', segments), ('new', segments) or ('text', ...).

    Those of the arguments ``given`` that it holds are put into ``held``.
    """

    def outside(value: Any) -> Any:
        for number, known in enumerate(given):
            if value is known and type(value) not in _ATOMS:
                held[number] = value
                return Given(number)
        return value

    cls = type(error)
    args = error.args[:1] if isinstance(error, BaseExceptionGroup) else error.args
    fields = {name: outside(value) for name, value in _fields(error).items()}
    if type(fields.get("obj")) is not Given:
        fields.pop("obj", None)  # of an AttributeError: anything, and of no use where it is not the caller's own
    own = cls.__reduce__ is not BaseException.__reduce__ or cls.__reduce_ex__ is not BaseException.__reduce_ex__
    if own and not held:
        found = _faithful(error, lambda again: type(again) is cls and str(again) == str(error))
        if found is not None:
            return "pickle", found
    # Some put themselves among their own arguments, which pickle cannot follow.
    args = tuple(Itself if value is error else outside(value) for value in args)
    state = {name: outside(value) for name, value in attributes(error).items()}
    found = _faithful((cls, args, state, fields), lambda again: again[0] is cls)
    if found is None:
        fields = {name: value for name, value in fields.items() if _faithful(value, lambda again: True)}
        found = _faithful((cls, *_without(args, state), fields), lambda again: again[0] is cls)
    return ("text", None) if found is None else ("new", found)


def _fields(error: BaseException) -> dict[str, Any]:
    """What ``error`` keeps in C beside its arguments, as a SyntaxError does its file and line."""
    kind = next(c for c in type(error).__mro__ if c.__module__ == "builtins")
    descriptors = _descriptors(kind)
    if not descriptors:
        return {}
    usual = _new(kind, error.args)
    found = {name: held.__get__(error) for name, held in descriptors.items()}
    return {name: value for name, value in found.items() if value is not descriptors[name].__get__(usual)}


@cache
def _descriptors(kind: type[BaseException]) -> dict[str, Any]:
    """Of what a built-in class keeps in C, by name; a group's members are told otherwise."""
    if issubclass(kind, BaseExceptionGroup):
        return {}
    return {
        name: held
        for base in reversed(kind.__mro__[: kind.__mro__.index(BaseException)])
        for name, held in vars(base).items()
        if isinstance(held, MemberDescriptorType) and name[0] != "_"
    }


def _without(args: tuple[Any, ...], state: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments and attributes without what cannot travel, and with a note that names it.

    ``except`` goes by the class, and few handlers look at everything that an exception holds.
    """

    def stays(value: object) -> bool:
        return _faithful(value, lambda again: True) is None

    missing = [f"argument {i + 1}" for i, value in enumerate(args) if stays(value)]
    args = tuple(_text(value) if stays(value) else value for value in args)
    missing += [f"attribute {name}" for name, value in state.items() if stays(value)]
    state = {name: value for name, value in state.items() if not stays(value)}
    if not missing:
        return args, state
    note = f"relocate: of this exception cannot travel, and stayed on the worker: {', '.join(missing)}"
    return args, state | {"__notes__": [*state.get("__notes__", []), note]}


def _as_text(error: BaseException) -> tuple[str, str, list[str]]:
    """The nearest built-in class and what is to be said, for where the exception itself cannot be made."""
    cls = type(error)
    base = next(c for c in cls.__mro__ if c.__module__ == "builtins")
    name = cls.__qualname__ if cls is base else f"{cls.__module__}.{cls.__qualname__}"
    said = _text(error, str)
    return base.__name__, f"{name}: {said}" if said else name, [str(n) for n in getattr(error, "__notes__", [])]


def _text(value: object, show: Callable[[object], str] = repr) -> str:
    try:
        return show(value)
    except Exception as worse:
        return f"<its text raises {type(worse).__name__}>"


def _faithful(value: object, same: Callable[[Any], bool]) -> list[bytes] | None:
    """``value`` pickled, if reading it gives the same back."""
    try:
        segments = values.dumps(value)
        return [bytes(s) for s in segments] if same(values.loads(segments)) else None
    except Exception:
        return None  # whatever its own reduction raises: it cannot travel this way


def _rebuild(nodes: list[Node], index: int, made: dict[int, BaseException]) -> BaseException:
    if index in made:
        return made[index]
    node = nodes[index]
    try:
        error = _from_node(nodes, index, made)
    except Exception:  # its class, or a value that it holds, is not installed here
        error = _from_text(*node["text"])
    made[index] = error
    return error


def _from_node(nodes: list[Node], index: int, made: dict[int, BaseException]) -> BaseException:
    node = nodes[index]
    how, data = node["made"]
    if how == "text":
        return _from_text(*node["text"])
    if how == "pickle":
        pickled = values.loads(data)
        error: BaseException = _real(pickled, type(pickled))
        return error
    cls, args, state, fields = values.loads(data)
    _real(cls, cls)
    held = node["given"]
    args = tuple(held[value.number] if type(value) is Given else value for value in args)
    state = {name: held[value.number] if type(value) is Given else value for name, value in state.items()}
    fields = {name: held[value.number] if type(value) is Given else value for name, value in fields.items()}
    if node["members"] is not None:
        args = (*args, [_rebuild(nodes, i, made) for i in node["members"]])
    error = _new(cls, args)
    if any(value is Itself for value in args):
        error.args = tuple(error if value is Itself else value for value in args)
    make(error, "attributes", ([], state))
    descriptors = _descriptors(next(c for c in cls.__mro__ if c.__module__ == "builtins"))
    for name, value in fields.items():
        if name in descriptors:  # another version of Python may have more
            descriptors[name].__set__(error, value)
    return error


def _real(value: Any, cls: type) -> Any:
    """``value``, if its class is not a mere stand-in.

    Raises:
        TypeError: it is no exception.
    """
    if not issubclass(cls, BaseException):
        raise TypeError(f"{cls!r} is not the class of an exception here")
    return value


def _new(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    try:
        error = cls.__new__(cls, *args)
    except TypeError:
        error = BaseException.__new__(cls, *args)
    # What keeps its arguments in C reads them in __init__: that of the built-in class, not the
    # class's own, which may want others.
    base = next(c for c in cls.__mro__ if c.__module__ == "builtins")
    try:
        base.__init__(error, *args)  # type: ignore[misc]
    except TypeError:
        BaseException.__init__(error, *args)
    return error


def _from_text(base: str, text: str, notes: list[str]) -> BaseException:
    try:
        error: BaseException = getattr(builtins, base)(text)
    except TypeError:  # a class that cannot be made of one text (UnicodeError's, groups)
        error = Exception(text)
    for note in notes:
        error.add_note(note)
    return error


def _frame(frame: traceback.FrameSummary) -> Frame:
    first = frame.lineno or 0
    last = max(first, getattr(frame, "end_lineno", None) or 0)
    # As they stand in the file: the columns count the indentation too.
    lines = [linecache.getline(frame.filename, number) for number in range(first, last + 1)]
    return (
        frame.filename,
        first,
        last,
        getattr(frame, "colno", None),
        getattr(frame, "end_colno", None),
        frame.name,
        lines,
    )


def _traceback(frames: list[Frame], where: str) -> TracebackType | None:
    made: TracebackType | None = None
    for filename, first, last, column, end_column, name, lines in reversed(frames):
        code = _RAISE.replace(
            co_filename=_source(filename, first, lines, where),
            co_name=name,
            co_qualname=name,
            co_firstlineno=first,
            co_linetable=_location(len(_RAISE.co_code) // 2, last - first, column, end_column),
        )
        try:
            exec(code, {"__file__": filename, "__name__": name, "Here": Here})
        except Here as here:
            trace = here.__traceback__ and here.__traceback__.tb_next
            assert trace is not None
            made = TracebackType(made, trace.tb_frame, trace.tb_lasti, first)
            del trace
    try:
        return made
    finally:
        del made  # as in `rebuild`


class Here(Exception):
    """What the code of a rebuilt frame raises, to leave its frame."""


_RAISE = compile("raise Here", "", "exec")


def _location(length: int, lines: int, column: int | None, end_column: int | None) -> bytes:
    """The location table of so many code units that stand on their code's first line.

    The format is that of ``Objects/locations.md`` in CPython 3.11's source.

    Args:
        length: the number of code units.
        lines: how many lines further what they are compiled from ends.
        column: where it begins, as a byte offset in its line.
        end_column: where it ends.
    """
    if column is None or end_column is None:
        kind, place = 13, _varint(0)  # a line and no columns
    else:
        kind, place = 14, _varint(0) + _varint(lines) + _varint(column + 1) + _varint(end_column + 1)
    table = b""
    while length > 0:  # an entry is for eight units at most
        table += bytes([0x80 | kind << 3 | min(length, 8) - 1]) + place
        length -= 8
    return table


def _varint(number: int) -> bytes:
    """Six bits a byte, the lowest first; a further bit says that more follow."""
    made = []
    while number >= 64:
        made.append(0x40 | number & 63)
        number >>= 6
    return bytes([*made, number])


def _source(filename: str, number: int, lines: list[str], where: str) -> str:
    """The file name under which a traceback will show ``lines`` from line ``number`` on."""
    here = [linecache.getline(filename, number + i) for i in range(len(lines))]
    if not any(lines) or [line.rstrip() for line in here] == [line.rstrip() for line in lines]:
        return filename
    shown = f"<{where}>{filename}"
    entry = linecache.cache.get(shown)
    known = list(entry[2]) if entry is not None and len(entry) == 4 else []
    known.extend("\n" for _ in range(number + len(lines) - 1 - len(known)))
    known[number - 1 : number - 1 + len(lines)] = lines
    # A modification time of None keeps linecache.checkcache from looking for the file.
    linecache.cache[shown] = (sum(map(len, known)), None, known, shown)
    return shown


def programs(error: BaseException | None) -> BaseException | None:
    """``error`` without the frames before the program's own; None if it has none of those."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in PICKLING:
        trace = trace.tb_next
    return error.with_traceback(trace) if error is not None and trace is not None else None
