"""Fakes for tests of what relocate does to a program: no sockets, processes, threads or sleeping.

The pure part of relocate (proxies, name space, policy, driver, sessions, frames) runs as it is; the
network, the workers and time are simulated, and fail when a test says so::

    from relocate import testing

    clock = testing.Clock()
    network = testing.Network(clock)
    shop = testing.module("shop", "def price(n): return n * 3")
    desk = network.worker("desk", modules=[shop])
    program = testing.Program(network, ["desk"])
    shop = program.load("shop")
    desk.next(testing.Kill())
    assert shop.price(2) == 6
    assert program.statistics().retried == 1

`relocate.testing.workers` has real processes instead, and `relocate.testing.hosts` another host, where a
test is about those.

`Clock`, `Turn`: virtual time.  `Network`, `Worker`, `Executor`: who can run calls, and the link to
them.  `Kill`, `CutOff`, `Delay`, `Refuse`, `Drain`, `Garble`: faults.  `Program`: the caller's side.
"""

from __future__ import annotations

from .clock import Clock, Stuck, Turn
from .faults import CutOff, Delay, Drain, Fault, Garble, Kill, Refuse
from .network import Channel, Executor, Network, Worker, module
from .program import Program

__all__ = [
    "Channel",
    "Clock",
    "CutOff",
    "Delay",
    "Drain",
    "Executor",
    "Fault",
    "Garble",
    "Kill",
    "Network",
    "Program",
    "Refuse",
    "Stuck",
    "Turn",
    "Worker",
    "module",
]
