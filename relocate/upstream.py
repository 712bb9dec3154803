"""A registry's parent: asked for what is not known below, and what it answered.

An answer is kept for as long as its lease lasts, which forwarding never extends; while somebody wants
it, it is asked for again three times in a lease, and the parent tells of changes meanwhile.  Each
question carries the path of registries that it came through.  A parent that is on it is not asked:
the parents form a loop.  Answers are kept by path, too, so that no registry gets back as news what it
said itself.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from . import wire
from .contact import Contact
from .leases import Leases

log = logging.getLogger("relocate.registry")

PATIENCE = 2.0
"""Seconds that an answer is waited for."""
LIMIT = 256
"""Workers of one name that the parent is asked for: clients of this registry share them."""
LONGEST_PATH = 16

Key = tuple[tuple[str, ...], tuple[int, int], str, tuple[tuple[str, str], ...], tuple[bytes, ...]]


@dataclass
class Question:
    """Something that the parent is asked, and its answer."""

    lookup: wire.Lookup
    began: float
    wanted_until: float
    asked: float = float("-inf")
    mounts: list[wire.Mount] = field(default_factory=list)
    complete: bool = False
    lease: float = float("inf")
    until: float = float("-inf")
    """When the answer's lease ends."""
    status: str = "awaited"
    """The last one that was told; or ``answered``, or ``silent``."""


class Upstream:
    """The parent of the registry ``me``.

    Args:
        context: of the connection.
        url: the parent's address.
        folder: of the keys.
        me: the id of this registry.
        leases: of this registry: for one lease after somebody wanted its answer, a question is repeated.
        changed: told when answers have changed.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        url: str,
        folder: str,
        me: bytes,
        leases: Leases,
        changed: Callable[[], object],
    ) -> None:
        self._me = me
        self._leases = leases
        self._changed = changed
        self._questions: dict[Key, Question] = {}
        self._numbers = itertools.count(1)
        self._warned = False
        self._trouble = ""
        self.contact = Contact(
            context,
            url,
            folder,
            f"registry {me.hex()}",
            on_up=self._up,
            on_message=self._message,
            on_down=self._down,
        )

    def ask(self, modules: list[str], query: wire.Lookup, now: float) -> tuple[list[wire.Mount], bool, float]:
        """What the parent offers of ``modules``; whether that is its last word; for how many seconds it is good."""
        path, lease = (*query.path, self._me), self._leases.lease
        if self.contact.id in path or len(path) > LONGEST_PATH:
            if not self._warned:
                log.warning("the parents form a loop: %s was asked through its own parent", self.contact.url)
            self._warned = True
            return [], True, lease
        key = (tuple(modules), query.python, query.host, tuple(sorted(query.labels.items())), path)
        question = self._questions.get(key)
        if question is None:
            number, limit = next(self._numbers), max(query.limit, LIMIT)
            lookup = wire.Lookup(
                number, modules, query.python, query.host, query.labels, limit, watch=True, path=list(path)
            )
            question = self._questions[key] = Question(lookup, now, now)
            self._send(question, now)
        question.wanted_until = now + lease
        status = self._status(question, now)
        if status == "answered":
            return question.mounts, question.complete, question.until - now
        return [], status == "silent", lease

    def tend(self, now: float) -> None:
        """Ask anew what is still wanted, forget what is not."""
        self.contact.tend()
        for key, question in list(self._questions.items()):
            if now > question.wanted_until:
                del self._questions[key]
            elif now - question.asked > min(self._leases.lease, question.lease) / 3:
                self._send(question, now)
            if (status := self._status(question, now)) != question.status:
                question.status = status
                self._changed()

    def _status(self, question: Question, now: float) -> str:
        if now < question.until:
            return "answered"
        awaited = self.contact.state in ("starting", "up") and now - question.began < PATIENCE
        return "awaited" if awaited else "silent"

    def _send(self, question: Question, now: float) -> None:
        if self.contact.send(question.lookup):
            question.asked = now

    def _down(self, contact: Contact) -> None:
        if str(contact.error) != self._trouble:
            log.warning("the parent: %s", contact.error)
        self._trouble = str(contact.error)

    def _up(self, contact: Contact) -> None:
        self._warned, self._trouble = False, ""
        for question in self._questions.values():
            self._send(question, time.monotonic())

    def _message(self, contact: Contact, message: wire.AnyMessage) -> None:
        if not isinstance(message, wire.Steps):
            return
        contact.lease = max(contact.lease, message.lease)
        for question in self._questions.values():
            if question.lookup.query == message.query:
                before = question.mounts, question.complete
                question.mounts, question.complete = message.mounts, message.complete
                question.lease, question.until = message.lease, time.monotonic() + message.lease
                if before != (question.mounts, question.complete):
                    self._changed()
