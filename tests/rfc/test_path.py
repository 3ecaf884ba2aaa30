# SPDX-License-Identifier: Apache-2.0
"""RFC 3327: Path. PTH-01 to PTH-05; PTH-03: Path is taken from a phone that does not say it supports it."""

from __future__ import annotations

import pytest
from agents import DOMAIN, OUTBOUND, Phone, agents, bindings, phone, registrar
from plain_sip import Packet
from wire import SBC, Wire

PATHS = ["<sip:p1@127.0.8.1;lr>", "<sip:p2@127.0.8.2;lr>"]
PATH = [("Path", value) for value in PATHS]


def mirrored(servers: int = 1, **section: object) -> Wire:
    """A gateway that passes registrations on to servers which accept them all."""
    wire = registrar(agents(servers, mirror="site", **section))
    for tel in wire.tels:
        tel.handler = lambda packet, tel=tel: packet.method == "REGISTER" and tel.reply(packet, 200)
    return wire


def call(wire: Wire, user: str = "alice") -> None:
    wire.tel().send(wire.request("INVITE", f"sip:{user}@{DOMAIN}", source=wire.tel().address))


def arrived(wire: Wire, host: str) -> Packet:
    return wire.agent(host).got("INVITE")


@pytest.mark.parametrize("lines", [PATH, [("Path", ", ".join(PATHS))], [("Path", f"{PATHS[0]},\r\n {PATHS[1]}")]])
def test_pth_01_the_200_has_the_path_in_its_order(lines: list[tuple[str, str]]) -> None:
    wire = registrar()
    answer = Phone(wire).register([*lines, *OUTBOUND])
    assert answer.status == 200 and answer.values("Path") == PATHS


def test_pth_02_a_request_to_the_binding_goes_by_its_path() -> None:
    wire = registrar()
    phone(wire).again([*PATH, *OUTBOUND])
    call(wire)
    invite = arrived(wire, "127.0.8.1")
    assert invite.values("Route") == PATHS and invite.uri == "sip:alice@127.0.9.1:5062"


def test_pth_02_in_the_dialog_the_route_set_leads_alone() -> None:
    wire = registrar()
    phone(wire).again([*PATH, *OUTBOUND])
    call(wire)
    proxy, tel = wire.agent("127.0.8.1"), wire.tel()
    proxy.reply(proxy.got("INVITE"), 200, headers=[("Contact", "<sip:alice@127.0.9.1:5062>")])
    ok = tel.final()
    routes = [("Route", value) for value in reversed(ok.values("Record-Route"))]
    tel.send(wire.request("ACK", "sip:alice@127.0.9.1:5062", source=tel.address, call_id=ok.call_id,
                          from_=ok.get("From"), to=ok.get("To"), headers=routes))
    assert len(proxy.requests("ACK")) == 1 and proxy.requests("ACK")[0].values("Route") == []


def test_pth_03_path_without_support_is_taken() -> None:
    assert Phone(registrar()).register(PATH).values("Path") == PATHS


def test_pth_04_each_branch_has_its_own_path() -> None:
    wire = registrar()
    phone(wire).again([PATH[0], *OUTBOUND])
    phone(wire, number=2).again([PATH[1], *OUTBOUND])
    call(wire)
    assert arrived(wire, "127.0.8.1").values("Route") == PATHS[:1]
    assert arrived(wire, "127.0.8.2").values("Route") == PATHS[1:]


def test_pth_05_servers_get_our_path_for_every_phone() -> None:
    """As an edge proxy that is the registrar too, it is its own Path that it adds, whatever the phone supports."""
    wire = mirrored()
    phone(wire)
    (path,) = wire.tel().got("REGISTER").values("Path")
    assert path.startswith("<sip:u-") and path.endswith("@127.0.0.1:5060;lr;ob>")


@pytest.mark.parametrize("bad", [":", "<:>", "nonsense", "<sip:a@h", "<sip:>", "<sip:a@h>,", "a\0b", "<sip:a@h>\0",
    "<tel:+33>",
                                 "<sip:" + "a" * 1100 + "@h>", ",".join(["<sip:a@h>"] * 6000)])
@pytest.mark.parametrize("outbound", [True, False])
def test_a_path_that_is_none_is_400(bad: str, outbound: bool) -> None:
    wire = registrar()
    alice = Phone(wire, instance="<urn:uuid:1>", reg_id=int(outbound))
    answer = alice.register([("Path", bad)])
    assert answer.status == 400 and bindings(wire) == []


def test_the_longest_path_and_one_more() -> None:
    wire = registrar()
    longest = "<sip:" + "a" * (1024 - 13 - 1) + "@h;lr>"
    assert Phone(wire).register([("Path", longest)]).values("Path") == [longest]
    wire.run(0.01)
    assert Phone(wire).register([("Path", longest.replace("sip:", "sip:aaaaa"))]).status == 400


@pytest.mark.parametrize("path", [f"<sip:{SBC[0]}:{SBC[1]};lr>", f"<sip:x@{SBC[0]}:{SBC[1]}>", "<sip:127.0.3.1;lr>"])
def test_a_path_to_a_peer_of_ours_does_not_lead_there(path: str) -> None:
    """Else an agent would have himself called by way of a carrier, with any number as his Contact."""
    wire = registrar()
    alice = Phone(wire, contact="<sip:0899123456@127.0.9.1:5062>")
    alice.register([("Path", path)])
    wire.sbc.send(wire.request("INVITE", f"sip:alice@{DOMAIN}"))
    assert wire.sbc.requests() == [] and wire.tel().requests() == []
    assert alice.agent.got("INVITE").uri == "sip:0899123456@127.0.9.1:5062"


@pytest.mark.parametrize("at", [f"{SBC[0]}:{SBC[1]}", "127.0.3.1:5060", "127.0.3.1:5070", "127.0.0.1:5060"])
def test_a_contact_at_a_peer_of_ours_does_not_lead_there(at: str) -> None:
    wire = registrar()
    alice = Phone(wire, contact=f"<sip:0899123456@{at}>")
    alice.register()
    wire.sbc.send(wire.request("INVITE", f"sip:alice@{DOMAIN}"))
    assert wire.sbc.requests() == [] and wire.tel().requests() == []
    assert alice.agent.got("INVITE").uri == f"sip:0899123456@{at}"
