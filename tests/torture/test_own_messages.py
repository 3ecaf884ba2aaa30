# SPDX-License-Identifier: Apache-2.0
"""Our own torture messages, for each class of RFC 4475: valid, invalid, transaction, semantics, compatibility."""

from __future__ import annotations

import pytest
from outcome import HOST, Outcome, new_wire, outcome, still_works
from plain_sip import Packet, long_name


def message(text: str, body: bytes = b"") -> bytes:
    """The octets of a message written with bare line ends; %L is the body's length, %T a tab."""
    head = text.strip("\n").replace("%L", str(len(body))).replace("%T", "\t").replace("\n", "\r\n")
    return head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


SPREAD = message(
    """
SUBSCRIBE sip:presence%3Bx@events.example;user=phone;x SIP/2.0
o :
  presence.winfo ; id = 7
V:SIP/2.0/UDP 127.0.1.1:5060
 ;rport;branch=z9hG4bK.a-b!c%d*e_f+g`h'i~
   , SIP/2.0/SCTP [2001:DB8::1]:5061 ; branch = z9hG4bKv6
CSEQ :
 0000000001
	SUBSCRIBE
F : "\\"\\\\\\u00e9\\"" <sip:watcher@events.example>;tag=w
T: <sip:x@events.example;tag=not-a-tag>
i:)(<>@:\\"/[]?{}
M:<sip:w@127.0.1.1;q=1>;q=0.000;expires=4294967295
X-Empty:
X-Empty :
%T
mAx-FoRwArDs	:	070
L : %L"""
)
REGISTER_MANY = message(
    """
REGISTER sip:registrar.far.example SIP/2.0
Via: SIP/2.0/UDP 127.0.1.1:5060;branch=z9hG4bKreg
From: <sip:me@far.example>;tag=1
To: <sip:me@far.example>
Call-ID: own-register
CSeq: 2147483647 REGISTER
Contact: "One, or \\"two\\"" <sip:a@1.example;x="y>;z=1, sip:b@2.example;expires=7 , *
Authorization: Digest username="a,b", realm="\\"", nonce="==", uri="sip:x", response="0"
Path: <sip:p1.example;lr>, <sip:p2.example;lr;ob>
Max-Forwards: 1
Content-Length: 0"""
)
NESTED = message(
    """
MESSAGE sip:user@far.example SIP/2.0
Via: SIP/2.0/UDP 127.0.1.1:5060;branch=z9hG4bKnested
From: <sip:a@b.example>;tag=1
To: <sip:user@far.example>
Call-ID: own-nested
CSeq: 4 MESSAGE
Max-Forwards: 9
User-Agent: x (a (b (c \\) d) e) f)
Content-Type: message/sip
Content-Length: %L""",
    b"INVITE sip:inner@127.0.3.1 SIP/2.0\r\nVia: SIP/2.0/UDP 9.9.9.9\r\nContent-Length: 0\r\n\r\n\0",
)
SIX = message(
    """
OPTIONS sip:user@[2001:db8::9:1]:5070;maddr=[2001:db8::2] SIP/2.0
Via: SIP/2.0/UDP 127.0.1.1:5060;branch=z9hG4bKsix
From: <sip:a@[2001:db8::1]>;tag=1
To: <sip:user@[2001:db8::9:1]>
Call-ID: own-six@[::1]
CSeq: 4 OPTIONS
Max-Forwards: 9
Content-Length: 0"""
)
PLAIN = message(
    """
INVITE sip:user@far.example SIP/2.0
Via: SIP/2.0/UDP 127.0.1.1:5060;branch=z9hG4bKplain
From: "A" <sip:a@b.example>;tag=1
To: <sip:user@far.example>
Call-ID: own-plain
CSeq: 4 INVITE
Max-Forwards: 9
Contact: <sip:a@127.0.1.1>
Content-Type: application/sdp
Content-Length: %L""",
    b"v=0\r\n",
)


def plain(old: str, new: str) -> bytes:
    """PLAIN with one part replaced."""
    assert old.encode() in PLAIN
    return PLAIN.replace(old.encode(), new.replace("\n", "\r\n").encode("utf-8", "surrogateescape"), 1)


VALID = {
    "spread over lines": SPREAD,
    "contacts of every kind": REGISTER_MANY,
    "a message in a message": NESTED,
    "no body length": plain("Content-Length: 5\n".replace("\n", "\r\n"), ""),
    "line ends first": b"\r\n\r\n" + PLAIN,
    "octets behind": PLAIN + b"BYE sip:x SIP/2.0\r\n\r\n",
    "two words of a method": plain("INVITE sip", "INVITE sip").replace(b"INVITE", b"INVITE-2.0"),
    "escapes in the host part's parameters": plain("user@far.example SIP", "user@far.example;a%3Db=c%20d SIP"),
    "a password": plain("user@far", "user:p&=+$,w@far"),
    "a telephone number": plain("user@far.example SIP", "+33-1.55;phone-context=+33@far.example;user=phone SIP"),
    "empty lines folded": plain("Max-Forwards: 9", "Subject: w\n \n\t\n x\nMax-Forwards: 9"),
    "a name of marks": plain("Max-Forwards: 9", "-.!%*_+`'~: x\nMax-Forwards: 9"),
    "octets above 127": plain("Max-Forwards: 9", "Subject: \udcff\udcfe\udc80\nMax-Forwards: 9"),
    "no space after the name": plain("Call-ID: ", "Call-ID:"),
    "tabs after the name": plain("Call-ID: ", "Call-ID\t:\t\t "),
    "a To in quotes with brackets": plain("To: <", 'To: "<sip:x@y>;tag=z" <'),
    "Content-Length with zeros": plain("Length: 5", "Length: 00000000005"),
    "an unknown transport further down": plain("Max-Forwards", "Via: SIP/2.0/PIGEON p.example;branch=z9\nMax-Forwards"),
    "Require of something unknown": plain("Max-Forwards", "Require: flying\nMax-Forwards"),
    "an empty Supported": plain("Max-Forwards", "Supported:\nk:\nMax-Forwards"),
}
INVALID = {
    "no start line": (b"\r\n".join(PLAIN.split(b"\r\n")[1:]), ["400", "drop"]),
    "a start line of one word": (plain("INVITE sip:user@far.example SIP/2.0", "INVITE"), ["400", "drop"]),
    "no version": (plain(" SIP/2.0\r\nVia", "\nVia"), ["400", "drop"]),
    "a version without dot": (plain(" SIP/2.0\r\nVia", " SIP/20\nVia"), ["400", "505"]),
    "version 2.1": (plain(" SIP/2.0\r\nVia", " SIP/2.1\nVia"), ["505"]),
    "version 10.0": (plain(" SIP/2.0\r\nVia", " SIP/10.0\nVia"), ["505"]),
    "a tab for a space": (plain("INVITE sip", "INVITE\tsip"), ["400", "drop"]),
    "a method that is no token": (plain("INVITE sip", "INV@ITE sip"), ["400", "drop"]),
    "a NUL in the Request-URI": (plain("user@far.example SIP", "us\0er@far.example SIP"), ["400"]),
    "an empty Request-URI": (plain("sip:user@far.example SIP", " SIP"), ["400"]),
    "a host of nothing": (plain("sip:user@far.example SIP", "sip:user@ SIP"), ["400"]),
    "a port of letters": (plain("user@far.example SIP", "user@far.example:port SIP"), ["400"]),
    "a port too high": (plain("user@far.example SIP", "user@far.example:65536 SIP"), ["400"]),
    "a bracket left open": (plain("user@far.example SIP", "user@[2001:db8::1 SIP"), ["400"]),
    "a URI in quotes": (plain("sip:user@far.example SIP", '"sip:user@far.example" SIP'), ["400", "416"]),
    "a CSeq below zero": (plain("CSeq: 4", "CSeq: -4"), ["400"]),
    "a CSeq beyond 32 bits": (plain("CSeq: 4", "CSeq: 4294967300"), ["400"]),
    "a CSeq of another method": (plain("4 INVITE", "4 INVITED"), ["400", "501"]),
    "a CSeq with a comma": (plain("4 INVITE", "4, INVITE"), ["400"]),
    "two Content-Lengths": (plain("Length: 5", "Length: 5\nl: 4"), ["400"]),
    "two equal Content-Lengths": (plain("Length: 5", "Length: 5\nl: 5"), ["400"]),
    "a hexadecimal length": (plain("Length: 5", "Length: 0x5"), ["400"]),
    "a list of lengths": (plain("Length: 5", "Length: 5, 5"), ["400"]),
    "an empty length": (plain("Length: 5", "Length:"), ["400"]),
    "a length one too long": (plain("Length: 5", "Length: 6"), ["400"]),
    "an empty Call-ID": (plain("Call-ID: own-plain", "Call-ID:"), ["400"]),
    "two Call-IDs": (plain("Call-ID: own-plain", "Call-ID: own-plain\ni: own-plain"), ["400"]),
    "two From": (plain("Call-ID:", "f: <sip:b@b.example>;tag=2\nCall-ID:"), ["400"]),
    "an empty To": (plain("To: <sip:user@far.example>", "To:"), ["400"]),
    "a To left open": (plain("To: <sip:user@far.example>", "To: <sip:user@far.example"), ["400"]),
    "a From in half a quote": (plain('From: "A" ', 'From: "A '), ["400"]),
    "Max-Forwards beyond 255": (plain("Forwards: 9", "Forwards: 256"), ["400", "forward"]),
    "Max-Forwards of letters": (plain("Forwards: 9", "Forwards: nine"), ["400"]),
    "a Via without host": (plain("UDP 127.0.1.1:5060;", "UDP ;"), ["400", "drop"]),
    "a Via without transport": (plain("SIP/2.0/UDP 127", "SIP/2.0/ 127"), ["400", "drop"]),
    "a Via of another protocol": (plain("SIP/2.0/UDP 127", "HTTP/2.0/UDP 127"), ["400", "drop", "505", "forward"]),
    "a Via port of 0": (plain("127.0.1.1:5060;", "127.0.1.1:0;"), ["400", "drop", "forward"]),
    "an empty Via": (plain("Via: SIP/2.0/UDP 127.0.1.1:5060;branch=z9hG4bKplain", "Via:"), ["400", "drop"]),
    "no Via": (plain("Via: SIP/2.0/UDP 127.0.1.1:5060;branch=z9hG4bKplain\r\n", ""), ["400", "drop"]),
    "a Route that is none": (plain("Max-Forwards", "Route: nonsense\nMax-Forwards"), ["400"]),
    "a Route left open": (plain("Max-Forwards", "Route: <sip:127.0.0.1;lr\nMax-Forwards"), ["400"]),
    "a line without colon": (plain("Max-Forwards", "this is no header\nMax-Forwards"), ["400"]),
    "a line of a colon": (plain("Max-Forwards", ": x\nMax-Forwards"), ["400"]),
    "a space within a name": (plain("Max-Forwards", "X Y: z\nMax-Forwards"), ["400", "forward"]),
    "folding right after the start line": (plain("Via: S", " folded\nVia: S"), ["400", "drop"]),
    "no empty line": (PLAIN[: PLAIN.index(b"\r\n\r\n") + 2], ["400"]),
    "bare line feeds": (PLAIN.replace(b"\r\n", b"\n"), ["400", "drop", "forward"]),
    "bare carriage returns": (PLAIN.replace(b"\r\n", b"\r"), ["400", "drop"]),
    "one bare line feed": (plain("Max-Forwards: 9\r\n", "Max-Forwards: 9X").replace(b"9X", b"9\n"), ["400", "forward"]),
}
SEMANTICS = {
    "Max-Forwards 0": (plain("Forwards: 9", "Forwards: 0"), ["483"]),
    "Max-Forwards 00": (plain("Forwards: 9", "Forwards: 00"), ["483"]),
    "a scheme nobody knows": (plain("sip:user@far.example SIP", "x-y.z+1:user@far.example SIP"), ["416"]),
    "a telephone URI": (plain("sip:user@far.example SIP", "tel:+33155;phone-context=x SIP"), ["416", "404", "forward"]),
    "a Proxy-Require": (plain("Max-Forwards", "Proxy-Require: sec-agree\nMax-Forwards"), ["420"]),
    "an empty Proxy-Require": (plain("Max-Forwards", "Proxy-Require:\nMax-Forwards"), ["forward", "400"]),
    "schemes in From and To": (plain('From: "A" <sip:a@b.example>', "From: <urn:service:sos>"), ["forward"]),
    "a Route through a stranger's name": (plain("Max-Forwards", "Route: <sip:p.example;lr>\nMax-Forwards"),
                                          ["routing-failure"]),
    "an IPv6 target": (SIX, ["403", "routing-failure"]),
}
COMPAT = {
    "no branch": plain(";branch=z9hG4bKplain", ""),
    "a branch of old": plain("z9hG4bKplain", "1"),
    "no From tag": plain(">;tag=1", ">"),
    "no Max-Forwards": plain("Max-Forwards: 9\r\n", ""),
    "addresses without brackets": plain('From: "A" <sip:a@b.example>;tag=1', "From: sip:a@b.example;tag=1"),
    "hidden Vias": plain("Max-Forwards", "Via: SIP/2.0/UDP h.example;hidden\nHide: route\nMax-Forwards"),
}


def others(packet: Packet) -> list[tuple[str, str]]:
    """Name and value of the lines that routing does not own."""
    ours = {"via", "max-forwards", "record-route", "route"}
    return [(name, value) for name, value in packet.headers if long_name(name) not in ours]


def carried(data: bytes) -> Outcome:
    """The message is forwarded, untouched but for what routing owns."""
    result = outcome(new_wire(), data)
    assert result.name == "forward", result.name
    given, (packet,) = Packet(data.lstrip(b"\r\n")), result.forwarded
    assert others(packet) == others(given)
    assert given.body.startswith(packet.body)
    assert packet.start.split(" ")[0] == given.start.split(" ")[0]
    return result


@pytest.mark.parametrize("name", VALID)
def test_valid(name: str) -> None:
    (packet,) = carried(VALID[name]).forwarded
    given = Packet(VALID[name].lstrip(b"\r\n"))
    assert packet.uri == given.uri
    assert len(packet.values("Via")) == len(given.values("Via")) + 1
    assert packet.get("Max-Forwards") == str(int(given.get("Max-Forwards")) - 1)


@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str) -> None:
    data, allowed = INVALID[name]
    wire = new_wire()
    result = outcome(wire, data)
    assert result.is_one_of(allowed), (result.name, allowed)
    assert still_works(wire)


BAD_ACKS = [
    name for name, (data, allowed) in INVALID.items() if data.startswith(b"INVITE ") and "forward" not in allowed
]


@pytest.mark.parametrize("name", BAD_ACKS)
def test_an_invalid_ack_is_never_answered(name: str) -> None:
    data, _ = INVALID[name]
    result = outcome(new_wire(), data.replace(b"INVITE", b"ACK"))
    assert result.name == "drop"


@pytest.mark.parametrize("name", SEMANTICS)
def test_semantics(name: str) -> None:
    data, allowed = SEMANTICS[name]
    result = outcome(new_wire(), data)
    assert result.is_one_of(allowed), (result.name, allowed)


@pytest.mark.parametrize("name", COMPAT)
def test_compatibility(name: str) -> None:
    (packet,) = carried(COMPAT[name]).forwarded
    assert packet.branch.startswith("z9hG4bK")
    assert int(packet.get("Max-Forwards")) in (8, 70)


@pytest.mark.parametrize("branch", ["", ";branch", ";branch=", ";branch=z9hG4bK", ";branch=1"])
def test_transactions_without_a_usable_branch_are_told_apart(branch: str) -> None:
    """RFC 3261 section 17.2.3: Request-URI, tags, Call-ID, CSeq and the top Via decide instead."""
    wire = new_wire()
    data = plain(";branch=z9hG4bKplain", branch)
    first = outcome(wire, data)
    other = outcome(wire, data.replace(b"own-plain", b"own-other"))
    if first.name != "forward":
        assert first.name == other.name == "400"
        return
    assert first.forwarded[0].branch != other.forwarded[0].branch
    again = outcome(wire, data)
    assert {packet.branch for packet in again.forwarded} <= {first.forwarded[0].branch}
    wire.tel().reply(first.forwarded[0], 200)
    assert 200 in wire.agent(HOST).statuses()


@pytest.mark.parametrize("name", ["tag", "call", "cseq", "uri"])
def test_an_old_transaction_is_matched_by_each_of_its_parts(name: str) -> None:
    changes = {"tag": (b";tag=1", b";tag=2"), "call": (b"own-plain", b"x"), "cseq": (b": 4 ", b": 5 "),
               "uri": (b"INVITE sip:user", b"INVITE sip:other")}
    wire = new_wire()
    data = plain(";branch=z9hG4bKplain", "")
    outcome(wire, data)
    second = outcome(wire, data.replace(*changes[name]))
    assert second.forwarded
    assert {packet.branch for packet in second.forwarded} != {wire.tel().requests("INVITE")[0].branch}
