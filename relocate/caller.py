"""The caller of the running call, as its executor sees it: who is asked for items and results, and told of output."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from . import raising, restoring, values, wire
from .errors import ArgumentError
from .output import Output

Exchange = Callable[[wire.Ask | wire.Invoke, wire.Segments], tuple[wire.Answer, list[wire.Buffer]]]
"""Sends a question and waits for the answer."""


class Caller:
    """The caller of one call.

    Args:
        call: the call's id.
        output: what the call prints.
        exchange: how a question is asked.
        send: how it is told what was printed until now; None: with the answer.
    """

    def __init__(
        self,
        call: bytes,
        output: Output,
        exchange: Exchange,
        send: Callable[[wire.Said], None] | None = None,
    ) -> None:
        self._call = call
        self._output = output
        self._exchange = exchange
        self._send = send
        self._lock = threading.RLock()
        self._number = 0
        self.over = False
        self.unfit = ""
        """Why the call has to run where its caller is."""

    def begin(self) -> None:
        """See `lending.Asking`."""
        self._number = 0

    def end(self) -> None:
        """The call is over, once what another thread of the function's has asked is answered: nobody else may read
        the answer."""
        with self._lock:
            self.over = True

    def say(self) -> None:
        """Tell what was printed until now."""
        if self._send is None:
            return
        with self._lock:
            position = self._output.said
            said = self._output.take()
            if said and not self.over:
                self._send(wire.Said(self._call, position, said))

    def items(self, lent: int, skip: int, count: int) -> tuple[list[Any], bool]:
        """See `lending.Asking`."""
        with self._lock:
            self._prepare()
            answer, segments = self._exchange(wire.Ask(self._call, lent, skip, count), ())
        if answer.raised:
            raise raising.load(segments, "caller")
        items, ended = values.loads(segments)
        return items, ended

    def invoke(self, lent: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `lending.Asking`.  What the function did to its arguments is done to them here."""
        try:
            sent = restoring.Sent(args, kwargs, lends=False)
        except ArgumentError as error:
            self.unfit = str(error)
            raise
        with self._lock:
            self._prepare()
            answer, segments = self._exchange(wire.Invoke(self._call, lent, self._number), sent.segments)
            self._number += 1
        try:
            value, restore = sent.accept(segments) if answer.refers else (values.loads(segments), None)
        except Exception as error:
            self.unfit = f"what a function of the caller's returned cannot be read: {error}"
            raise ArgumentError(self.unfit) from error
        if restore is not None:
            restore()
        if answer.raised:
            raise raising.rebuild(value, "caller")
        return value

    def _prepare(self) -> None:
        if self.over:
            raise ArgumentError("the call that was lent this function or generator is over; nobody answers any more")
        self.say()
