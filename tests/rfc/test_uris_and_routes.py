# SPDX-License-Identifier: Apache-2.0
"""How Request-URIs, Routes and Vias may be written, and what hides in them (RFC 3261 sections 16.4, 18.2, 19.1)."""

from __future__ import annotations

import pytest
from calls import contact, establish, place
from plain_sip import Packet, Request, parameter
from wire import Wire, carrier, platform

OWN = "<sip:127.0.0.1:5060;lr>"


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.mark.parametrize("lr", ["lr", "LR", "lr=on", "lr=true", "x=y;lr;z", "transport=udp;lr"])
def test_a_loose_hop_however_it_is_written(wire: Wire, lr: str) -> None:
    hop = wire.agent("127.0.4.1")
    route = f"<sip:127.0.4.1:5060;{lr}>"
    wire.sbc.send(wire.request("MESSAGE", "sip:bob@far.example", headers=[("Route", f"{OWN}, {route}")]))
    assert hop.got("MESSAGE").uri == "sip:bob@far.example"
    assert hop.got("MESSAGE").values("Route") == [route]


@pytest.mark.parametrize(
    "route", ["<sip:127.0.4.1:5060;x=lr>", "<sip:127.0.4.1:5060?lr>", "<sip:lr@127.0.4.1:5060>", "<sip:127.0.4.1>;lr"]
)
def test_a_strict_hop_that_looks_loose(wire: Wire, route: str) -> None:
    hop = wire.agent("127.0.4.1")
    wire.sbc.send(wire.request("MESSAGE", "sip:bob@far.example", headers=[("Route", route)]))
    if hop.inbox:
        assert hop.got("MESSAGE").uri.startswith("sip:")
        assert "127.0.4.1" in hop.got("MESSAGE").uri
        assert hop.got("MESSAGE").values("Route") == ["<sip:bob@far.example>"]
    else:
        assert wire.sbc.final("MESSAGE").status == 400


@pytest.mark.parametrize(
    "own",
    ["<sip:127.0.0.1:5060;lr>", "<sip:127.0.0.1;lr>", '"A, b" <sip:gw@127.0.0.1:5060;lr;x=y>', "<SIP:127.0.0.1;LR>",
     "<sip:127.0.0.1:5060;lr>;ext=1", "< sip:127.0.0.1:5060;lr >", "<sip:127.0.0.1:05060;lr>"],
)
def test_our_own_route_however_it_is_written(wire: Wire, own: str) -> None:
    wire.sbc.send(wire.request("MESSAGE", headers=[("Route", own)]))
    if wire.tel().inbox:
        assert wire.tel().got("MESSAGE").values("Route") == []
    else:
        assert wire.sbc.final("MESSAGE").status == 400


@pytest.mark.parametrize("uri", ["sip:0155@127.0.0.1", "sip:0155@127.0.0.1:5060;user=phone", "SIP:0155@127.0.0.1:5060"])
def test_our_address_in_the_request_uri(wire: Wire, uri: str) -> None:
    _, leg = place(wire, uri=uri)
    scheme, _, rest = uri.partition(":")
    assert leg.uri in (
        f"{scheme}:0155@127.0.3.1:5060" + rest.partition(";")[1] + rest.partition(";")[2],
        "sip:0155@127.0.3.1:5060" + rest.partition(";")[1] + rest.partition(";")[2],
    )


@pytest.mark.parametrize(
    "uri",
    ["sip:0155@127.0.0.1:5061", "sip:0155@127.0.0.2", "sip:127.0.0.1:5060@192.0.2.1", "sip:x:127.0.0.1@192.0.2.1"],
)
def test_what_only_looks_like_our_address_is_foreign(wire: Wire, uri: str) -> None:
    wire.sbc.send(wire.request("MESSAGE", uri))
    wire.run(0.1)
    assert wire.sbc.final("MESSAGE").status == 403
    assert wire.tel().inbox == []


@pytest.mark.parametrize("host", ["127.1", "0x7f000009", "2130706441", "127.0.0.9.", "localhost"])
def test_an_address_in_disguise_is_never_followed(wire: Wire, host: str) -> None:
    wire.sbc.send(wire.request("MESSAGE", f"sip:x@{host}:5060"))
    wire.sbc.send(wire.request("MESSAGE", "sip:x@far.example", headers=[("Route", f"<sip:{host};lr>")]))
    wire.run(0.1)
    assert {packet.address for packet in wire.log} <= {wire.sbc.address, wire.tel().address}


def test_a_member_may_be_named_by_its_address() -> None:
    wire = Wire(platform(servers=3))
    for index in range(3):
        wire.sbc.send(wire.request("MESSAGE", f"sip:0155@127.0.3.{index + 1}:5060"))
        assert [len(tel.requests("MESSAGE")) for tel in wire.tels] == [int(i <= index) for i in range(3)]


def test_a_carrier_cannot_be_made_to_call_itself(wire: Wire) -> None:
    """Toll fraud by hairpin: from a carrier only to a server."""
    carriers = [carrier(), carrier("other", ("127.0.1.2", 5090))]
    wire = Wire(platform(carriers=carriers))
    wire.sbc.send(wire.request("INVITE", "sip:00339@127.0.1.2:5090"))
    wire.run(0.1)
    assert wire.agent("127.0.1.2", 5090).requests() == []


def test_sips_is_not_sent_in_the_clear(wire: Wire) -> None:
    """RFC 3261 section 26.2.2: every hop by TLS, or not at all."""
    wire.sbc.send(wire.request("INVITE", "sips:0155@127.0.0.1:5060"))
    wire.run(0.1)
    assert wire.tel().inbox == []
    assert wire.sbc.final().status >= 400


def test_only_the_top_via_gets_received_and_rport(wire: Wire) -> None:
    _, leg = place(wire, via=[
        "SIP/2.0/UDP host.invalid:5090;rport;branch=z9hG4bK-1 , SIP/2.0/UDP b.example;rport;branch=z9hG4bK-2",
        "SIP/2.0/UDP c.example;rport",
    ])
    _, top, second, third = leg.values("Via")
    assert parameter(top, "rport") == "5090"
    assert parameter(top, "received") == "127.0.0.1"
    assert second == "SIP/2.0/UDP b.example;rport;branch=z9hG4bK-2"
    assert third == "SIP/2.0/UDP c.example;rport"


@pytest.mark.parametrize(
    "change",
    [
        lambda via: via + ";received=127.0.0.1",
        lambda via: via + ";rport=5060;received=127.0.0.1",
        lambda via: via.replace(";branch", ";received=127.0.0.1;branch"),
        lambda via: via.replace("SIP/2.0/UDP ", "SIP / 2.0 / UDP  ").replace(";", " ; ").replace("=", " = "),
        lambda via: via.replace(";branch", ";BRANCH"),
        lambda via: via.replace("SIP/2.0/UDP", "sip/2.0/udp"),
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_our_via_comes_back_in_other_clothes(wire: Wire, restart: bool, change: object) -> None:
    """Servers add received and rport, and some write the Via anew."""
    _, leg = place(wire)
    if restart:
        wire.restart()
    assert callable(change)
    wire.tel().reply(leg, 180, via=[change(leg.via), *leg.lines("Via")[1:]])
    assert wire.sbc.statuses() == [180]


@pytest.mark.parametrize("method", ["PRACK", "UPDATE", "INFO"])
def test_requests_in_an_early_dialog(method: str) -> None:
    wire = Wire(platform(servers=6))
    invite, leg = place(wire)
    holder = wire.holder()
    holder.reply(leg, 183, headers=[("Contact", f"<{contact(holder)}>"), ("Require", "100rel"), ("RSeq", "1")])
    early = wire.sbc.responses()[-1]
    routes = [("Route", value) for value in reversed(early.values("Record-Route"))]
    wire.sbc.send(wire.request(method, contact(holder), from_=invite.from_, to=early.get("To"), call_id=invite.call_id,
                               cseq=2, headers=[*routes, ("RAck", "1 1 INVITE")]))
    assert holder.got(method).get("RAck") == "1 1 INVITE"
    holder.reply(holder.got(method), 200)
    assert wire.sbc.final(method).status == 200


def test_a_subscription_and_its_notifications() -> None:
    wire = Wire(platform(servers=6))
    wire.sbc.send(wire.request("SUBSCRIBE", headers=[("Event", "presence")]))
    holder = wire.holder("SUBSCRIBE")
    leg = holder.got("SUBSCRIBE")
    holder.reply(leg, 202, headers=[("Contact", f"<{contact(holder)}>")])
    routes = [("Route", value) for value in leg.values("Record-Route")]
    assert routes
    holder.send(wire.request("NOTIFY", contact(wire.sbc), source=holder.address, from_=f"{leg.get('To')};tag=callee",
                             to=leg.get("From"), call_id=leg.call_id, headers=[*routes, ("Event", "presence")]))
    wire.sbc.reply(wire.sbc.got("NOTIFY"), 200)
    assert holder.final("NOTIFY").status == 200


def test_a_contact_with_a_name_is_reached_through_the_token() -> None:
    """The core cannot resolve names; the Route token says which server the dialog is with."""
    wire = Wire(platform(servers=6))
    call = establish(wire)
    wire.sbc.send(call.by_caller("BYE", uri="sip:ua@pbx.internal.example"))
    assert call.callee.got("BYE").uri == "sip:ua@pbx.internal.example"


@pytest.mark.parametrize("restart", [False, True])
def test_an_advertised_name_in_record_route_leads_back(restart: bool) -> None:
    wire = Wire(platform(servers=6, gateway={"advertise": "sip.pa2.example"}))
    call = establish(wire)
    if restart:
        wire.restart()
    (own,) = call.ok.values("Record-Route")
    assert own.startswith("<sip:sip.pa2.example")
    shouted = own.replace("sip.pa2.example", "SIP.PA2.Example")
    bye = call.by_caller("BYE")
    bye.headers = [("Route", shouted)]
    wire.sbc.send(bye)
    assert call.callee.got("BYE").values("Route") == []


def test_requests_of_both_sides_at_once_with_equal_numbers(wire: Wire) -> None:
    """Glare: the same CSeq number, and even the same branch, from both ends."""
    call = establish(wire)
    one, two = call.by_caller("INVITE", cseq=7), call.by_callee("INVITE", cseq=7)
    one.via = ["SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-glare"]
    two.via = ["SIP/2.0/UDP 127.0.3.1:5060;branch=z9hG4bK-glare"]
    wire.sbc.send(one)
    wire.tel().send(two)
    assert wire.tel().got("INVITE").branch != wire.sbc.got("INVITE").branch
    wire.tel().reply(wire.tel().got("INVITE"), 491)
    wire.sbc.reply(wire.sbc.got("INVITE"), 491)
    assert wire.sbc.final().status == wire.tel().final().status == 491


def test_a_forking_server_makes_two_dialogs_that_both_work(wire: Wire) -> None:
    """Two 2xx with other tags through one branch (RFC 3261 section 13.2.2.4)."""
    _, leg = place(wire)
    for tag in ("one", "two"):
        wire.tel().reply(leg, 200, to_tag=tag, headers=[("Contact", "<sip:ua@127.0.3.1:5060>")])
    oks = [packet for packet in wire.sbc.responses() if packet.status == 200]
    assert [ok.tag("To") for ok in oks] == ["one", "two"]
    for number, ok in enumerate(oks):
        routes = [("Route", value) for value in reversed(ok.values("Record-Route"))]
        for method, cseq in (("ACK", 1), ("BYE", 2)):
            via = [f"SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK{method}{number}"]
            ends = (ok.get("From"), ok.get("To"), ok.call_id, cseq)
            wire.sbc.send(Request(method, "sip:ua@127.0.3.1:5060", via, *ends, headers=routes))
    assert [packet.tag("To") for packet in wire.tel().requests("ACK")] == ["one", "two"]
    byes: list[Packet] = wire.tel().requests("BYE")
    assert [packet.tag("To") for packet in byes] == ["one", "two"]
    for bye in byes:
        wire.tel().reply(bye, 200)
    assert wire.engine.statistics()["calls"] == 0


@pytest.mark.parametrize("value", ["abc", "e6ff903f06adb3e329d70d6e00003751469d01290261", ""])
def test_a_parameter_like_ours_in_somebody_elses_route_is_their_business(wire: Wire, value: str) -> None:
    """Another platform stands behind the next proxy: its token is nothing to us."""
    hop = wire.agent("127.0.4.1")
    call = establish(wire)
    theirs = f"<sip:127.0.4.1:5060;lr;u={value}>"
    wire.sbc.send(call.by_caller("BYE", headers=[("Route", theirs)]))
    assert hop.got("BYE").values("Route") == [theirs]
    wire.sbc.send(wire.request("MESSAGE", "sip:bob@far.example", headers=[("Route", theirs)]))
    assert hop.got("MESSAGE").values("Route") == [theirs]
