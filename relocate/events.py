"""What happens in a program that relocates, as structured log records.

The logger is ``relocate.events``.  Each record has a text for people and an attribute ``relocate``: a
dictionary of what JSON can hold, with the event's name as ``event``.  Records are of level INFO, which is
off by default; then, and where nobody has imported `logging`, an event costs next to nothing.
"""

from __future__ import annotations

import sys
from typing import Any

LOGGER = "relocate.events"

TEXTS = {
    "worker up": "{worker} at {url} is up, with so many executors: {executors}",
    "worker down": "{worker} at {url} is {state}: {reason}",
    "executor died": "{executor} {end}",
    "call retried": "{function} is tried again: its outcome on {executor} is unknown",
    "call rejected": "{function} was rejected by {executor} ({code}): {reason}",
    "mounted": "{url} is mounted at {name}",
    "unmounted": "{url} is not mounted at {name} any more",
    "bound": "{name} leads to {target} ({where})",
    "unbound": "{name} does not lead to {target} any more",
    "not reached": "{count} references to real functions and modules were not exchanged: {references}",
    "loaded": "the name space was changed by {origin}",
}
"""What each event says, by its name."""


def is_heard() -> bool:
    """Whether somebody listens."""
    logging = sys.modules.get("logging")
    return logging is not None and bool(logging.getLogger(LOGGER).isEnabledFor(logging.INFO))


def is_asked_for() -> bool:
    """Whether the level of this very logger was set: somebody wants to know, whatever it takes."""
    logging = sys.modules.get("logging")
    return is_heard() and logging is not None and logging.getLogger(LOGGER).level != logging.NOTSET


def emit(event: str, **fields: Any) -> None:
    """Tell of an event, if somebody listens."""
    if is_heard():
        import logging

        logging.getLogger(LOGGER).info(TEXTS[event].format_map(fields), extra={"relocate": {"event": event, **fields}})
