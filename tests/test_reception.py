"""What an executor takes in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import zmq
from conftest import until

from relocate import reception, session, wire

TICKET = bytes(range(32))


@pytest.fixture
def desk() -> Iterator[reception.Reception]:
    ear, mouth = os.pipe()
    made = reception.Reception("tcp://127.0.0.1:*", TICKET, 1.0, b"", trusting=False, opened=lambda _: None)
    made.listen(ear)
    yield made
    made.close()
    os.close(ear)
    os.close(mouth)


def call(number: int) -> list[wire.Buffer]:
    return wire.pack(wire.Call(bytes([number]) * 16, "m", "f", bytes(32)), [b"x"])


@pytest.mark.parametrize("more", [[b"noise"], [b"noise", b""]], ids=["one frame", "two frames"])
def test_what_a_client_sends_beyond_the_end_of_a_message_costs_no_other_clients_call(
    desk: reception.Reception, more: list[bytes]
) -> None:
    def taken() -> list[int]:
        desk.take()
        return [message.call[0] for _, message, _ in desk.calls]

    with zmq.Context() as context, context.socket(zmq.DEALER) as one, context.socket(zmq.DEALER) as other:
        for client in (one, other):
            client.linger = 0
            client.connect(f"tcp://127.0.0.1:{desk.endpoint}")
            client.send_multipart(wire.pack(wire.Open(wire.PROTOCOL, session.PYTHON, TICKET)))
        for number, client in enumerate((one, other)):
            client.send_multipart(call(number))
        until(lambda: sorted(taken()) == [0, 1], "both clients")
        for number in range(2, 60, 2):  # that the two lie there together is a matter of chance
            one.send_multipart([*call(number), *more])
            other.send_multipart(call(number + 1))
        until(lambda: sorted(taken()) == list(range(60)), "all calls")
