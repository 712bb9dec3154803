"""What a running program serves beside its calls, as long as it has links: the control socket, and metrics.

A program that cannot serve them runs as well.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import config, control, verbs
from .errors import ConfigError, RelocateError

if TYPE_CHECKING:
    from .handle import Handle
    from .metrics import Metrics

log = logging.getLogger("relocate")


class Servers:
    """The servers of one handle.

    Args:
        handle: whose verbs and counts are served.
        begin: called in the control socket's thread before all else.
    """

    def __init__(self, handle: Handle, begin: Callable[[], object]) -> None:
        self._control: control.Control | None = None
        self._metrics: Metrics | None = None
        self.trouble = ""
        """Why something that is configured cannot be served."""
        if control.available():
            try:
                self._control = control.Control(verbs.verbs(handle), begin)
            except (OSError, RelocateError) as error:
                log.info("this program cannot be looked at from outside: %s", error)
        # A child that inherits the configuration would want the same port.
        if handle.config.metrics and os.environ.get(config.ENV_REPORT_PID) == str(os.getpid()):
            from . import metrics

            try:
                self._metrics = metrics.Metrics(handle.config.metrics, lambda: metrics.of_program(verbs.sample(handle)))
            except ConfigError as error:
                self.trouble = str(error)

    def stop(self) -> None:
        """Serve no more."""
        for server in (self._control, self._metrics):
            if server is not None:
                server.stop()

    def forked(self) -> None:
        """In a forked child: they are the parent's."""
        for server in (self._control, self._metrics):
            if server is not None:
                server.forked()
