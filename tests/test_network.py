"""Another host: a worker in a network namespace of the test's own, which is then cut off."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest
from conftest import Place, until

from relocate.testing.hosts import Host, possible


@pytest.fixture
def host() -> Iterator[Host]:
    """One other host."""
    if not possible():
        pytest.skip("needs root and Debian's iproute2, to make network namespaces")
    with Host() as made:
        yield made


CLIENT = """
import json, os, sys, threading, time, relocate
from concurrent.futures import ThreadPoolExecutor
far, near = {far!r}, {near!r}
handle = relocate.enable(modules=["work"], workers=f"{{far}};{{near}}", keys={keys!r}, fallback=False)
import work
work.echo(1)
first = dict(handle.statistics().workers)
def one(i):
    # 20 ms each; the cable is pulled while they run.
    began = time.monotonic()
    answer = work.wait(0.02, i)
    return answer, time.monotonic() - began
with ThreadPoolExecutor(4) as pool:
    done = [pool.submit(one, i) for i in range(300)]
    done[20].result()
    print("cut", flush=True)
    sys.stdin.readline()
    results = [f.result() for f in done]
seen = handle.statistics()
print(json.dumps({{
    "right": [r[0] for r in results] == list(range(300)),
    "slowest": max(r[1] for r in results),
    "first": list(first),
    "workers": {{k: v.calls for k, v in seen.workers.items()}},
    "calls": seen.calls, "local": seen.local, "retried": seen.retried,
}}))
"""


@pytest.mark.network
def test_a_worker_on_another_host_is_used_cut_off_and_the_calls_finish_elsewhere(place: Place, host: Host) -> None:
    folders = {}
    for name in ("far", "near", "client"):
        done = place.relocate("keys", "new", "--keys", str(place.folder / name))
        folders[name] = done.stdout.split()[0]
    for server in ("far", "near"):
        place.relocate("keys", "allow", folders["client"], "--keys", str(place.folder / server))
        place.relocate("keys", "allow", folders[server], "--keys", str(place.folder / "client"))
    far = place.worker(
        "--executors", "2", "--keys", str(place.folder / "far"), listen=f"tcp://{host.address}:0", prefix=host.inside
    )
    near = place.worker("--executors", "2", "--keys", str(place.folder / "near"))
    program = CLIENT.format(far=far.url, near=near.url, keys=str(place.folder / "client"))
    client = place.start(sys.executable, "-c", program, talk=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "cut\n", client.communicate()[1]
    host.cut()
    out, err = client.communicate("\n", timeout=60)
    assert client.returncode == 0, err
    seen = json.loads(out)
    print(seen)  # with -s: how long the slowest call took
    assert seen["right"]
    assert seen["calls"] == 301
    assert seen["local"] == 0
    assert all(name.startswith(host.address) for name in seen["first"])
    assert any(calls > 20 for name, calls in seen["workers"].items() if name.startswith("127.0.0.1"))
    assert any(calls > 0 for name, calls in seen["workers"].items() if name.startswith(host.address))
    assert seen["retried"] >= 1
    # A tenth of what a lost connection costs elsewhere; how long it really takes, a benchmark says.
    assert seen["slowest"] < 10, seen
    until(lambda: client.poll() is not None, "the end of the client")


@pytest.mark.network
def test_a_worker_on_another_host_announces_where_it_is_and_expires_when_it_is_cut_off(
    place: Place, host: Host
) -> None:
    place.relocate("keys", "new")
    registry = place.registry(listen=f"tcp://{host.here}:0")
    worker = place.worker("-n", "1", "--registry", registry.url, listen="tcp://0.0.0.0:0", prefix=host.inside)
    until(lambda: place.offers(registry), "the offer")
    port = worker.url.rpartition(":")[2]
    assert [offer["url"] for offer in place.offers(registry)] == [f"tcp://{host.address}:{port}"]
    program = f"""
import relocate
handle = relocate.enable(modules=["work"], workers="registry+{registry.url}", fallback=False)
import work
print(work.echo(1))
"""
    assert place.python("-c", program).stdout == "1\n"
    host.cut()
    until(lambda: not place.offers(registry), "the end of the lease")
