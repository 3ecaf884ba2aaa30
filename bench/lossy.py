# SPDX-License-Identifier: Apache-2.0
"""A wire that loses datagrams: a UDP relay between two peers, in a thread of its own."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import cast

Address = tuple[str, int]


class Wire(asyncio.DatagramProtocol):
    """Stands at one address between *left* and *right*; what one sends there reaches the other, or is lost."""

    def __init__(self, left: Address, right: Address, loss: float, chance: random.Random) -> None:
        self.across: Mapping[Address, Address] = {left: right, right: left}
        self.loss = loss
        self.chance = chance

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, source: Address) -> None:
        target = self.across.get(source)
        if target is not None and self.chance.random() >= self.loss:
            self.transport.sendto(data, target)


class LossyNetwork:
    """Wires that each lose the share *loss* of the datagrams in either direction, the same ones for the same *seed*."""

    def __init__(self, wires: Sequence[tuple[Address, Address, Address]], loss: float, seed: int = 1) -> None:
        """*wires* are (address of the wire, left, right)."""
        self._wires = wires
        self._loss = loss
        self._chance = random.Random(seed)
        self._transports: list[asyncio.DatagramTransport] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lossy network", daemon=True)

    def __enter__(self) -> LossyNetwork:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    async def _open(self) -> None:
        for here, left, right in self._wires:
            wire = partial(Wire, left, right, self._loss, self._chance)
            transport, _ = await self._loop.create_datagram_endpoint(wire, local_addr=here)
            self._transports.append(transport)

    async def _close(self) -> None:
        for transport in self._transports:
            transport.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
