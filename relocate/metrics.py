"""Metrics for Prometheus: of a program's calls, and of a worker.

What is counted anyway is put into Prometheus' form when it is asked for, so that nothing is done for it
between two visits.  They come by HTTP, in clear and to everybody who can connect: on this machine alone unless
the address says otherwise.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from . import config
from .errors import ConfigError
from .latency import BUCKETS, STEPS, limit

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

POLL = 0.05
"""Seconds in which the thread that serves them heeds that it is to end."""

Families = Callable[[], Iterable["Metric"]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing of each visit."""


class Metrics:
    """Serves metrics, in a thread of its own.

    Args:
        address: ``host:port``, or a port on this machine alone.
        families: gives the metrics as of now.

    Raises:
        ConfigError: prometheus_client is not installed, or the address is wrong or taken.
    """

    def __init__(self, address: str, families: Families) -> None:
        host, port = config.host_and_port(address)
        try:
            from prometheus_client import CollectorRegistry, make_wsgi_app
        except ImportError:
            raise ConfigError(
                "metrics: prometheus_client is not installed; run: pip install prometheus-client"
            ) from None
        registry = CollectorRegistry()
        registry.register(_Collector(families))
        try:
            self._server = (_Server6 if ":" in host else _Server)((host, port), _Quiet)
        except OSError as error:
            raise ConfigError(f"metrics: cannot listen on {address}: {error.strerror}") from None
        self._server.set_app(make_wsgi_app(registry))
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL,), name="relocate-metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def forked(self) -> None:
        """In a forked child: they are the parent's."""
        self._server.server_close()


class _Collector:
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()


def of_program(sample: dict[str, Any]) -> Iterable[Metric]:
    """The metrics of a program, from what `verbs.sample` gives."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    counts = sample["counts"]
    calls = CounterMetricFamily("relocate_calls", "Calls that have ended, by their outcome.", labels=["outcome"])
    for outcome in ("returned", "raised", "failed"):
        calls.add_metric([outcome], counts[outcome])
    yield calls
    for name, text, key in (
        ("relocate_retries", "Attempts beyond a call's first.", "retried"),
        ("relocate_hedges", "Second attempts of calls that took long.", "hedged"),
        ("relocate_reroutes", "Calls that ended elsewhere than where they were sent first.", "rerouted"),
        ("relocate_sent_bytes", "Bytes sent to executors.", "bytes_out"),
        ("relocate_received_bytes", "Bytes received from executors.", "bytes_in"),
    ):
        yield CounterMetricFamily(name, text, value=counts[key])
    seconds = HistogramMetricFamily("relocate_call_seconds", "How long calls took, by module.", labels=["module"])
    for module, buckets in counts["modules"].items():
        seconds.add_metric([module], cumulated(buckets), counts["seconds"][module])
    yield seconds
    done = CounterMetricFamily("relocate_executor_calls", "Calls that ended on an executor.", labels=["executor"])
    deaths = CounterMetricFamily("relocate_executor_deaths", "Executors that died.", labels=["executor"])
    for label, (ended, died) in counts["executors"].items():
        done.add_metric([label], ended)
        deaths.add_metric([label], died)
    yield done
    yield deaths
    up = GaugeMetricFamily("relocate_worker_up", "Whether a worker is up.", labels=["worker"])
    executors = GaugeMetricFamily("relocate_worker_executors", "Executors that it has.", labels=["worker"])
    running = GaugeMetricFamily("relocate_worker_running", "This program's calls on it now.", labels=["worker"])
    for worker in sample["workers"]:
        for family, value in (
            (up, worker["state"] == "up"), (executors, worker["executors"]), (running, worker["outstanding"]),
        ):  # fmt: skip
            family.add_metric([worker["name"]], value)
    yield from (up, executors, running)
    yield GaugeMetricFamily("relocate_queue", "Calls that stand in line for an executor.", value=sample["queue"])


def cumulated(buckets: dict[str, int]) -> list[tuple[str, float]]:
    """A histogram as Prometheus wants it, with one step for each doubling of time."""
    found: list[tuple[str, float]] = []
    total = 0
    for index in range(BUCKETS):
        total += buckets.get(str(index), 0)
        if index % STEPS == STEPS - 1 and index < BUCKETS - 1:
            found.append((repr(limit(index)), total))
    return [*found, ("+Inf", total)]


def of_worker(
    *, executors: int, ready: int, running: int, clients: int, draining: bool, calls: int, deaths: dict[str, int]
) -> Iterable[Metric]:
    """The metrics of a worker, see `worker`."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, text, value in (
        ("relocate_worker_executors", "Executors that the worker is to have.", executors),
        ("relocate_worker_ready", "Executors that are ready for calls, or run one.", ready),
        ("relocate_worker_running", "Executors that run a call.", running),
        ("relocate_worker_clients", "Programs that were connected when they were last told something.", clients),
        ("relocate_worker_draining", "Whether it is shutting down.", draining),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    yield CounterMetricFamily("relocate_worker_calls", "Calls that its executors have ended.", value=calls)
    died = CounterMetricFamily("relocate_worker_deaths", "Executors that ended unasked, by how.", labels=["end"])
    for end, count in sorted(deaths.items()):
        died.add_metric([end], count)
    yield died
