# SPDX-License-Identifier: Apache-2.0
"""Bindings that another gateway of the site holds: calls reach their phones through that gateway, and no other way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from agents import DOMAIN, INSTANCE, WALL, Phone, agents, bindings, counter, journal, phone, registrar
from calls import cancel, contact, failure_ack
from plain_sip import Packet, parameter
from test_engine_agents import Call
from wire import GATEWAY, UserAgent, Wire, callee_route_set, route_set

SECOND = ("127.0.0.2", 5060)
HOME = 1
"""The number that each gateway has for the other."""


def pair_config(own: str, other: str, more: str = "", **section: object) -> str:
    """The platform as the gateway at *own* has it: another one of the site stands at *other*."""
    text = agents(listen=[f"udp:{own}:5060", *([f"tcp:{own}:5060"] if more else [])], **section)
    text = text.replace('name = "test"', 'name = "test"\nkey_file = "cluster.key"')
    return text + f'\n[[gateways]]\nname = "other"\nsite = "PA2"\nlisten = ["udp:{other}:5060"]\n' \
        '[store]\nsoft = "redis://127.0.0.1:6379/0"\n'


class Pair:
    """Two gateways of a site; agents register with the first, and what it journals is told to the second."""

    def __init__(self, more: str = "", users: tuple[str, ...] = ("alice", "bob"), **section: object) -> None:
        self.first = registrar(pair_config("127.0.0.1", "127.0.0.2", more, **section), users)
        self.second = registrar(pair_config("127.0.0.2", "127.0.0.1", more, **section), users)
        self.cut = False
        self._bridge(self.first, SECOND, self.second, GATEWAY)
        self._bridge(self.second, GATEWAY, self.first, SECOND)

    def _bridge(self, here: Wire, to: tuple[str, int], there: Wire, source: tuple[str, int]) -> None:
        def carry(packet: Packet) -> None:
            if not self.cut:
                there.now = max(there.now, here.now)
                there.transmit(source, packet.data)
                there.settle()

        here.agent(*to).handler = carry

    def share(self, hop: str = "127.0.0.1:5060") -> None:
        """The second gateway hears what changed at the first."""
        for kind, *fields in journal(self.first):
            if kind:
                self.second.engine.share(fields, HOME, hop, self.second.now)
            else:
                self.second.engine.end_shared(*fields[:4], HOME, self.second.now)

    def through_first(self, agent: UserAgent) -> UserAgent:
        """The phone at the same address, as the second gateway would reach it directly."""
        return self.second.agent(*agent.address)


def call_by_second(pair: Pair, alice: Phone, **parts: object) -> tuple[Packet, UserAgent]:
    """A server calls Alice through the gateway that she is not registered with; what her phone got, and the server."""
    tel = pair.second.tel()
    tel.send(pair.second.request("INVITE", f"sip:alice@{DOMAIN}", source=tel.address, **parts))
    return alice.agent.got("INVITE"), tel


def test_a_call_through_the_other_gateway_from_ringing_to_its_end() -> None:
    pair = Pair()
    alice = phone(pair.first, instance=INSTANCE, reg_id=1)
    pair.share()
    leg, tel = call_by_second(pair, alice)
    assert leg.uri == alice.uri and leg.values("Route") == []
    assert pair.through_first(alice.agent).requests() == []
    alice.agent.reply(leg, 180)
    alice.agent.reply(leg, 200, headers=[("Contact", f"<{contact(alice.agent)}>")])
    assert tel.statuses("INVITE") == [100, 180, 200] or tel.statuses("INVITE") == [180, 200]
    ok = tel.final()
    call = Call(pair.second, tel, alice.agent, leg, ok)
    tel.send(call.by_caller("ACK", 1))
    assert alice.agent.got("ACK").values("Route") == []
    tel.send(call.by_caller("INFO", 2))
    alice.agent.reply(alice.agent.got("INFO"), 200)
    assert tel.final("INFO").status == 200
    alice.agent.send(call.by_callee("BYE"))  # to her own gateway, as a phone behind an outbound proxy does
    bye = pair.first.tel().got("BYE")
    assert bye.values("Route") == []
    pair.first.tel().reply(bye, 200)
    assert alice.agent.statuses("BYE") == [200]


def test_the_dialog_has_one_token_so_that_either_gateway_routes_it_alone() -> None:
    pair = Pair()
    alice = phone(pair.first)
    pair.share()
    leg, tel = call_by_second(pair, alice)
    tokens = {parameter(value.strip("<>"), "u") for value in leg.values("Record-Route")}
    assert len(leg.values("Record-Route")) == 2 and len(tokens) == 1
    alice.agent.reply(leg, 200, headers=[("Contact", f"<{contact(alice.agent)}>")])
    call = Call(pair.second, tel, alice.agent, leg, tel.final())
    # The caller's BYE comes to the phone's own gateway, as if the other had died.
    pair.first.tel().send(call.by_caller("BYE", source=pair.first.tel()))
    alice.agent.reply(alice.agent.got("BYE"), 200)
    assert pair.first.tel().statuses("BYE") == [200]


def test_cancel_and_refusal_pass_both_gateways() -> None:
    pair = Pair()
    alice = phone(pair.first)
    pair.share()
    tel = pair.second.tel()
    invite = pair.second.request("INVITE", f"sip:alice@{DOMAIN}", source=tel.address)
    tel.send(invite)
    alice.agent.reply(alice.agent.got("INVITE"), 180)
    tel.send(cancel(invite))
    assert tel.statuses("CANCEL") == [200]
    alice.agent.reply(alice.agent.got("CANCEL"), 200)
    alice.agent.reply(alice.agent.got("INVITE"), 487)
    assert tel.final().status == 487
    tel.send(failure_ack(invite, tel.final()))
    assert len(alice.agent.requests("ACK")) == 1
    for wire in (pair.first, pair.second):
        wire.run(100)
        assert wire.transactions == 0


def test_agents_of_two_gateways_call_each_other_without_mirroring() -> None:
    pair = Pair()
    alice = phone(pair.first, instance=INSTANCE, reg_id=1)
    bob = Phone(pair.second, "bob", ("127.0.9.2", 5062))
    assert bob.register().status == 200
    pair.share()
    bob.agent.clear()
    bob.agent.send(bob.invite(f"sip:alice@{DOMAIN}"))
    leg = alice.agent.got("INVITE")
    alice.agent.reply(leg, 200, headers=[("Contact", f"<{contact(alice.agent)}>")])
    assert bob.agent.final().status == 200


def test_a_phone_on_a_connection_is_reached_over_it() -> None:
    pair = Pair(more="tcp")
    alice = Phone(pair.first, "alice", ("127.0.9.1", 40_000), instance=INSTANCE, reg_id=1, stream=77)
    assert alice.register(listener=1).status == 200
    pair.share()
    alice.agent.clear()
    leg, tel = call_by_second(pair, alice)
    assert leg.stream == 77 and len(leg.values("Record-Route")) == 3
    alice.agent.reply(leg, 200, headers=[("Contact", f"<{contact(alice.agent)};transport=tcp>")])
    call = Call(pair.second, tel, alice.agent, leg, tel.final())
    tel.send(call.by_caller("BYE"))
    bye = alice.agent.got("BYE")
    assert bye.stream == 77
    alice.agent.reply(bye, 200)
    assert tel.final("BYE").status == 200


# --- what the other gateway refuses, or does not answer

def test_a_flow_that_died_there_is_told_once_and_tried_no_more() -> None:
    pair = Pair()
    alice = phone(pair.first)
    pair.share()
    pair.first.refused.add(alice.address)
    tel = pair.second.tel()
    tel.send(pair.second.request("INVITE", f"sip:alice@{DOMAIN}", source=tel.address))
    assert tel.final().status == 430
    before = len(pair.second.log)
    tel.clear()
    tel.send(pair.second.request("INVITE", f"sip:alice@{DOMAIN}", source=tel.address))
    assert tel.final().status == 480
    assert [p.address for p in pair.second.log[before:] if not p.is_response] == []


def test_the_other_gateway_is_dead_and_the_flow_here_is_tried() -> None:
    """One phone with a flow at each: ours goes first; when it fails, the other's; both dead: 430."""
    pair = Pair()
    alice = phone(pair.first, instance=INSTANCE, reg_id=1)
    here = Phone(pair.second, "alice", ("127.0.9.5", 5062), instance=INSTANCE, reg_id=1)
    assert here.register().status == 200
    pair.share()
    tel = pair.second.tel()
    pair.second.refused.add(here.address)
    tel.send(pair.second.request("INVITE", f"sip:alice@{DOMAIN}", source=tel.address))
    assert len(alice.agent.requests("INVITE")) == 1, "the same reg-id, held by the other gateway"
    alice.agent.reply(alice.agent.got("INVITE"), 486)
    assert tel.final().status == 486
    tel.clear()
    pair.share()
    pair.second.refused.add(GATEWAY)
    tel.send(pair.second.request("INVITE", f"sip:alice@{DOMAIN}", source=tel.address))
    assert tel.final().status == 430


def test_a_silent_gateway_costs_one_first_response_timeout() -> None:
    pair = Pair()
    phone(pair.first)
    pair.share()
    pair.cut = True
    tel = pair.second.tel()
    tel.send(pair.second.request("INVITE", f"sip:alice@{DOMAIN}", source=tel.address))
    pair.second.run(1.1)
    assert tel.final().status == 430


def test_two_gateways_that_each_think_the_other_holds_it_do_not_play_ball() -> None:
    pair = Pair()
    alice = phone(pair.first)
    rows = journal(pair.first)
    pair.second.engine.share(rows[0][1:], HOME, "127.0.0.1:5060", pair.second.now)
    pair.first.engine.share(rows[0][1:], HOME, "127.0.0.2:5060", pair.first.now)
    alice.unregister()
    tel = pair.second.tel()
    tel.send(pair.second.request("INVITE", f"sip:alice@{DOMAIN}", source=tel.address))
    assert tel.final().status == 430
    assert sum(p.method == "INVITE" and not p.is_response for p in pair.first.log) == 0


def test_the_phone_is_reached_where_it_registered_from_when_its_gateway_is_gone() -> None:
    pair = Pair()
    alice = phone(pair.first)
    pair.share(hop="")
    pair.cut = True
    tel = pair.second.tel()
    tel.send(pair.second.request("INVITE", f"sip:alice@{DOMAIN}", source=tel.address))
    leg = pair.second.agent(*alice.address).got("INVITE")
    assert leg.uri == alice.uri and leg.values("Route") == []
    pair.second.agent(*alice.address).reply(leg, 486)
    assert tel.final().status == 486


# --- who may come in by the token

def flow_route(pair: Pair) -> str:
    """The Route value by which the second gateway sends to the first."""
    return pair.second.agent(*GATEWAY).requests("INVITE")[-1].values("Route")[0]


@pytest.mark.parametrize("source", [("127.0.0.2", 5061), ("127.0.9.9", 5060)])
def test_a_stranger_with_the_token_stays_a_stranger(source: tuple[str, int]) -> None:
    pair = Pair()
    alice = phone(pair.first)
    pair.share()
    call_by_second(pair, alice)
    alice.agent.clear()
    stranger = pair.first.agent(*source)
    stranger.send(pair.first.request(
        "INVITE", f"sip:alice@{DOMAIN}", source=source, headers=[("Route", flow_route(pair))]))
    assert stranger.statuses() == [403] and alice.agent.requests() == []


@pytest.mark.parametrize("headers", [[], [("Route", "<sip:127.0.0.1:5060;lr>")],
                                     [("Route", "<sip:u-00000000000000000000000000000000000@127.0.0.1:5060;lr;ob>")]])
def test_a_gateway_reaches_agents_by_their_token_only(headers: list[tuple[str, str]]) -> None:
    pair = Pair()
    alice = phone(pair.first)
    pair.first.transmit(SECOND, bytes(pair.first.request(
        "INVITE", f"sip:alice@{DOMAIN}", source=SECOND, headers=headers)))
    pair.first.settle()
    assert pair.first.agent(*SECOND).statuses() == [403] and alice.agent.requests() == []


# --- the table

def shared(wire: Wire) -> list[tuple[object, ...]]:
    return wire.engine.bindings(0, 256, wire.now, HOME)[1]


def test_what_another_gateway_holds_is_no_binding_of_ours() -> None:
    """It is not listed to the phone, not kept, not told to servers, and does not count against the agent."""
    pair = Pair(max_contacts=1)
    phone(pair.first, "alice")
    pair.share()
    assert bindings(pair.second) == [] and len(shared(pair.second)) == 1
    assert pair.second.engine.statistics()["bindings"] == 0
    assert pair.second.engine.statistics()["shared_bindings"] == 1
    here = Phone(pair.second, "alice", ("127.0.9.7", 5062))
    assert len(here.register().values("Contact")) == 1
    assert [row[0] for row in journal(pair.second)] == [1]
    assert here.again(contacts=["*"], headers=[("Expires", "0")]).values("Contact") == []
    assert len(shared(pair.second)) == 1


def test_servers_are_told_by_the_gateway_that_holds_it() -> None:
    pair = Pair(mirror="site")
    for wire in (pair.first, pair.second):
        tel = wire.tel()
        tel.handler = lambda packet, tel=tel: packet.method == "REGISTER" and tel.reply(packet, 200)
    phone(pair.first)
    pair.share()
    pair.second.run(60)
    assert len(pair.first.tel().requests("REGISTER")) == 1 and pair.second.tel().requests("REGISTER") == []


def test_refreshed_ended_and_expired() -> None:
    pair = Pair()
    alice, bob = phone(pair.first), phone(pair.first, "bob", 2)
    pair.share()
    first = {row[0]: row[8] for row in shared(pair.second)}
    pair.first.run(10)
    pair.second.run(10)
    assert alice.again().status == 200
    pair.share()
    second = {row[0]: row[8] for row in shared(pair.second)}
    assert second[f"alice@{DOMAIN}"] >= first[f"alice@{DOMAIN}"] + 9
    assert second[f"bob@{DOMAIN}"] == first[f"bob@{DOMAIN}"]
    alice.unregister()
    pair.share()
    assert [row[0] for row in shared(pair.second)] == [f"bob@{DOMAIN}"]
    pair.second.run(3700)
    assert shared(pair.second) == [] and pair.second.engine.statistics()["shared_bindings"] == 0
    assert journal(pair.second) == [] and counter(pair.second, "expired") == 0
    assert bob.user == "bob"


ROW = ("alice@ubisip.test", "sip:alice@127.0.9.1:5062", INSTANCE, 1, 1000, "", "c@x", 1, WALL + 2000, WALL + 900,
       "127.0.9.1", 5062, 0, 0, "Phone", 1)


def changed(place: int, value: object) -> Callable[[], tuple[object, ...]]:
    return lambda: (*ROW[:place], value, *ROW[place + 1:])


@pytest.mark.parametrize("row", [
    changed(0, "alice"), changed(0, "@"), changed(0, "a" * 300 + "@x"), changed(0, b"alice@x"), changed(0, None),
    changed(1, "sip:alice@x\r\nVia: evil"), changed(1, "sip:a@x> <sip:b@y"), changed(1, "nonsense"), changed(1, ""),
    changed(1, "sip:" + "a" * 600 + "@x"), changed(2, '"'), changed(2, "a\0b"), changed(3, -1), changed(3, 70_000),
    changed(3, "1"), changed(4, -1), changed(5, "<sip:x>\r\n"), changed(7, 2 ** 40),
    changed(8, float("nan")), changed(8, float("inf")), changed(8, -5), changed(8, "soon"), changed(10, "nowhere"),
    changed(10, 7), changed(11, 70_000), changed(15, 2 ** 20), changed(15, "x"), lambda: ROW[:9], lambda: (),
])
def test_a_row_that_is_none_is_refused(row: Callable[[], tuple[object, ...]]) -> None:
    pair = Pair()
    with pytest.raises(ValueError, match=r".+"):
        pair.second.engine.share(row(), HOME, "127.0.0.1:5060", pair.second.now)
    assert shared(pair.second) == []


@pytest.mark.parametrize(("home", "hop"), [(0, "127.0.0.1:5060"), (70_000, "127.0.0.1:5060"), (1, "x" * 97)])
def test_a_gateway_that_cannot_be(home: int, hop: str) -> None:
    pair = Pair()
    with pytest.raises(ValueError, match="gateway"):
        pair.second.engine.share(ROW, home, hop, pair.second.now)


def test_no_row_lives_longer_than_a_registration_may() -> None:
    pair = Pair()
    pair.second.engine.share(changed(8, WALL + 10 ** 8)(), HOME, "127.0.0.1:5060", pair.second.now)
    (row,) = shared(pair.second)
    assert row[8] <= WALL + pair.second.now + 7200 + 1


def test_as_many_as_limits_bindings_beside_our_own() -> None:
    text = pair_config("127.0.0.2", "127.0.0.1", limits={"bindings": 2})
    wire = registrar(text)
    for number in range(4):
        wire.engine.share(changed(0, f"a{number}@{DOMAIN}")(), HOME, "127.0.0.1:5060", wire.now)
    assert len(shared(wire)) == 2 and counter(wire, "bound_bindings") == 2
    phone(wire)
    phone(wire, "bob", 2)
    assert len(bindings(wire)) == 2


def test_without_a_store_nothing_is_shared() -> None:
    wire = registrar()
    wire.engine.share(ROW, HOME, "127.0.0.1:5060", wire.now)
    assert shared(wire) == [] and counter(wire, "bound_bindings") == 1


def test_the_routes_of_a_phone_lead_home_when_its_gateway_is_another_by_now() -> None:
    """A dialog by the other gateway; the phone's request comes to that one, which is not hers: by the token."""
    pair = Pair()
    alice = phone(pair.first)
    pair.share()
    leg, tel = call_by_second(pair, alice)
    alice.agent.reply(leg, 200, headers=[("Contact", f"<{contact(alice.agent)}>")])
    ok = tel.final()
    assert route_set(ok) == list(reversed(callee_route_set(leg)))
    call = Call(pair.second, tel, alice.agent, leg, ok)
    source = pair.second.agent(*alice.address)
    source.send(call.by_callee("BYE", source=source))
    tel.reply(tel.got("BYE"), 200)
    assert source.statuses("BYE") == [200]
