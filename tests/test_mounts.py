"""The name space of a running program: links that come and go, calls that go elsewhere, none lost or doubled."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import textwrap
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import until

import relocate
from relocate import places, testing
from relocate.errors import ConfigError, NoWorkerLeft
from relocate.testing import Clock, Network, Program
from relocate.testing.workers import Workers, alive

MOVING = '''
    """A module that is moved about."""

    import os
    import time

    def where():
        return os.getpid()

    def other():
        return os.getpid()

    def note(path, number):
        """Leave a line in a file, at once, and say who did."""
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{number}\\n".encode())
        os.close(file)
        return number * 2, os.getpid()

    def wait_for(path):
        while not os.path.exists(path):
            time.sleep(0.002)
        return os.getpid()

    def numbers(n):
        for i in range(n):
            yield i, os.getpid()
'''


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers() as started:
        yield started


@pytest.fixture
def moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the module `moving` and the package `pack`, on the path of this process and of workers."""
    text = textwrap.dedent(MOVING).lstrip("\n")
    (tmp_path / "moving.py").write_text(text, "utf-8")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("", "utf-8")
    (tmp_path / "pack" / "part.py").write_text(text, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("moving", "pack.part", "pack"):
        sys.modules.pop(name, None)


def load(name: str) -> Any:
    return importlib.import_module(name)


# With real workers ---------------------------------------------------------------------------------


def test_a_worker_that_is_mounted_while_the_program_runs_takes_what_is_bound_to_it(
    workers: Workers, moving: None
) -> None:
    desk, attic = workers.start(), workers.start()
    handle = workers.enable(modules=["moving", "pack"], workers=desk.url)
    module, part = load("moving"), load("pack.part")
    here, there, above = os.getpid(), desk.executor_pids()[0], attic.executor_pids()[0]
    assert (module.where(), part.where()) == (there, there)
    space = handle.namespace
    space.mount(attic.url, "attic")
    space.bind("/n/attic/chan/pack", "/chan/pack")
    assert (module.where(), part.where(), part.other()) == (there, above, above)
    space.bind("/n/local/chan/pack/part", "/chan/pack/part")
    assert (module.where(), part.where(), part.other()) == (there, here, here)
    space.bind("/n/attic/chan/pack/part/other", "/chan/pack/part/other")
    assert (module.where(), part.where(), part.other()) == (there, here, above)
    space.unmount("/chan/pack/part")
    assert part.where() == above
    space.bind("/n/attic/chan", "/chan")
    space.unmount("/n/" + handle.workers()[0]["name"])
    assert module.where() == above
    assert [w["name"] for w in handle.workers()] == ["attic"]


def test_an_unmounted_worker_finishes_what_it_runs_and_is_let_go(
    workers: Workers, moving: None, tmp_path: Path
) -> None:
    desk, attic = workers.start(), workers.start()
    handle = workers.enable(modules=["moving"], workers=f"{desk.url};{attic.url}", fallback=False)
    module = load("moving")
    there, above = desk.executor_pids()[0], attic.executor_pids()[0]
    answers: list[int] = []
    running = threading.Thread(target=lambda: answers.append(module.wait_for(tmp_path / "go")))
    running.start()
    (link,) = (k for k in handle._fleet.links if k.url == desk.url)
    until(lambda: link.seats and link.seats[0].outstanding, "the call that waits")
    handle.namespace.unmount(f"/n/{link.name}")
    assert module.where() == above
    assert link.connection is not None
    assert link.connection.socket is not None
    (tmp_path / "go").touch()
    running.join()
    assert answers == [there]
    until(lambda: link.connection.socket is None, "the end of the link")
    assert handle._fleet.driver.links is not None
    until(lambda: link not in handle._fleet.driver.links.links, "its being forgotten")


def test_executors_of_this_program_can_be_mounted_and_unmounted(workers: Workers, moving: None) -> None:
    desk = workers.start()
    handle = workers.enable(modules=["moving"], workers=desk.url)
    module = load("moving")
    module.where()
    handle.namespace.mount("local:2")
    handle.namespace.bind("/n/embedded/chan", "/chan")
    pid = module.where()
    assert pid not in (os.getpid(), *desk.executor_pids())
    handle.namespace.bind("/n/local/chan", "/chan")
    handle.namespace.unmount("/n/embedded")
    until(lambda: not alive(pid), "the end of the executors that were unmounted")
    assert module.where() == os.getpid()


def test_a_module_that_is_here_at_first_can_be_moved_away(workers: Workers, moving: None) -> None:
    desk = workers.start()
    handle = workers.enable(modules=["moving"], workers=desk.url)
    handle.namespace.bind("/n/local/chan", "/chan")
    module = load("moving")
    assert module.where() == os.getpid()
    (name,) = (w["name"] for w in handle.workers())
    handle.namespace.bind(f"/n/{name}/chan/moving", "/chan/moving")
    assert module.where() == desk.executor_pids()[0]


def test_a_stream_under_way_goes_on_when_its_name_leads_elsewhere(workers: Workers, moving: None) -> None:
    desk, attic = workers.start(), workers.start()
    handle = workers.enable(modules=["moving"], workers=desk.url)
    module = load("moving")
    stream = module.numbers(10_000)
    seen = [next(stream)]
    handle.namespace.mount(attic.url, "attic")
    handle.namespace.bind("/n/attic/chan", "/chan")
    seen += [next(stream) for _ in range(100)]
    assert {pid for _, pid in seen} == {*desk.executor_pids()}
    assert module.where() == attic.executor_pids()[0]
    handle.namespace.unmount("/chan")
    seen += [next(stream) for _ in range(300)]
    assert {pid for _, pid in seen} == {*desk.executor_pids()}
    handle.namespace.bind("/n/attic/chan", "/chan")
    handle.namespace.unmount("/n/" + handle.workers()[0]["name"])
    seen += stream
    assert [n for n, _ in seen] == list(range(10_000))
    assert seen[-1][1] == attic.executor_pids()[0]


def test_a_module_moves_under_load_and_no_call_fails_or_is_doubled(
    workers: Workers, moving: None, tmp_path: Path
) -> None:
    """Local, remote, another remote, local again, called by eight threads all the while."""
    desk, attic = workers.start(2), workers.start(2)
    handle = workers.enable(modules=["moving"], workers=desk.url, fallback=False)
    space = handle.namespace
    space.bind("/n/local/chan", "/chan")
    module = load("moving")
    space.mount(attic.url, "attic")
    desk_name = handle.workers(timeout=10)[0]["name"]
    places = {
        "local": {os.getpid()},
        desk_name: set(desk.executor_pids()),
        "attic": set(attic.executor_pids()),
    }
    log = tmp_path / "calls"
    numbers = itertools.count()
    asked: list[list[int]] = [[] for _ in range(8)]
    wrong: list[object] = []
    moves: list[set[int]] = [places["local"]]
    rebinding, ended = threading.Event(), threading.Event()
    made = threading.Semaphore(0)

    def load_it(mine: list[int]) -> None:
        try:
            while not ended.is_set():
                number, before = next(numbers), len(moves)
                answer, pid = module.note(str(log), number)
                mine.append(number)
                undisturbed = not rebinding.is_set() and len(moves) == before
                if answer != 2 * number or (undisturbed and pid not in moves[-1]):
                    wrong.append((number, answer, pid))
                made.release()
        except BaseException as error:
            wrong.append(error)
            made.release()

    threads = [threading.Thread(target=load_it, args=(mine,)) for mine in asked]
    for thread in threads:
        thread.start()
    for _ in range(3):
        for name in (desk_name, "attic", "local"):
            for _ in range(100):
                assert made.acquire(timeout=30), wrong
            rebinding.set()
            space.bind(f"/n/{name}/chan/moving", "/chan/moving")
            moves.append(places[name])
            rebinding.clear()
    ended.set()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    lines = [int(line) for line in log.read_text("utf-8").split()]
    assert sorted(set(lines)) == sorted(n for mine in asked for n in mine)
    found = handle.statistics()
    assert (found.calls, found.returned, found.failed) == (len(set(lines)), len(set(lines)), 0)
    # On a machine that is busy some take long enough for a second attempt beside the first.
    assert len(lines) - len(set(lines)) <= found.hedged


def test_after_a_bind_has_returned_no_new_call_goes_to_the_old_place(workers: Workers, moving: None) -> None:
    desk, attic = workers.start(), workers.start()
    handle = workers.enable(modules=["moving"], workers=desk.url)
    handle.namespace.mount(attic.url, "attic")
    names = [w["name"] for w in handle.workers(timeout=10)]
    pids = [desk.executor_pids()[0], attic.executor_pids()[0]]
    module = load("moving")
    for turn in range(200):
        handle.namespace.bind(f"/n/{names[turn % 2]}/chan", "/chan")
        assert module.where() == pids[turn % 2]


def test_a_mistaken_mount_says_what_to_write_and_changes_nothing(workers: Workers) -> None:
    desk = workers.start()
    space = workers.enable(modules=["moving"], workers=desk.url).namespace
    before = space.snapshot
    for url, name, says in (
        ("desk:7000", "", "not a worker's address; write tcp://host:port"),
        ("tcp://a:1,tcp://b:2", "", "mount one at a time"),
        ("tcp://a:1", "a/b", "use a word without slashes"),
        ("tcp://a:1", "local", "/n/local is local already; unmount that first, or choose another name"),
    ):
        with pytest.raises(ConfigError, match=says):
            space.mount(url, name)
    assert space.snapshot is before


def test_two_sockets_of_one_name_get_two_names() -> None:
    handle = relocate.Handle(relocate.config.load({"workers": "ipc:///tmp/a/w.sock,ipc:///tmp/b/w.sock"}))
    assert handle.namespace.snapshot.mounts == {
        "w.sock": "ipc:///tmp/a/w.sock",
        "w.sock-2": "ipc:///tmp/b/w.sock",
        "local": "local",
    }


def test_two_registries_of_one_name_get_two_names() -> None:
    workers = (
        "registry+ipc:///tmp/a/names; registry+ipc:///tmp/b/names; registry+tcp://desk:1; registry+tcp://desk:1?a=b"
    )
    handle = relocate.Handle(relocate.config.load({"workers": workers}))
    names = ["registry@names", "registry@names-2", "registry@desk:1", "registry@desk:1-2", "local"]
    assert list(handle.namespace.snapshot.mounts) == names


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("ipc:///tmp/my desk", "my-desk"),
        ("ipc:////", "worker"),
        ("ipc:///tmp/..", "worker"),
        ("ipc:///tmp/a?b#c", "a?b#c"),
        ("tcp://[::1]:7", "[::1]:7"),
    ],
)
def test_every_address_has_a_name(url: str, name: str) -> None:
    assert places.place_name(url) == name


# Simulated -----------------------------------------------------------------------------------------


def shop() -> types.ModuleType:
    return testing.module("shop", "def price(n): return n * 3")


def test_a_call_that_waits_in_line_is_decided_anew_when_its_name_is_bound_elsewhere() -> None:
    clock = Clock()
    network = Network(clock)
    network.worker("desk", modules=[shop()], up=False)
    attic = network.worker("attic", modules=[shop()])
    program = Program(network, ["attic"])
    module = program.load("shop")
    program.namespace.mount("tcp://desk:7000", "desk")
    program.namespace.bind("/n/desk/chan", "/chan")

    clock.after(5.0, lambda: program.namespace.bind("/n/attic/chan", "/chan"))
    assert module.price(2) == 6
    assert clock.now() == pytest.approx(5.0, abs=0.1)
    assert attic.calls == ["shop.price"]


def test_so_is_a_stream_that_waits_for_its_first_piece() -> None:
    clock = Clock()
    network = Network(clock)
    source = testing.module("shop", "def count(n): yield from range(n)")
    network.worker("desk", modules=[source], up=False)
    attic = network.worker("attic", modules=[source])
    program = Program(network, ["attic"])
    module = program.load("shop")
    program.namespace.mount("tcp://desk:7000", "desk")
    program.namespace.bind("/n/desk/chan", "/chan")
    clock.after(5.0, lambda: program.namespace.bind("/n/attic/chan", "/chan"))
    stream = module.count(100)
    assert next(stream) == 0
    program.namespace.bind("/n/desk/chan", "/chan")
    assert list(stream) == list(range(1, 100))
    assert clock.now() == pytest.approx(5.0, abs=0.1)
    assert set(attic.calls) == {"shop.count"}


def test_a_call_that_waits_for_a_place_that_is_unmounted_says_that_nothing_is_bound() -> None:
    clock = Clock()
    network = Network(clock)
    network.worker("desk", modules=[shop()], up=False)
    network.worker("attic", modules=[shop()])
    program = Program(network, ["attic"])
    module = program.load("shop")
    program.namespace.mount("tcp://desk:7000", "desk")
    program.namespace.bind("/n/desk/chan", "/chan")
    clock.after(5.0, lambda: program.namespace.unmount("/n/desk"))
    with pytest.raises(NoWorkerLeft, match="nothing is bound at /chan/shop/price"):
        module.price(2)
    assert clock.now() == pytest.approx(5.0, abs=0.1)
