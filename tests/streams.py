# SPDX-License-Identifier: Apache-2.0
"""Calls of which one side is a connection: the carrier calls over one, or a server is reached over one."""

from __future__ import annotations

from plain_sip import Packet, Request
from wire import Wire, carrier, platform, server

UDP, TCP = 0, 1
LISTEN = ["udp:127.0.0.1:5060", "tcp:127.0.0.1:5060"]
STREAM = 7
HOST = ("127.0.1.1", 5090)
CALLER = (HOST[0], 40000)
"""The carrier's SBC calls over a connection from a port that nobody could foresee."""


def tcp_server(index: int, **more: object) -> dict[str, object]:
    """Telephony server number *index*, reached over TCP."""
    return server(index, uri=f"sip:127.0.3.{index + 1}:5060;transport=tcp", **more)


def from_connections() -> Wire:
    """A carrier that calls over TCP, a server that speaks UDP."""
    return Wire(platform(carriers=[carrier(address=HOST)], listen=LISTEN))


def to_connections() -> Wire:
    """A carrier that calls by datagram, a server reached over TCP."""
    return Wire(platform([tcp_server(0)], listen=LISTEN))


def over_tcp(wire: Wire, method: str = "INVITE", **parts: object) -> Request:
    """A request of the carrier as it is written for a connection; not sent yet."""
    contact = ("Contact", f"<sip:caller@{HOST[0]}:5090;transport=tcp>")
    headers = [contact, *parts.pop("headers", ())]
    request = wire.request(method, **{"source": HOST, **parts})
    request.headers = headers
    request.via = [value.replace("/UDP", "/TCP") for value in request.via]
    return request


def incoming(wire: Wire, **parts: object) -> tuple[Request, Packet]:
    """A call over connection 7, and the INVITE as the server got it."""
    invite = over_tcp(wire, **parts)
    wire.agent(*CALLER).send(invite, TCP, STREAM)
    return invite, wire.holder().requests("INVITE")[-1]


def outward(wire: Wire, **parts: object) -> tuple[Request, Packet]:
    """A call by datagram from the SBC, and the INVITE as it goes over a connection."""
    invite = wire.request("INVITE", **parts)
    wire.sbc.send(invite)
    return invite, wire.tel().requests("INVITE")[-1]


def way(packet: Packet) -> tuple[tuple[str, int], int, int]:
    """Where a message went: address, listener, stream."""
    return packet.address, packet.listener, packet.stream
