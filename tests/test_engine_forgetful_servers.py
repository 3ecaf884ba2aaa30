# SPDX-License-Identifier: Apache-2.0
"""Servers that lose their registrations without having been missed: with each probe they are asked for one binding."""

from __future__ import annotations

import itertools

import pytest
from agents import DOMAIN, agents, phone, registrar
from plain_sip import Packet
from wire import UserAgent, Wire

_handles = itertools.count(1)


class Registrations:
    """What one server knows: the Contacts by agent and flow, in memory."""

    def __init__(self, tel: UserAgent, *, shows: bool = True) -> None:
        self.known: dict[tuple[str, str], str] = {}
        self.asked = 0
        """Questions: REGISTERs without a Contact."""
        self.told = 0
        self._tel = tel
        self._shows = shows
        tel.handler = self._take

    def _take(self, packet: Packet) -> None:
        if packet.is_response:
            return
        headers = []
        if packet.method == "REGISTER":
            user = packet.get("To")
            for contact in packet.values("Contact"):
                self.known[user, packet.call_id] = contact
                self.told += 1
            self.asked += not packet.values("Contact")
            headers = [("Contact", contact) for (owner, _), contact in self.known.items() if owner == user]
        self._tel.reply(packet, 200, headers=headers if self._shows else [])


def platform(users: tuple[str, ...] = ("alice", "bob"), *, shows: bool = True) -> tuple[Wire, Registrations]:
    """One server, and a phone of each user."""
    wire = registrar(agents(1, mirror="site"), users)
    server = Registrations(wire.tel(), shows=shows)
    for number, user in enumerate(users, 1):
        phone(wire, user, number)
    assert server.told == len(users)
    return wire, server


def probe(wire: Wire) -> None:
    """An OPTIONS of the health monitor, answered by the server, and what follows from that."""
    handle = next(_handles)
    lines = [
        "OPTIONS sip:127.0.3.1:5060 SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKp{handle:016x}",
        "Max-Forwards: 70",
        f"From: <sip:ubisip@127.0.0.1>;tag={handle}",
        "To: <sip:127.0.3.1:5060>",
        f"Call-ID: {handle}",
        "CSeq: 1 OPTIONS",
        "Content-Length: 0",
    ]
    data = "\r\n".join([*lines, "", ""]).encode()
    wire.engine.probe(wire.slots.slot("tel1"), data, handle, 1.0, wire.now)
    wire.run(0.5)


def test_a_server_is_asked_for_one_binding_with_each_probe() -> None:
    wire, server = platform()
    wire.tel().clear()
    probe(wire)
    probe(wire)
    questions = wire.tel().requests("REGISTER")
    assert {question.get("To") for question in questions} == {f"<sip:{user}@{DOMAIN}>" for user in ("alice", "bob")}
    assert all(not question.values("Contact") and not question.values("Expires") for question in questions)
    assert (server.asked, server.told) == (2, 2), "it knows them, and is told nothing"


def test_one_that_has_forgotten_is_told_everything_and_gets_no_calls_before() -> None:
    wire, server = platform()
    server.known.clear()
    probe(wire)
    assert server.told == 4 and len(server.known) == 2
    assert [event.kind for event in wire.events() if "step" in event.kind] == ["out_of_step", "in_step"]


def test_a_flow_that_it_has_lost_is_missed_though_another_has_the_same_contact() -> None:
    wire, server = platform(("alice",))
    (key, contact), *_ = server.known.items()
    server.known[key] = contact.replace(";reg-id=1", ";reg-id=12")
    probe(wire)
    assert server.told == 2


def test_a_server_that_gives_no_reg_id_is_believed() -> None:
    wire, server = platform(("alice",))
    (key, contact), *_ = server.known.items()
    server.known[key] = contact.partition(";")[0]
    probe(wire)
    assert (server.asked, server.told) == (1, 1)


def test_a_server_that_never_shows_what_it_knows_is_left_alone() -> None:
    wire, server = platform(shows=False)
    for _ in range(3):
        probe(wire)
    assert (server.asked, server.told) == (3, 2)


def test_one_that_cannot_keep_a_binding_is_not_told_all_of_them_all_the_time() -> None:
    wire, server = platform(("alice",))
    wire.run(31)
    for _ in range(20):
        server.known.clear()
        probe(wire)
    assert server.told == 2


@pytest.mark.parametrize("gone", [True, False])
def test_nothing_is_asked_when_there_is_nothing_to_ask(gone: bool) -> None:
    wire = registrar(agents(1, mirror="site" if gone else "off"), ("alice",))
    server = Registrations(wire.tel())
    alice = phone(wire)
    if gone:
        alice.unregister()
    probe(wire)
    assert server.asked == 0
