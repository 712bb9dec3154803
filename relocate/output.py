"""What a call says beside its result: text, warnings, log records; kept there and shown here, in order.

A warning is kept whatever the filters of the executor are, and filtered here, by the program's own,
as if it had been given here: in its own file, or where the relocated function was called.  A log
record goes to the program's logger of that name.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import CodeType, FrameType
from typing import Any, TextIO

from .origin import ON_BEHALF, STUB

OWN = __file__.removesuffix("output.py")
PASSED = (OWN, importlib.__file__.removesuffix("__init__.py"), "<frozen importlib")
CALLS = OWN + "running.py"
"""Who calls the functions: a warning about their caller is about the program."""
MOST = 100
"""So many times one warning of one line is kept of a call."""

_registries: dict[str, dict[Any, Any]] = {}
"""By module of workers: which of its warnings were shown already, as `warnings` wants it."""


class Output:
    """What the running call prints, in order, to be shown where it was called.

    Args:
        written: is told that something was written.
    """

    def __init__(self, written: Callable[[], object] = lambda: None) -> None:
        self.taken: list[tuple[str, str]] = []
        """What was written since `take` was called."""
        self._written = written
        self.said = 0
        """Characters that were taken since the function began."""
        self._warned: dict[tuple[str, int, str], int] = {}

    def stream(self, name: str) -> io.TextIOBase:
        """A text stream that collects what is written to it."""
        return _Stream(name, self.taken, self._written)

    def listen(self) -> None:
        """Keep the warnings and log records of this process from now on."""
        warnings.simplefilter("always")
        warnings.showwarning = self._warn
        logging.getLogger().addHandler(_Handler(self.taken))

    def _warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, DeprecationWarning) and filename.startswith(OWN) and filename != CALLS:
            return  # of how arguments travel, of which the program knows nothing
        text = str(message)
        count = self._warned[filename, lineno, text] = self._warned.get((filename, lineno, text), 0) + 1
        if count > MOST:
            return
        at = None if filename == "sys" or filename.startswith(OWN) else (filename, lineno, _module_of(filename))
        self.taken.append(("warning", json.dumps([category.__module__, category.__qualname__, text, at])))

    def take(self) -> list[tuple[str, str]]:
        """What was written since the last time, neighbours of one stream joined."""
        if not self.taken:
            return []
        joined: list[tuple[str, str]] = []
        taken = self.taken[:]
        for name, text in taken:
            if joined and joined[-1][0] == name and name.startswith("std"):
                joined[-1] = (name, joined[-1][1] + text)
            else:
                joined.append((name, text))
        self.said += length(taken)
        del self.taken[: len(taken)]  # another thread may have written more
        self._warned.clear()
        return joined

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """What is said meanwhile is not."""
        before = len(self.taken)
        try:
            yield
        finally:
            del self.taken[before:]

    def restart(self) -> None:
        """The function runs again from the start: what it said is forgotten."""
        self.take()
        self.said = 0


def length(output: list[tuple[str, str]]) -> int:
    """Characters of output; a warning or a log record counts as one, as the next attempt's tells other times."""
    return sum(len(text) if name.startswith("std") else 1 for name, text in output)


def unseen(output: list[tuple[str, str]], seen: int) -> list[tuple[str, str]]:
    """``output`` without its first ``seen`` characters."""
    rest: list[tuple[str, str]] = []
    for name, text in output:
        size = length([(name, text)])
        if seen < size:
            rest.append((name, text[seen:] if name.startswith("std") else text))
        seen = max(seen - size, 0)
    return rest


class _Stream(io.TextIOBase):
    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name: str, taken: list[tuple[str, str]], written: Callable[[], object]) -> None:
        self.name = f"<{name}>"
        self._name = name
        self.taken = taken
        self._written = written

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not text.isascii():  # a lone surrogate cannot travel, and a stream would not write it either
            text = text.encode("utf-8", self.errors).decode("utf-8")
        self.taken.append((self._name, text))
        self._written()
        return len(text)

    def writable(self) -> bool:
        return True

    @property
    def buffer(self) -> io.RawIOBase:
        """The stream below, for bytes."""
        return _Bytes(self)

    def fileno(self) -> int:
        return 2  # for faulthandler and the like; 1 leads to the same place


class _Bytes(io.RawIOBase):
    def __init__(self, text: _Stream) -> None:
        self._text = text

    def write(self, data: Any) -> int:
        taken = bytes(data)
        self._text.write(taken.decode("utf-8", "backslashreplace"))
        return len(taken)

    def writable(self) -> bool:
        return True


class _Handler(logging.Handler):
    def __init__(self, taken: list[tuple[str, str]]) -> None:
        super().__init__()
        self.taken = taken

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        kept = {key: value for key, value in vars(record).items() if key not in ("args", "exc_info", "msg")}
        self.taken.append(("log", json.dumps(kept | {"msg": record.getMessage()}, default=repr)))


def _module_of(filename: str) -> str:
    """The name of the module that a warning is about, which it gives by file only."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == filename:
            return name
    return filename


def show(output: list[tuple[str, str]]) -> None:
    """Write what a call printed to this program's own streams, give its warnings and log its records.

    Raises:
        Warning: a filter of the program makes an error of it.
    """
    for stream, text in output:
        if stream == "warning":
            _give(*json.loads(text))
        elif stream == "log":
            record = logging.makeLogRecord(json.loads(text))
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        elif (here := getattr(sys, stream)) is not None:
            here.write(text)


def flush() -> None:
    """Let what was shown be seen."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _give(module: str, qualname: str, text: str, at: tuple[str, int, str] | None) -> None:
    """Give a warning of a worker's as if it were given here."""
    category: Any = UserWarning
    try:
        category = importlib.import_module(module)
        for part in qualname.split("."):
            category = getattr(category, part)
    except (ImportError, AttributeError):
        text = f"{module}.{qualname}: {text}"
        category = UserWarning
    try:
        given = category(text)
    except Exception:  # it wants more, of which only the text has come
        given = category.__new__(category, text)
    if at is None:
        warn(given, category)
    else:
        filename, lineno, name = at
        warnings.warn_explicit(given, category, filename, lineno, name, _registries.setdefault(name, {}))


def warn(text: str | Warning, category: type[Warning]) -> None:
    """Give a warning at the program's line that imports, or calls a relocated function."""
    caller = calling()
    warnings.warn_explicit(
        text,
        category,
        caller.f_code.co_filename,
        caller.f_lineno,
        caller.f_globals.get("__name__") or "<unknown>",
        caller.f_globals.setdefault("__warningregistry__", {}),
    )


def on_behalf(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """The result of a call that stands in the program's line, for whoever looks at its caller.

    A warning with a stack level is about that line, and given once for it; `collections.namedtuple` finds its module.
    """
    caller = calling()
    code = _standing(caller.f_code.co_filename, caller.f_lineno or 1)
    return eval(code, caller.f_globals, {"call": partial(function, *args, **kwargs)})


@lru_cache(1024)
def _standing(file: str, line: int) -> CodeType:
    """Code that stands there and calls ``call``."""
    return _CALL.replace(co_filename=file, co_firstlineno=line, co_name=ON_BEHALF)


_CALL = compile("call()", "", "eval")


def calling() -> FrameType:
    """The program's frame: past this package, stubs, and the machinery of imports."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(PASSED) or STUB in frame.f_code.co_freevars
    ):
        frame = frame.f_back
    return frame
