# SPDX-License-Identifier: Apache-2.0
"""The platform as frozen values: sites, carriers, gateways and telephony servers (DESIGN section 1).

Everything here is immutable; what changes (health, the operator's switch) lives beside it in
:class:`DestinationState` and reaches the core as a new snapshot.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network


class Kind(enum.Enum):
    """Which side of the gateway a peer stands on."""

    CARRIER = "carrier"
    SERVER = "server"


class Switch(enum.Enum):
    """The operator's wish for a destination; independent of its measured health (DESIGN section 7)."""

    READY = "ready"
    DRAIN = "drain"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A transport and the address it stands on, such as ``udp:127.0.0.1:5060``."""

    transport: str
    """``udp``, ``tcp``, ``tls``, ``ws`` or ``wss``."""
    host: str
    """An IPv4 or IPv6 address without brackets; in a destination's URI also a host name."""
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Source:
    """Who may send as a peer: a network, and a port when the peer is told apart by it."""

    network: IPv4Network | IPv6Network
    port: int | None = None
    """None: any port."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A carrier's SBC or a telephony server: a destination of calls and a source of them."""

    kind: Kind
    name: str
    site: str
    uri: str
    """As written in the file, such as ``sip:192.0.2.1:5060;transport=udp``."""
    endpoint: Endpoint
    """Where its requests go: the URI's host, port (5060 by default) and transport (udp by default)."""
    sources: Sequence[Source]
    centre: str = ""
    """The carrier centre an SBC belongs to; empty for a server."""
    weight: int = 100
    max_calls: int = 0
    """Calls at a time; 0: no limit."""
    max_cps: float = 0.0
    """New calls per second; 0: no limit."""
    listener: str = ""
    """The gateway listener it is reached from, as in ``listen``; empty: the first whose network and transport fit."""
    tcp: bool = False
    """It is reached over UDP, but over TCP by requests that are too large for a datagram."""


@dataclass(frozen=True, slots=True)
class GatewayNode:
    """One gateway of the platform, as the file describes it."""

    name: str
    site: str
    listen: Sequence[Endpoint]
    advertise: str = ""
    """``host`` or ``host:port`` put into Record-Route; empty: the listening address."""
    admin: Endpoint | None = None
    """Where HTTP is served (transport ``tcp``); None: nowhere."""
    agent_check: Endpoint | None = None
    """Where HAProxy's ``agent-check`` is answered (transport ``tcp``); None: nowhere."""
    admin_token_file: str = ""
    """File with the bearer token that lets ``admin`` answer beyond loopback; empty: loopback only."""


@dataclass(frozen=True, slots=True)
class DestinationState:
    """What is known of a destination at one moment: the part of a snapshot that changes by itself."""

    usable: bool = True
    """Health lets it take new calls (UNKNOWN, UP, FALLING, DEGRADED)."""
    ramp: float = 1.0
    """Factor on its weight: below 1 while it is degraded or ramped after recovery."""
    switch: Switch = Switch.READY
