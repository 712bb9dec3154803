"""What the executor of a running call asks its caller for: items of generators, results of functions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from . import lending, raising, restoring, values, wire
from .errors import ArgumentError


def answer(
    question: wire.Ask | wire.Invoke,
    segments: list[wire.Buffer],
    lent: lending.Loans,
    around: Callable[[], AbstractContextManager[object]],
) -> list[wire.Buffer]:
    """The frames of the answer; none if the executor only says that it still waits.

    Args:
        question: what is asked.
        segments: its value.
        lent: what the call was lent.
        around: the context in which the program's code runs.
    """
    loan = lent[question.lent]
    if isinstance(question, wire.Ask):
        assert isinstance(loan, lending.Lent)
        return _items(question, lent, loan, around)
    assert isinstance(loan, lending.Function)
    if not segments:
        return []
    result = _result(question, segments, lent, loan, around)
    told = wire.Answer(question.call, question.lent, question.number, result.error is not None)
    if result.sent is None:
        told.raised = True
        return wire.pack(told, raising.dump(ArgumentError("the result cannot travel")))
    told.refers, given = result.sent
    return wire.pack(told, given)


def _around(around: Callable[[], AbstractContextManager[object]], run: Callable[[], Any]) -> Any:
    with around():
        return run()


def _items(
    ask: wire.Ask,
    lent: lending.Loans,
    loan: lending.Lent,
    around: Callable[[], AbstractContextManager[object]],
) -> list[wire.Buffer]:
    try:
        value = lent.here(partial(_around, around, partial(loan.give, ask.skip, ask.count)))
    except Exception as error:
        return wire.pack(wire.Answer(ask.call, ask.lent, ask.skip, True), raising.dump(error, skip=2))
    try:
        return wire.pack(wire.Answer(ask.call, ask.lent, ask.skip), values.dumps(value))
    except ArgumentError as error:  # the call will run here
        loan.unfit = True
        return wire.pack(wire.Answer(ask.call, ask.lent, ask.skip, True), raising.dump(error))


def _result(
    asked: wire.Invoke,
    segments: list[wire.Buffer],
    lent: lending.Loans,
    loan: lending.Function,
    around: Callable[[], AbstractContextManager[object]],
) -> lending.Result:
    """What a function returns or raises; the same as before if the call runs again."""
    results = lent.results
    digest = lending.digest(segments)
    if asked.number < len(results):
        known = results[asked.number]
        if (known.lent, known.asked) == (asked.lent, digest):
            return known
        del results[asked.number :]
    received = restoring.Received(segments, copied=True)
    value: Any = None
    failure: BaseException | None = None
    try:
        value = lent.here(partial(_around, around, partial(loan.function, *received.args, **received.kwargs)))
    except (Exception, GeneratorExit, SystemExit) as error:  # Ctrl-C ends the call itself
        loan.error = failure = error
    sent: Any = None
    try:
        given, refers = received.give(value if failure is None else raising.describe(failure, skip=1))
        sent = refers, given
    except Exception:  # whatever the values' own classes raise: the call will run here
        loan.unfit = True
    results.append(lending.Result(asked.lent, digest, value, failure, sent))
    return results[-1]
