# SPDX-License-Identifier: Apache-2.0
"""Request forwarding (RFC 3261 section 16.6): rows FWD of the checklist.

Left to the registrar: FWD-05 (parameters of a binding). Left to the tests with TCP: FWD-11, FWD-17.
"""

from __future__ import annotations

import hashlib
import random

import pytest
from calls import cancel, establish, place
from plain_sip import Packet, Request, long_name
from wire import SBC, SERIAL, Wire, platform

OWN = "<sip:127.0.0.1:5060;lr>"
OURS = {"via", "max-forwards", "record-route", "route"}
"""Header fields that routing may change."""


@pytest.fixture
def wire() -> Wire:
    return Wire()


def others(packet: Packet) -> list[tuple[str, str]]:
    """The header lines that routing has no business with, as written and in order."""
    return [(name, value) for name, value in packet.headers if long_name(name) not in OURS]


ODD = [(f"X-Odd-{n}", f' value "{n}" ; a=b , ;') for n in range(20)]


def test_FWD_01_FWD_19_all_header_fields_pass(wire: Wire) -> None:
    more = [("Subject", "été"), ("k", "100rel"), ("Record-Route", "<sip:p.example;lr>")]
    invite, leg = place(wire, headers=[*ODD, *more])
    assert others(leg) == others(Packet(bytes(invite)))
    assert len(leg.headers) == len(Packet(bytes(invite)).headers) + 2  # a Via and a Record-Route


def test_FWD_01_untouched_octets_stay_as_they_are(wire: Wire) -> None:
    odd = b"subject:\tfolded\r\n\t over\r\n  lines \r\nX :a\r\nx:\r\nX-Bytes: \xff\xfe\x80\r\nm: <sip:a@h.example>\r\n"
    wire.sbc.send(bytes(wire.request("MESSAGE")).replace(b"From:", odd + b"From:"))
    assert odd in wire.tel().got("MESSAGE").data


def test_FWD_02_repeated_fields_keep_their_order(wire: Wire) -> None:
    vias = [
        f"SIP/2.0/UDP 127.0.0.1:{SBC[1]};branch=z9hG4bK-1",
        "SIP/2.0/TCP two.example;branch=z9hG4bK-2;received=192.0.2.2, SIP/2.0/UDP three.example;branch=z9hG4bK-3",
    ]
    _, leg = place(wire, via=vias, headers=[("X-N", str(n)) for n in range(5)])
    assert leg.values("X-N") == ["0", "1", "2", "3", "4"]
    assert [value.split()[1].partition(";")[0] for value in leg.values("Via")][1:] == [
        "127.0.0.1:5090", "two.example", "three.example",
    ]


def test_FWD_03_the_body_is_not_touched(wire: Wire) -> None:
    body = bytes(range(256)) + b"\r\n\r\n\n\r\0" + random.Random(3).randbytes(700)
    _, leg = place(wire, body=body, headers=[("Content-Type", "application/octet-stream")])
    assert hashlib.sha256(leg.body).digest() == hashlib.sha256(body).digest()
    assert leg.get("Content-Length") == str(len(body))


def test_FWD_03_a_body_without_content_length_is_the_rest_of_the_datagram(wire: Wire) -> None:
    """RFC 3261 section 18.3."""
    _, leg = place(wire, body=b"v=0\r\n", length=None)
    assert leg.body == b"v=0\r\n"


def test_FWD_04_the_request_uri_is_the_target(wire: Wire) -> None:
    _, leg = place(wire, uri="sip:+33155;isub=7:secret@127.0.0.1:5060;user=phone;x=%41")
    assert leg.uri == "sip:+33155;isub=7:secret@127.0.3.1:5060;user=phone;x=%41"


def test_FWD_04_the_to_header_is_not_the_target(wire: Wire) -> None:
    _, leg = place(wire, to="<sip:someone@else.example>")
    assert leg.get("To") == "<sip:someone@else.example>"


@pytest.mark.parametrize(("given", "seen"), [("70", "69"), ("0068", "67"), ("1", "0"), ("255", "254"), ("10", "9")])
def test_FWD_06_max_forwards_is_decremented(wire: Wire, given: str, seen: str) -> None:
    _, leg = place(wire, max_forwards=given)
    assert leg.lines("Max-Forwards") == [seen]


def test_FWD_07_missing_max_forwards_becomes_70(wire: Wire) -> None:
    _, leg = place(wire, max_forwards=None)
    assert leg.lines("Max-Forwards") == ["70"]


def test_FWD_08_record_route_goes_first(wire: Wire) -> None:
    _, leg = place(wire, headers=[("Record-Route", "<sip:p2.example;lr>, <sip:p1.example;lr>")])
    assert leg.values("Record-Route")[1:] == ["<sip:p2.example;lr>", "<sip:p1.example;lr>"]


def test_FWD_09_record_route_is_a_loose_sip_uri(wire: Wire) -> None:
    _, leg = place(wire)
    (value,) = leg.values("Record-Route")
    assert value.startswith("<sip:127.0.0.1:5060;")
    assert value.endswith(">")
    parameters = dict(item.partition("=")[::2] for item in value.strip("<>").split(";")[1:])
    assert parameters["lr"] == ""
    assert parameters["u"]


@pytest.mark.parametrize(
    ("method", "recorded"),
    [("INVITE", 1), ("SUBSCRIBE", 1), ("REFER", 1), ("FOOBAR", 1), ("REGISTER", 0), ("OPTIONS", 0), ("MESSAGE", 0),
     ("PUBLISH", 0)],
)
def test_FWD_09_methods_that_can_make_a_dialog_are_recorded(wire: Wire, method: str, recorded: int) -> None:
    wire.sbc.send(wire.request(method))
    assert len(wire.tel().got(method).values("Record-Route")) == recorded


def test_FWD_10_record_route_leads_back(wire: Wire) -> None:
    call = establish(wire)
    wire.sbc.send(call.by_caller("BYE"))
    assert wire.tel().got("BYE").call_id == call.invite.call_id


@pytest.mark.parametrize("own", [[OWN], []])
@pytest.mark.parametrize("more", [[], ["<sip:127.0.4.2:5060;lr>"]])
def test_FWD_12_strict_next_hop(wire: Wire, own: list[str], more: list[str]) -> None:
    strict = wire.agent("127.0.4.1", 5080)
    routes = [*own, "<sip:127.0.4.1:5080;x=y>", *more]
    wire.sbc.send(wire.request("MESSAGE", "sip:bob@far.example;a=b", headers=[("Route", ", ".join(routes))]))
    seen = strict.got("MESSAGE")
    assert seen.uri == "sip:127.0.4.1:5080;x=y"
    assert seen.values("Route") == [*more, "<sip:bob@far.example;a=b>"]
    assert wire.tel().inbox == []


@pytest.mark.parametrize("uri", ["sip:bob@far.example", "sip:bob@127.0.5.1:5060"])
def test_FWD_13_the_route_decides_before_the_request_uri(wire: Wire, uri: str) -> None:
    hop, target = wire.agent("127.0.4.1"), wire.agent("127.0.5.1")
    wire.sbc.send(wire.request("INVITE", uri, headers=[("Route", "<sip:127.0.4.1:5060;lr>")]))
    assert hop.got("INVITE").uri == uri
    assert target.inbox == wire.tel().inbox == []


def test_FWD_13_in_dialog_without_further_routes_the_request_uri_decides(wire: Wire) -> None:
    """The callee's Contact is another address than the one the INVITE went to: media server, other card..."""
    elsewhere = wire.agent("127.0.3.1", 5070)
    call = establish(wire)
    wire.sbc.send(call.by_caller("BYE", uri="sip:ua@127.0.3.1:5070"))
    assert elsewhere.got("BYE").uri == "sip:ua@127.0.3.1:5070"
    assert wire.tel().inbox == []


def test_FWD_13_in_dialog_routes_after_ours_are_followed(wire: Wire) -> None:
    """Another proxy stands between us and the callee, and recorded itself."""
    hop = wire.agent("127.0.4.1")
    call = establish(wire)
    wire.sbc.send(call.by_caller("BYE", headers=[("Route", "<sip:127.0.4.1:5060;lr>")]))
    assert hop.got("BYE").values("Route") == ["<sip:127.0.4.1:5060;lr>"]
    assert wire.tel().inbox == []


def test_FWD_14_each_try_has_its_own_branch() -> None:
    wire = Wire(platform(servers=3))
    _, leg = place(wire)
    branches = {leg.branch}
    for _ in range(2):
        holder = next(tel for tel in wire.tels if tel.requests("INVITE") and not tel.requests("ACK"))
        holder.reply(holder.requests("INVITE")[0], 503)
        branches |= {packet.branch for tel in wire.tels for packet in tel.requests("INVITE")}
    assert len(branches) == 3
    assert all(len({packet.branch for packet in tel.requests("INVITE")}) == 1 for tel in wire.tels)


def test_FWD_15_own_via_on_top_with_the_magic_cookie(wire: Wire) -> None:
    invite, leg = place(wire)
    own, upstream = leg.values("Via")
    assert own.startswith("SIP/2.0/UDP 127.0.0.1:5060;")
    assert leg.branch.startswith("z9hG4bK")
    assert len(leg.branch) > len("z9hG4bK")
    assert upstream.startswith(invite.via[0])


def test_FWD_15_branches_of_different_requests_differ(wire: Wire) -> None:
    for _ in range(50):
        wire.sbc.send(wire.request("MESSAGE"))
        wire.sbc.send(wire.request("INVITE"))
    assert len({packet.branch for packet in wire.tel().requests()}) == 100


def test_FWD_15_requests_that_differ_in_one_field_only_have_different_branches() -> None:
    """RFC 3261 section 8.1.1.7: a branch is unique over all requests, in space and time."""
    first = Wire().request("MESSAGE")
    base = {"from_": first.from_, "call_id": first.call_id, "cseq": 1, "via": first.via}
    changes: list[dict[str, object]] = [
        {}, {"call_id": "another"}, {"cseq": 2, "via": ["SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-77"]},
        {"from_": "<sip:0102030405@127.0.0.1:5090>;tag=another"},
        {"via": ["SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-78"]},
    ]
    branches = set()
    for change in changes:
        wire = Wire()  # in one and the same gateway a request with a known branch is a retransmission
        wire.sbc.send(wire.request("MESSAGE", **{**base, **change}))
        branches.add(wire.tel().got("MESSAGE").branch)
    assert len(branches) == len(changes)


def test_FWD_16_cancel_and_failure_ack_have_the_branch_of_the_invite(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.sbc.send(cancel(invite))
    wire.tel().reply(leg, 487)
    for method in ("CANCEL", "ACK"):
        request = wire.tel().got(method)
        assert request.via == leg.via
        assert len(request.values("Via")) == 1  # hop by hop: RFC 3261 sections 9.1, 17.1.1.3
        assert request.cseq == leg.cseq
        assert request.uri == leg.uri


def test_FWD_18_timer_c_lets_a_call_ring_for_three_minutes() -> None:
    wire = Wire(platform(**SERIAL))
    _, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.run(180.0)
    assert wire.tel().requests("CANCEL") == []
    assert wire.sbc.statuses("INVITE") == [180]
    wire.tel().reply(leg, 200)
    assert wire.sbc.statuses("INVITE")[-1] == 200


def test_FWD_20_a_retransmission_makes_no_second_try() -> None:
    wire = Wire(platform(servers=2))
    invite, leg = place(wire)
    wire.holder().reply(leg, 503)
    wire.run(0.01)
    other = next(tel for tel in wire.tels if not tel.requests("ACK"))
    other.reply(other.got("INVITE"), 180)
    wire.sbc.send(invite)
    wire.run(1)
    assert [len(tel.requests("INVITE")) for tel in wire.tels] == [1, 1]


def test_FWD_21_a_request_keeps_its_headers_within_a_dialog_and_is_not_recorded_wrongly(wire: Wire) -> None:
    """A re-INVITE may be recorded again, but never loses what it carries."""
    call = establish(wire)
    again: Request = call.by_caller("INVITE", headers=ODD)
    wire.sbc.send(again)
    leg = wire.tel().got("INVITE")
    assert others(leg) == others(Packet(bytes(again)))
    assert leg.values("Route") == []
