"""State beside its arguments that a call depends on, and that travels with it when it is set.

So far the decimal context of the calling thread.  What is at its default costs nothing to send.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def capture() -> bytes:
    """The calling thread's state, empty if it is the default."""
    decimal = sys.modules.get("decimal")
    if decimal is None:
        return b""
    current, default = decimal.getcontext(), decimal.DefaultContext
    if (
        current.prec == default.prec
        and current.rounding == default.rounding
        and current.Emin == default.Emin
        and current.Emax == default.Emax
        and current.capitals == default.capitals
        and current.clamp == default.clamp
        and current.traps == default.traps
    ):
        return b""
    return pickle.dumps(current, 5)


@contextmanager
def applied(state: bytes) -> Iterator[None]:
    """Run under ``state``, as `capture` gave it."""
    import decimal

    with decimal.localcontext(pickle.loads(state)):
        yield
