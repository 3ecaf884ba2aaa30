# SPDX-License-Identifier: Apache-2.0
"""User agents that retransmit as RFC 3261 section 17 and 13.3.1.4 ask, for whole calls over a bad wire."""

from __future__ import annotations

from plain_sip import Packet, Request, response
from wire import UserAgent, Wire

T1, T2, LIMIT = 0.5, 4.0, 32.0


class Repeater:
    """Sends something at once and again, at intervals that double, until it is stopped or its time is over."""

    def __init__(self, agent: UserAgent, data: bytes, cap: float = LIMIT) -> None:
        self.agent, self.data, self.cap = agent, data, cap
        self.running = True
        self.expired = False
        self._end = agent.wire.now + LIMIT
        self._send(T1)

    def _send(self, interval: float) -> None:
        if not self.running:
            return
        if self.agent.wire.now >= self._end - 1e-6:
            self.running, self.expired = False, True
            return
        self.agent.send(self.data)
        rest = self._end - self.agent.wire.now
        self.agent.wire.at(min(interval, rest), lambda: self._send(min(2 * interval, self.cap)))

    def stop(self) -> None:
        self.running = False


class Caller:
    """Makes one call, holds it for a while and hangs up."""

    def __init__(self, wire: Wire, hold: float = 5.0, gives_up_after: float | None = None) -> None:
        self.wire, self.hold = wire, hold
        self.agent = wire.sbc
        self.invite = wire.request("INVITE")
        self.final: int = 0
        """Final status of the INVITE, 0 until there is one."""
        self.bye: int = 0
        """Final status of the BYE."""
        self.answers: set[str | None] = set()
        """To tags of the 2xx responses."""
        self._cancel: Repeater | None = None
        self._bye: Repeater | None = None
        self._provisional = False
        self._attempt = Repeater(self.agent, bytes(self.invite))
        if gives_up_after is not None:
            wire.at(gives_up_after, self._give_up)

    @property
    def timed_out(self) -> bool:
        """The INVITE, or the BYE, was never answered."""
        return self._attempt.expired or bool(self._bye and self._bye.expired)

    def take(self, packet: Packet) -> None:
        """A datagram of this call."""
        if not packet.is_response:
            return
        if packet.method == "INVITE":
            self._invite_answered(packet)
        elif packet.method == "CANCEL" and self._cancel:
            self._cancel.stop()
        elif packet.method == "BYE" and self._bye and packet.status >= 200:
            self._bye.stop()
            self.bye = packet.status

    def _invite_answered(self, packet: Packet) -> None:
        self._attempt.stop()
        self._provisional = True
        if packet.status < 200:
            return
        first = self.final == 0
        self.final = self.final or packet.status
        self._acknowledge(packet)
        if packet.status < 300:
            self.answers.add(packet.tag("To"))
            if first:
                self.wire.at(self.hold, lambda: self._hang_up(packet))

    def _within(self, method: str, packet: Packet, cseq: int, branch: str) -> Request:
        routes = [("Route", value) for value in reversed(packet.values("Record-Route"))]
        uri = packet.get("Contact").strip("<>")
        via = [f"SIP/2.0/UDP 127.0.0.1:5090;branch={branch}"]
        return Request(method, uri, via, packet.get("From"), packet.get("To"), packet.call_id, cseq, headers=routes)

    def _acknowledge(self, packet: Packet) -> None:
        if packet.status < 300:
            branch = f"z9hG4bK-ack-{packet.call_id}-{packet.tag('To')}"
            self.agent.send(self._within("ACK", packet, self.invite.cseq, branch))
            return
        invite = self.invite
        ack = Request("ACK", invite.uri, invite.via, invite.from_, packet.get("To"), invite.call_id, invite.cseq)
        self.agent.send(ack)

    def _hang_up(self, packet: Packet) -> None:
        request = self._within("BYE", packet, 2, f"z9hG4bK-bye-{packet.call_id}")
        self._bye = Repeater(self.agent, bytes(request), T2)

    def _give_up(self) -> None:
        if self.final or not self._provisional:
            return
        request = Request(
            "CANCEL", self.invite.uri, self.invite.via, self.invite.from_, self.invite.to, self.invite.call_id, 1
        )
        self._cancel = Repeater(self.agent, bytes(request), T2)


class Callee:
    """Rings, answers, and stops when it is told so."""

    def __init__(self, agent: UserAgent, rings_for: float = 2.0, status: int = 200) -> None:
        self.agent, self.rings_for, self.status = agent, rings_for, status
        self.calls: dict[str, Packet] = {}
        """The INVITE of each call, by branch."""
        self.finals: dict[str, bytes] = {}
        self._repeaters: dict[str, Repeater] = {}
        self.ended: set[str] = set()
        """Call-IDs that got a BYE."""
        agent.handler = self.take

    @property
    def unacknowledged(self) -> list[str]:
        """Branches whose final response was never acknowledged."""
        return [branch for branch, repeater in self._repeaters.items() if repeater.expired]

    def take(self, packet: Packet) -> None:
        """A datagram for this server."""
        if packet.is_response:
            return
        handler = {"INVITE": self._invite, "ACK": self._ack, "CANCEL": self._cancel, "BYE": self._bye}
        handler[packet.method](packet)

    def _invite(self, packet: Packet) -> None:
        if packet.branch in self.calls:
            self.agent.send(self.finals.get(packet.branch) or response(packet, 180, to_tag=self._tag(packet)))
            return
        self.calls[packet.branch] = packet
        self.agent.send(response(packet, 180, to_tag=self._tag(packet)))
        self.agent.wire.at(self.rings_for, lambda: self._answer(packet, self.status))

    def _tag(self, packet: Packet) -> str:
        return f"{self.agent.address[0]}-{packet.branch[-12:]}"

    def _answer(self, packet: Packet, status: int) -> None:
        if packet.branch in self.finals:
            return
        contact = [("Contact", f"<sip:{self.agent.address[0]}:{self.agent.address[1]}>")]
        data = response(packet, status, to_tag=self._tag(packet), headers=contact)
        self.finals[packet.branch] = data
        self._repeaters[packet.branch] = Repeater(self.agent, data, T2)

    def _ack(self, packet: Packet) -> None:
        for branch, invite in self.calls.items():
            ours = packet.tag("To") == self._tag(invite)
            if ours and packet.call_id == invite.call_id and branch in self._repeaters:
                self._repeaters[branch].stop()

    def _cancel(self, packet: Packet) -> None:
        known = packet.branch in self.calls
        self.agent.send(response(packet, 200 if known else 481, to_tag="cancelled"))
        if known:
            self._answer(self.calls[packet.branch], 487)

    def _bye(self, packet: Packet) -> None:
        self.ended.add(packet.call_id)
        for branch, invite in self.calls.items():
            if invite.call_id == packet.call_id and branch in self._repeaters:
                self._repeaters[branch].stop()
        self.agent.send(response(packet, 200))
