# SPDX-License-Identifier: Apache-2.0
"""One UDP socket on the running event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

Address = tuple[str, int]
"""IPv4 address and port."""

BATCH = 64
"""Datagrams read in one turn of the loop: enough to keep up, few enough to let timers run."""
RECEIVE_BUFFER = 4 << 20
"""Octets asked of the kernel (it may grant fewer): a second of calls while the loop is busy elsewhere."""


class UdpSocket:
    """A bound UDP socket that hands each datagram and its source to *receive*.

    :raises OSError: the address is in use or not of this machine.
    """

    def __init__(self, address: Address, receive: Callable[[bytes, Address], None]) -> None:
        self.closed = False
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise
        self.address: Address = self._socket.getsockname()
        """The address it stands on; the port is the kernel's choice when 0 was asked for."""
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def send(self, data: bytes, address: Address) -> bool:
        """Send one datagram; False when the kernel would not take it: as good as lost on the way."""
        if self.closed:
            return False
        try:
            self._socket.sendto(data, address)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give the address back at once; datagrams that come after are refused by the kernel (ICMP)."""
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _readable(self) -> None:
        for _ in range(BATCH):
            if self.closed:
                return
            try:
                data, source = self._socket.recvfrom(65535)
            except OSError:
                return
            self._receive(data, source)
