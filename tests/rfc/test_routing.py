# SPDX-License-Identifier: Apache-2.0
"""Route preprocessing and targets (RFC 3261 sections 16.4, 16.5): rows RTE and TGT of the checklist.

Left to the registrar, whose bindings they need: TGT-03, TGT-05, TGT-06 (look-up, 404, 480), TGT-04, TGT-08.
"""

from __future__ import annotations

import pytest
from calls import establish, establish_outgoing, place
from plain_sip import Request
from wire import GATEWAY, Wire, carrier, platform, server

OWN = "<sip:127.0.0.1:5060;lr>"
HOP_A = "<sip:127.0.4.1:5060;lr>"
HOP_B = "<sip:127.0.4.2:5060;lr>"
FOREIGN = "sip:bob@far.example"


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_RTE_01_strict_router_upstream(wire: Wire) -> None:
    """16.4: our Record-Route value stands in the Request-URI, the real target last in Route."""
    call = establish(wire)
    own = call.ok.values("Record-Route")[0].strip("<>")
    wire.sbc.send(Request(
        "BYE", own, ["SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-strict"], call.ok.get("From"), call.ok.get("To"),
        call.ok.call_id, 2, headers=[("Route", "<sip:ua@127.0.3.1:5060>")],
    ))
    bye = wire.tel().got("BYE")
    assert bye.uri == "sip:ua@127.0.3.1:5060"
    assert bye.values("Route") == []


def test_RTE_02_own_route_is_removed(wire: Wire) -> None:
    _, leg = place(wire, headers=[("Route", OWN)])
    assert leg.values("Route") == []


@pytest.mark.parametrize(
    "lines",
    [
        [f"{OWN}, {HOP_A}, {HOP_B}"],
        [OWN, HOP_A, HOP_B],
        [f"{OWN},{HOP_A}", HOP_B],
        [OWN, f"{HOP_A} , {HOP_B}"],
        [f'"us, of course" {OWN} , "a \\" > , b" {HOP_A}', HOP_B],
    ],
)
def test_RTE_04_other_routes_stay_in_order(wire: Wire, lines: list[str]) -> None:
    hop = wire.agent("127.0.4.1")
    wire.sbc.send(wire.request("INVITE", FOREIGN, headers=[("Route", line) for line in lines]))
    routes = hop.got("INVITE").values("Route")
    assert [route.rpartition("<")[2] for route in routes] == [HOP_A.strip("<"), HOP_B.strip("<")]
    assert wire.tel().inbox == []


def test_RTE_04_routes_of_a_known_next_hop_without_our_own(wire: Wire) -> None:
    hop = wire.agent("127.0.4.1")
    wire.sbc.send(wire.request("INVITE", FOREIGN, headers=[("Route", f"{HOP_A}, {HOP_B}")]))
    assert hop.got("INVITE").values("Route") == [HOP_A, HOP_B]


TWO_NETWORKS = platform(
    servers=[server(0, listener="udp:127.0.2.1:5060")], listen=["udp:127.0.0.1:5060", "udp:127.0.2.1:5060"]
)
"""A gateway with one address towards the carrier and one towards the servers."""


def test_RTE_05_both_values_of_a_double_record_route_are_consumed() -> None:
    """RFC 5658: one value for each side; neither may reach the next hop."""
    wire = Wire(TWO_NETWORKS)
    call = establish(wire)
    assert len(call.leg.values("Record-Route")) == 2
    wire.sbc.send(call.by_caller("BYE"))
    bye = wire.tel().got("BYE")
    assert bye.values("Route") == []
    assert bye.source == ("127.0.2.1", 5060)
    wire.tel().reply(bye, 200)
    assert wire.sbc.final("BYE").source == GATEWAY


def test_RTE_05_from_the_other_side_too() -> None:
    wire = Wire(TWO_NETWORKS)
    call = establish(wire)
    wire.tel().send(call.by_callee("BYE"), listener=1)
    bye = wire.sbc.got("BYE")
    assert bye.values("Route") == []
    assert bye.source == GATEWAY


def test_RTE_05_each_side_sees_its_own_address_on_top() -> None:
    wire = Wire(TWO_NETWORKS)
    call = establish(wire)
    first, second = call.leg.values("Record-Route")
    assert first.startswith("<sip:127.0.2.1:5060;")
    assert second.startswith("<sip:127.0.0.1:5060;")
    assert call.leg.via.startswith("SIP/2.0/UDP 127.0.2.1:5060;")


def test_RTE_03_maddr_that_names_the_gateway_is_stripped(wire: Wire) -> None:
    _, leg = place(wire, uri="sip:bob@far.example;maddr=127.0.0.1")
    assert leg.uri == FOREIGN


def test_TGT_01_a_foreign_address_that_is_no_member_is_refused(wire: Wire) -> None:
    """No open relay: policy says 403."""
    far = wire.agent("127.0.0.9", 5099)
    wire.sbc.send(wire.request("INVITE", "sip:x@127.0.0.9:5099"))
    wire.run(1)
    assert far.inbox == []
    assert wire.tel().inbox == []
    assert wire.sbc.final().status == 403


def test_TGT_01_a_foreign_domain_stays_in_the_request_uri(wire: Wire) -> None:
    _, leg = place(wire, uri="sip:bob@far.example;user=phone")
    assert leg.uri == "sip:bob@far.example;user=phone"


def test_TGT_02_a_foreign_maddr_is_no_way_round_the_policy(wire: Wire) -> None:
    far = wire.agent("127.0.0.9")
    wire.sbc.send(wire.request("INVITE", "sip:bob@far.example;maddr=127.0.0.9"))
    wire.run(1)
    assert far.inbox == []
    assert wire.sbc.final().status == 403


def test_TGT_07_no_targets_are_added_to_a_foreign_address() -> None:
    wire = Wire(platform(servers=2))
    wire.sbc.send(wire.request("INVITE", "sip:0155@192.0.2.77"))
    wire.run(1)
    assert [tel.inbox for tel in wire.tels] == [[], []]
    assert {packet.address for packet in wire.log} == {wire.sbc.address}


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "SUBSCRIBE", "PUBLISH", "REGISTER", "FOOBAR", "OPTIONS"])
def test_TGT_10_from_a_carrier_to_a_server_whatever_the_method(wire: Wire, method: str) -> None:
    wire.sbc.send(wire.request(method))
    request = wire.tel().got(method)
    assert request.uri == "sip:0155@127.0.3.1:5060"
    wire.tel().reply(request, 200)
    assert wire.sbc.final(method).status == 200


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "FOOBAR"])
def test_TGT_11_from_a_server_to_a_carrier(wire: Wire, method: str) -> None:
    wire.tel().send(wire.request(method, source=wire.tel().address))
    request = wire.sbc.got(method)
    assert request.uri == "sip:0155@127.0.0.1:5090"
    wire.sbc.reply(request, 200)
    assert wire.tel().final(method).status == 200


def test_TGT_11_own_site_of_carriers_first() -> None:
    carriers = [carrier("far", ("127.0.1.2", 5090), "PA5"), carrier("near", ("127.0.1.1", 5090))]
    wire = Wire(platform(carriers=carriers))
    near, far = wire.agent("127.0.1.1", 5090), wire.agent("127.0.1.2", 5090)
    for _ in range(10):
        wire.tel().send(wire.request("INVITE", source=wire.tel().address))
    assert (len(near.requests("INVITE")), len(far.requests("INVITE"))) == (10, 0)


@pytest.mark.parametrize("uri", ["sip:127.0.0.1:5060", "sip:127.0.0.1", "sip:127.0.0.1:5060;transport=udp"])
def test_TGT_12_options_to_the_gateway_itself_is_answered_by_it(wire: Wire, uri: str) -> None:
    wire.sbc.send(wire.request("OPTIONS", uri))
    assert wire.sbc.statuses() == [200]
    assert wire.sbc.final("OPTIONS").tag("To")
    assert wire.tel().inbox == []


@pytest.mark.parametrize("name", ["sip.pa2.example", "SIP.pa2.EXAMPLE:5060"])
def test_TGT_13_the_advertised_name_is_ours(name: str) -> None:
    wire = Wire(platform(gateway={"advertise": "sip.pa2.example"}))
    _, leg = place(wire, uri=f"sip:0155@{name};user=phone")
    assert leg.uri == "sip:0155@127.0.3.1:5060;user=phone"
    assert leg.values("Record-Route")[0].startswith("<sip:sip.pa2.example")


def test_TGT_14_a_route_to_a_name_cannot_be_followed(wire: Wire) -> None:
    wire.sbc.send(wire.request("INVITE", FOREIGN, headers=[("Route", f"{OWN}, <sip:proxy.far.example;lr>")]))
    wire.run(1)
    assert wire.sbc.final().status in (404, 480, 500, 502, 503, 504)
    assert wire.tel().inbox == []


def test_TGT_15_an_unknown_source_is_refused(wire: Wire) -> None:
    stranger = wire.agent("127.0.9.9")
    stranger.send(wire.request("INVITE", source=stranger.address))
    wire.run(1)
    assert stranger.final().status == 403
    assert wire.tel().inbox == []


def test_TGT_15_the_right_host_with_the_wrong_port_is_a_stranger(wire: Wire) -> None:
    stranger = wire.agent("127.0.0.1", 5091)
    stranger.send(wire.request("INVITE", source=stranger.address))
    wire.run(1)
    assert stranger.final().status == 403
    assert wire.tel().inbox == []


def test_TGT_15_a_stranger_is_no_relay_by_route(wire: Wire) -> None:
    stranger, hop = wire.agent("127.0.9.9"), wire.agent("127.0.4.1")
    stranger.send(wire.request("INVITE", FOREIGN, source=stranger.address, headers=[("Route", f"{OWN}, {HOP_A}")]))
    wire.run(1)
    assert hop.inbox == []
    assert stranger.final().status == 403


def test_RTE_06_in_dialog_requests_pass_both_ways(wire: Wire) -> None:
    call = establish(wire)
    wire.sbc.send(call.by_caller("INFO"))
    info = wire.tel().got("INFO")
    assert info.values("Route") == []
    assert info.uri == "sip:ua@127.0.3.1:5060"
    wire.tel().reply(info, 200)
    assert wire.sbc.statuses("INFO") == [200]
    wire.tel().send(call.by_callee("BYE"))
    bye = wire.sbc.got("BYE")
    assert bye.values("Route") == []
    assert bye.uri == "sip:ua@127.0.0.1:5090"
    wire.sbc.reply(bye, 200)
    assert wire.tel().statuses("BYE") == [200]


def test_RTE_06_in_dialog_requests_of_an_outgoing_call_pass_both_ways(wire: Wire) -> None:
    call = establish_outgoing(wire)
    wire.tel().send(call.by_caller("INFO"))
    wire.sbc.reply(wire.sbc.got("INFO"), 200)
    assert wire.tel().statuses("INFO") == [200]
    wire.sbc.send(call.by_callee("BYE"))
    wire.tel().reply(wire.tel().got("BYE"), 200)
    assert wire.sbc.statuses("BYE") == [200]


def test_RTE_07_in_dialog_requests_keep_to_their_server() -> None:
    wire = Wire(platform(servers=6))
    for _ in range(12):
        call = establish(wire)
        wire.sbc.send(call.by_caller("BYE"))
        assert [bool(tel.requests("BYE")) for tel in wire.tels] == [tel is call.callee for tel in wire.tels]
        for tel in wire.tels:
            tel.clear()
