# SPDX-License-Identifier: Apache-2.0
"""The responses that the gateway makes itself (RFC 3261 sections 8.2.6, 9.2, 16.7, 17.2.1)."""

from __future__ import annotations

import pytest
from calls import cancel, establish, place
from plain_sip import Packet, split_values
from wire import Wire, platform


@pytest.fixture
def wire() -> Wire:
    return Wire()


VIAS = [
    "SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-1",
    "SIP/2.0/TCP two.example;branch=z9hG4bK-2;received=192.0.2.2, SIP/2.0/TLS three.example;branch=z9hG4bK-3",
]


def answered(wire: Wire, **parts: object) -> Packet:
    """The final answer to a request from the SBC."""
    wire.sbc.send(wire.request(str(parts.pop("method", "INVITE")), **parts))
    wire.run(0.1)
    (packet,) = {p.data: p for p in wire.sbc.responses() if p.status >= 200}.values()
    return packet


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        (483, {"max_forwards": "0"}),
        (420, {"headers": [("Proxy-Require", "x")]}),
        (416, {"uri": "foo:bar"}),
        (403, {"uri": "sip:x@192.0.2.99"}),
        (200, {"uri": "sip:127.0.0.1:5060", "method": "OPTIONS"}),
    ],
)
def test_the_fields_of_an_answer(wire: Wire, status: int, parts: dict[str, object]) -> None:
    answer = answered(wire, via=VIAS, to='"B, b" <sip:b@far.example;x=1>', **parts)
    assert answer.status == status
    assert answer.reason
    assert answer.values("Via") == [value for line in VIAS for value in split_values(line)]
    assert answer.get("To").startswith('"B, b" <sip:b@far.example;x=1>;tag=')
    assert answer.tag("From") == "caller1"
    assert answer.call_id == "call-1@test"
    assert answer.cseq == 1
    assert answer.lines("Content-Length") == ["0"]
    assert answer.body == b""
    assert answer.values("Record-Route") == []


def test_compact_forms_are_understood_in_what_is_answered(wire: Wire) -> None:
    data = bytes(wire.request("INVITE", max_forwards="0"))
    for long, short in ((b"Via", b"v"), (b"From", b"f"), (b"To", b"t"), (b"Call-ID", b"i"), (b"Content-Length", b"l")):
        data = data.replace(b"\r\n" + long + b":", b"\r\n" + short + b":")
    wire.sbc.send(data)
    assert wire.sbc.final().status == 483
    assert wire.sbc.final().call_id == "call-1@test"


def test_a_to_tag_that_is_there_is_kept(wire: Wire) -> None:
    answer = answered(wire, max_forwards="0", to="<sip:b@far.example>;tag=mine")
    assert answer.get("To") == "<sip:b@far.example>;tag=mine"


def test_the_100_has_no_to_tag_and_copies_the_timestamp(wire: Wire) -> None:
    """RFC 3261 section 8.2.6.1."""
    place(wire, headers=[("Timestamp", "54.21")])
    wire.run(0.2)
    (trying,) = wire.sbc.responses()
    assert trying.status == 100
    assert trying.tag("To") is None
    assert trying.get("Timestamp").startswith("54.21")


def test_a_repeated_request_gets_the_very_same_answer(wire: Wire) -> None:
    request = wire.request("INVITE", max_forwards="0")
    wire.sbc.send(request)
    wire.sbc.send(request)
    first, second = wire.sbc.responses()
    assert first.data == second.data


def test_the_487_has_a_to_tag(wire: Wire) -> None:
    wire = Wire(hook=True)
    invite = wire.request("INVITE")
    wire.sbc.send(invite)
    wire.sbc.send(cancel(invite))
    assert wire.sbc.final().status == 487
    assert wire.sbc.final().tag("To")


def test_the_408_and_the_500_have_a_to_tag() -> None:
    for refused, status in ((False, 408), (True, 500)):
        wire = Wire()
        if refused:
            wire.refused.add(wire.tel().address)
        wire.sbc.send(wire.request("INVITE"))
        wire.run(6.45)
        assert wire.sbc.final().status == status
        assert wire.sbc.final().tag("To")
        assert len(wire.sbc.final().values("Via")) == 1


def test_a_408_after_a_cancel_to_a_server_that_rang_and_fell_silent(wire: Wire) -> None:
    """It rang, was cancelled, and never says 487: the caller must not wait for Timer C."""
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.sbc.send(cancel(invite))
    wire.tel().reply(wire.tel().got("CANCEL"), 200)
    wire.run(40)
    assert wire.sbc.final().status in (408, 487)
    wire.run(70)
    assert wire.transactions == 0


@pytest.mark.parametrize("status", [481, 408])
def test_a_cancel_that_the_server_does_not_know_ends_the_call_all_the_same(wire: Wire, status: int) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.sbc.send(cancel(invite))
    wire.tel().reply(wire.tel().got("CANCEL"), status)
    wire.run(40)
    assert wire.sbc.final().status in (408, 487)


def test_only_one_final_failure_reaches_the_caller_of_a_message() -> None:
    wire = Wire(platform(servers=2))
    wire.sbc.send(wire.request("MESSAGE"))
    first = wire.holder("MESSAGE")
    wire.run(1.05)
    (second,) = [tel for tel in wire.tels if tel is not first]
    first.reply(first.requests("MESSAGE")[0], 200, to_tag="a")
    if second.requests("MESSAGE"):
        second.reply(second.requests("MESSAGE")[0], 200, to_tag="b")
    wire.run(1)
    assert wire.sbc.final("MESSAGE").tag("To") == "a"


def test_the_answer_to_a_bye_of_a_dead_server_comes_at_once(wire: Wire) -> None:
    call = establish(wire)
    wire.refused.add(wire.tel().address)
    wire.sbc.send(call.by_caller("BYE"))
    assert wire.sbc.final("BYE").tag("To") == "callee"
