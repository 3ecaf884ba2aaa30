# SPDX-License-Identifier: Apache-2.0
"""Request validation (RFC 3261 section 16.3): rows VAL-01 to VAL-13 of the checklist.

Left to the registrar, which challenges: VAL-10 (407 carries Proxy-Authenticate).
"""

from __future__ import annotations

import pytest
from calls import cancel, place
from plain_sip import Request
from wire import Wire, platform


@pytest.fixture
def wire() -> Wire:
    return Wire()


def refused(wire: Wire, request: Request | bytes) -> int:
    """Send it; the status of the answer. Nothing may have reached a server."""
    wire.sbc.send(request)
    wire.run(40)
    assert [packet for tel in wire.tels for packet in tel.inbox] == []
    (status,) = {packet.status for packet in wire.sbc.responses() if packet.status >= 200}
    return status


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        (b"CSeq: 1 INVITE", b"CSeq: one INVITE", b"CSeq"),
        (b"CSeq: 1 INVITE", b"CSeq: 4294967296 INVITE", b"CSeq"),
        (b"CSeq: 1 INVITE", b"CSeq: 1 BYE", b"CSeq"),
        (b"CSeq: 1 INVITE\r\n", b"", b"CSeq"),
        (b"Call-ID: call-1@test\r\n", b"", b"Call-ID"),
        (b"Max-Forwards: 70", b"Max-Forwards: many", b"Max-Forwards"),
        (b"Max-Forwards: 70", b"Max-Forwards: -1", b"Max-Forwards"),
        (b"Content-Length: 0", b"Content-Length: 5", b"Content-Length"),
        (b"Content-Length: 0", b"Content-Length: -5", b"Content-Length"),
        (b"Content-Length: 0", b"Content-Length: five", b"Content-Length"),
        (b"To: <sip:0155@127.0.0.1:5060>\r\n", b"", b"To"),
    ],
)
def test_VAL_01_a_malformed_request_is_answered_400_and_not_forwarded(
    wire: Wire, old: bytes, new: bytes, names: bytes
) -> None:
    data = bytes(wire.request("INVITE"))
    assert old in data
    assert refused(wire, data.replace(old, new)) == 400
    assert names.lower() in wire.sbc.responses()[-1].reason.lower().encode()


def test_VAL_01_a_missing_from_is_answered_400(wire: Wire) -> None:
    lines = bytes(wire.request("INVITE")).split(b"\r\n")
    assert refused(wire, b"\r\n".join(line for line in lines if not line.startswith(b"From:"))) == 400


def test_VAL_01_a_request_without_via_brings_no_crash_and_is_not_forwarded(wire: Wire) -> None:
    lines = bytes(wire.request("INVITE")).split(b"\r\n")
    wire.sbc.send(b"\r\n".join(line for line in lines if not line.startswith(b"Via:")))
    wire.run(1)
    assert wire.tel().inbox == []


def test_VAL_01_an_unknown_version_is_answered_505(wire: Wire) -> None:
    data = bytes(wire.request("OPTIONS")).replace(b" SIP/2.0\r\n", b" SIP/3.0\r\n", 1)
    assert refused(wire, data) == 505


@pytest.mark.parametrize("header", ["From", "To", "Call-ID", "CSeq", "Max-Forwards"])
def test_VAL_01_a_single_value_header_given_twice_is_answered_400(wire: Wire, header: str) -> None:
    """RFC 4475 section 3.3.8."""
    data = bytes(wire.request("INVITE"))
    line = next(line for line in data.split(b"\r\n") if line.startswith(header.encode() + b":"))
    assert refused(wire, data.replace(line, line + b"\r\n" + line)) == 400


def test_VAL_01_a_malformed_ack_is_dropped(wire: Wire) -> None:
    """No response is ever made to an ACK (RFC 3261 section 17.1.1.3)."""
    wire.sbc.send(bytes(wire.request("ACK")).replace(b"CSeq: 1 ACK", b"CSeq: x ACK"))
    wire.run(1)
    assert wire.log == []


def test_VAL_01_the_answer_has_a_to_tag_and_the_headers_of_the_request(wire: Wire) -> None:
    """RFC 3261 section 8.2.6.2."""
    request = wire.request("INVITE")
    refused(wire, bytes(request).replace(b"Max-Forwards: 70", b"Max-Forwards: many"))
    answer = wire.sbc.responses()[0]
    assert answer.get("From") == request.from_
    assert answer.call_id == request.call_id
    assert answer.get("CSeq") == "1 INVITE"
    assert answer.get("To").startswith(request.to)
    assert answer.tag("To")
    assert answer.branch == "z9hG4bK-1"


@pytest.mark.parametrize("method", ["FOOBAR", "X", "invite", "UPDATE", "!weird*Method"])
def test_VAL_02_an_unknown_method_is_forwarded(wire: Wire, method: str) -> None:
    wire.sbc.send(wire.request(method))
    wire.tel().reply(wire.tel().got(method), 200)
    assert wire.sbc.statuses() == [200]


def test_VAL_03_odd_headers_that_routing_does_not_need_pass_byte_for_byte(wire: Wire) -> None:
    odd = b'X-Foo: ;;,,"unbalanced\r\nDate: nonsense\r\nExpires: never\r\nContact: <<>>""\r\nP-Odd:   \t x\r\n'
    data = bytes(wire.request("INVITE", headers=[])).replace(b"From:", odd + b"From:")
    wire.sbc.send(data)
    assert odd in wire.tel().got("INVITE").data


@pytest.mark.parametrize("uri", ["foo:bar", "http://example.com/", "nobodyKnowsThis:totally;opaque"])
def test_VAL_04_an_unknown_scheme_is_answered_416(wire: Wire, uri: str) -> None:
    assert refused(wire, wire.request("OPTIONS", uri, to="<sip:0155@127.0.0.1:5060>")) == 416


def test_VAL_05_VAL_06_max_forwards_zero_is_answered_483_and_not_forwarded(wire: Wire) -> None:
    assert refused(wire, wire.request("INVITE", max_forwards="0")) == 483


def test_VAL_06_options_with_max_forwards_zero_is_answered_by_the_gateway(wire: Wire) -> None:
    assert refused(wire, wire.request("OPTIONS", max_forwards="0")) in (483, 200)


def test_VAL_07_VAL_08_an_unknown_proxy_require_is_answered_420_with_unsupported(wire: Wire) -> None:
    request = wire.request("INVITE", headers=[("Proxy-Require", "nosuch, norThis"), ("Require", "100rel")])
    assert refused(wire, request) == 420
    assert wire.sbc.final().values("Unsupported") == ["nosuch", "norThis"]


def test_VAL_08_tags_on_two_lines_are_all_listed(wire: Wire) -> None:
    assert refused(wire, wire.request("OPTIONS", headers=[("Proxy-Require", "one"), ("proxy-require", "two")])) == 420
    assert wire.sbc.final("OPTIONS").values("Unsupported") == ["one", "two"]


def test_VAL_08_require_alone_is_no_business_of_a_proxy(wire: Wire) -> None:
    wire.sbc.send(wire.request("INVITE", headers=[("Require", "nosuch")]))
    assert wire.tel().got("INVITE").get("Require") == "nosuch"


def test_VAL_09_merged_requests_are_both_forwarded(wire: Wire) -> None:
    first = wire.request("INVITE")
    again = Request(
        "INVITE", "sip:0199@127.0.0.1:5060", ["SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-other"],
        first.from_, first.to, first.call_id, first.cseq,
    )
    wire.sbc.send(first)
    wire.sbc.send(again)
    one, two = wire.tel().requests("INVITE")
    assert {one.uri.partition("@")[0], two.uri.partition("@")[0]} == {"sip:0155", "sip:0199"}
    assert one.branch != two.branch
    assert 482 not in wire.sbc.statuses()


def test_VAL_11_proxy_authorization_is_not_added_to(wire: Wire) -> None:
    credentials = 'Digest username="a", realm="elsewhere", nonce="n", uri="sip:x", response="r"'
    place(wire, headers=[("Proxy-Authorization", credentials)])
    assert wire.tel().got("INVITE").lines("Proxy-Authorization") in ([credentials], [])


def test_VAL_12_cancel_is_not_challenged(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.sbc.send(cancel(invite))
    assert wire.sbc.statuses("CANCEL") == [200]


def test_VAL_13_no_100_at_once_to_a_non_invite() -> None:
    wire = Wire(platform(t1=0.5, first_response_timeout=32))
    wire.sbc.send(wire.request("MESSAGE"))
    wire.run(1)
    assert wire.sbc.inbox == []
    wire.tel().reply(wire.tel().requests("MESSAGE")[0], 200)
    assert wire.sbc.statuses() == [200]
