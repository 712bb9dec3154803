"""State beside its arguments that a call depends on, and that travels with it when it is set.

The decimal context of the calling thread, NumPy's handling of floating-point errors, the recursion limit,
the limit of digits in integers, the locale but for its characters, and context variables that a module
has under a name; and, if calls are traced, where the caller is in a trace.  What is at its default costs
nothing to send.

A call runs in a copy of its executor's context, so that it leaves nothing there; a decimal context in it, which an
import may have made, is copied as well.  What it did to the decimal context, NumPy's handling of errors and context
variables is told with its result, and done to the caller's own.  That it did nothing is seen by comparing two
contexts, which is one comparison of two pointers, as a context that nobody has changed shares its table with its
copy; and two decimal contexts, if it began with one.
"""

from __future__ import annotations

import _locale
import contextlib
import pickle
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import Context, ContextVar, copy_context
from functools import cache, lru_cache
from operator import attrgetter
from types import ModuleType
from typing import Any

import cloudpickle

FIELDS = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
"""What a decimal context holds beside its flags and traps."""
DECIMAL = (28, "ROUND_HALF_EVEN", -999999, 999999, 1, 0)
"""Python's defaults of these.  Not `decimal.DefaultContext`, which a
program may change."""
TRAPS = ("DivisionByZero", "InvalidOperation", "Overflow")
NUMPY = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
LOCALE = _COLLATE, _NUMERIC, _TIME, _MONETARY = (
    _locale.LC_COLLATE,
    _locale.LC_NUMERIC,
    _locale.LC_TIME,
    _locale.LC_MONETARY,
)
_setlocale = _locale.setlocale
RECURSION = 1000
locale_error: type[Exception] = _locale.Error  # type: ignore[attr-defined]
DIGITS: int = sys.int_info.default_max_str_digits


ABSENT: Any = object()
Homes = tuple[tuple[str, str], ...]
"""Names of modules, and what they call a context variable."""


class Unavailable(Exception):
    """The state cannot be had here; the call has to run where its caller is."""


_fields = attrgetter(*FIELDS)
_rules = attrgetter(*FIELDS, "traps")


@cache
def _plain() -> tuple[Any, Any, Any]:
    """A context with the default traps, and no flags; both.  Not those alone: they do not keep the context alive."""
    import decimal

    context = decimal.Context(traps=[getattr(decimal, name) for name in TRAPS], flags=[])
    return context, context.traps, context.flags


_packed: tuple[Any, bytes] = (None, b"")
"""The decimal context that was sent last, as it was then, and its pickle."""


def _pack(context: Any) -> bytes:
    """A decimal context pickled; most often it is as it was the last time."""
    global _packed
    last, data = _packed
    if last is None or not _same(last, context):
        data = pickle.dumps(context, 5)
        _packed = context.copy(), data
    return data


def _same(one: Any, other: Any) -> bool:
    """Whether two decimal contexts are alike."""
    alike: bool = all(getattr(one, name) == getattr(other, name) for name in FIELDS)
    return alike and one.flags == other.flags and one.traps == other.traps


@lru_cache(256)
def _unpacked(data: bytes) -> Any:
    """The decimal context in ``data``; to be copied."""
    return pickle.loads(data)


@cache
def _usual() -> Any:
    """What `_rules` gives of a context that nobody has changed."""
    return (*DECIMAL, _plain()[1])


def is_default() -> bool:
    """Whether `capture` would find nothing, seen at a glance; that it is not does not say that it would find something.

    Looks at the same, in less time: of most calls this is all that is needed.
    """
    if len(copy_context()) or sys.getrecursionlimit() != RECURSION or sys.get_int_max_str_digits() != DIGITS:
        return False
    if not (_setlocale(_COLLATE) == _setlocale(_NUMERIC) == _setlocale(_TIME) == _setlocale(_MONETARY) == "C"):
        return False
    decimal, numpy = sys.modules.get("decimal"), sys.modules.get("numpy")
    rules = getattr(decimal, "DefaultContext", None)  # another thread may just be importing it
    if rules is not None and _rules(rules) != _usual():
        return False
    return numpy is None or _keeps_errors_in_context(numpy)


def capture(trace: tuple[str, dict[str, str]] | None = None) -> bytes:
    """The calling thread's state, empty if it is the default.

    Args:
        trace: the name of a span to run in, and where in which trace the caller is, as
            `opentelemetry.propagate.inject` gives it.
    """
    state: dict[str, Any] = {}
    if trace is not None:
        state["trace"] = trace
    context = copy_context()
    decimal = sys.modules.get("decimal")
    if decimal is not None and hasattr(decimal, "DefaultContext"):  # else another thread is importing it
        # Where none was made it would be this one's copy, without its flags.  To ask for it makes one, which the
        # tasks that begin here later would share.
        made = arithmetic(context) if len(context) else None
        rules = decimal.DefaultContext if made is None else made
        _, traps, flags = _plain()
        if _fields(rules) != DECIMAL or rules.traps != traps or (made is not None and rules.flags != flags):
            state["decimal"] = _pack(rules)
    numpy = sys.modules.get("numpy")
    if numpy is not None and (len(context) or not _keeps_errors_in_context(numpy)):
        errors = numpy.geterr() if hasattr(numpy, "geterr") else NUMPY
        if errors != NUMPY:
            state["numpy"] = errors
    if (limit := sys.getrecursionlimit()) != RECURSION:
        state["recursion"] = limit
    if (digits := sys.get_int_max_str_digits()) != DIGITS:
        state["digits"] = digits
    for category in LOCALE:
        if _setlocale(category) != "C":
            state["locale"] = {each: name for each in LOCALE if (name := _setlocale(each)) != "C"}
            break
    if len(context) and (variables := _variables(context)):
        state["variables"] = variables
    return pickle.dumps(state, 5) if state else b""


@cache
def _keeps_errors_in_context(numpy: ModuleType) -> bool:
    """Whether NumPy's handling of errors is a context variable: from NumPy 2 on."""
    return not getattr(numpy, "__version__", "1.").startswith("1.")


def _variables(context: Context, begun: Context | None = None) -> list[tuple[Homes, bytes]]:
    """The pickled values of those context variables that a module has under a name, unless they are as ``begun``."""
    found = []
    for variable, value in context.items():
        if begun is not None and begun.get(variable, ABSENT) is value:
            continue
        homes = _homes(variable)
        if homes:
            with contextlib.suppress(Exception):  # what cannot travel stays at its default there
                found.append((homes, cloudpickle.dumps(value, 5)))
    return found


@lru_cache(1024)
def _homes(variable: ContextVar[Any]) -> Homes:
    """The modules that have a context variable, and under what name."""
    return tuple(
        (module, name)
        for module, holder in list(sys.modules.items())
        if isinstance(holder, ModuleType)
        for name, value in list(_names.__get__(holder).items())
        if value is variable and module != "__main__"
    )


_names: Any = vars(ModuleType)["__dict__"]
"""Gives what a module holds; its own ``__dict__`` makes all that a proxy has not yet made."""


@contextmanager
def applied(captured: bytes, context: Context) -> Iterator[None]:
    """While it is entered, the state that `capture` gave is that of ``context``, in which nothing runs yet.

    Raises:
        Unavailable: there is no such state here.
    """
    state = pickle.loads(captured)
    with ExitStack() as stack:
        if "trace" in state:
            span = context.run(_span, *state["trace"])
            context.run(span.__enter__)
            stack.push(lambda kind, error, trace: context.run(span.__exit__, kind, error, trace))
        if "decimal" in state:
            import decimal

            context.run(decimal.setcontext, _unpacked(state["decimal"]).copy())
        if "numpy" in state:
            import numpy

            before = context.run(lambda: numpy.seterr(**state["numpy"]))
            stack.callback(context.run, lambda: numpy.seterr(**before))  # NumPy 1 has them by thread
        if "recursion" in state:
            stack.callback(sys.setrecursionlimit, sys.getrecursionlimit())
            sys.setrecursionlimit(state["recursion"])
        if "locale" in state:
            for category, name in state["locale"].items():
                stack.callback(_locale.setlocale, category, _locale.setlocale(category))
                try:
                    _locale.setlocale(category, name)
                except locale_error:
                    raise Unavailable(f"there is no locale {name!r}") from None
        for homes, value in state.get("variables", ()):
            # A function reads only variables of modules that are loaded.
            loaded = (vars(sys.modules[module]).get(name) for module, name in homes if module in sys.modules)
            variable = next(loaded, None)
            if isinstance(variable, ContextVar):
                context.run(variable.set, pickle.loads(value))
        if "digits" in state:
            stack.callback(sys.set_int_max_str_digits, sys.get_int_max_str_digits())
            sys.set_int_max_str_digits(state["digits"])
        yield


def told(context: Context, begun: Context, rules: Any) -> bytes:
    """What a call did to the state that its caller can see; empty if nothing.

    Args:
        context: it ran in.
        begun: a copy of that, made before.
        rules: a copy of its decimal context, made before; None if it had none.
    """
    state: dict[str, Any] = {}
    now = arithmetic(context)
    if now is not None:
        before = rules or sys.modules["decimal"].Context(flags=[])
        if not _same(now, before):
            state["decimal"] = _changes(now, before)
    if context != begun:
        numpy = sys.modules.get("numpy")
        if numpy is not None and (errors := context.run(numpy.geterr)) != (usual := begun.run(numpy.geterr)):
            state["numpy"] = {kind: how for kind, how in errors.items() if how != usual[kind]}
        if variables := _variables(context, begun):
            state["variables"] = variables
    return pickle.dumps(state, 5) if state else b""


def _changes(now: Any, before: Any) -> dict[str, Any]:
    """In what a decimal context differs from how it was.  The rest a function that was called back may have changed."""
    changes = {name: getattr(now, name) for name in FIELDS if getattr(now, name) != getattr(before, name)}
    for name in ("flags", "traps"):
        one, other = getattr(now, name), getattr(before, name)
        if one != other:
            changes[name] = {signal: is_set for signal, is_set in one.items() if is_set != other[signal]}
    return changes


def restore(done: bytes) -> None:
    """Do to this thread's state what `told` says."""
    state = pickle.loads(done)
    if "decimal" in state:
        import decimal

        own = decimal.getcontext()
        for name, value in state["decimal"].items():
            if name in FIELDS:
                setattr(own, name, value)
            else:  # flags or traps
                getattr(own, name).update(value)
    if "numpy" in state:
        import numpy

        numpy.seterr(**state["numpy"])
    for homes, value in state.get("variables", ()):
        for module, name in homes:
            with contextlib.suppress(Exception):  # the module, or the class of the value, is not installed here
                # Of a relocated module the real one is loaded, as by a call that runs here.
                variable = getattr(sys.modules.get(module), name, None)
                if isinstance(variable, ContextVar):
                    variable.set(pickle.loads(value))
                    break


def arithmetic(context: Context) -> Any:
    """The decimal context that is kept in ``context``; None if none was made there.  To ask for it there makes one."""
    decimal = sys.modules.get("decimal")
    if decimal is not None:
        for variable, value in context.items():
            if variable.name == "decimal_context" and isinstance(value, decimal.Context):
                return value
    return None


def apart(context: Context, *, clear: bool = False) -> Context:
    """A copy of ``context``, in which a call leaves no trace there.

    Args:
        context: nothing runs in it, or this function's caller.
        clear: its decimal context begins without flags, as that of a new thread does.
    """
    copy = context.copy()
    rules = arithmetic(context)
    if rules is not None:
        rules = rules.copy()
        if clear:
            rules.clear_flags()
        copy.run(sys.modules["decimal"].setcontext, rules)
    return copy


def take_over(context: Context) -> None:
    """Let the variables of this context be what they are in another one that was copied from it."""
    if context != copy_context():
        for variable, value in context.items():
            if variable.get(ABSENT) is not value:
                variable.set(value)


def _span(name: str, carrier: dict[str, str]) -> AbstractContextManager[object]:
    """A span that is the caller's child, if OpenTelemetry is installed here."""
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        return nullcontext()
    tracer = trace.get_tracer("relocate")
    return tracer.start_as_current_span(name, propagate.extract(carrier), trace.SpanKind.SERVER)
