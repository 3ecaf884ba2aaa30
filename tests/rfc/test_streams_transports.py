# SPDX-License-Identifier: Apache-2.0
"""Calls between any two transports in the core: Via, Record-Route (RFC 5658), ways (RFC 7118, RFC 5923)."""

from __future__ import annotations

import itertools

import pytest
from plain_sip import Packet, Request
from streams import way
from wire import ANY, OPENED, Wire, callee_route_set, carrier, platform, route_set, server

LISTENERS = {
    "udp": "udp:127.0.0.1:5060",
    "tcp": "tcp:127.0.0.1:5060",
    "tls": "tls:127.0.0.1:5061",
    "ws": "ws:127.0.0.1:8080",
    "wss": "wss:127.0.0.1:8443",
}
NUMBER = {transport: at for at, transport in enumerate(LISTENERS)}
VIA = {
    "udp": "SIP/2.0/UDP 127.0.0.1:5060;branch=",
    "tcp": "SIP/2.0/TCP 127.0.0.1:5060;branch=",
    "tls": "SIP/2.0/TLS 127.0.0.1:5061;alias;branch=",
    "ws": "SIP/2.0/WS 127.0.0.1:8080;branch=",
    "wss": "SIP/2.0/WSS 127.0.0.1:8443;branch=",
}
ROUTE = {
    "udp": "<sip:127.0.0.1:5060;lr",
    "tcp": "<sip:127.0.0.1:5060;transport=tcp;lr",
    "tls": "<sip:127.0.0.1:5061;transport=tls;lr",
    "ws": "<sip:127.0.0.1:8080;transport=ws;lr",
    "wss": "<sip:127.0.0.1:8443;transport=ws;lr",
}
CALLER = ("127.0.1.1", 5090)
STREAM = 7
TLS = '[tls]\ncertificate = "gw.pem"\n'
URI = {"udp": "sip:127.0.3.1:5060", "tcp": "sip:127.0.3.1:5060;transport=tcp", "tls": "sips:127.0.3.1:5060"}


def wire_to(transport: str, uri: str = "") -> Wire:
    """A gateway with a listener of every transport; its server is reached over *transport*."""
    rows = [server(0, uri=uri or URI[transport])]
    return Wire(platform(rows, [carrier(address=CALLER)], listen=list(LISTENERS.values())) + TLS)


def contact(transport: str, address: tuple[str, int]) -> str:
    parameter = {"udp": "", "wss": ";transport=ws"}.get(transport, f";transport={transport}")
    return f"<sip:ua@{address[0]}:{address[1]}{parameter}>"


def request(wire: Wire, method: str, transport: str, **parts: object) -> Request:
    it = wire.request(method, **{"source": CALLER, **parts})
    it.headers = [("Contact", contact(transport, CALLER)), *parts.get("headers", ())]  # type: ignore[misc]
    it.via = [value.replace("/UDP", f"/{transport.upper()}") for value in it.via]
    return it


def send(wire: Wire, transport: str, it: Request) -> None:
    wire.agent(*CALLER).send(it, NUMBER[transport], 0 if transport == "udp" else STREAM)


def routes(packet: Packet) -> list[str]:
    """Record-Route values without their tokens."""
    return [value.partition(";u=")[0] for value in packet.values("Record-Route")]


@pytest.mark.parametrize(("here", "there"), list(itertools.product(LISTENERS, ("udp", "tcp", "tls"))))
def test_a_call_from_any_transport_to_any(here: str, there: str) -> None:
    wire = wire_to(there)
    caller, callee = wire.agent(*CALLER), wire.tel()
    back = 0 if here == "udp" else STREAM
    send(wire, here, request(wire, "INVITE", here))
    leg = callee.got("INVITE")
    assert way(leg) == (callee.address, NUMBER[there], 0 if there == "udp" else ANY)
    assert leg.via.startswith(VIA[there])
    assert routes(leg) == ([ROUTE[there]] if here == there else [ROUTE[there], ROUTE[here]])
    callee.reply(leg, 200, headers=[("Contact", contact(there, callee.address))])
    ok = caller.final()
    assert way(ok) == (CALLER, NUMBER[here], back)
    uri = ok.get("Contact").strip("<>")
    ends = {"from_": ok.get("From"), "to": ok.get("To"), "call_id": ok.call_id}
    send(wire, here, request(wire, "ACK", here, uri=uri, **ends, headers=route_set(ok), cseq=1))
    assert way(callee.got("ACK")) == way(leg) and callee.got("ACK").values("Route") == []
    ends = {"from_": ok.get("To"), "to": ok.get("From"), "call_id": ok.call_id}
    uri = leg.get("Contact").strip("<>")
    bye = wire.request("BYE", uri, source=callee.address, **ends, headers=callee_route_set(leg), cseq=9)
    callee.send(bye, NUMBER[there], 0 if there == "udp" else OPENED)
    seen = caller.got("BYE")
    # A sip URI does not tell ws from wss (RFC 7118 section 5.2.4): the transport looks among both.
    assert seen.address == CALLER and (seen.stream == ANY) == (here != "udp")
    assert seen.via.startswith(VIA["ws" if here == "wss" else here])
    caller.reply(seen, 200)
    assert callee.final("BYE").status == 200


@pytest.mark.parametrize("here", list(LISTENERS))
def test_after_a_restart_a_response_goes_to_where_its_via_says(here: str) -> None:
    wire = wire_to("udp")
    invite = request(wire, "INVITE", here)
    invite.via = [f"SIP/2.0/{here.upper()} {CALLER[0]};branch=z9hG4bK-1"]
    send(wire, here, invite)
    leg = wire.tel().got("INVITE")
    wire.restart()
    wire.tel().reply(leg, 180)
    port = {"udp": 5060, "tcp": 5060, "tls": 5061, "ws": 80, "wss": 443}[here]
    (packet,) = [one for one in wire.log if one.is_response and one.status == 180]
    assert way(packet) == ((CALLER[0], port), NUMBER[here], 0 if here == "udp" else ANY)


def test_a_web_phone_has_no_address_of_its_own() -> None:
    """RFC 7118 section 5: sent-by is under ``.invalid``; responses need none, and received is added."""
    wire = wire_to("udp")
    it = request(wire, "OPTIONS", "wss", uri="sip:127.0.0.1:5060")
    it.via = ["SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bK-1"]
    send(wire, "wss", it)
    (ok,) = wire.agent(*CALLER).responses()
    assert (ok.status, way(ok)) == (200, (CALLER, NUMBER["wss"], STREAM))
    assert f"received={CALLER[0]}" in ok.via


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sip:127.0.4.1;transport=tls;lr", ("tls", 5061)),
        ("sips:127.0.4.1;lr", ("tls", 5061)),
        ("sips:127.0.4.1:5070;transport=tcp;lr", ("tls", 5070)),
        ("sip:127.0.4.1:5070;transport=TLS;lr", ("tls", 5070)),
        ("sip:127.0.4.1;transport=ws;lr", ("ws", 80)),
        ("sips:127.0.4.1;transport=ws;lr", ("wss", 443)),
        ("sip:127.0.4.1;transport=tcp;lr", ("tcp", 5060)),
        ("sip:127.0.4.1;lr", ("udp", 5060)),
    ],
)
def test_where_a_route_leads(uri: str, expected: tuple[str, int]) -> None:
    wire = wire_to("udp")
    transport, port = expected
    it = wire.request("MESSAGE", "sip:b@far.example", source=CALLER, headers=[("Route", f"<{uri}>")])
    wire.agent(*CALLER).send(it)
    seen = wire.agent("127.0.4.1", port).got("MESSAGE")
    assert way(seen) == (("127.0.4.1", port), NUMBER[transport], 0 if transport == "udp" else ANY)


def test_the_advertised_port_is_that_of_udp_and_tcp() -> None:
    text = platform(
        [server(0)], [carrier(address=CALLER)], listen=list(LISTENERS.values()), gateway={"advertise": "gw.test:5070"}
    )
    wire = Wire(text + TLS)
    send(wire, "tls", request(wire, "INVITE", "tls"))
    assert routes(wire.tel().got("INVITE")) == [
        "<sip:gw.test:5070;lr", "<sip:gw.test:5061;transport=tls;lr",
    ]  # fmt: skip


def test_the_end_of_a_connection_is_counted() -> None:
    wire = wire_to("udp")
    wire.engine.stream_closed(STREAM, wire.now)
    assert wire.engine.statistics()["counters"]["streams_closed"] == 1


@pytest.mark.parametrize(("there", "expected"), [("tls", 200), ("udp", 416), ("tcp", 416)])
def test_a_remote_target_that_is_sips_is_reached_over_tls_alone(there: str, expected: int) -> None:
    """RFC 3261 section 26.2.2."""
    wire = wire_to(there)
    caller, callee = wire.agent(*CALLER), wire.tel()
    send(wire, "tls", request(wire, "INVITE", "tls"))
    callee.reply(callee.got("INVITE"), 200, headers=[("Contact", contact(there, callee.address))])
    ok = caller.final()
    ends = {"from_": ok.get("From"), "to": ok.get("To"), "call_id": ok.call_id}
    uri = "sips:ua@pbx.example"  # reached by the token, as its peer is
    send(wire, "tls", request(wire, "BYE", "tls", uri=uri, **ends, headers=route_set(ok), cseq=9))
    if expected == 200:
        callee.reply(callee.got("BYE"), 200)
    assert caller.final("BYE").status == expected
    assert len(callee.requests("BYE")) == (expected == 200)


def test_a_new_call_to_a_sips_uri_is_refused() -> None:
    wire = wire_to("udp")
    send(wire, "tls", request(wire, "INVITE", "tls", uri="sips:0155@127.0.0.1:5061"))
    assert wire.agent(*CALLER).final().status == 416
