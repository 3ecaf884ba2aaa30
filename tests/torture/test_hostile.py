# SPDX-License-Identifier: Apache-2.0
"""Messages made to hurt: bounded work and a clear answer, never a crash, and life goes on."""

from __future__ import annotations

import random

import pytest
from outcome import new_wire, outcome, still_works

HEAD = (
    b"INVITE sip:user@far.example SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.1.1:5060;branch=z9hG4bKhostile\r\n"
    b"From: <sip:a@b.example>;tag=1\r\nTo: <sip:user@far.example>\r\nCall-ID: hostile\r\nCSeq: 1 INVITE\r\n"
    b"Max-Forwards: 70\r\n"
)
LARGEST = 65_507
"""Octets in the largest datagram that IPv4 carries."""


def full(filler: bytes, unit: bytes = b"") -> bytes:
    """HEAD, *filler*, and as many *unit* as the largest datagram holds."""
    room = LARGEST - len(HEAD) - len(filler) - 2
    return HEAD + filler + (unit * (room // len(unit)) if unit else b"") + b"\r\n"


HOSTILE = {
    "the largest body": HEAD + b"\r\n" + b"x" * (LARGEST - len(HEAD) - 2),
    "a thousand headers": HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(1000)) + b"\r\n",
    "all the headers that fit": full(b"", b"a:\r\n"),
    "all the empty folds that fit": full(b"Subject: x\r\n", b" \r\n"),
    "two hundred Vias": HEAD + b"".join(b"Via: SIP/2.0/UDP v%d;branch=z9hG4bK1\r\n" % n for n in range(200)) + b"\r\n",
    "two hundred Vias in a line": HEAD + b"v: " + b",".join(b"SIP/2.0/UDP v%d" % n for n in range(200)) + b"\r\n\r\n",
    "all the Vias that fit": full(b"", b"v:SIP/2.0/UDP h\r\n"),
    "two hundred Routes": HEAD + b"Route: <sip:127.0.0.1:5060;lr>\r\n" * 200 + b"\r\n",
    "two hundred Routes in a line": HEAD + b"Route: " + b",".join([b"<sip:127.0.0.1:5060;lr>"] * 200) + b"\r\n\r\n",
    "a line of 60,000 octets": HEAD + b"Subject: " + b"s" * 60_000 + b"\r\n\r\n",
    "a name of 60,000 octets": HEAD + b"X" * 60_000 + b": y\r\n\r\n",
    "a Request-URI of 60,000 octets": HEAD.replace(b"user@far", b"u" * 60_000 + b"@far", 1) + b"\r\n",
    "a method of 60,000 octets": HEAD.replace(b"INVITE", b"M" * 30_000) + b"\r\n",
    "a Call-ID of 60,000 octets": HEAD.replace(b"Call-ID: hostile", b"Call-ID: " + b"c" * 60_000) + b"\r\n",
    "a branch of 60,000 octets": HEAD.replace(b"z9hG4bKhostile", b"z9hG4bK" + b"b" * 60_000) + b"\r\n",
    "a From tag of 60,000 octets": HEAD.replace(b"tag=1", b"tag=" + b"t" * 60_000) + b"\r\n",
    "a To of 30,000 parameters": HEAD.replace(b"user@far.example>", b"u@h>" + b";a" * 30_000) + b"\r\n",
    "a number of 60,000 digits": HEAD.replace(b"CSeq: 1", b"CSeq: " + b"1" * 60_000) + b"\r\n",
    "Max-Forwards of 60,000 zeros": HEAD.replace(b"ards: 70", b"ards: " + b"0" * 60_000 + b"70") + b"\r\n",
    "deep comments": HEAD + b"User-Agent: " + b"(" * 20_000 + b")" * 20_000 + b"\r\n\r\n",
    "deep quotes": HEAD + b'Contact: ' + b'"\\"' * 20_000 + b"\r\n\r\n",
    "a display name of escapes": HEAD.replace(b"From: <", b'From: "' + b"\\\\" * 20_000 + b'" <') + b"\r\n",
    "a display name never ended": HEAD.replace(b"From: <", b'From: "' + b"\\\\" * 20_000 + b" <") + b"\r\n",
    "angle brackets": HEAD.replace(b"To: <", b"To: " + b"<" * 30_000) + b"\r\n",
    "commas": HEAD + b"Route: " + b"," * 60_000 + b"\r\n\r\n",
    "semicolons": HEAD.replace(b";branch=z", b";" * 60_000 + b"branch=z") + b"\r\n",
    "percent signs": HEAD.replace(b"user@far", b"%" * 60_000 + b"@far", 1) + b"\r\n",
    "colons": HEAD + b":" * 60_000 + b"\r\n\r\n",
    "NULs in every value": HEAD.replace(b": ", b": \0", 8) + b"\r\n",
    "NULs everywhere": b"\0" * LARGEST,
    "line ends everywhere": b"\r\n" * (LARGEST // 2),
    "spaces everywhere": b" " * LARGEST,
    "line feeds alone": HEAD.replace(b"\r\n", b"\n") + b"\n",
    "everything folded": HEAD.replace(b": ", b":\r\n \r\n\t\r\n ") + b"\r\n",
    "a response without an end": b"SIP/2.0 200 " + b"r" * 60_000,
    "a response of Vias": b"SIP/2.0 200 OK\r\n" + b"v:SIP/2.0/UDP 127.0.0.1\r\n" * 2_000 + b"\r\n",
    "Proxy-Require without end": HEAD + b"Proxy-Require: " + b"x," * 30_000 + b"x\r\n\r\n",
    "noise": random.Random(4475).randbytes(LARGEST),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_answered_dropped_or_carried_and_life_goes_on(name: str) -> None:
    wire = new_wire()
    result = outcome(wire, HOSTILE[name])
    assert len(result.forwarded) <= 1
    assert all(400 <= packet.status <= 599 for packet in result.answers)
    assert all(len(packet.data) <= LARGEST for packet in wire.log)
    assert still_works(wire)
    wire.run(200)
    assert wire.transactions == 0


@pytest.mark.parametrize(
    "name",
    ["the largest body", "a thousand headers", "two hundred Vias", "two hundred Vias in a line",
     "a line of 60,000 octets", "a Call-ID of 60,000 octets", "all the headers that fit"],
)
def test_a_well_formed_giant_gets_a_clear_answer_or_passes(name: str) -> None:
    """Never silence: RFC 3261 section 18.1.1 asks for datagrams up to the largest."""
    result = outcome(new_wire(), HOSTILE[name])
    assert result.is_one_of(["forward", "4xx", "413", "500", "503", "513"]), result.name


@pytest.mark.parametrize("seed", range(8))
def test_giants_from_a_server_do_no_harm_either(seed: int) -> None:
    wire = new_wire()
    dice = random.Random(seed)
    for data in dice.sample(list(HOSTILE.values()), 10):
        wire.tel().send(data)
        wire.tel().send(data.replace(b"INVITE sip:user@far.example SIP/2.0", b"SIP/2.0 200 OK", 1))
    assert still_works(wire)
