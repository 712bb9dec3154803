"""What a generator function yields, fetched piece by piece, and what a coroutine function gives, waited for.

No worker keeps a generator: each piece is a call that generates again from the start and skips what was
delivered.  Pieces grow fourfold, so that costs a third more, until they are ``PIECE`` items long.  A
generator that something is sent to goes on here.

The thread of an event loop does not wait for an answer: another thread does, for each call.  What the
program sees happens in the loop's thread all the same: arguments are pickled and changed, and functions
that were lent are called there.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, NamedTuple, Protocol

from . import ambient, lending, restoring

PIECE = 1 << 16
"""Items of a generator that are fetched at once, at most."""


class Piece(NamedTuple):
    """Some of what a generator function yields."""

    items: list[Any]
    ended: bool
    value: Any
    """What it returns, if it has ended."""
    sent: restoring.Sent


class Calling(Protocol):
    """One call, as it is made here."""

    def run(self, stream: tuple[int, int] | None, sent: restoring.Sent | None) -> Any:
        """Its result, or a `Piece` of it; what the local copy gives if it runs here.

        Args:
            stream: items to skip and to give, if it generates.
            sent: the arguments, if they are pickled already.
        """

    def go_on(self, sent: restoring.Sent) -> Any:
        """The local copy's generator, with none of its items taken.

        Raises:
            ArgumentError: it may not run here.
        """

    def cancel(self) -> None:
        """Its result is not wanted any more."""


def generated(calling: Calling, sent: restoring.Sent | None = None) -> Generator[Any, Any, Any]:
    """What a generator function yields."""
    skip, count = 0, 1
    while True:
        answer = calling.run((skip, count), sent)  # counted with its first piece
        if not isinstance(answer, Piece):  # the local copy's own generator
            for _ in range(skip):
                next(answer, None)
            return (yield from answer)
        sent = answer.sent
        for item in answer.items:
            skip += 1
            try:
                got = yield item
            except GeneratorExit:
                raise
            except BaseException as error:
                here = _skipped(calling.go_on(sent), skip)
                return (yield from _resumed(here, partial(here.throw, error)))
            if got is not None:
                here = _skipped(calling.go_on(sent), skip)
                return (yield from _resumed(here, partial(here.send, got)))
        if answer.ended:
            return answer.value
        count = min(count * 4, PIECE)


def _skipped(generator: Generator[Any, Any, Any], count: int) -> Generator[Any, Any, Any]:
    for _ in range(count):
        next(generator)
    return generator


def _resumed(generator: Generator[Any, Any, Any], step: Callable[[], Any]) -> Generator[Any, Any, Any]:
    """``generator``, of which ``step`` gives the next item."""
    try:
        item = step()
        while True:
            try:
                got = yield item
            except GeneratorExit:
                generator.close()
                raise
            except BaseException as error:
                item = generator.throw(error)
            else:
                item = generator.send(got)
    except StopIteration as end:
        return end.value


# Asynchronous ------------------------------------------------------------------------------------


async def awaited(calling: Calling, sent: restoring.Sent) -> Any:
    """What a coroutine function returns."""
    result = await _in_thread(calling, None, sent)
    return await result if isinstance(result, Coroutine) else result  # the local copy's coroutine


async def generated_async(calling: Calling, sent: restoring.Sent) -> AsyncGenerator[Any, Any]:
    """What an asynchronous generator function yields."""
    skip, count = 0, 1
    here: AsyncGenerator[Any, Any] | None = None
    step: Callable[[], Awaitable[Any]]
    while here is None:
        answer = await _in_thread(calling, (skip, count), sent)
        if not isinstance(answer, Piece):  # the local copy's own generator
            here, step = answer, answer.__anext__
            break
        for item in answer.items:
            skip += 1
            try:
                got = yield item
            except GeneratorExit:
                raise
            except BaseException as error:
                here = calling.go_on(sent)
                step = partial(here.athrow, error)
                break
            if got is not None:
                here = calling.go_on(sent)
                step = partial(here.asend, got)
                break
        else:
            if answer.ended:
                return
            count = min(count * 4, PIECE)
    try:
        for _ in range(skip):
            await here.__anext__()
        item = await step()
        while True:
            try:
                got = yield item
            except GeneratorExit:
                await here.aclose()
                raise
            except BaseException as error:
                item = await here.athrow(error)
            else:
                item = await here.asend(got)
    except StopAsyncIteration:
        return


async def _in_thread(calling: Calling, stream: tuple[int, int] | None, sent: restoring.Sent) -> Any:
    """The outcome of a call for which another thread waits."""
    import asyncio

    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(give: Callable[[Any], None], value: Any) -> None:
        if not outcome.done():
            give(value)
        elif isinstance(value, Coroutine):  # the local copy's, which nobody awaits any more
            value.close()

    def work() -> None:
        try:
            value = context.run(calling.run, stream, sent)
        except StopIteration as error:  # as Python has it of a coroutine that raises that
            give, value = outcome.set_exception, RuntimeError("coroutine raised StopIteration")
            value.__cause__ = error
        except BaseException as error:
            give, value = outcome.set_exception, error
        else:
            give = outcome.set_result
        try:
            loop.call_soon_threadsafe(settle, give, value)
        except RuntimeError:  # the loop is closed
            settle(lambda value: None, value)

    sent.lent = lending.Loans() if sent.lent is restoring.NOTHING else sent.lent
    sent.lent.here = partial(_in_loop, loop)
    threading.Thread(target=work, name="relocate-await", daemon=True).start()
    try:
        return await outcome
    except asyncio.CancelledError:
        calling.cancel()
        raise
    finally:
        if outcome.done() and not outcome.cancelled():  # else the call still runs in that context
            ambient.take_over(context)


def _in_loop(loop: Any, run: Callable[[], Any]) -> Any:
    """What ``run`` gives in the thread of the event loop."""
    from concurrent.futures import Future

    done: Future[Any] = Future()

    def work() -> None:
        try:
            done.set_result(run())
        except BaseException as error:
            done.set_exception(error)

    loop.call_soon_threadsafe(work)
    return done.result()
