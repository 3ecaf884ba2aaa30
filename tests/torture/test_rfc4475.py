# SPDX-License-Identifier: Apache-2.0
"""The 49 messages of RFC 4475 and test.dat, each against its row of the index, in the proxy's role, over UDP.

They are not part of the repository: they lie in ``../shared/torture`` beside it, or where UBISIP_TORTURE says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcome import HOST, Outcome, new_wire, outcome, still_works
from plain_sip import Packet, joined
from wire import Wire

FOLDER = Path(os.environ.get("UBISIP_TORTURE") or Path(__file__).parents[3] / "shared" / "torture")
INDEX = FOLDER / "index.json"
ROWS: dict[str, Any] = (
    {row["name"]: row for row in json.loads(INDEX.read_text())["messages"]} if INDEX.is_file() else {}
)
pytestmark = pytest.mark.skipif(not ROWS, reason=f"no torture messages at {FOLDER}")
PORTS = {"quotbal": 5050, "mpart01": 5070}
"""The sent-by port of the message, where it is not 5060."""


def octets(name: str) -> bytes:
    return (FOLDER / ROWS[name]["file"]).read_bytes()


def sent(name: str) -> tuple[Wire, Outcome, bytes]:
    """Send a message of the folder from the carrier."""
    wire, data = new_wire(), octets(name)
    return wire, outcome(wire, data, PORTS.get(name, 5060)), data


def vias(data: bytes) -> int:
    return len(Packet(data).values("Via"))


def tail(data: bytes) -> bytes:
    """The body."""
    return data.partition(b"\r\n\r\n")[2]


NEVER: dict[str, Callable[[Packet, bytes], bool]] = {
    "wsinv": lambda p, d: p.get("UnknownHeaderWithUnusualValue") == ";;,,;;,;" and len(p.values("Via")) == vias(d) + 1
    and p.get("Max-Forwards") == "67",
    "intmeth": lambda p, d: p.start.split("@")[0] == Packet(d).start.split("@")[0] and b"NUL:\\\0 DEL:\\\x7f" in p.data,
    "esc01": lambda p, d: p.uri == "sip:sips%3Auser%40example.com@example.net" and b"n%61me=v%61lue%25%34%31" in p.data,
    "escnull": lambda p, d: p.lines("Contact") == ["<sip:%00@host5.example.com>", "<sip:%00%00@host5.example.com>"],
    "esc02": lambda p, d: p.method == "RE%47IST%45R" and b"C%6Fntact: <sip:alias2@host2.example.com>" in p.data,
    "longreq": lambda p, d: len(p.values("Via")) == 35 and p.get("From") == Packet(d).get("From"),
    "dblreq": lambda p, d: p.method == "REGISTER" and b"INVITE" not in p.data and p.body == b"",
    "semiuri": lambda p, d: p.uri == "sip:user;par=u%40example.net@example.com",
    "transports": lambda p, d: p.values("Via")[2:] == Packet(d).values("Via")[1:],
    "mpart01": lambda p, d: p.body == tail(d) and len(p.body) == 553 and p.uri == "sip:127.0.0.1:5080"
    and p.values("Route")[-1] == "<sip:kumiko@example.org>",
    "quotbal": lambda p, d: p.get("To").count('"') % 2 == 0,
    "ltgtruri": lambda p, d: "<" not in p.uri,
    "lwsruri": lambda p, d: p.start.count(" ") == 2,
    "lwsstart": lambda p, d: p.start.count(" ") == 2,
    "trws": lambda p, d: not p.start.endswith(" "),
    "escruri": lambda p, d: "?" not in p.uri and p.values("Route") == [],
    "baddate": lambda p, d: p.get("Date") == "Fri, 01 Jan 2010 16:00:00 EST",
    "baddn": lambda p, d: "Bell, Alexander" not in p.get("From").replace('"Bell, Alexander"', ""),
    "regaut01": lambda p, d: p.get("Authorization") == "NoOneKnowsThisScheme opaque-data=here",
    "regescrt": lambda p, d: p.values("Route") == [] and b"?Route=%3Csip:sip.example.com%3E" in p.data,
    "regbadct": lambda p, d: p.values("Route") == [],
    "cparam01": lambda p, d: b"Contact: sip:+19725552222@gw1.example.net;unknownparam\r\n" in p.data,
    "cparam02": lambda p, d: b"Contact: <sip:+19725552222@gw1.example.net;unknownparam>\r\n" in p.data,
    "inv2543": lambda p, d: p.get("Max-Forwards") == "70" and p.branch.startswith("z9hG4bK")
    and len(p.values("Record-Route")) == 2,
}
"""What a forwarded message must look like: the index's words on what must never happen."""


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_outcome_is_one_that_the_index_allows(name: str) -> None:
    wire, result, data = sent(name)
    assert result.is_one_of(ROWS[name]["proxy_ok"]), (result.name, ROWS[name]["proxy_ok"])
    assert len(result.forwarded) <= 1
    for packet in result.forwarded:
        assert NEVER.get(name, lambda p, d: True)(packet, data), packet.data
    assert still_works(wire)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_what_is_forwarded_keeps_the_headers_that_routing_does_not_own(name: str) -> None:
    _, result, data = sent(name)
    if result.name != "forward":
        assert ROWS[name]["proxy_ok"] != ["forward"]
        return
    ours = {"via", "v", "max-forwards", "record-route", "route"}
    (packet,) = result.forwarded
    kept = [(key, value) for key, value in packet.headers if key.strip().lower() not in ours]
    given = [(key, value) for key, value in Packet(data).headers if key.strip().lower() not in ours]
    assert kept == given


@pytest.mark.parametrize("name", sorted(name for name, row in ROWS.items() if row["kind"] == "request"))
def test_every_prefix_is_survived(name: str) -> None:
    data = octets(name)
    wire = new_wire()
    for end in range(0, len(data), 1 if len(data) < 700 else 7):
        wire.agent(HOST).send(data[:end])
    assert still_works(wire)


def with_own_via(name: str) -> tuple[Wire, int, bytes]:
    """A response of the folder, made to answer an INVITE that the gateway really forwarded."""
    wire = new_wire()
    wire.agent(HOST, 5090)
    source = (HOST, 5090)
    invite = wire.request("INVITE", source=source)
    wire.agent(*source).send(invite)
    leg = wire.tel().got("INVITE")
    packet = Packet(octets(name))
    known = {"Via": None, "Call-ID": leg.call_id, "CSeq": leg.get("CSeq"), "From": leg.get("From")}
    kept = [(key, known.get(key) or value) for key, value in packet.headers if key != "Via"]
    lines = [("Via", value) for value in leg.lines("Via")] + kept
    return wire, len(wire.log), joined(packet.start, lines, packet.body)


def test_unreason_on_a_real_transaction_passes_unchanged() -> None:
    wire, before, data = with_own_via("unreason")
    wire.tel().send(data)
    (packet,) = wire.log[before:]
    assert packet.start == Packet(data).start


def test_noreason_on_a_real_transaction_is_a_100_and_stays_here() -> None:
    wire, before, data = with_own_via("noreason")
    wire.tel().send(data)
    assert wire.log[before:] == []
    wire.run(20)
    assert len(wire.tel().requests("INVITE")) == 1  # it was understood: no more retransmissions


@pytest.mark.parametrize("name", ["bigcode", "scalarlg"])
def test_malformed_responses_on_a_real_transaction_are_dropped(name: str) -> None:
    wire, before, data = with_own_via(name)
    if name == "scalarlg":
        data = data.replace(b"CSeq: 1 INVITE", b"CSeq: 9292394834772304023312 INVITE")
    wire.tel().send(data)
    assert wire.log[before:] == []


def test_bcast_with_our_via_on_top_is_not_sent_to_everybody() -> None:
    wire, before, data = with_own_via("bcast")
    upstream = Packet(data).lines("Via")[1].encode()
    wire.tel().send(data.replace(upstream, b"SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23"))
    assert "255.255.255.255" not in {packet.address[0] for packet in wire.log}
    assert wire.log[before:] == []


def test_badbranch_twice_is_not_taken_for_a_retransmission() -> None:
    """A branch that is the cookie alone says nothing: RFC 4475 section 3.2.1."""
    wire, first, data = sent("badbranch")
    second = outcome(wire, data.replace(b"sadonfo23i420jv0as0derf3j3n", b"another").replace(b"CSeq: 8", b"CSeq: 9"))
    assert first.name == second.name
    if first.name == "forward":
        assert first.forwarded[0].branch != second.forwarded[0].branch


def test_bext01_lists_the_tags_of_proxy_require() -> None:
    _, result, _ = sent("bext01")
    assert result.answers[0].values("Unsupported") == ["noProxiesSupportThis", "norDoAnyProxiesSupportThis"]


def test_every_message_of_the_folder_is_in_the_index() -> None:
    assert {path.stem for path in (FOLDER / "rfc4475").glob("*.dat")} == set(ROWS)
    assert len(ROWS) == 50
