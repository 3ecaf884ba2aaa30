# SPDX-License-Identifier: Apache-2.0
"""RFC 5626: outbound. OUT-01 to OUT-11 (OUT-04 is the transports': tests/rfc/test_streams.py)."""

from __future__ import annotations

import pytest
from agents import DOMAIN, INSTANCE, Phone, agents, bindings, counter, journal, registrar
from wire import Wire

TCP = ("udp:127.0.0.1:5060", "tcp:127.0.0.1:5060")
FAST = {"first_response_timeout": 1.05}


def mirrored(servers: int = 1, **options: object) -> Wire:
    wire = registrar(agents(servers, mirror="site", **options))
    for tel in wire.tels:
        tel.handler = lambda packet, tel=tel: packet.method == "REGISTER" and tel.reply(packet, 200)
    return wire


def flow(wire: Wire, reg_id: int = 1, *, port: int = 0, user: str = "alice", stream: int = 0, listener: int = 0,
         instance: str = INSTANCE) -> Phone:
    """One flow of a phone, which is registered over it."""
    address = ("127.0.9.1", port or 5060 + reg_id)
    made = Phone(wire, user, address, instance=instance, reg_id=reg_id, stream=stream,
                 call_id=f"flow-{reg_id}-{port}-{stream}")
    answer = made.register(listener=listener)
    assert answer is not None and answer.status == 200, answer
    made.agent.clear()
    return made


def path_of(wire: Wire, number: int = -1) -> str:
    """The Path that a server was given last."""
    return wire.tel().requests("REGISTER")[number].get("Path")


def by_path(wire: Wire, path: str, method: str = "INVITE", **parts: object) -> None:
    tel = wire.tel()
    tel.send(wire.request(method, "sip:alice@127.0.9.1", source=tel.address, headers=[("Route", path)], **parts))


# --- registration

def test_out_01_the_200_requires_outbound() -> None:
    wire = registrar()
    alice = Phone(wire, instance=INSTANCE, reg_id=1)
    answer = alice.register()
    assert (answer.get("Require"), answer.get("Flow-Timer")) == ("outbound", "120")
    (contact,) = answer.values("Contact")
    assert f'+sip.instance="{INSTANCE}"' in contact and "reg-id=1" in contact


@pytest.mark.parametrize(("instance", "reg_id", "supported"), [
    (INSTANCE, 0, "path, outbound"), ("", 1, "path, outbound"), (INSTANCE, 1, "path"), (INSTANCE, 1, "path,outboundx"),
])
def test_out_01_without_one_of_them_it_is_no_outbound(instance: str, reg_id: int, supported: str) -> None:
    wire = registrar()
    contact = "<sip:alice@127.0.9.1:5062>" + (f';+sip.instance="{instance}"' if instance else "") + (
        f";reg-id={reg_id}" if reg_id else "")
    alice = Phone(wire, contact=contact)
    for _ in range(3):
        answer = alice.register([("Supported", supported)])
        assert answer.status == 200 and answer.get("Require") == ""
    assert len(bindings(wire)) == 1, "and its refreshes are refreshes"


def test_out_01_the_compact_supported_counts() -> None:
    wire = registrar()
    alice = Phone(wire, contact=f'<sip:a@127.0.9.1:5062>;+sip.instance="{INSTANCE}";reg-id=1')
    assert alice.register([("k", "outbound , path")]).get("Require") == "outbound"


def test_out_02_instance_and_reg_id_are_the_binding_whatever_the_contact() -> None:
    wire = registrar()
    flow(wire, 1, port=6001)
    moved = flow(wire, 1, port=6002)
    assert len(bindings(wire)) == 1 and bindings(wire)[0][11] == 6002
    assert [value.partition(">")[0] for value in moved.fetch()] == ["<sip:alice@127.0.9.1:6002"]


def test_out_02_other_flows_are_other_bindings() -> None:
    wire = registrar()
    flow(wire, 1)
    flow(wire, 2)
    flow(wire, 1, port=6003, instance="<urn:uuid:2>")
    assert len(bindings(wire)) == 3


def test_out_03_a_first_hop_without_ob_is_439() -> None:
    wire = registrar()
    alice = Phone(wire, instance=INSTANCE, reg_id=1)
    assert alice.register([("Path", "<sip:edge.example;lr>, <sip:other;lr;ob>")]).status == 439
    assert alice.again([("Path", "<sip:edge.example;lr;obx>")]).status == 439
    assert alice.again([("Path", "<sip:edge.example;lr;ob>")]).status == 200


# --- flow tokens

@pytest.mark.parametrize("place", [12, 20, 27, 40])
def test_out_05_a_token_that_was_altered_is_403(place: int) -> None:
    wire = mirrored()
    alice = flow(wire)
    path = path_of(wire)
    by_path(wire, path[:place] + ("0" if path[place] != "0" else "1") + path[place + 1:])
    assert wire.tel().statuses("INVITE") == [403] and alice.agent.requests("INVITE") == []


def test_out_05_one_that_is_not_a_token_at_all_either() -> None:
    wire = mirrored()
    flow(wire)
    by_path(wire, "<sip:u-nonsense@127.0.0.1:5060;lr;ob>")
    assert wire.tel().statuses("INVITE") == [403]


def test_out_05_a_token_of_another_gateway_with_the_key_is_good() -> None:
    one, two = mirrored(), mirrored()
    flow(one)
    alice = flow(two)
    by_path(two, path_of(one))
    assert alice.agent.got("INVITE").uri == "sip:alice@127.0.9.1"


def test_out_10_requests_go_over_the_flow_of_the_register() -> None:
    wire = mirrored()
    alice = flow(wire, port=40404)
    by_path(wire, path_of(wire))
    invite = alice.agent.got("INVITE")
    assert invite.uri == "sip:alice@127.0.9.1" and invite.values("Route") == []


def test_out_10_over_the_connection_of_the_register() -> None:
    wire = mirrored(listen=TCP)
    alice = flow(wire, port=40404, stream=77, listener=1)
    by_path(wire, path_of(wire))
    invite = alice.agent.got("INVITE")
    assert (invite.stream, invite.listener) == (77, 1)
    assert len(invite.values("Record-Route")) == 2, "the sides differ in transport"


# --- flows that fail

def test_out_06_a_dead_flow_is_430() -> None:
    wire = mirrored(listen=TCP)
    alice = flow(wire, stream=77, listener=1)
    wire.engine.stream_closed(77, wire.now)
    by_path(wire, path_of(wire))
    assert wire.tel().statuses("INVITE") == [430] and alice.agent.requests() == []
    assert counter(wire, "flow_failed") == 1


def test_out_06_a_flow_that_is_not_known_here_is_430() -> None:
    one, two = mirrored(), mirrored()
    flow(one)
    by_path(two, path_of(one))
    assert two.tel().statuses("INVITE") == [430]


def test_out_06_a_flow_with_nobody_behind_it_is_430_at_once() -> None:
    wire = mirrored()
    alice = flow(wire)
    wire.refused.add(alice.address)
    by_path(wire, path_of(wire))
    wire.settle()
    assert wire.tel().final().status == 430
    wire.refused.clear()
    by_path(wire, path_of(wire))
    assert wire.tel().statuses("INVITE")[-1] == 430, "until the phone registers anew it is taken for dead"
    assert alice.again().status == 200
    by_path(wire, path_of(wire))
    assert len(alice.agent.requests("INVITE")) == 1


def test_out_06_silence_is_430_after_the_first_response_timeout() -> None:
    wire = mirrored(routing=FAST)
    alice = flow(wire)
    by_path(wire, path_of(wire))
    start = wire.now
    wire.run(1.2)
    (answer,) = {p.data: p for p in wire.tel().responses("INVITE") if p.status >= 200}.values()
    assert answer.status == 430 and answer.time - start < 1.1
    assert len(alice.agent.requests("INVITE")) >= 2, "it was sent again meanwhile"


def test_out_06_a_phone_that_rings_is_not_silent() -> None:
    wire = mirrored(routing=FAST)
    alice = flow(wire)
    by_path(wire, path_of(wire))
    alice.agent.reply(alice.agent.got("INVITE"), 180)
    wire.run(30)
    assert wire.tel().statuses("INVITE") == [180]


def test_out_07_reg_ids_of_one_instance_never_ring_together() -> None:
    wire = registrar()
    first, second = flow(wire, 1), flow(wire, 2)
    wire.sbc.send(wire.request("INVITE", f"sip:alice@{DOMAIN}"))
    assert len(first.agent.requests("INVITE")) + len(second.agent.requests("INVITE")) == 1


@pytest.mark.parametrize("failure", ["430", "icmp", "silence", "closed"])
@pytest.mark.parametrize("mirror", [True, False])
def test_out_08_the_next_flow_of_the_instance_is_tried(failure: str, mirror: bool) -> None:
    wire = mirrored(routing=FAST, listen=TCP) if mirror else registrar(agents(routing=FAST, listen=TCP))
    closed = failure == "closed"
    second = flow(wire, 2)
    wire.run(1)
    first = flow(wire, 1, stream=77 if closed else 0, listener=int(closed))  # the newest: it is tried first
    caller = wire.tel() if mirror else wire.sbc
    if failure == "icmp":
        wire.refused.add(first.address)
    if closed:
        wire.engine.stream_closed(77, wire.now)
    if mirror:
        by_path(wire, path_of(wire))
    else:
        caller.send(wire.request("INVITE", f"sip:alice@{DOMAIN}"))
    if failure == "430":
        first.agent.reply(first.agent.got("INVITE"), 430)
    wire.run(1.2 if failure == "silence" else 0.1)
    other = second.agent.requests("INVITE")[0]
    assert other.uri == ("sip:alice@127.0.9.1" if mirror else second.uri)
    second.agent.reply(other, 486)
    assert caller.final().status == 486
    wire.run(100)
    assert wire.transactions == 0


@pytest.mark.parametrize("mirror", [True, False])
def test_out_08_when_every_flow_has_failed(mirror: bool) -> None:
    wire = mirrored() if mirror else registrar()
    flows = [flow(wire, 1), flow(wire, 2)]
    caller = wire.tel() if mirror else wire.sbc
    if mirror:
        by_path(wire, path_of(wire))
    else:
        caller.send(wire.request("INVITE", f"sip:alice@{DOMAIN}"))
    for _ in range(2):
        for each in flows:
            for invite in each.agent.requests("INVITE"):
                each.agent.reply(invite, 430)
    assert caller.final().status == (430 if mirror else 480), "430 is for servers, which go on by the other site"
    wire.run(100)
    assert wire.transactions == 0


def test_out_08_two_silent_flows_are_tried_once_each() -> None:
    wire = registrar(agents(routing=FAST))
    first, second = flow(wire, 1), flow(wire, 2)
    wire.sbc.send(wire.request("INVITE", f"sip:alice@{DOMAIN}"))
    wire.run(200)
    branches = [{p.branch for p in each.agent.requests("INVITE")} for each in (first, second)]
    assert [len(each) for each in branches] == [1, 1]
    assert wire.sbc.final().status in (408, 480) and wire.transactions == 0


@pytest.mark.parametrize("status", [404, 486, 500, 503, 600])
def test_out_09_any_other_answer_is_the_instances(status: int) -> None:
    wire = registrar()
    flows = [flow(wire, 1), flow(wire, 2)]
    wire.sbc.send(wire.request("INVITE", f"sip:alice@{DOMAIN}"))
    (rang,) = [each for each in flows if each.agent.requests("INVITE")]
    rang.agent.reply(rang.agent.got("INVITE"), status)
    assert wire.sbc.final().status == (500 if status == 503 else status)
    assert sum(len(each.agent.requests("INVITE")) for each in flows) == 1
    assert all(tel.requests("INVITE") == [] for tel in wire.tels), "nor is a server tried with a call for an agent"


def test_out_11_a_closed_flows_binding_is_invalid_at_once() -> None:
    wire = registrar(agents(listen=TCP))
    flow(wire, stream=77, listener=1)
    journal(wire)
    wire.engine.stream_closed(77, wire.now)
    wire.sbc.send(wire.request("INVITE", f"sip:alice@{DOMAIN}"))
    assert wire.sbc.final().status == 480
    assert [row[-1] for row in journal(wire)] == [3] and counter(wire, "flows_lost") == 1
    assert [row[-1] for row in bindings(wire)] == [False]
    wire.engine.stream_closed(77, wire.now)
    assert journal(wire) == []


def test_out_11_only_that_flows() -> None:
    wire = registrar(agents(listen=TCP))
    flow(wire, 1, stream=77, listener=1)
    alive = flow(wire, 2, stream=78, listener=1)
    wire.engine.stream_closed(77, wire.now)
    wire.engine.stream_closed(99, wire.now)
    assert [value.partition(">")[0] for value in alive.fetch()] == ["<sip:alice@127.0.9.1:5062"]


def test_dead_flows_make_room_for_others() -> None:
    """A phone without outbound that comes back on ever new connections is not shut out by what it left."""
    wire = registrar(agents(listen=TCP, max_contacts=3))
    for number in range(12):
        alice = Phone(wire, address=("127.0.9.1", 40000 + number), stream=100 + number)
        wire.run(1)
        assert alice.register(listener=1).status == 200
        wire.engine.stream_closed(100 + number, wire.now)
    assert len(bindings(wire)) <= 3


def test_a_register_on_a_new_connection_revives_the_binding() -> None:
    wire = mirrored(listen=TCP)
    flow(wire, stream=77, listener=1)
    wire.engine.stream_closed(77, wire.now)
    alice = flow(wire, stream=78, listener=1)
    by_path(wire, path_of(wire, 0))
    assert alice.agent.got("INVITE").stream == 78, "the token that a server was given before is good"


def test_an_own_token_in_the_request_of_a_stranger_is_no_way_in() -> None:
    wire = mirrored()
    alice = flow(wire)
    stranger = wire.agent("127.0.66.6")
    stranger.send(wire.request("INVITE", "sip:alice@127.0.9.1", source=stranger.address,
                               headers=[("Route", path_of(wire))]))
    assert stranger.statuses("INVITE") == [403] and alice.agent.requests("INVITE") == []


