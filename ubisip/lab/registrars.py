# SPDX-License-Identifier: Apache-2.0
"""Telephony servers that only know who is registered: quick enough for storms, in a process of their own.

    python -m ubisip.lab.registrars 127.0.3.1:5060 127.0.3.2:5060

reads commands from its standard input, one a line, and answers each with a line of JSON:

    count            bindings that each server holds, by address
    kill ADDRESS     it forgets all, and its address is closed
    start ADDRESS    it is back, empty
    last             when each got the last binding that it did not hold, in seconds of the monotonic clock
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence

import uvloop

from ubisip.lab.udp import Address, UdpSocket

_KEPT = re.compile(rb"\r\n((?:Via|v|From|f|To|t|Call-ID|i|CSeq|Contact|m)\s*:[^\r]*)")
_CALL_ID = re.compile(rb"\r\n(?:Call-ID|i)\s*:\s*([^\r]*)")
_EXPIRES = re.compile(rb";expires=(\d+)")


class Registrar:
    """One server at *address*."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.bindings: set[bytes] = set()
        """Call-IDs: the gateway uses one for each binding."""
        self.last = 0.0
        """When the last new binding came, on the monotonic clock."""
        self._socket: UdpSocket | None = None

    def start(self) -> None:
        """Open the address.

        :raises OSError: it is in use.
        """
        self._socket = UdpSocket(self.address, self._receive)

    def kill(self) -> None:
        """Forget all and close."""
        self.bindings.clear()
        if self._socket:
            self._socket.close()

    def _receive(self, data: bytes, source: Address) -> None:
        if data.startswith(b"REGISTER "):
            self._note(data)
        elif not data.startswith(b"OPTIONS "):
            return
        assert self._socket
        lines = b"\r\n".join(_KEPT.findall(data))
        self._socket.send(b"SIP/2.0 200 OK\r\n" + lines + b"\r\nContent-Length: 0\r\n\r\n", source)

    def _note(self, data: bytes) -> None:
        call_id, expires = _CALL_ID.search(data), _EXPIRES.search(data)
        if call_id is None:
            return
        if expires and not int(expires[1]):
            self.bindings.discard(call_id[1])
        elif call_id[1] not in self.bindings:
            self.bindings.add(call_id[1])
            self.last = time.monotonic()


class Registrars:
    """Servers by address, and the commands for them."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._servers = {text: Registrar(_address(text)) for text in addresses}

    def start(self) -> None:
        """Open all.

        :raises OSError: an address is in use.
        """
        for server in self._servers.values():
            server.start()

    def obey(self, command: str) -> dict[str, float]:
        """What a command answers."""
        word, _, address = command.strip().partition(" ")
        if word == "kill":
            self._servers[address].kill()
        elif word == "start":
            self._servers[address].start()
        elif word == "last":
            return {text: server.last for text, server in self._servers.items()}
        return {text: len(server.bindings) for text, server in self._servers.items()}


def _address(text: str) -> Address:
    host, _, port = text.partition(":")
    return host, int(port)


async def _serve(addresses: Sequence[str]) -> None:
    servers = Registrars(addresses)
    servers.start()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    while line := await reader.readline():
        print(json.dumps(servers.obey(line.decode())), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1:]))
