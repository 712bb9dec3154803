"""Events: which are told, what they hold, and that nobody pays who does not listen."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from relocate import events, testing
from relocate.testing import Clock, Kill, Network, Program
from relocate.testing.workers import Workers


class Heard(logging.Handler):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def all(self) -> list[dict[str, Any]]:
        """The events as data."""
        return [json.loads(json.dumps(record.relocate)) for record in self.records]  # type: ignore[attr-defined]

    def names(self) -> list[str]:
        return [event["event"] for event in self.all()]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    handler = Heard()
    logger = logging.getLogger(events.LOGGER)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(logging.NOTSET)


def shop(version: str = "1") -> types.ModuleType:
    return testing.module("shop", "def price(n): return n * 3", __version__=version)


def test_what_happens_to_workers_and_calls_is_told(heard: Heard) -> None:
    network = Network(Clock())
    desk = network.worker("desk", modules=[shop()])
    program = Program(network, ["desk"])
    module = program.load("shop")
    desk.next(Kill())
    assert module.price(2) == 6
    assert heard.names() == ["worker up", "call retried", "executor died", "worker up"]
    up, retried, died, _ = heard.all()
    assert up == {"event": "worker up", "worker": "desk", "url": "tcp://desk:7000", "executors": 1}
    assert died == {"event": "executor died", "executor": "desk/0", "end": "died of SIGSEGV"}
    assert retried == {"event": "call retried", "function": "shop.price", "executor": "desk/0", "attempt": 1}
    assert heard.records[2].getMessage() == "desk/0 died of SIGSEGV"
    assert heard.records[1].getMessage() == "shop.price is tried again: its outcome on desk/0 is unknown"


def test_a_rejected_call_is_told_with_the_reason(heard: Heard) -> None:
    network = Network(Clock())
    desk = network.worker("desk", modules=[shop()])
    program = Program(network, ["desk"])
    module = program.load("shop")
    desk.install(shop("2"))
    assert module.price(2) == 6
    (rejected,) = [event for event in heard.all() if event["event"] == "call rejected"]
    assert (rejected["function"], rejected["executor"], rejected["code"]) == ("shop.price", "desk/0", "stale")
    assert "another version" in rejected["reason"]


def test_a_worker_that_shuts_down_is_told_once(heard: Heard) -> None:
    network = Network(Clock())
    desk = network.worker("desk", modules=[shop()])
    Program(network, ["desk"])
    desk.drain()
    (down,) = [event for event in heard.all() if event["event"] == "worker down"]
    assert (down["worker"], down["state"]) == ("desk", "down")
    assert "shutting down" in down["reason"]


def test_changes_of_the_name_space_are_told(heard: Heard) -> None:
    with Workers() as workers:
        desk = workers.start()
        space = workers.enable(modules=["colorsys"], workers=desk.url).namespace
        assert {"mounted", "bound"} <= set(heard.names())
        del heard.records[:]
        space.mount("tcp://127.0.0.1:1", "attic")
        space.bind("/n/attic/chan/colorsys", "/chan/colorsys", "before")
        space.unmount("/chan/colorsys")
        space.unmount("/n/attic")
        space.change(lambda begun: begun, "a file")
    assert [event for event in heard.all() if not event["event"].startswith("worker")] == [
        {"event": "mounted", "url": "tcp://127.0.0.1:1", "name": "/n/attic"},
        {
            "event": "bound",
            "name": "/chan/colorsys",
            "target": "/n/attic/chan/colorsys",
            "where": "before",
            "rank": None,
        },
        {"event": "unbound", "name": "/chan/colorsys", "target": "anything"},
        {"event": "unmounted", "url": "tcp://127.0.0.1:1", "name": "/n/attic"},
        {"event": "loaded", "origin": "a file"},
    ]


def test_who_listens_may_change_the_name_space() -> None:
    with Workers() as workers:
        space = workers.enable(modules=["colorsys"], workers=workers.start().url).namespace

        class Answering(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if record.relocate["event"] == "mounted":  # type: ignore[attr-defined]
                    space.bind("/n/attic/chan", "/chan")

        logger = logging.getLogger(events.LOGGER)
        handler = Answering()
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            space.mount("tcp://127.0.0.1:1", "attic")
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
        assert [target.place for target in space.resolve("/chan/x")] == ["attic"]


def test_every_event_has_a_text_that_its_fields_fill(heard: Heard) -> None:
    fields = {"worker", "url", "executors", "state", "reason", "executor", "end", "function", "code", "name", "target"}
    for event in events.TEXTS:
        events.emit(event, **dict.fromkeys([*fields, "where", "origin", "count", "references"], "x"))
        assert "{" not in heard.records[-1].getMessage()


def test_nothing_is_said_unless_it_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    events.emit("loaded", origin="x")
    assert capfd.readouterr() == ("", "")


def test_no_logging_is_loaded_for_it() -> None:
    program = (
        "import sys; from relocate import events; events.emit('loaded', origin=1); print('logging' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
