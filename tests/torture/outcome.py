# SPDX-License-Identifier: Apache-2.0
"""What became of a message that a carrier sent: sent on, answered, or dropped."""

from __future__ import annotations

from dataclasses import dataclass

from plain_sip import Packet
from wire import Wire, carrier, platform

HOST = "127.0.1.1"
"""The carrier's SBC, known by its address whatever its port: torture messages name all kinds of ports."""
ROUTING_FAILURES = {404, 408, 480, 500, 502, 503, 504}


@dataclass(frozen=True)
class Outcome:
    """What the gateway sent because of one datagram."""

    forwarded: list[Packet]
    """Requests, wherever they went; retransmissions are not counted."""
    answers: list[Packet]
    """Final responses to the sender."""
    relayed: list[Packet]
    """Responses to anybody else."""

    @property
    def name(self) -> str:
        """``forward``, ``drop`` or the status of the answer."""
        if self.forwarded or self.relayed:
            return "forward"
        return str(self.answers[0].status) if self.answers else "drop"

    def is_one_of(self, allowed: list[str]) -> bool:
        """It is within the vocabulary of index.json."""
        return any(self._fits(word) for word in allowed)

    def _fits(self, word: str) -> bool:
        if word == "routing-failure":
            return self.name.isdigit() and int(self.name) in ROUTING_FAILURES
        if word == "4xx":
            return self.name.startswith("4")
        return word.split()[0] == self.name


def new_wire() -> Wire:
    """A gateway, a carrier at HOST, one telephony server."""
    wire = Wire(platform(carriers=[carrier(address=(HOST, 5090), sources=[HOST])]))
    wire.tel()
    return wire


def outcome(wire: Wire, data: bytes, port: int = 5060, seconds: float = 0.05) -> Outcome:
    """Send one datagram from the carrier and see what leaves the gateway."""
    before = len(wire.log)
    wire.agent(HOST, port).send(data)
    wire.run(seconds)
    sent = list({packet.data: packet for packet in wire.log[before:]}.values())
    responses = [packet for packet in sent if packet.is_response]
    return Outcome(
        forwarded=[packet for packet in sent if not packet.is_response],
        answers=[packet for packet in responses if packet.address[0] == HOST and packet.status >= 200],
        relayed=[packet for packet in responses if packet.address[0] != HOST],
    )


def still_works(wire: Wire) -> bool:
    """After whatever came, an ordinary request passes."""
    wire.tel().clear()
    wire.agent(HOST, 5090).send(wire.request("MESSAGE", source=(HOST, 5090), call_id="after-the-storm"))
    return any(packet.call_id == "after-the-storm" for packet in wire.tel().requests("MESSAGE"))
