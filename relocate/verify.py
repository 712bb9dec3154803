"""A call run twice, there and here, and compared.

A *twin* is the local run of a call that a worker runs too.  It has arguments of its own, copied
before the call is sent, so that neither run sees what the other one does to them; what both have
made of them is compared too.  Which calls get a twin depends on their number alone: of each function
the first, and from then on so many that their share is the rate.

Nothing here counts, warns or prints: whoever makes the `Verifier` is told.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import ambient, arrays, values, wire
from .difference import Difference, Raised, arguments_differ, difference, short

if TYPE_CHECKING:
    from .target import Target

DIFFER = "a worker and the local copy differ"
"""How the warning of a difference begins."""


# Which calls, and what of them -------------------------------------------------------------------


class Verifier:
    """Runs a share of a handle's calls a second time, here.

    Args:
        rate: the share of calls, from 0 to 1.
        tolerance: by which fraction two numbers may differ.
        real: gives the local copy of a module, of which a member will be asked.
        compared: is told of each comparison: the function's name, and the difference if there is one.
        missed: is told when a call could not be compared: the function's name, and why.
        quiet: while it is entered, what this thread prints is dropped: the program has seen it already.
    """

    def __init__(
        self,
        rate: float,
        tolerance: float,
        real: Callable[[str, str], ModuleType],
        *,
        compared: Callable[[str, Difference | None], None],
        missed: Callable[[str, str], None],
        quiet: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.rate = rate
        self.tolerance = tolerance
        self.real = real
        self.compared = compared
        self.missed = missed
        self.quiet = quiet
        self._numbers: dict[str, itertools.count[int]] = {}

    def twin(self, target: Target, segments: wire.Segments, lent: Sequence[Any] = ()) -> Twin | None:
        """The second run of the call that is about to be sent as ``segments``; None if it gets none.

        One with generators among its arguments (``lent``) gets none: they can be read only once.
        """
        if lent:
            return None
        number = next(self._numbers.setdefault(target.name, itertools.count()))
        return Twin(self, target, segments) if chosen(number, self.rate) else None


def chosen(number: int, rate: float) -> bool:
    """Whether call ``number`` (from 0) is among the share ``rate``.

    >>> [n for n in range(12) if chosen(n, 0.25)]
    [0, 4, 8]
    """
    return math.ceil((number + 1) * rate) > math.ceil(number * rate)


class Twin:
    """The local run of one call, waiting for the outcome of the other one."""

    def __init__(self, verifier: Verifier, target: Target, segments: wire.Segments) -> None:
        self._verifier = verifier
        self._target = target
        self._context = ambient.apart(copy_context())
        self._segments = [bytearray(s) for s in segments]  # out-of-band buffers are the program's own memory

    def compare(self, outcome: Any, worker: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Run it, and compare.

        Args:
            outcome: what ``worker`` gave: a value, or `Raised`.
            worker: where it ran.
            given, named: the program's own arguments, as they are after the call.
        """
        target, verifier = self._target, self._verifier
        try:
            function: Any = target.local(verifier.real)
            call = f"{target.name}({', '.join(_arguments(*self._copy()))})"
            args, kwargs = self._copy()
        except Exception as error:
            verifier.missed(target.name, f"{type(error).__name__}: {error}")
            return
        here: Any
        with verifier.quiet():
            try:
                here = self._context.run(function, *args, **kwargs)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                here = Raised(error)
        try:
            apart = difference(outcome, here, verifier.tolerance)
            apart = apart or arguments_differ(given, named, args, kwargs, verifier.tolerance)
        except Exception as error:  # whatever the values' own methods raise, or they are too deep
            verifier.missed(target.name, f"the results do not let themselves be compared: {type(error).__name__}")
            return
        found = Difference(call, worker, apart.at, apart.there, apart.here, apart.note) if apart else None
        verifier.compared(target.name, found)

    def _copy(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kind = self._segments[0][0]
        if kind not in values.MADE:
            return values.atoms(self._segments[0])
        if kind == arrays.MARK:
            return arrays.unpacked(self._segments[0], [bytearray(s) for s in self._segments[1:]])[:2]
        args, kwargs = values.loads([bytearray(s) for s in self._segments])
        return args, kwargs


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    return [*map(short, args), *(f"{k}={short(v)}" for k, v in kwargs.items())]
