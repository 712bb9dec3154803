"""A TCP relay that can be cut, slowed and silenced: what stands between a client and a worker.

It runs as a process of its own, so that a test that holds the interpreter does not hold up the
network too.  Standard input takes commands, one a line, as JSON; each is answered by a line; the
end of standard input is the end of the relay.

* ``{"cut": true}``: what is connected falls silent, as when a cable is pulled: nothing is lost, as
  TCP would send it again, but nothing arrives.  Who connects anew is refused.
* ``{"delay": 0.05, "rate": 1000000}``: each way takes so many seconds more, and carries at most so
  many bytes a second; a rate of 0 is no limit.
* ``{"listen": false}``: who connects is refused; what is connected is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from typing import Any

CHUNK = 1 << 16
BUFFER = 1 << 16
"""Bytes that the kernel keeps for the relay: more would hide a slow line from the sender for long."""
IN_FLIGHT = 1024
"""Chunks that are under way in one direction, at most, while they are delayed."""


class Relay:
    """Passes on what comes to ``listen``'s host, on each of the ports, to the same port of ``to``.

    Args:
        listen: numeric address to listen on.
        to: numeric address to connect to.
        ports: on both.
    """

    def __init__(self, listen: str, to: str, ports: list[int]) -> None:
        self.listen = listen
        self.to = to
        self.ports = ports
        self._servers: list[asyncio.Server] = []
        self._joined = asyncio.Event()
        self._joined.set()
        self._listening = False
        self._delay = 0.0
        self._rate = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def obey(self, command: dict[str, Any]) -> None:
        """Carry out one command.

        Raises:
            OSError: a port is taken.
        """
        self._delay = command.get("delay", self._delay)
        self._rate = command.get("rate", self._rate)
        if "cut" in command:
            (self._joined.clear if command["cut"] else self._joined.set)()
        self._listening = command.get("listen", self._listening)
        if not (self._listening and self._joined.is_set()):
            for server in self._servers:
                server.close()
            self._servers.clear()
        elif not self._servers:
            for port in self.ports:
                self._servers.append(await asyncio.start_server(self._connected, sock=self._socket(port)))

    def _socket(self, port: int) -> socket.socket:
        made = socket.socket(proto=socket.IPPROTO_TCP)  # else asyncio lets small messages wait for others
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        try:
            made.bind((self.listen, port))
        except OSError:
            made.close()
            raise
        return made

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        try:
            reader_there, writer_there = await asyncio.open_connection(self.to, port)
        except OSError:
            writer.close()
            return
        for ways in ((reader, writer_there), (reader_there, writer)):
            task = asyncio.create_task(self._pass_on(*ways))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way of a connection, to its end."""
        clock = asyncio.get_running_loop().time
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)
        delivery = asyncio.create_task(self._deliver(line, writer))
        free = clock()  # when the line can take the next byte
        data = b"-"
        while data:
            try:
                data = await reader.read(CHUNK)
            except OSError:
                data = b""
            free = max(free, clock())
            if self._rate:
                free += len(data) / self._rate
            await line.put((free + self._delay, data))
            await asyncio.sleep(free - clock())
        await delivery

    async def _deliver(self, line: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        data = b"-"
        while data:
            due, data = await line.get()
            if due > clock():
                await asyncio.sleep(due - clock())
            await self._joined.wait()
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()
        writer.close()


async def serve(listen: str, to: str, ports: list[int]) -> None:
    """Obey standard input until it ends."""
    relay = Relay(listen, to, ports)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        try:
            await relay.obey(json.loads(line))
        except OSError as error:
            print(json.dumps(str(error)), flush=True)
        else:
            print("null", flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], [int(port) for port in sys.argv[3:]]))
