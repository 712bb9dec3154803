"""A span of OpenTelemetry for each call.

The caller's span is of kind CLIENT and has the function's name.  Where the caller is in a trace travels with
the call (see `ambient`), and the function runs in a span of kind SERVER, the child of the caller's.  So what
the function itself traces, or calls on, belongs to the program's trace.  Where no SDK is set up, the API makes
spans that nobody keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import ConfigError

if TYPE_CHECKING:
    from .target import Target


class Tracing:
    """Makes spans of a program's calls.

    Raises:
        ConfigError: opentelemetry is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import propagate, trace
        except ImportError:
            raise ConfigError("tracing: opentelemetry is not installed; run: pip install opentelemetry-api") from None
        self._trace = trace
        self._propagate = propagate
        self._tracer = trace.get_tracer("relocate", __version__)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, whose first argument is the function's `Target`, in a span."""

        def traced(target: Target, *args: Any) -> Any:
            attributes = {"rpc.system": "relocate", "rpc.service": target.module, "rpc.method": target.member}
            kind = self._trace.SpanKind.CLIENT
            with self._tracer.start_as_current_span(target.name, kind=kind, attributes=attributes):
                return call(target, *args)

        return traced

    def carried(self, name: str) -> tuple[str, dict[str, str]]:
        """What travels with a call of the function ``name``: that, and where in which trace the caller is."""
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier)
        return name, carrier

    def settled(self, executor: str, attempts: int) -> None:
        """Note in the current span where the call ended, if anywhere, and after how many attempts."""
        span = self._trace.get_current_span()
        if executor:
            span.set_attribute("relocate.executor", executor)
        span.set_attribute("relocate.attempts", attempts)
