"""Metrics: what Prometheus is told of a program and of a worker, where, and what is said when it cannot be."""

from __future__ import annotations

import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import Place, until
from prometheus_client.parser import text_string_to_metric_families

from relocate import config
from relocate.errors import ConfigError
from relocate.latency import BUCKETS, bucket
from relocate.metrics import Metrics, cumulated, of_worker
from relocate.testing.workers import Workers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def visit(port: int) -> dict[str, float]:
    """The samples by name and labels: ``relocate_calls_total{outcome=returned}``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers() as started:
        yield started


def test_a_program_tells_of_its_calls(workers: Workers) -> None:
    port = free_port()
    desk = workers.start()
    handle = workers.enable(modules=["colorsys"], workers=desk.url, metrics=port)
    import colorsys

    for _ in range(3):
        colorsys.rgb_to_hsv(1, 0, 0)
    with pytest.raises(TypeError):
        colorsys.rgb_to_hsv("a", 0, 0)
    name = handle.workers()[0]["name"]
    found = visit(port)
    assert found["relocate_calls_total{outcome=returned}"] == 3
    assert found["relocate_calls_total{outcome=raised}"] == 1
    assert found["relocate_calls_total{outcome=failed}"] == 0
    assert found["relocate_call_seconds_count{module=colorsys}"] == 4
    assert found["relocate_call_seconds_bucket{le=+Inf,module=colorsys}"] == 4
    assert found["relocate_call_seconds_sum{module=colorsys}"] > 0
    assert found[f"relocate_executor_calls_total{{executor={name}/0}}"] == 4
    assert found[f"relocate_worker_up{{worker={name}}}"] == 1
    assert found[f"relocate_worker_executors{{worker={name}}}"] == 1
    assert found["relocate_sent_bytes_total"] == handle.statistics().bytes_out
    assert (found["relocate_queue"], found["relocate_retries_total"], found["relocate_reroutes_total"]) == (0, 0, 0)
    handle.disable()
    with pytest.raises(OSError, match="refused"):
        visit(port)


def test_a_program_whose_port_is_taken_runs_as_well_and_says_so(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        program = "import relocate\nrelocate.enable(modules=['work'], workers=1)\nimport work\nprint(work.echo(1))"
        done = place.python("-c", program, RELOCATE_METRICS=address)
    assert done.stdout == "1\n"
    assert done.stderr.count(f"RelocateWarning: metrics: cannot listen on {address}: Address already in use") == 1


def test_a_forked_child_leaves_the_port_to_its_parent(place: Place) -> None:
    port = free_port()
    program = f"""
import os, relocate, urllib.request
handle = relocate.enable(modules=["work"], workers=1, metrics={port})
import work
work.echo(1)
if (child := os.fork()) == 0:
    print(work.echo(2), flush=True)
    handle.disable()
    os._exit(0)
os.waitpid(child, 0)
print(b'outcome="returned"}} 1.0' in urllib.request.urlopen("http://127.0.0.1:{port}").read())
"""
    done = place.python("-W", "ignore", "-c", program)
    assert (done.stdout, done.stderr) == ("2\nTrue\n", "")


def test_so_does_a_program_that_it_starts(place: Place) -> None:
    program = """
import subprocess, sys, work
print(work.echo(1), flush=True)
if len(sys.argv) < 2:
    subprocess.run([sys.executable, *sys.orig_argv[1:], "child"], check=True)
"""
    environment = {"RELOCATE_MODULES": "work", "RELOCATE_WORKERS": "1", "RELOCATE_METRICS": str(free_port())}
    done = place.python("-c", program, **environment)
    assert (done.stdout, done.stderr) == ("1\n1\n", "")


def test_a_worker_tells_of_its_executors(place: Place) -> None:
    port = free_port()
    worker = place.worker("--executors", "2", "--metrics", str(port))
    before = visit(port)
    assert {name: before[f"relocate_worker_{name}"] for name in ("executors", "ready", "running", "clients")} == {
        "executors": 2, "ready": 2, "running": 0, "clients": 0,
    }  # fmt: skip
    program = f"""
import relocate
handle = relocate.enable(modules=["work"], workers="{worker.url}")
import work
for i in range(5): work.echo(i)
print("ready", flush=True)
input()
"""
    client = place.start(sys.executable, "-c", program, talk=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    found = visit(port)
    assert (found["relocate_worker_calls_total"], found["relocate_worker_clients"]) == (5, 1)
    for executor in worker.executors():
        os.kill(executor.pid, signal.SIGKILL)
    deaths = "relocate_worker_deaths_total{end=died of SIGKILL}"
    until(lambda: (found := visit(port)).get(deaths) == found["relocate_worker_ready"] == 2, "two deaths, two births")
    assert visit(port)["relocate_worker_calls_total"] == 5
    client.communicate("\n")
    assert worker.stop() == 0


def test_metrics_are_for_this_machine_unless_the_address_says_otherwise() -> None:
    served = Metrics("0", list)
    try:
        assert served._server.server_address == ("127.0.0.1", served.port)
    finally:
        served.stop()
    assert config.host_and_port("0.0.0.0:9464") == ("0.0.0.0", 9464)
    assert config.host_and_port("[::1]:9464") == ("::1", 9464)


@pytest.mark.parametrize("address", ["desk", "desk:", "desk:x", "::1:9464", "65536", "127.0.0.1:65536", "a b:1"])
def test_a_mistaken_address_is_told(address: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics: '.*' is not an address; write for example 127"):
        config.load({"metrics": address})


def test_without_prometheus_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match="not installed; run: pip install prometheus-client"):
        Metrics("0", list)


def test_a_worker_whose_metrics_cannot_be_served_does_not_start(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = place.relocate("worker", "--listen", "tcp://127.0.0.1:0", "--metrics", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"relocate: metrics: cannot listen on {port}: Address already in use\n"


def test_a_histogram_rises_to_all_calls() -> None:
    steps = cumulated({str(bucket(0.001)): 2, str(bucket(1.0)): 1, str(BUCKETS - 1): 1})
    counts = [count for _, count in steps]
    assert counts == sorted(counts)
    assert [count for end, count in steps if float(end) < 0.0005] == [0] * sum(float(e) < 0.0005 for e, _ in steps)
    assert {count for end, count in steps if 0.002 < float(end) < 0.5} == {2}
    assert steps[-1] == ("+Inf", 4)
    assert steps[-2][1] == 3


def test_deaths_are_told_by_how() -> None:
    families = of_worker(
        executors=1, ready=1, running=0, clients=0, draining=True, calls=7, deaths={"exited with status 3": 2}
    )
    samples = {(s.name, s.labels.get("end")): s.value for family in families for s in family.samples}
    assert samples["relocate_worker_deaths_total", "exited with status 3"] == 2
    assert samples["relocate_worker_draining", None] == 1
