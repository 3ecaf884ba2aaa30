# SPDX-License-Identifier: Apache-2.0
"""What the tests of probes share: a question, its answer in few words, and peers that misbehave."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from processes import PATIENCE, Child

from ubisip.health.machine import Verdict
from ubisip.health.probe import Finding, Probe, Target

PASS, WARN, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.INCONCLUSIVE
TIMEOUT = 5.0
"""Seconds for an answer that is sure to come: the machine is busy."""
SHORT = 0.4
"""Seconds for one that is sure not to come."""


def target(address: str, user: str = "", password: str = "", name: str = "one") -> Target:
    return Target("tier", name, "PA2", address, user, password)


async def ask(probe: Probe, address: str, user: str = "", password: str = "", timeout: float = TIMEOUT) -> Finding:
    """One question; what it finds is always well-formed."""
    finding = await probe.check(target(address, user, password), timeout)
    assert finding.sample.reason
    assert 0 <= finding.latency < timeout + 5
    assert finding.problem or finding.sample.verdict is not INCONCLUSIVE, "people are told what is inconclusive"
    return finding


def brief(finding: Finding) -> tuple[Verdict, str]:
    return finding.sample.verdict, finding.sample.reason


@asynccontextmanager
async def stream_server(port: int, says: bytes = b"", ends: bool = False) -> AsyncIterator[list[bytes]]:
    """A TCP server that says *says* and then ends, or is silent for ever; yields what it was told."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        while not ends and (data := await reader.read(1000)):
            heard.append(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield heard
    finally:
        server.close()


class Datagrams(asyncio.DatagramProtocol):
    """A UDP server that answers with what *answer* makes of a datagram; nothing for None."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.heard: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, where: Any) -> None:
        self.heard.append(data)
        said = self._answer(data)
        for one in said if isinstance(said, list) else [said] if said is not None else []:
            self._transport.sendto(one, where)


@asynccontextmanager
async def datagram_server(port: int, answer: Any) -> AsyncIterator[Datagrams]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Datagrams(answer), local_addr=("127.0.0.1", port)
    )
    try:
        yield protocol
    finally:
        transport.close()


@asynccontextmanager
async def frozen(child: Child) -> AsyncIterator[None]:
    """It is alive, and does nothing meanwhile."""
    child.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        child.signal(signal.SIGCONT)


async def until_brief(look: Callable[[], Awaitable[Finding]], wanted: tuple[Verdict, str]) -> None:
    """Wait until a probe says so."""
    deadline = time.monotonic() + PATIENCE
    while brief(found := await look()) != wanted:
        assert time.monotonic() < deadline, f"waited in vain for {wanted}, the last was {found}"
        await asyncio.sleep(0.02)
