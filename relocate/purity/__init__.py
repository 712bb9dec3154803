"""Whether the functions of a module are pure, told from its source.

`check` gives a `Verdict` on each public function.  Nothing is imported or run: `Find` gives the
sources.  A row of this package imports only from the rows above it::

    known sources    names of other packages; names of this one
    values           what is known of an object; facts
    record           what is kept of a function, and under which conditions
    expressions      the values of expressions; calls
    flow             statements; whose objects a function changes
    verdicts         calls followed; the verdict
"""

from __future__ import annotations

from .sources import Find, Source
from .values import Condition
from .verdicts import IMPURE, UNFIT, VERDICTS, Finding, Verdict, check, without_source

__all__ = [
    "IMPURE",
    "UNFIT",
    "VERDICTS",
    "Condition",
    "Find",
    "Finding",
    "Source",
    "Verdict",
    "check",
    "without_source",
]
