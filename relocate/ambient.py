"""State beside its arguments that a call depends on, and that travels with it when it is set.

The decimal context of the calling thread, NumPy's handling of floating-point errors, the recursion limit,
the limit of digits in integers, the locale but for its characters, and context variables that a module
has under a name; and, if calls are traced, where the caller is in a trace.  What is at its default costs
nothing to send.
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
from types import ModuleType
from typing import Any

import cloudpickle

DECIMAL = (28, "ROUND_HALF_EVEN", -999999, 999999, 1, 0)
"""Python's defaults: prec, rounding, Emin, Emax, capitals, clamp.  Not `decimal.DefaultContext`, which a
program may change."""
TRAPS = ("DivisionByZero", "InvalidOperation", "Overflow")
NUMPY = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
LOCALE = tuple(
    getattr(_locale, n) for n in ("LC_COLLATE", "LC_NUMERIC", "LC_TIME", "LC_MONETARY") if hasattr(_locale, n)
)
ORDINARY = ("C",) * len(LOCALE)
RECURSION = 1000
locale_error: type[Exception] = _locale.Error  # type: ignore[attr-defined]
DIGITS: int = sys.int_info.default_max_str_digits


Homes = tuple[tuple[str, str], ...]
"""Names of modules, and what they call a context variable."""


class Unavailable(Exception):
    """The state cannot be had here; the call has to run where its caller is."""


@cache
def _plain() -> Any:
    """A context with the default traps.  Not its traps alone: they do not keep the context alive."""
    import decimal

    return decimal.Context(traps=[getattr(decimal, name) for name in TRAPS])


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
    if decimal is not None:
        # To ask for a context makes one; where none was made it would be this one's copy.
        rules = decimal.getcontext() if len(context) else decimal.DefaultContext
        plain = (rules.prec, rules.rounding, rules.Emin, rules.Emax, rules.capitals, rules.clamp)
        if plain != DECIMAL or rules.traps != _plain().traps:
            state["decimal"] = rules
    numpy = sys.modules.get("numpy")
    if numpy is not None and (len(context) or not _keeps_errors_in_context(numpy)):
        errors = numpy.geterr() if hasattr(numpy, "geterr") else NUMPY
        if errors != NUMPY:
            state["numpy"] = errors
    if (limit := sys.getrecursionlimit()) != RECURSION:
        state["recursion"] = limit
    if (digits := sys.get_int_max_str_digits()) != DIGITS:
        state["digits"] = digits
    names = tuple(map(_locale.setlocale, LOCALE))
    if names != ORDINARY:
        state["locale"] = {category: name for category, name in zip(LOCALE, names, strict=True) if name != "C"}
    if len(context) and (variables := _variables(context)):
        state["variables"] = variables
    return pickle.dumps(state, 5) if state else b""


def _keeps_errors_in_context(numpy: ModuleType) -> bool:
    """Whether NumPy's handling of errors is a context variable: from NumPy 2 on."""
    return not getattr(numpy, "__version__", "1.").startswith("1.")


def _variables(context: Context) -> list[tuple[Homes, bytes]]:
    """The pickled values of those context variables that a module has under a name."""
    found = []
    for variable, value in context.items():
        homes = _homes(variable)
        if homes:
            with contextlib.suppress(Exception):  # what cannot travel stays at its default there
                found.append((homes, cloudpickle.dumps(value, 5)))
    return found


_dictionary: Any = vars(ModuleType)["__dict__"]
"""As it is: that of a proxy would have all its classes made, for which the real module is loaded."""


@lru_cache(1024)
def _homes(variable: ContextVar[Any]) -> Homes:
    """The modules that have a context variable, and under what name."""
    return tuple(
        (module, name)
        for module, holder in list(sys.modules.items())
        if isinstance(holder, ModuleType)
        for name, value in list(_dictionary.__get__(holder).items())
        if value is variable and module != "__main__"
    )


@contextmanager
def applied(captured: bytes) -> Iterator[None]:
    """Run under the state that `capture` gave.

    Raises:
        Unavailable: there is no such state here.
    """
    state = pickle.loads(captured)
    with ExitStack() as stack:
        if "decimal" in state:
            import decimal

            stack.enter_context(decimal.localcontext(state["decimal"]))
        if "numpy" in state:
            import numpy

            stack.enter_context(numpy.errstate(**state["numpy"]))
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
                stack.callback(variable.reset, variable.set(pickle.loads(value)))
        if "digits" in state:
            stack.callback(sys.set_int_max_str_digits, sys.get_int_max_str_digits())
            sys.set_int_max_str_digits(state["digits"])
        if "trace" in state:
            stack.enter_context(_span(*state["trace"]))
        yield


def _span(name: str, carrier: dict[str, str]) -> AbstractContextManager[object]:
    """A span that is the caller's child, if OpenTelemetry is installed here."""
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        return nullcontext()
    tracer = trace.get_tracer("relocate")
    return tracer.start_as_current_span(name, propagate.extract(carrier), trace.SpanKind.SERVER)
