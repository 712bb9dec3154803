"""Statistics: each call once, sums that agree, a report that is whole."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relocate.latency import Histogram, bucket
from relocate.observe import Counters, Statistics, Where, WorkerStatistics, summary, write_report


def settle(
    counters: Counters,
    name: str,
    outcome: str,
    seat: str | None,
    sent: int = 0,
    received: int = 0,
    retried: int = 0,
    rerouted: bool = False,
    hedged: int = 0,
    module: str = "",
    seconds: float = 0.0,
) -> None:
    counters.settled((name, outcome, seat, sent, received, retried, rerouted, hedged, module, seconds))


def test_nothing_called_is_all_zeros() -> None:
    assert Counters().statistics() == Statistics(0, 0, 0, 0, 0, 0, 0, 0, 0, {}, {})


def test_a_call_is_counted_by_outcome_function_and_place() -> None:
    counters = Counters()
    settle(counters, "m.f", "returned", "desk/0")
    settle(counters, "", "", None, 10, 20, int(False))
    settle(counters, "m.f", "raised", "desk/1")
    settle(counters, "", "", None, 5, 6, int(False))
    settle(counters, "", "", None, 0, 0, int(True))
    settle(counters, "", "", None, 0, 0, int(True))
    settle(counters, "m.g", "returned", None)
    settle(counters, "", "", None, 0, 0, int(False))
    settle(counters, "m.g", "failed", None)
    settle(counters, "", "", None, 7, 0, int(False))
    settle(counters, "", "", None, 0, 0, int(True))
    counters.died("desk/1")
    counters.died("attic/0")
    assert counters.statistics() == Statistics(
        calls=4,
        remote=2,
        local=1,
        returned=2,
        raised=1,
        failed=1,
        retried=3,
        bytes_out=22,
        bytes_in=26,
        members={"m.f": Where(2, 0), "m.g": Where(0, 1)},
        workers={
            "attic/0": WorkerStatistics(0, 1),
            "desk/0": WorkerStatistics(1, 0),
            "desk/1": WorkerStatistics(1, 1),
        },
    )


settled = st.tuples(
    st.sampled_from(["m.f", "m.g"]),
    st.sampled_from(["returned", "raised", "failed"]),
    st.none() | st.sampled_from(["desk/0", "desk/1"]),
    st.booleans(),
    st.integers(0, 100),
    st.integers(0, 100),
)


@given(st.lists(settled))
def test_the_sums_agree(calls: list[tuple[str, str, str | None, bool, int, int]]) -> None:
    counters = Counters()
    for call in calls:
        name, outcome, seat, again, sent, received = call
        settle(counters, name, outcome, seat)
        settle(counters, "", "", None, sent, received, int(again))
    found = counters.statistics()
    assert found.calls == len(calls) == found.returned + found.raised + found.failed
    assert found.remote + found.local + found.failed == found.calls
    assert sum(w.remote for w in found.members.values()) == found.remote
    assert sum(w.calls for w in found.workers.values()) == found.remote
    assert found.retried == sum(call[3] for call in calls)


def test_a_record_does_not_change_afterwards() -> None:
    counters = Counters()
    settle(counters, "m.f", "returned", "desk/0")
    settle(counters, "", "", None, 1, 1, int(False))
    before = counters.statistics()
    settle(counters, "m.f", "returned", "desk/0")
    settle(counters, "", "", None, 1, 1, int(False))
    assert (before.calls, before.members["m.f"].remote) == (1, 1)
    with pytest.raises(AttributeError):
        before.calls = 3  # type: ignore[misc]


def test_a_signals_handler_that_comes_while_calls_are_counted_neither_waits_nor_changes_the_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`Histogram.add` stands for where the interpreter may run the handler."""
    counters, add = Counters(), Histogram.add
    seen: list[int] = []

    def interrupted(latency: Histogram, seconds: float) -> None:
        if not seen:
            seen.append(0)
            settle(counters, "m.f", "returned", "desk/0", module="m", seconds=0.1)
            counters.stayed("m.g", "returned")
            counters.catch_up()
            seen.append(counters.statistics().remote)
            counters.sample()
        add(latency, seconds)

    monkeypatch.setattr(Histogram, "add", interrupted)
    for _ in range(3):
        settle(counters, "m.f", "returned", "desk/0", module="m", seconds=0.1)
    counting = threading.Thread(target=counters.catch_up, daemon=True)  # which would hang the test
    counting.start()
    counting.join(10)
    assert not counting.is_alive()
    found = counters.statistics()
    assert (found.calls, found.remote, found.local, found.returned) == (5, 4, 1, 5)
    assert counters.sample()["executors"] == {"desk/0": [4, 0]}
    assert counters._latencies["m"].total == pytest.approx(0.4)


def test_a_forked_child_counts_from_nothing_even_if_the_lock_was_held() -> None:
    counters = Counters()
    settle(counters, "m.f", "returned", "desk/0")
    settle(counters, "", "", None, 1, 1, int(False))
    counters._lock.acquire()
    counters.forked()
    assert counters.statistics().calls == 0


def test_the_report_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    counters = Counters()
    settle(counters, "m.f", "returned", "desk/0")
    settle(counters, "", "", None, 10, 20, int(False))
    settle(counters, "", "", None, 0, 0, int(True))
    file = tmp_path / "report.json"
    file.write_text("something longer than the report" * 100)
    write_report(counters.statistics(), str(file))
    assert json.loads(file.read_text()) == {
        "calls": 1, "remote": 1, "local": 0, "returned": 1, "raised": 0, "failed": 0, "retried": 1,
        "bytes_out": 10, "bytes_in": 20, "members": {"m.f": {"remote": 1, "local": 0}},
        "workers": {"desk/0": {"calls": 1, "deaths": 0}}, "verified": 0, "differing": 0, "differences": {},
        "rerouted": 0, "hedged": 0, "latencies": {}, "unrelocated": {},
    }  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_the_summary_names_what_is_not_relocated() -> None:
    counters = Counters()
    assert summary(counters.statistics()).endswith("; 0 B out, 0 B in")
    counters.unrelocated.update({"b": "why", "a.c": "why", "a": "why", "ab": "why"})
    assert summary(counters.statistics()).endswith("; 0 B out, 0 B in; not relocated: a, ab, b")


def test_latencies_are_counted_for_each_module() -> None:
    counters = Counters()
    for _ in range(98):
        settle(counters, "m.f", "returned", "desk/0", module="m", seconds=0.001)
    settle(counters, "m.g", "raised", None, module="m", seconds=0.001)
    settle(counters, "m.g", "returned", "desk/0", module="m", seconds=1.0)
    settle(counters, "k.f", "returned", "desk/0", module="k", seconds=0.1)
    settle(counters, "k.f", "failed", None, module="k", seconds=30.0)
    settle(counters, "k.f", "", "desk/0", module="k", seconds=30.0)
    found = counters.statistics().latencies
    assert found["m"].p50 == found["m"].p99 == pytest.approx(0.001, rel=1 / 8)
    assert found["k"].p99 == pytest.approx(0.1, rel=1 / 8)
    settle(counters, "m.g", "returned", "desk/0", module="m", seconds=1.0)
    assert counters.statistics().latencies["m"].p99 == pytest.approx(1.0, rel=1 / 8)


def test_a_sample_has_what_top_shows_the_change_of() -> None:
    counters = Counters()
    settle(counters, "m.f", "returned", "desk/0", 1, 2, 1, True, 0, "m", 0.001)
    counters.died("desk/1")
    assert json.loads(json.dumps(counters.sample())) == {
        "returned": 1, "raised": 0, "failed": 0, "retried": 1, "hedged": 0, "rerouted": 1,
        "bytes_out": 1, "bytes_in": 2,
        "executors": {"desk/0": [1, 0], "desk/1": [0, 1]},
        "modules": {"m": {str(bucket(0.001)): 1}},
        "seconds": {"m": 0.001},
    }  # fmt: skip
