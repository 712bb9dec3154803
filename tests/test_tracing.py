"""Spans: one for each call, the executor's below the caller's, and nothing at all when they are not asked for."""

from __future__ import annotations

import contextvars
import json
import sys
from typing import Any

import pytest
from conftest import Place

from relocate import ambient, config
from relocate.errors import ConfigError
from relocate.handle import Handle

KEEP = """
import json, os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

class Kept(SpanExporter):
    def export(self, spans):
        with open(os.environ["SPANS"], "a") as file:
            for span in spans:
                file.write(json.dumps({
                    "name": span.name,
                    "kind": span.kind.name,
                    "trace": span.context.trace_id,
                    "id": span.context.span_id,
                    "parent": span.parent and span.parent.span_id,
                    "attributes": dict(span.attributes),
                    "status": span.status.status_code.name,
                    "pid": os.getpid(),
                }) + "\\n")
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Kept()))
trace.set_tracer_provider(provider)
"""
"""A site customization: so every process has its spans kept, executors too."""


@pytest.fixture
def spans(place: Place) -> Any:
    """Run a program with tracing on: the spans by their names."""
    place.write("site/sitecustomize.py", KEEP)

    def run(program: str, *options: str) -> dict[str, list[dict[str, Any]]]:
        file = place.folder / "spans"
        path = f"{place.folder / 'site'}:{place.folder}"
        arguments = ("run", "-M", "work", "-w", "1", *options, "-c", program)
        done = place.relocate(*arguments, SPANS=str(file), PYTHONPATH=path, RELOCATE_TRACING="1")
        assert (done.returncode, done.stderr) == (0, "")
        found: dict[str, list[dict[str, Any]]] = {}
        for line in file.read_text("utf-8").splitlines():
            span = json.loads(line)
            found.setdefault(f"{span['name']} {span['kind']}", []).append(span)
        return found

    return run


def test_the_executors_span_is_a_child_of_the_callers(spans: Any) -> None:
    found = spans(
        """
import work
from opentelemetry import trace
with trace.get_tracer("the program").start_as_current_span("main"):
    work.echo(1)
"""
    )
    (main,), (call,), (run,) = found["main INTERNAL"], found["work.echo CLIENT"], found["work.echo SERVER"]
    assert main["parent"] is None
    assert call["parent"] == main["id"]
    assert run["parent"] == call["id"]
    assert main["trace"] == call["trace"] == run["trace"]
    assert main["pid"] == call["pid"] != run["pid"]
    assert call["attributes"] == {
        "rpc.system": "relocate",
        "rpc.service": "work",
        "rpc.method": "echo",
        "relocate.executor": "embedded/0",
        "relocate.attempts": 1,
    }


def test_what_the_function_traces_itself_belongs_to_the_trace(spans: Any, place: Place) -> None:
    place.write(
        "traced.py",
        """
        from opentelemetry import trace

        def outer():
            with trace.get_tracer("the module").start_as_current_span("inner"):
                return 1
        """,
    )
    found = spans("import traced\nassert traced.outer() == 1", "-M", "traced")
    assert found["inner INTERNAL"][0]["parent"] == found["traced.outer SERVER"][0]["id"]


def test_a_call_that_raises_is_an_error_in_both(spans: Any) -> None:
    found = spans(
        """
import work
try:
    work.fail("no")
except work.WorkError:
    pass
"""
    )
    assert [found[f"work.fail {kind}"][0]["status"] for kind in ("CLIENT", "SERVER")] == ["ERROR", "ERROR"]


def test_each_piece_of_a_generator_is_a_span(spans: Any) -> None:
    found = spans("import work\nassert list(work.count(5)) == [0, 1, 2, 3, 4]")
    assert len(found["work.count CLIENT"]) == len(found["work.count SERVER"]) >= 2


def test_a_call_that_runs_here_says_so(spans: Any) -> None:
    found = spans("import threading, work\nassert work.echo(threading.Lock())")
    (call,) = found["work.echo CLIENT"]
    assert (call["attributes"]["relocate.executor"], call["attributes"]["relocate.attempts"]) == ("here", 0)
    assert "work.echo SERVER" not in found


def test_an_executor_without_opentelemetry_runs_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = ambient.capture(("work.echo", {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}))
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with ambient.applied(captured, contextvars.copy_context()):
        pass


def test_without_opentelemetry_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match="tracing: opentelemetry is not installed; run: pip install opentelemetry"):
        Handle(config.load({"tracing": True}))


def test_nothing_is_loaded_or_sent_when_it_is_off(place: Place) -> None:
    program = """
import sys, relocate
handle = relocate.enable(modules=["work"], workers=1)
import work
def loaded():
    import sys
    return sorted(m for m in sys.modules if m.partition(".")[0] in ("opentelemetry", "prometheus_client"))
print(loaded(), work.apply(loaded), handle._fleet.driver.make == handle._fleet.driver._call)
"""
    assert place.python("-c", program).stdout == "[] [] True\n"
    assert contextvars.Context().run(ambient.capture) == b""


def test_the_variable_is_0_or_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELOCATE_TRACING", "yes")
    with pytest.raises(ConfigError, match="RELOCATE_TRACING: 'yes' is neither 0 nor 1"):
        config.load()
