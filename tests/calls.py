# SPDX-License-Identifier: Apache-2.0
"""Whole calls in a line: a caller at the carrier's SBC, a callee on a telephony server, or the other way round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plain_sip import Packet, Request
from wire import UserAgent, Wire, callee_route_set, route_set


def contact(agent: UserAgent) -> str:
    """The Contact URI of a user agent."""
    return f"sip:ua@{agent.address[0]}:{agent.address[1]}"


@dataclass
class Dialog:
    """An established call, seen from both its ends."""

    wire: Wire
    caller: UserAgent
    callee: UserAgent
    invite: Request
    leg: Packet
    """The INVITE as the callee got it."""
    ok: Packet
    """The 200 as the caller got it."""

    def by_caller(self, method: str, cseq: int = 2, **parts: Any) -> Request:
        """A request of the caller within the dialog (RFC 3261 section 12.2.1.1); not sent yet."""
        headers = [*route_set(self.ok), *parts.pop("headers", ())]
        defaults = {"from_": self.ok.get("From"), "to": self.ok.get("To"), "call_id": self.ok.call_id, "cseq": cseq}
        uri = parts.pop("uri", contact(self.callee))
        return self.wire.request(method, uri, source=self.caller.address, **{**defaults, **parts, "headers": headers})

    def by_callee(self, method: str, cseq: int = 100, **parts: Any) -> Request:
        """A request of the callee within the dialog; not sent yet."""
        headers = [*callee_route_set(self.leg), *parts.pop("headers", ())]
        defaults = {"from_": self.ok.get("To"), "to": self.ok.get("From"), "call_id": self.ok.call_id, "cseq": cseq}
        uri = parts.pop("uri", contact(self.caller))
        return self.wire.request(method, uri, source=self.callee.address, **{**defaults, **parts, "headers": headers})

    def ack(self) -> Request:
        """The caller's ACK of the 200."""
        return self.by_caller("ACK", cseq=self.invite.cseq)


def place(wire: Wire, **parts: Any) -> tuple[Request, Packet]:
    """Send a new INVITE from the SBC; the request, and the INVITE as its server got it."""
    invite = wire.request("INVITE", **parts)
    wire.sbc.send(invite)
    return invite, wire.holder(call_id=invite.call_id).requests("INVITE")[-1]


def cancel(invite: Request) -> Request:
    """The CANCEL of a request (RFC 3261 section 9.1)."""
    return Request(
        "CANCEL", invite.uri, invite.via[:1], invite.from_, invite.to, invite.call_id, invite.cseq,
        headers=[(name, value) for name, value in invite.headers if name == "Route"],
    )


def failure_ack(invite: Request, failure: Packet) -> Request:
    """The ACK of a non-2xx final response (RFC 3261 section 17.1.1.3)."""
    return Request(
        "ACK", invite.uri, invite.via[:1], invite.from_, failure.get("To"), invite.call_id, invite.cseq,
        headers=[(name, value) for name, value in invite.headers if name == "Route"],
    )


def establish(wire: Wire, **parts: Any) -> Dialog:
    """A call from the SBC that is answered and acknowledged; the inboxes are empty afterwards."""
    invite, leg = place(wire, **parts)
    callee = wire.holder(call_id=invite.call_id)
    callee.reply(leg, 200, headers=[("Contact", f"<{contact(callee)}>")])
    dialog = Dialog(wire, wire.sbc, callee, invite, leg, wire.sbc.final())
    wire.sbc.send(dialog.ack())
    assert callee.got("ACK").call_id == invite.call_id
    for agent in (wire.sbc, *wire.tels):
        agent.clear()
    return dialog


def establish_outgoing(wire: Wire, **parts: Any) -> Dialog:
    """A call from server 0 to the SBC that is answered and acknowledged; the inboxes are empty afterwards."""
    caller, callee = wire.tel(0), wire.sbc
    invite = wire.request("INVITE", source=caller.address, **parts)
    caller.send(invite)
    leg = callee.got("INVITE")
    callee.reply(leg, 200, headers=[("Contact", f"<{contact(callee)}>")])
    dialog = Dialog(wire, caller, callee, invite, leg, caller.final())
    caller.send(dialog.ack())
    caller.clear()
    callee.clear()
    return dialog
