# SPDX-License-Identifier: Apache-2.0
"""Probe ``tcp``: a connection can be made; on wish something is said, and what comes back holds what is expected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

from ubisip.address import split_address
from ubisip.health.asking import ask, failed, passed, short
from ubisip.health.probe import Finding, Target
from ubisip.parameters import read_parameters

MAX_BANNER = 8192
"""Octets that are read in search of what is expected."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class TcpParameters:
    """What is said and heard once connected."""

    send: str = ""
    """Text to send, such as ``"PING\\r\\n"``."""
    expect: str = ""
    """Text that must come back within the first 8 KiB; empty: to connect suffices."""


class TcpProbe:
    """A connection to ``host:port``."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(TcpParameters, parameters)

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target), timeout)

    async def _check(self, target: Target) -> Finding:
        async with connection(*split_address(target.address)) as (reader, writer):
            writer.write(self._parameters.send.encode())
            if not self._parameters.expect:
                return passed()
            banner = await _read_until(reader, self._parameters.expect.encode())
        facts = {"banner": short(banner.decode(errors="replace"))}
        if self._parameters.expect.encode() in banner:
            return passed(facts)
        return failed("tcp.answer", facts)

    async def close(self) -> None:
        """It keeps no connections."""


@asynccontextmanager
async def connection(
    host: str, port: int, ssl: SSLContext | None = None, name: str | None = None
) -> AsyncIterator[Stream]:
    """A stream that is thrown away afterwards, however its use ended; *name* is the one asked for by TLS.

    :raises OSError: it cannot be had.
    """
    reader, writer = await asyncio.open_connection(host, port, ssl=ssl, server_hostname=name, limit=MAX_BANNER)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _read_until(reader: asyncio.StreamReader, wanted: bytes) -> bytes:
    """What comes until *wanted* is in it, the stream ends, or it is too much."""
    heard = b""
    while wanted not in heard and len(heard) < MAX_BANNER:
        more = await reader.read(MAX_BANNER - len(heard))
        if not more:
            break
        heard += more
    return heard
