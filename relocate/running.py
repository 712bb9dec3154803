"""One call run in an executor: arguments out of a message, result or exception into another one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from inspect import iscoroutinefunction
from types import CoroutineType, GeneratorType
from typing import Any

from . import ambient, lending, raising, restoring, values, wire
from .changes import ATOMS
from .errors import ArgumentError
from .output import Output

Answered = tuple[wire.Message | bytes, wire.Segments]
"""The answer, or its only frame, and the segments of its value."""
MOST = 10_000
"""Ways of calling functions that are remembered."""


class Runner:
    """Runs calls, one at a time.

    Args:
        output: what they print.
        through: exceptions that are the executor's own, and pass through.
    """

    def __init__(self, output: Output, through: tuple[type[BaseException], ...] = ()) -> None:
        self._output = output
        self._through = through
        self.interruptible = False
        """Whether a function runs."""
        self._done = b""
        self._readers: set[tuple[Any, ...]] = set()
        """Ways of calling a function in which it did not write into arrays: it gets no copies then."""

    def run(
        self, message: wire.Call, function: Callable[..., Any], segments: list[wire.Buffer], waiting: int
    ) -> Answered:
        """Call ``function`` with the arguments in ``segments``: the answer, and its segments.

        Args:
            message: the call.
            function: what it names.
            segments: its value.
            waiting: calls in the line behind it, for the answer.
        """
        output, context = self._output, copy_context()
        output.said = 0
        if segments[0][0] in values.MADE or message.stream is not None or message.ambient or len(context):
            # What unpickling and pickling leave in a context is not for the next call.
            return context.run(self._run, message, function, segments, waiting)
        # Plain arguments and nothing around them, as most short calls are.
        failure: BaseException | None = None
        result: Any = None
        try:
            args, kwargs = restoring.plain_again(segments[0])
        except Exception as error:
            return wire.Rejected(message.call, "arguments", f"{type(error).__name__}: {error}"), ()
        try:
            try:
                self.interruptible = True
                result = context.run(function, *args, **kwargs)
                if type(result) is CoroutineType and iscoroutinefunction(function):
                    result = _run(result, context)
            finally:
                self.interruptible = False
        except self._through:
            raise
        except BaseException as error:
            failure = error
        if failure is None and type(result) in ATOMS and not len(context):
            body = values.of_atom(result)
            if not (waiting or output.taken or output.said) and len(body) <= wire.INLINE:
                return wire.returned(message.call, body), ()
            said = output.said
            return wire.Returned(message.call, waiting, output.take(), said=said), [body]
        received = restoring.Received(segments)
        received.args, received.kwargs = args, kwargs
        self._done = ambient.told(context, Context(), None) if len(context) else b""
        try:
            return copy_context().run(self._told, message, received, result, failure, waiting, 1)
        finally:
            del failure  # it knows this frame: what goes round would keep the arguments

    def _run(
        self, message: wire.Call, function: Callable[..., Any], segments: list[wire.Buffer], waiting: int
    ) -> tuple[wire.Message, wire.Segments]:
        call = message.call
        output = self._output
        begun = copy_context()  # before anything is unpickled: that gives a thread its decimal context, for one
        key: tuple[Any, ...] = ()
        failure: BaseException | None = None
        result: Any = None
        while True:
            try:
                received = restoring.Received(segments)
                if received.borrowed:
                    key = (message.module, message.member, received.way)
                    if key not in self._readers:
                        received = restoring.Received(segments, copied=True)
            except BaseException as error:
                return wire.Rejected(call, "arguments", f"{type(error).__name__}: {error}"), ()
            self._done = b""
            try:
                # What an import raised is not this caller's flag.
                context = ambient.apart(begun, clear=True) if len(begun) else begun.copy()
                if message.ambient:
                    with ambient.applied(message.ambient, context):
                        result = self._invoke(message, function, received, begun, context)
                else:
                    result = self._invoke(message, function, received, begun, context)
                break
            except self._through:
                raise
            except ambient.Unavailable as trouble:
                return wire.Rejected(call, "arguments", str(trouble)), ()
            except BaseException as error:
                if received.is_resized(error):
                    output.take()
                    return wire.Rejected(call, "result", "it resizes an array, which only the caller's own can be"), ()
                if not received.refused(error):
                    failure = error
                    break
            # It writes into an array: again, with one that it may write into.
            self._readers.discard(key)
            output.restart()
            lending.asking[-1]().begin()
        if received.copies and received.unwritten:
            if len(self._readers) >= MOST:
                self._readers.clear()
            self._readers.add(key)
        try:
            return self._told(message, received, result, failure, waiting, 2)
        finally:
            del failure  # it knows this frame: what goes round would keep the arguments

    def _told(
        self,
        message: wire.Call,
        received: restoring.Received,
        result: Any,
        failure: BaseException | None,
        waiting: int,
        ours: int,
    ) -> tuple[wire.Message, wire.Segments]:
        """The answer that says what came of a call; a failure has passed through so many functions of `Runner`."""
        call, output, done = message.call, self._output, self._done
        try:
            if failure is not None:
                given, refers = received.give(_described(failure, (*received.args, *received.kwargs.values()), ours))
                said = output.said
                return wire.Raised(call, waiting, output.take(), refers=refers, said=said, ambient=done), given
            if isinstance(result, GeneratorType):
                result.close()  # not begun: the client asks for its items piece by piece, and so calls it again
                output.take()
                return wire.Rejected(call, "generator", "it gives a generator"), ()
            if message.stream is None or result[1]:
                given, refers = received.give(result)
            else:
                given, refers = received.give(result, look=False)
                done = b""
            said = output.said
            return wire.Returned(call, waiting, output.take(), refers=refers, said=said, ambient=done), given
        except ArgumentError as trouble:
            why = str(trouble)
        except Exception as trouble:  # whatever the values' own classes raise when they are looked at
            why = f"{type(trouble).__name__}: {trouble}"
        finally:
            del failure  # it knows the frames: what goes round would keep the arguments
        output.take()  # it will be said where the call runs next, and is not the next call's
        return wire.Rejected(call, "result", why), ()

    def _invoke(
        self,
        message: wire.Call,
        function: Callable[..., Any],
        received: restoring.Received,
        begun: Context,
        context: Context,
    ) -> Any:
        """What it returns when it runs in ``context``; `_done` is what it does to that."""
        rules = None
        if len(context):
            begun, rules = context.copy(), ambient.arithmetic(context)
            rules = rules and rules.copy()
        try:
            self.interruptible = True
            result = context.run(function, *received.args, **received.kwargs)
            if type(result) is CoroutineType and iscoroutinefunction(function):
                return _run(result, context)
            if message.stream is not None:
                return self._piece(result, *message.stream, context)
            return result
        finally:
            self.interruptible = False
            if rules is not None or context != begun:
                self._done = ambient.told(context, begun, rules)

    def _piece(self, items: Any, skip: int, count: int, context: Context) -> Any:
        if isinstance(items, AsyncGenerator):
            return _run(piece_async(items, skip, count, self._output), context)
        given = context.run(piece, items, skip, count, self._output.restart)
        if isinstance(items, GeneratorType):  # the next piece begins anew, and this end is not the program's
            with self._output.dropped(), contextlib.suppress(Exception):
                context.run(items.close)
        return given


def _run(waited: Coroutine[Any, Any, Any], context: Context) -> Any:
    """What an awaitable gives, in an event loop of its own."""
    import asyncio

    with asyncio.Runner() as runner:
        return runner.run(waited, context=context)


def _described(error: BaseException, given: tuple[Any, ...], skip: int) -> list[raising.Node]:
    try:
        return raising.describe(error, skip=skip, given=given)
    except Exception as worse:
        text = f"{type(error).__name__}, which cannot be described: {type(worse).__name__}: {worse}"
        return raising.describe(RuntimeError(text))


def piece(
    items: Iterable[Any], skip: int, count: int, skipped: Callable[[], object] = lambda: None
) -> tuple[list[Any], bool, Any]:
    """``count`` items after the first ``skip``, whether that was the end, and what the generator returns then.

    An exception counts as an item: it is raised by the piece that begins with it.

    Args:
        items: a generator, or anything that can be iterated over.
        skip: items that another piece has given.
        count: items to give, at most.
        skipped: is called when they are skipped.
    """
    source = iter(items)
    for _ in range(skip):
        next(source, None)
    if skip:
        skipped()
    given: list[Any] = []
    try:
        for _ in range(count):
            given.append(next(source))  # noqa: PERF401 -- what came before an exception is kept
    except StopIteration as end:
        return given, True, end.value
    except BaseException:
        if not given:
            raise
    return given, False, None


async def piece_async(
    items: AsyncGenerator[Any, Any], skip: int, count: int, output: Output
) -> tuple[list[Any], bool, Any]:
    """`piece` of an asynchronous generator."""
    given: list[Any] = []
    try:
        for _ in range(skip):
            await anext(items, None)
        if skip:
            output.restart()
        for _ in range(count):
            given.append(await anext(items))  # noqa: PERF401 -- what came before an exception is kept
    except StopAsyncIteration:
        return given, True, None
    except BaseException:
        if not given:
            raise
    finally:
        with output.dropped():
            await items.aclose()
    return given, False, None
