# SPDX-License-Identifier: Apache-2.0
"""The gateways that a user agent sends its calls through, and which of them do not answer (RFC 3263 section 4.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ubisip.lab.udp import Address

REST = 5.0
"""Seconds for which a gateway that did not answer is left alone."""


class NextHops:
    """Round robin over *first*, then over *second* when none of *first* answers.

    A gateway that did not answer rests; then one call tries it, and the others follow if it is heard.
    """

    def __init__(self, first: Sequence[Address], second: Sequence[Address] = (), rest: float = REST) -> None:
        self._tiers = (list(first), list(second))
        self._rest = rest
        self._silent: dict[Address, float] = {}
        self._turn = 0

    def order(self, now: float) -> list[Address]:
        """Every gateway, the one whose turn it is first, those that rest last."""
        self._turn += 1
        ready: list[Address] = []
        resting: list[Address] = []
        for hop in self._rotated():
            until = self._silent.get(hop, 0.0)
            if until > now:
                resting.append(hop)
                continue
            if until and not ready:
                self._silent[hop] = now + self._rest  # this call alone tries it
            ready.append(hop)
        return ready + resting

    def others(self, hop: Address, now: float) -> list[Address]:
        """*hop*, then every other gateway: for a request inside a dialog whose Route names *hop*."""
        return [hop, *(other for other in self.order(now) if other != hop)]

    def silent(self, hop: Address, now: float) -> None:
        """*hop* did not answer."""
        self._silent[hop] = now + self._rest

    def heard(self, hop: Address) -> None:
        """*hop* answered."""
        self._silent.pop(hop, None)

    def _rotated(self) -> Iterator[Address]:
        for tier in self._tiers:
            for position in range(len(tier)):
                yield tier[(position + self._turn) % len(tier)]
