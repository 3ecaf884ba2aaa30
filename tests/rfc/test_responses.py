# SPDX-License-Identifier: Apache-2.0
"""Response processing, Timer C and transport errors (RFC 3261 sections 16.7 to 16.9): rows RSP, TMC, ERR.

Where a row speaks of forking, serial failover shows it: an abandoned attempt and its successor are two branches.
Not built: RSP-19 (the proxy does not recurse on 3xx).
"""

from __future__ import annotations

import hashlib

import pytest
from calls import establish, place
from plain_sip import Packet, joined, response
from wire import SERIAL, UserAgent, Wire, on_time, platform, when


@pytest.fixture
def wire() -> Wire:
    return Wire()


def two_branches(**parts: object) -> tuple[Wire, UserAgent, Packet, UserAgent, Packet]:
    """A call whose first server stayed silent: the abandoned attempt and the one that followed it."""
    wire = Wire(platform(servers=2))
    _, first = place(wire, **parts)
    silent = wire.holder()
    wire.run(1.1)
    follower = next(tel for tel in wire.tels if tel is not silent)
    return wire, silent, first, follower, follower.requests("INVITE")[0]


def test_RSP_01_own_via_is_removed(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    ringing = wire.sbc.responses()[-1]
    assert len(ringing.values("Via")) == 1
    assert ringing.via.startswith(invite.via[0])


def test_RSP_01_a_response_without_further_via_is_not_forwarded(wire: Wire) -> None:
    _, leg = place(wire)
    before = len(wire.log)
    wire.tel().reply(leg, 180, via=leg.lines("Via")[:1])
    assert len(wire.log) == before


@pytest.mark.parametrize("join", [", ", ",", " ,\r\n "])
@pytest.mark.parametrize("name", ["Via", "v", "VIA "])
def test_RSP_01_only_the_first_value_of_a_joint_via_line_goes(wire: Wire, join: str, name: str) -> None:
    upstream = ["SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-a", "SIP/2.0/TCP b.example;branch=z9hG4bK-b"]
    _, leg = place(wire, via=upstream)
    lines = [(name, join.join(leg.values("Via"))), ("f", leg.get("From")), ("t", leg.get("To") + ";tag=x")]
    wire.tel().send(joined("SIP/2.0 180 Ringing", [*lines, ("i", leg.call_id), ("CSeq", leg.get("CSeq"))]))
    seen = wire.sbc.responses()[-1]
    assert seen.status == 180
    assert [value.split()[1].partition(";")[0] for value in seen.values("Via")] == ["127.0.0.1:5090", "b.example"]


def test_RSP_01_via_lines_after_other_headers(wire: Wire) -> None:
    _, leg = place(wire)
    lines = [("CSeq", leg.get("CSeq")), ("Call-ID", leg.call_id), ("X", "1"), ("From", leg.get("From"))]
    lines += [("Via", leg.lines("Via")[0]), ("To", leg.get("To") + ";tag=x"), ("Via", leg.lines("Via")[1])]
    wire.tel().send(joined("SIP/2.0 180 Ringing", [*lines, ("Content-Length", "0")]))
    assert wire.sbc.responses()[-1].status == 180


def test_RSP_02_100_is_never_forwarded(wire: Wire) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, 100, headers=[("X-Marker", "yes")])
    assert wire.sbc.inbox == []
    wire.run(0.2)
    wire.tel().reply(leg, 100, headers=[("X-Marker", "yes")])
    assert wire.sbc.statuses() == [100]  # our own
    assert not any(packet.lines("X-Marker") for packet in wire.sbc.inbox)


@pytest.mark.parametrize("status", [101, 155, 180, 183, 199, 200, 202, 299])
def test_RSP_03_provisional_and_success_are_forwarded_at_once(wire: Wire, status: int) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, status)
    assert wire.sbc.statuses() == [status]


def test_RSP_03_each_provisional_of_a_call_is_forwarded(wire: Wire) -> None:
    _, leg = place(wire)
    for status in (180, 183, 180, 200):
        wire.tel().reply(leg, status)
    assert wire.sbc.statuses() == [180, 183, 180, 200]


def test_RSP_04_every_2xx_of_an_invite_is_forwarded() -> None:
    wire, silent, first, follower, second = two_branches()
    follower.reply(second, 200, to_tag="b")
    silent.reply(first, 200, to_tag="a")
    wire.run(1)
    assert [packet.tag("To") for packet in wire.sbc.responses() if packet.status == 200] == ["b", "a"]


def test_RSP_05_6xx_cancels_the_other_branches_and_makes_no_new_one() -> None:
    wire = Wire(platform(servers=3))
    _, first = place(wire)
    silent = wire.holder()
    wire.run(1.1)
    follower = next(tel for tel in wire.tels if tel is not silent and tel.requests("INVITE"))
    follower.reply(follower.requests("INVITE")[0], 180)
    silent.reply(first, 603)
    assert len(follower.requests("CANCEL")) == 1
    follower.reply(follower.got("CANCEL"), 200)
    follower.reply(follower.requests("INVITE")[0], 487)
    wire.run(0.4)
    assert wire.sbc.final().status == 603
    assert sum(bool(tel.requests("INVITE")) for tel in wire.tels) == 2


def test_RSP_05_6xx_makes_no_new_branch() -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    wire.holder().reply(leg, 600)
    wire.run(3)
    assert wire.sbc.final().status == 600
    assert sum(bool(tel.requests("INVITE")) for tel in wire.tels) == 1


def test_RSP_06_no_final_response_becomes_408() -> None:
    wire = Wire(platform(**SERIAL))
    start = wire.now
    place(wire)
    wire.run(31.9)
    assert wire.sbc.statuses() == [100]
    wire.run(0.2)
    assert wire.sbc.final().status == 408
    assert on_time(when(wire.sbc.responses()[1:2], start), [32.0])


def test_RSP_07_6xx_beats_all() -> None:
    wire, silent, first, follower, second = two_branches()
    silent.reply(first, 404)
    follower.reply(second, 603)
    wire.run(0.4)
    assert wire.sbc.final().status == 603


@pytest.mark.parametrize(
    ("one", "two", "best"), [(503, 486, 486), (486, 503, 486), (404, 302, 302), (500, 404, 404)]
)
def test_RSP_08_the_lowest_class_otherwise(one: int, two: int, best: int) -> None:
    wire, silent, first, follower, second = two_branches()
    silent.reply(first, one)
    follower.reply(second, two)
    wire.run(0.4)
    assert wire.sbc.final().status == best


def test_RSP_09_RSP_10_a_503_becomes_500(wire: Wire) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, 503, headers=[("Retry-After", "60")])
    wire.run(0.1)
    assert wire.sbc.final().status == 500


@pytest.mark.parametrize("tag", ["abc", None])
def test_RSP_11_to_is_not_touched_in_1xx(wire: Wire, tag: str | None) -> None:
    _, leg = place(wire, to='"Bob, the" <sip:bob@far.example>')
    wire.tel().reply(leg, 180, to_tag=tag)
    assert wire.sbc.responses()[-1].get("To") == '"Bob, the" <sip:bob@far.example>' + (f";tag={tag}" if tag else "")


def test_RSP_11_to_is_not_touched_in_2xx(wire: Wire) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, 200, to_tag="very-own-tag")
    assert wire.sbc.final().tag("To") == "very-own-tag"


@pytest.mark.parametrize("status", [302, 404, 486, 604])
def test_RSP_12_the_to_tag_of_a_failure_is_kept(wire: Wire, status: int) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, status, to_tag="x")
    assert wire.sbc.final().status == status
    assert wire.sbc.final().tag("To") == "x"


def test_RSP_13_the_challenges_of_all_branches_are_gathered() -> None:
    """16.7 step 7: WWW-Authenticate and Proxy-Authenticate of every 401 and 407."""
    wire, silent, first, follower, second = two_branches()
    silent.reply(first, 401, headers=[("WWW-Authenticate", 'Digest realm="a", nonce="1"')])
    follower.reply(second, 407, headers=[("Proxy-Authenticate", 'Digest realm="b", nonce="2"')])
    wire.run(0.4)
    answer = wire.sbc.final()
    assert answer.status in (401, 407)
    assert 'realm="a"' in answer.get("WWW-Authenticate")
    assert 'realm="b"' in answer.get("Proxy-Authenticate")


def test_RSP_14_the_body_of_a_response_is_not_touched(wire: Wire) -> None:
    body = bytes(reversed(range(256))) + b"\r\n\r\n\0"
    _, leg = place(wire)
    wire.tel().reply(leg, 200, body=body)
    assert hashlib.sha256(wire.sbc.final().body).digest() == hashlib.sha256(body).digest()


def test_RSP_15_received_of_the_next_via_is_kept(wire: Wire) -> None:
    vias = ["SIP/2.0/UDP host.invalid:5090;branch=z9hG4bK-1;rport"]
    vias += ["SIP/2.0/UDP far.example;branch=z9hG4bK-2;received=192.0.2.9;rport=4711"]
    _, leg = place(wire, via=vias)
    wire.tel().reply(leg, 180)
    top, next_ = wire.sbc.responses()[-1].values("Via")
    assert "received=127.0.0.1" in top
    assert "rport=5090" in top
    assert next_ == vias[1]


def test_RSP_16_other_headers_are_kept(wire: Wire) -> None:
    odd = [(f"X-{n}", f'";{n}" , ,') for n in range(20)] + [("Record-Route", "<sip:b.example;lr>")]
    _, leg = place(wire)
    sent = Packet(wire.tel().reply(leg, 200, headers=odd))
    own_via = sent.headers[0]
    assert own_via[0] == "Via"
    assert wire.sbc.final().headers == sent.headers[1:]
    assert wire.sbc.final().start == sent.start


def test_RSP_16_a_reason_phrase_passes_unchanged(wire: Wire) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, 200, reason="= 2**3 * 5**2 но сто - простое")
    assert wire.sbc.final().reason == "= 2**3 * 5**2 но сто - простое"


def test_RSP_16_an_empty_reason_phrase_passes(wire: Wire) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, 180, reason="")
    assert wire.sbc.responses()[-1].start == "SIP/2.0 180 "


def test_RSP_17_RSP_18_after_a_2xx_the_pending_branch_is_cancelled_and_its_487_acknowledged() -> None:
    wire, silent, first, follower, second = two_branches()
    follower.reply(second, 180)
    silent.reply(first, 200, to_tag="a")
    assert len(follower.requests("CANCEL")) == 1
    follower.reply(follower.got("CANCEL"), 200)
    follower.reply(second, 487, to_tag="b")
    assert len(follower.requests("ACK")) == 1
    assert follower.got("ACK").tag("To") == "b"
    wire.run(5)
    assert wire.sbc.final().tag("To") == "a"
    assert 487 not in wire.sbc.statuses()


def test_RSP_18_a_late_failure_of_an_abandoned_branch_is_acknowledged() -> None:
    wire, silent, first, follower, second = two_branches()
    follower.reply(second, 200, to_tag="b")
    wire.run(3)
    silent.reply(first, 486, to_tag="a")
    assert len(silent.requests("ACK")) == 1
    assert wire.sbc.final().tag("To") == "b"


def test_RSP_20_provisionals_reset_timer_c(wire: Wire) -> None:
    _, leg = place(wire)
    for _ in range(5):
        wire.tel().reply(leg, 180)
        wire.run(100)
    assert wire.tel().requests("CANCEL") == []
    wire.tel().reply(leg, 200)
    assert wire.sbc.final().status == 200


def test_RSP_20_a_100_does_not_reset_timer_c(wire: Wire) -> None:
    """16.7 step 2: provisional responses from 101 to 199 do."""
    _, leg = place(wire)
    for _ in range(30):
        wire.tel().reply(leg, 100)
        wire.run(10)
    assert wire.tel().requests("CANCEL")


def test_RSP_21_a_response_with_another_cseq_method_is_not_taken_for_the_invite(wire: Wire) -> None:
    """RFC 3261 section 17.1.3: branch and CSeq method match."""
    _, leg = place(wire)
    wire.tel().reply(leg, 200, cseq="1 BYE")
    wire.run(0.01)
    assert wire.sbc.inbox == []
    wire.run(0.2)
    assert wire.sbc.statuses() == [100]


def test_RSP_22_a_response_from_a_stranger_is_dropped(wire: Wire) -> None:
    _, leg = place(wire)
    wire.agent("127.0.9.9").send(response(leg, 200))
    assert wire.sbc.inbox == []
    wire.run(0.2)
    assert wire.sbc.statuses() == [100]


def test_RSP_22_only_what_has_the_vias_of_the_request_passes() -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    before = len(wire.log)
    for tel in wire.tels:
        tel.reply(leg, 180, via=[*leg.lines("Via")[:1], "Via: SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-else"])
        tel.reply(leg, 180, via=[*leg.lines("Via")[:1], "Via: SIP/2.0/UDP 127.0.0.1:5090;branch="])
    assert len(wire.log) == before
    wire.tel().reply(leg, 180)
    assert wire.sbc.statuses() == [180]


def test_TMC_01_timer_c_cancels_a_call_that_rings_for_ever(wire: Wire) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.run(200)
    cancel = wire.tel().requests("CANCEL")[0]
    wire.tel().reply(cancel, 200)
    wire.tel().reply(leg, 487)
    wire.run(40)
    assert wire.sbc.final().status in (408, 487)


def test_ERR_01_a_transport_error_counts_as_503() -> None:
    wire = Wire()
    wire.tel()
    wire.refused.add(wire.tel().address)
    wire.sbc.send(wire.request("INVITE"))
    wire.run(0.1)
    assert wire.sbc.final().status == 500


def test_ERR_01_a_transport_error_lets_the_next_server_be_tried_at_once() -> None:
    wire = Wire(platform(servers=2))
    place(wire)
    dead = wire.holder()
    start = wire.now
    for tel in wire.tels:
        tel.clear()
    wire.refused.add(dead.address)
    for _ in range(20):
        wire.sbc.send(wire.request("INVITE"))
    (alive,) = [tel for tel in wire.tels if tel is not dead]
    assert len(alive.requests("INVITE")) == 20
    assert set(when(alive.requests("INVITE"), start)) == {0.0}


def test_ERR_01_an_error_for_an_established_call_does_no_harm(wire: Wire) -> None:
    call = establish(wire)
    wire.refused.add(wire.tel().address)
    wire.sbc.send(call.by_caller("BYE"))
    wire.run(0.1)
    assert wire.sbc.final("BYE").status in (500, 503, 502)
    wire.refused.clear()
    wire.tel().send(call.by_callee("BYE"))
    assert wire.sbc.got("BYE").call_id == call.invite.call_id
