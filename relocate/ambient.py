"""State beside its arguments that a call depends on, and that travels with it when it is set.

The decimal context of the calling thread, NumPy's handling of floating-point errors, the recursion limit
and the limit of digits in integers; and, if calls are traced, where the caller is in a trace.  What is at its
default costs nothing to send.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any

DECIMAL = (28, "ROUND_HALF_EVEN", -999999, 999999, 1, 0)
"""Python's defaults: prec, rounding, Emin, Emax, capitals, clamp.  Not `decimal.DefaultContext`, which a
program may change."""
TRAPS = ("DivisionByZero", "InvalidOperation", "Overflow")
NUMPY = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
RECURSION = 1000
DIGITS: int = sys.int_info.default_max_str_digits


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
    decimal = sys.modules.get("decimal")
    if decimal is not None:
        context = decimal.getcontext()
        plain = (context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp)
        if plain != DECIMAL or context.traps != _plain().traps:
            state["decimal"] = context
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "geterr") and (errors := numpy.geterr()) != NUMPY:
        state["numpy"] = errors
    if (limit := sys.getrecursionlimit()) != RECURSION:
        state["recursion"] = limit
    if (digits := sys.get_int_max_str_digits()) != DIGITS:
        state["digits"] = digits
    return pickle.dumps(state, 5) if state else b""


@contextmanager
def applied(captured: bytes) -> Iterator[None]:
    """Run under the state that `capture` gave."""
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
