# SPDX-License-Identifier: Apache-2.0
"""A UDP link between two addresses that drops, duplicates, delays and reorders, repeatably."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass

from ubisip.lab.udp import Address, UdpSocket

LATE = 0.02
"""Seconds by which a reordered datagram is held back: long enough for the next ones to pass."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What may happen to each datagram; the shares lie between 0 and 1."""

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: tuple[float, float] = (0.0, 0.0)
    """Shortest and longest, in seconds."""


class ChaosLink:
    """Stands between *left* and *right*: what left sends to *left_face* reaches right from *right_face*, and back.

    Each side must advertise the face that the other side sees: left *right_face*, right *left_face*.
    The fate of the n-th datagram of a direction depends on the *seed* alone.
    """

    def __init__(
        self, left: Address, left_face: Address, right_face: Address, right: Address, weather: Weather, seed: int = 0
    ) -> None:
        self.weather = weather
        self.counts: Counter[str] = Counter()
        """``passed``, ``dropped``, ``duplicated`` and ``reordered`` datagrams."""
        self._ends = (left, left_face, right_face, right)
        self._fates = (random.Random(f"{seed} right"), random.Random(f"{seed} left"))
        self._sockets: list[UdpSocket] = []

    def open(self) -> None:
        """Bind both faces.

        :raises OSError: an address is in use.
        """
        _, left_face, right_face, _ = self._ends
        self._sockets.append(UdpSocket(left_face, lambda data, _: self.carry(data, to_right=True)))
        self._sockets.append(UdpSocket(right_face, lambda data, _: self.carry(data, to_right=False)))

    def close(self) -> None:
        """Cut the link; what is on its way is dropped."""
        for face in self._sockets:
            face.close()
        self._sockets.clear()

    def carry(self, data: bytes, *, to_right: bool) -> None:
        """Let one datagram meet its fate on the way to *right* (or to *left*)."""
        weather, fate = self.weather, self._fates[not to_right]
        drop, duplicate, reorder, delay = fate.random(), fate.random(), fate.random(), fate.uniform(*weather.delay)
        if drop < weather.drop:
            self.counts["dropped"] += 1
            return
        self.counts["passed"] += 1
        if reorder < weather.reorder:
            self.counts["reordered"] += 1
            delay += LATE
        self._send(data, to_right, delay)
        if duplicate < weather.duplicate:
            self.counts["duplicated"] += 1
            self._send(data, to_right, delay)

    def _send(self, data: bytes, to_right: bool, delay: float) -> None:
        if delay:
            asyncio.get_running_loop().call_later(delay, self._deliver, data, to_right)
        else:
            self._deliver(data, to_right)

    def _deliver(self, data: bytes, to_right: bool) -> None:
        if self._sockets:
            self._sockets[to_right].send(data, self._ends[3 if to_right else 0])
