# SPDX-License-Identifier: Apache-2.0
"""RFC 3608: Service-Route. SVR-01 to SVR-03."""

from __future__ import annotations

import pytest
from agents import DOMAIN, OUTBOUND, Phone, agents, phone, registrar
from calls import contact
from wire import Wire

LISTEN = ("udp:127.0.0.1:5060", "tcp:127.0.0.1:5060", "wss:127.0.0.1:5443")
ROUTES = ["<sip:127.0.0.1:5060;lr>", "<sip:127.0.0.1:5060;transport=tcp;lr>", "<sip:127.0.0.1:5443;transport=ws;lr>"]
TLS = '\n[tls]\ncertificate = "tls.crt"\n'


def routed(mirror: str = "off") -> Wire:
    wire = registrar(agents(1, mirror=mirror, service_route=True, listen=LISTEN) + TLS)
    wire.tel().handler = lambda packet: packet.method == "REGISTER" and wire.tel().reply(packet, 200)
    return wire


@pytest.mark.parametrize("mirror", ["off", "site"])
@pytest.mark.parametrize("listener", range(3))
def test_svr_01_the_200_has_a_loose_route_to_the_listener_it_came_to(listener: int, mirror: str) -> None:
    alice = Phone(routed(mirror), stream=77 if listener else 0)
    answer = alice.register(OUTBOUND, listener=listener)
    assert answer.status == 200 and answer.values("Service-Route") == [ROUTES[listener]]


def test_svr_01_a_call_along_it_goes_to_a_server_and_its_dialog_holds() -> None:
    wire = routed()
    alice = phone(wire)
    alice.agent.send(alice.invite(f"sip:0155@{DOMAIN}", headers=[("Route", ROUTES[0])]))
    leg = wire.tel().got("INVITE")
    assert leg.values("Route") == []
    wire.tel().reply(leg, 200, headers=[("Contact", f"<{contact(wire.tel())}>")])
    assert alice.agent.final().status == 200


def test_svr_01_none_unless_it_is_wanted() -> None:
    assert Phone(registrar()).register().values("Service-Route") == []


def test_svr_01_none_in_a_challenge_or_a_refusal() -> None:
    alice = Phone(routed())
    assert alice.send(alice.request()).values("Service-Route") == []
    refused = alice.again(contacts=["*", "<sip:alice@127.0.9.1>"])
    assert refused.status == 400 and refused.values("Service-Route") == []


def test_svr_02_a_fetch_returns_the_same() -> None:
    alice = Phone(routed())
    first = alice.register().values("Service-Route")
    assert alice.again(contacts=()).values("Service-Route") == first == ROUTES[:1]
    assert alice.unregister().values("Service-Route") == first


def test_svr_03_that_of_a_registrar_behind_us_is_left_alone() -> None:
    wire = registrar(agents(service_route=True))
    sets = ["<sip:p1.far.example;lr>, <sip:p2.far.example;lr;x=%41>", "<sip:p3.far.example;lr>"]
    wire.sbc.send(wire.request("REGISTER", "sip:far.example", to="<sip:carol@far.example>"))
    wire.tel().reply(wire.tel().got("REGISTER"), 200, headers=[("Service-Route", value) for value in sets])
    assert wire.sbc.final("REGISTER").lines("Service-Route") == sets
