# SPDX-License-Identifier: Apache-2.0
"""Registrations passed on to the telephony servers: quorum, servers that fail, servers that come back."""

from __future__ import annotations

import re

import pytest
from agents import DOMAIN, INSTANCE, Phone, agents, bindings, counter, credential, expires, phone, registrar
from plain_sip import Packet, parameter
from wire import UserAgent, Wire, server

from ubisip.platform import DestinationState, Switch

DOWN = DestinationState(usable=False)


def accept(tel: UserAgent, status: int = 200) -> None:
    """The server answers every REGISTER from now on."""
    tel.handler = lambda packet: not packet.is_response and packet.method == "REGISTER" and tel.reply(packet, status)


def mirrored(servers: object = 3, *, answering: bool = True, users: object = ("alice", "bob"),
        **section: object) -> Wire:
    wire = registrar(agents(servers, **{"mirror": "site", **section}), users)
    if answering:
        for tel in wire.tels:
            accept(tel)
    return wire


def told(wire: Wire) -> list[int]:
    """How many REGISTERs, retransmissions left out, each server got."""
    return [len({p.branch for p in tel.requests("REGISTER")}) for tel in wire.tels]


def in_step(wire: Wire) -> list[list[str]]:
    """For each binding the servers that have it."""
    names = [tel.name for tel in wire.config.servers]
    return [[name for name in names if row[16] >> wire.slots.slot(name) & 1] for row in bindings(wire)]


def steps(wire: Wire) -> list[tuple[str, str]]:
    """The events of servers that fall behind and are in step again."""
    return [(event.kind, wire.slots.name(event.destination)) for event in wire.events() if "step" in event.kind]


def calls(wire: Wire, count: int = 60) -> list[int]:
    """New calls, and how many each server got of them."""
    before = [len(tel.requests("INVITE")) for tel in wire.tels]
    for _ in range(count):
        wire.sbc.send(wire.request("INVITE"))
    return [len(tel.requests("INVITE")) - was for tel, was in zip(wire.tels, before, strict=True)]


def many(wire: Wire, count: int, **parts: object) -> None:
    """Bindings of as many agents, put in as after a restart; what is told of them is not looked at."""
    wall = wire.now + 1.79e9
    rows = [(f"u{n}@{DOMAIN}", f"sip:u{n}@127.0.9.1:5062", "", 0, 1000, "", f"c{n}", 1, wall + 3600, wall, "127.0.9.1",
        5062,
             0, 0, "", 0) for n in range(count)]
    assert wire.engine.restore(rows, wire.now) == count


# --- what a server is told

def test_a_server_is_told_all_it_needs() -> None:
    wire = mirrored(1)
    phone(wire, instance=INSTANCE, reg_id=1, contact="<sip:alice@10.0.0.1:5062;x=y>;q=0.3;expires=900")
    got = wire.tel().got("REGISTER")
    assert got.uri == f"sip:{DOMAIN}" and got.get("To") == f"<sip:alice@{DOMAIN}>" and got.address == ("127.0.3.1",
        5060)
    assert got.values("Contact") == [
        f'<sip:alice@10.0.0.1:5062;x=y>;expires=900;q=0.300;+sip.instance="{INSTANCE}";reg-id=1']
    assert got.get("Authorization") == "" and got.get("Supported") == "path, outbound"


def test_phones_without_outbound_have_a_flow_for_each_gateway() -> None:
    """Two gateways may get the same Contact from one phone: servers keep both ways to it."""
    wire = mirrored(1)
    phone(wire, contact="<sip:alice@10.0.0.1:5062>")
    got = wire.tel().got("REGISTER")
    (contact,) = got.values("Contact")
    instance = parameter(contact, "+sip.instance") or ""
    assert re.fullmatch(r'"<urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5000-8000-[0-9a-f]{12}>"', instance)
    assert parameter(contact, "reg-id") == "1", "the number of this gateway in the configuration"
    assert got.call_id.endswith("-1")


@pytest.mark.parametrize("user", ["a%0d%0aX-Evil: 1", "a%00b", "a%40b", "%22quote", "a%3cb%3e", "a%25%32%35", "%c3%a9",
    "a;b", "a%0D%0AVia:x"])
def test_no_user_part_breaks_out_of_its_header(user: str) -> None:
    plain = bytes.fromhex("".join(
        part[:2] + part[2:].encode().hex() if number else part.encode().hex()
        for number, part in enumerate(user.split("%")))).decode("utf-8", "surrogateescape")
    wire = mirrored(1, users=[plain])
    if any(ord(c) < 32 or c == '"' for c in plain):
        alice = Phone(wire, user.replace(" ", "%20"))  # such a name cannot even be written in credentials
        assert alice.register().status in (400, 401, 403)
        assert wire.tel().requests() == [] and bindings(wire) == []
        return
    alice = Phone(wire, user, contact="<sip:x@127.0.9.1:5062>", username=plain)
    assert alice.register().status == 200
    got = wire.tel().got("REGISTER")
    assert {name for name, _ in got.headers} == {
        "Via", "Max-Forwards", "From", "To", "Call-ID", "CSeq", "Contact", "Path", "Supported", "Expires",
        "Content-Length"}
    assert got.get("To").startswith("<sip:") and got.get("To").endswith(f"@{DOMAIN}>")
    assert got.get("To").count("@") == 1


def test_a_refresh_is_told_with_a_higher_cseq_of_the_same_call() -> None:
    wire = mirrored(1)
    alice = phone(wire)
    for _ in range(3):
        alice.again()
    seen = wire.tel().requests("REGISTER")
    assert len({p.call_id for p in seen}) == 1 and len({p.get("From") for p in seen}) == 1
    assert [p.cseq for p in seen] == sorted({p.cseq for p in seen})


def test_another_gateway_tells_of_it_in_the_same_call() -> None:
    one, two = mirrored(1), mirrored(1)
    phone(one)
    phone(two)
    seen = [wire.tel().got("REGISTER") for wire in (one, two)]
    assert seen[0].call_id == seen[1].call_id and seen[0].get("Path") == seen[1].get("Path")


def test_the_end_is_told() -> None:
    wire = mirrored(2)
    alice = phone(wire)
    answer = alice.unregister()
    assert answer.status == 200 and answer.values("Contact") == []
    for tel in wire.tels:
        last = tel.requests("REGISTER")[-1]
        assert (expires(last), last.get("Expires")) == ([0], "0")
    assert bindings(wire) == [] and wire.engine.statistics()["bindings"] == 0
    wire.run(60)
    assert told(wire) == [2, 2]


def test_a_server_that_does_not_hear_of_the_end_holds_nothing_up() -> None:
    wire = mirrored(1)
    alice = phone(wire)
    wire.tel().handler = None
    assert alice.unregister().status == 200
    wire.run(100)
    assert wire.engine.next_timer() is None and wire.transactions == 0


def test_a_phone_that_is_back_before_the_end_was_told() -> None:
    wire = mirrored(1)
    alice = phone(wire)
    wire.tel().handler = None
    alice.unregister()
    accept(wire.tel())
    assert alice.again().status == 200
    wire.run(100)
    assert len(bindings(wire)) == 1 and in_step(wire) == [["tel1"]]
    assert expires(max(wire.tel().requests("REGISTER"), key=lambda packet: packet.cseq)) != [0]


def test_star_is_told_for_each() -> None:
    wire = mirrored(1)
    alice = phone(wire)
    phone(wire, number=2)
    alice.again([("Expires", "0")], contacts=["*"])
    assert [expires(p) for p in wire.tel().requests("REGISTER")[-2:]] == [[0], [0]]


def test_the_other_sites_servers_only_with_mirror_platform() -> None:
    places = [server(0), server(1, site="PA5")]
    assert told((wire := mirrored(places), phone(wire))[0]) == [1, 0]
    assert told((wire := mirrored(places, mirror="platform"), phone(wire))[0]) == [1, 1]


# --- quorum

@pytest.mark.parametrize("quorum", [1, 2, 3])
def test_the_200_waits_for_the_quorum(quorum: int) -> None:
    wire = mirrored(answering=False, mirror_quorum=quorum)
    alice = Phone(wire)
    assert alice.register() is None
    for number, tel in enumerate(wire.tels, 1):
        tel.reply(tel.got("REGISTER"), 200)
        assert alice.agent.statuses() == ([401, 200] if number >= quorum else [401])
    (answer,) = [p for p in alice.agent.responses() if p.status == 200]
    assert expires(answer) == [3600] and answer.get("Date")
    assert in_step(wire) == [["tel1", "tel2", "tel3"]]


def test_a_retransmission_while_servers_are_asked_is_absorbed() -> None:
    wire = mirrored(answering=False)
    alice = Phone(wire)
    alice.send(alice.request())
    request = alice.authorized()
    for _ in range(3):
        alice.send(request)
    assert told(wire) == [1, 1, 1]
    wire.tel().reply(wire.tel().got("REGISTER"), 200)
    alice.send(request)
    assert alice.agent.statuses() == [401, 200, 200]


def test_several_contacts_are_told_and_answered_once() -> None:
    wire = mirrored(2, mirror_quorum=2)
    answer = Phone(wire).register(contacts=["<sip:a@127.0.9.1:1>", "<sip:b@127.0.9.1:2>"])
    assert answer.status == 200 and len(answer.values("Contact")) == 2 and told(wire) == [2, 2]


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_server_that_refuses_does_not_stop_the_others(status: int) -> None:
    wire = mirrored()
    accept(wire.tel(1), status)
    phone(wire)
    assert in_step(wire) == [["tel1", "tel3"]] and counter(wire, "mirror_failures") == 1
    assert steps(wire) == [("out_of_step", "tel2")]


def test_all_that_refuse_are_503_and_the_phone_comes_back() -> None:
    wire = mirrored()
    for tel in wire.tels:
        accept(tel, 500)
    alice = Phone(wire)
    answer = alice.register()
    assert answer.status == 503 and int(answer.get("Retry-After")) >= 5
    for tel in wire.tels:
        accept(tel)
    assert alice.again().status == 200


def test_too_few_that_accept_are_503() -> None:
    wire = mirrored(mirror_quorum=2)
    accept(wire.tel(0), 500)
    accept(wire.tel(1), 500)
    assert Phone(wire).register().status == 503


def test_servers_that_are_silent_are_waited_for_two_seconds() -> None:
    wire = mirrored(answering=False)
    alice = Phone(wire)
    start = wire.now
    alice.register()
    wire.run(3)
    answer = alice.agent.inbox[-1]
    assert answer.status == 503 and 1.9 < answer.time - start < 2.1


def test_a_late_acceptance_is_not_lost() -> None:
    wire = mirrored(1, answering=False)
    alice = Phone(wire)
    alice.register()
    wire.run(2.5)
    wire.tel().reply(wire.tel().requests("REGISTER")[0], 200)
    assert in_step(wire) == [["tel1"]] and alice.agent.statuses() == [401, 503]


def test_a_server_that_looks_down_is_not_asked() -> None:
    wire = mirrored(2)
    wire.states(tel1=DOWN)
    assert phone(wire) and told(wire) == [0, 1]


def test_no_server_at_all_is_503_at_once() -> None:
    wire = mirrored(2)
    wire.states(tel1=DOWN, tel2=DOWN)
    alice = Phone(wire)
    assert alice.register().status == 503 and told(wire) == [0, 0]
    wire.states(tel1=DestinationState(), tel2=DOWN)
    assert alice.again().status == 200


def test_a_server_in_maintenance_is_not_asked_and_told_everything_afterwards() -> None:
    wire = mirrored(2)
    wire.states(tel1=DestinationState(switch=Switch.MAINTENANCE))
    phone(wire)
    assert told(wire) == [0, 1]
    wire.states(tel1=DestinationState())
    wire.run(1)
    assert told(wire) == [1, 1]


# --- in step again

def test_what_a_server_missed_is_told_in_the_background() -> None:
    wire = mirrored(2)
    accept(wire.tel(1), 500)
    phone(wire)
    accept(wire.tel(1))
    steps(wire)
    wire.run(8)
    assert in_step(wire) == [["tel1", "tel2"]] and steps(wire) == [("in_step", "tel2")]
    wire.run(60)
    assert told(wire) == [1, 2]


def test_a_server_that_refuses_for_ever_is_asked_less_and_less() -> None:
    wire = mirrored(2)
    accept(wire.tel(1), 403)
    phone(wire)
    wire.run(1000)
    assert 5 < told(wire)[1] < 20
    turns, end = 0, wire.now + 20
    while (due := wire.engine.next_timer()) is not None and due < end:
        wire.now, turns = max(wire.now, due), turns + 1
        wire.settle()
    assert turns < 60, "and the gateway sleeps between"


def test_a_server_that_returns_is_told_every_binding_and_then_takes_calls() -> None:
    wire = mirrored(2, users=[f"u{n}" for n in range(20)])
    for number in range(20):
        phone(wire, f"u{number}", number + 1)
    wire.states(tel1=DOWN)
    wire.run(60)
    wire.tel(0).clear()
    wire.tel(0).handler = None
    steps(wire)
    wire.states(tel1=DestinationState())
    wire.run(0.5)
    assert told(wire)[0] == 20
    assert calls(wire)[0] == 0, "it does not know its agents yet"
    for packet in {p.branch: p for p in wire.tel(0).requests("REGISTER")}.values():
        wire.tel(0).reply(packet, 200)
    wire.run(2)
    assert ("in_step", "tel1") in steps(wire)
    assert calls(wire)[0] > 10


def test_a_server_held_back_takes_calls_when_there_is_no_other() -> None:
    wire = mirrored(2)
    phone(wire)
    wire.states(tel1=DOWN, tel2=DOWN)
    for tel in wire.tels:
        tel.handler = None
    wire.states(tel1=DestinationState(), tel2=DOWN)
    assert calls(wire, 5) == [5, 0]


def test_a_server_is_held_back_for_thirty_seconds_at_most() -> None:
    wire = mirrored(2)
    phone(wire)
    wire.states(tel1=DOWN)
    wire.tel(0).handler = None
    wire.states(tel1=DestinationState())
    wire.run(29)
    assert calls(wire)[0] == 0
    wire.run(2)
    assert calls(wire)[0] > 10


def test_one_refused_binding_holds_no_server_back() -> None:
    wire = mirrored(2)
    accept(wire.tel(0), 403)
    phone(wire)
    assert calls(wire)[0] > 10


def test_a_server_that_refused_a_datagram_is_told_everything_when_it_answers() -> None:
    wire = mirrored(2)
    phone(wire)
    wire.refused.add(wire.tel(0).address)
    alice = Phone(wire, "bob", ("127.0.9.2", 5062))
    alice.register()
    wire.run(20)
    wire.refused.clear()
    wire.tel(0).clear()
    wire.run(30)
    assert in_step(wire) == [["tel1", "tel2"]] * 2
    users = {p.get("To") for p in wire.tel(0).requests("REGISTER")}
    assert users == {f"<sip:alice@{DOMAIN}>", f"<sip:bob@{DOMAIN}>"}


def test_a_server_removed_by_reload() -> None:
    wire = mirrored(2)
    accept(wire.tel(1), 500)
    alice = phone(wire)
    wire.swap(text=agents(1, mirror="site"))
    assert alice.again().status == 200
    wire.run(200)
    assert wire.transactions == 0 and in_step(wire) == [["tel1"]]


def test_a_server_added_by_reload_is_told_everything() -> None:
    wire = mirrored(1)
    phone(wire)
    wire.swap(text=agents(2, mirror="site"))
    accept(wire.tel(1))
    wire.run(8)
    assert in_step(wire) == [["tel1", "tel2"]]


def test_mirroring_turned_off_and_on_by_reload() -> None:
    wire = mirrored(1)
    alice = phone(wire)
    wire.swap(text=agents(1))
    assert alice.again().status == 200 and told(wire) == [1]
    wire.swap(text=agents(1, mirror="site"))
    wire.run(1)
    assert told(wire) == [2]


def test_bindings_put_back_after_a_restart_are_told_to_every_server() -> None:
    wire = mirrored(2)
    many(wire, 3)
    wire.run(2)
    assert told(wire) == [3, 3] and in_step(wire) == [["tel1", "tel2"]] * 3


def test_ten_thousand_bindings_in_ten_seconds_paced() -> None:
    wire = mirrored(6, answering=False, limits={"bindings": 20000})
    many(wire, 10_000)
    wire.states(**{f"tel{n}": DOWN for n in range(1, 7)})
    for tel in wire.tels:
        accept(tel)
    wire.states(**{f"tel{n}": DOWN for n in range(2, 7)})
    start, most = wire.now, 0
    while bindings_lack(wire) and wire.now < start + 20:
        before = len(wire.log)
        wire.now = max(wire.now, wire.engine.next_timer() or 0)
        wire.settle()
        most = max(most, len(wire.log) - before)
    assert wire.now - start <= 10.0
    assert most <= 32 * 6 + 16, "datagrams in one turn"
    wire.run(3)
    assert ("in_step", "tel1") in steps(wire)


def bindings_lack(wire: Wire) -> bool:
    return counter(wire, "mirrored_registers") < 10_000


def test_mirroring_goes_before_no_call() -> None:
    """With less than a quarter of the transactions free nobody is told anything, and phones come back."""
    wire = mirrored(1, limits={"transactions": 1024})
    for _ in range(390):
        wire.sbc.send(wire.request("INVITE"))
    assert wire.transactions > 768
    alice = Phone(wire)
    assert alice.register().status == 503
    assert told(wire) == [0]


def test_a_register_of_ours_is_sent_again_until_it_is_answered() -> None:
    wire = mirrored(1, answering=False)
    Phone(wire).register()
    wire.run(1.6)
    assert len(wire.tel().requests("REGISTER")) >= 3 and told(wire) == [1]


def test_nobody_else_answers_for_a_server() -> None:
    wire = mirrored(1, answering=False)
    alice = Phone(wire)
    alice.register()
    got: Packet = wire.tel().got("REGISTER")
    wire.agent("127.0.66.6").reply(got, 200)
    wire.sbc.reply(got, 200)
    assert alice.agent.statuses() == [401] and in_step(wire) == [[]]


def test_a_phone_of_another_user_after_its_password_changed() -> None:
    wire = mirrored(1)
    alice = phone(wire)
    credential(wire, "alice", "new")
    assert alice.again().status == 401 and len(bindings(wire)) == 1
    alice.password = "new"
    assert alice.again().status == 200
