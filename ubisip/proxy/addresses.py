# SPDX-License-Identifier: Apache-2.0
"""Addresses of the destinations whose URI holds a host name: looked up beside the calls, the last good one is kept."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable, Sequence

from ubisip.platform import Endpoint, Peer
from ubisip.proxy.logs import Brake

log = logging.getLogger(__name__)

REFRESH = 30.0
"""Seconds between look-ups: the resolver beneath keeps the records' own lifetimes."""
PATIENCE = 5.0
"""Seconds that one look-up may take."""


class Addresses:
    """The address of each named destination as last known; empty where every URI holds an address."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self._brake = Brake()

    async def refresh(self, peers: Iterable[Peer], listen: Sequence[Endpoint]) -> None:
        """Look up the names of *peers*, all at once; only addresses that a listener's family reaches are taken."""
        named = {peer.name: peer.endpoint for peer in peers if not is_address(peer.endpoint.host)}
        found = await asyncio.gather(*(self._look_up(one, _families(one, listen)) for one in named.values()))
        latest = dict(zip(named, found, strict=True))
        kept = {name: address or self.known.get(name) for name, address in latest.items()}
        self.known = {name: address for name, address in kept.items() if address}

    async def _look_up(self, endpoint: Endpoint, families: set[socket.AddressFamily]) -> str | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                rows = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
        except (OSError, TimeoutError, UnicodeError) as error:
            if self._brake.passes(endpoint.host) is not None:
                log.warning("no address for %s: %s", endpoint.host, str(error) or "the resolver did not answer")
            return None
        return next((str(row[4][0]) for row in rows if row[0] in families), None)


def _families(endpoint: Endpoint, listen: Sequence[Endpoint]) -> set[socket.AddressFamily]:
    """In which of them a listener reaches *endpoint*."""
    fitting = (one for one in listen if one.transport == endpoint.transport)
    return {socket.AF_INET6 if ":" in one.host else socket.AF_INET for one in fitting}


def is_address(host: str) -> bool:
    """*host* is an address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def origin_of(peer: Peer, address: str, listen: Sequence[Endpoint], advertise: str) -> tuple[str, str]:
    """``host:port`` and transport that a request to *peer* at *address* names in its Via, as the core does for calls.

    The listener that the peer names, else of its transport and the address's family the one that shares most leading
    octets with it.
    """
    target = ipaddress.ip_address(address).packed
    transport = peer.endpoint.transport
    fitting = [one for one in listen if one.transport == transport and len(_packed(one)) == len(target)]
    chosen = next((one for one in listen if str(one) == peer.listener), None)
    if chosen is None:
        chosen = max(fitting, key=lambda one: _shared(_packed(one), target), default=listen[0])
    if not any(_packed(chosen)):  # a wildcard
        with_port = advertise.rpartition(":")[2].isdigit()
        return (advertise if with_port else f"{advertise}:{chosen.port}"), chosen.transport
    host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    return f"{host}:{chosen.port}", chosen.transport


def _packed(endpoint: Endpoint) -> bytes:
    return ipaddress.ip_address(endpoint.host).packed


def _shared(one: bytes, other: bytes) -> int:
    """How many leading octets are the same."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
