# SPDX-License-Identifier: Apache-2.0
"""One question by one datagram: sent again once when half of the time is over, answered by what *accept* takes.

The socket is connected, so that a refused port (ICMP) is heard at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

MAX_DATAGRAM = 65_535

Accept = Callable[[bytes], bool]


async def connected(host: str, port: int) -> socket.socket:
    """A UDP socket that speaks with *host* only.

    :raises OSError: the name does not resolve, or there is no way there.
    """
    loop = asyncio.get_running_loop()
    family, kind, protocol, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM))[0]
    one = socket.socket(family, kind, protocol)
    try:
        one.setblocking(False)
        one.connect(address)  # a datagram socket is connected without waiting
    except OSError:
        one.close()
        raise
    return one


async def exchange(one: socket.socket, datagram: bytes, accept: Accept, timeout: float) -> bytes:
    """The first datagram back that *accept* takes.

    :raises OSError: refused and the like; TimeoutError after *timeout* seconds.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout / 2):
            return await _asked(one, datagram, accept)
    async with asyncio.timeout(timeout / 2):
        return await _asked(one, datagram, accept)


async def _asked(one: socket.socket, datagram: bytes, accept: Accept) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(one, datagram)
    while True:
        answer = await loop.sock_recv(one, MAX_DATAGRAM)
        if accept(answer):
            return answer
