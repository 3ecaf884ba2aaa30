# SPDX-License-Identifier: Apache-2.0
"""Calls of agents: both ways, between agents, from a phone that moves, through a gateway that was restarted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from agents import DOMAIN, INSTANCE, Phone, agents, bindings, counter, credential, journal, phone, registrar
from calls import cancel, contact
from plain_sip import Packet, Request
from wire import OTHER_KEY, UserAgent, Wire, callee_route_set, route_set

TCP = ("udp:127.0.0.1:5060", "tcp:127.0.0.1:5060")


def mirrored(servers: int = 1, **options: object) -> Wire:
    wire = registrar(agents(servers, mirror="site", **options))
    for tel in wire.tels:
        tel.handler = lambda packet, tel=tel: packet.method == "REGISTER" and tel.reply(packet, 200)
    return wire


@dataclass
class Call:
    """A call that stands, between any two user agents."""

    wire: Wire
    caller: UserAgent
    callee: UserAgent
    leg: Packet
    ok: Packet

    def by_caller(self, method: str, cseq: int = 2, source: UserAgent | None = None) -> Request:
        source = source or self.caller
        return self.wire.request(
            method, contact(self.callee), source=source.address, call_id=self.ok.call_id, cseq=cseq,
            from_=self.ok.get("From"), to=self.ok.get("To"), headers=route_set(self.ok))

    def by_callee(self, method: str, cseq: int = 100, source: UserAgent | None = None) -> Request:
        source = source or self.callee
        return self.wire.request(
            method, contact(self.caller), source=source.address, call_id=self.ok.call_id, cseq=cseq,
            from_=self.ok.get("To"), to=self.ok.get("From"), headers=callee_route_set(self.leg))


def establish(wire: Wire, caller: UserAgent, callee: UserAgent, uri: str, *, stream: int = 0, listener: int = 0,
              **parts: object) -> Call:
    """A call from one to the other, answered and acknowledged; the inboxes are empty afterwards."""
    invite = wire.request("INVITE", uri, source=caller.address, **parts)
    caller.send(invite, stream=stream, listener=listener)
    leg = callee.requests("INVITE")[-1]
    callee.reply(leg, 200, headers=[("Contact", f"<{contact(callee)}>")])
    call = Call(wire, caller, callee, leg, caller.final())
    caller.send(call.by_caller("ACK", 1), stream=stream, listener=listener)
    assert len(callee.requests("ACK")) == 1
    for each in (caller, callee):
        each.clear()
    return call


def path_of(wire: Wire) -> tuple[str, str]:
    return ("Route", wire.tel().requests("REGISTER")[-1].get("Path"))


def to_alice(wire: Wire, alice: Phone) -> Call:
    """A call from a server to Alice's phone, by her Path."""
    return establish(wire, wire.tel(), alice.agent, f"sip:alice@{alice.address[0]}", headers=[path_of(wire)])


def by_alice(wire: Wire, alice: Phone) -> Call:
    """A call of Alice's, which a server takes."""
    return establish(wire, alice.agent, wire.tel(), f"sip:0155@{DOMAIN}", stream=alice.stream,
                     from_=f"<sip:alice@{DOMAIN}>;tag=a")


def hang_up(call: Call, ends: str) -> None:
    """BYE of one end reaches the other, and its 200 comes back."""
    one, other = (call.caller, call.callee) if ends == "caller" else (call.callee, call.caller)
    one.send(call.by_caller("BYE") if ends == "caller" else call.by_callee("BYE"))
    other.reply(other.got("BYE"), 200)
    assert one.statuses("BYE") == [200]


# --- calls

@pytest.mark.parametrize("ends", ["caller", "callee"])
@pytest.mark.parametrize("make", [to_alice, by_alice])
def test_a_call_each_way_and_who_ends_it(make: object, ends: str) -> None:
    wire = mirrored()
    call = make(wire, phone(wire, instance=INSTANCE))
    hang_up(call, ends)
    wire.run(100)
    assert wire.transactions == 0


def test_calls_of_agents_go_to_servers_never_to_carriers() -> None:
    wire = mirrored(2)
    alice = phone(wire)
    alice.agent.send(alice.invite(f"sip:0155@{DOMAIN}"))
    assert sum(len(tel.requests("INVITE")) for tel in wire.tels) == 1 and wire.sbc.requests() == []


@pytest.mark.parametrize("parts", [
    {"to": "sip:0899@127.0.0.1:5090"}, {"to": "sip:0899@127.0.0.1:5090;lr"},
    {"to": "sip:0899@far.example", "headers": [("Route", "<sip:127.0.0.1:5090;lr>")]},
    {"to": "sip:0899@127.0.0.1:5060", "headers": [("Route", "<sip:127.0.0.1:5060;lr>, <sip:127.0.0.1:5090;lr>")]},
    {"to": "sip:0899@127.0.0.1:5060;maddr=127.0.0.1", "headers": [("Route", "<sip:127.0.0.1:5090>")]},
    {"to": "sip:0899@127.0.0.1:5090", "tag": "made-up"},
    {"to": "sip:0899@127.0.0.1:5060;maddr=127.0.0.1:5090"},
])
def test_an_agent_has_no_way_round_the_servers(parts: dict[str, object]) -> None:
    """To a carrier through the gateway, whom the carrier trusts: that would be calls at our expense."""
    wire = mirrored()
    alice = phone(wire)
    parts = dict(parts)
    to, tag = str(parts.pop("to")), parts.pop("tag", "")
    alice.agent.send(alice.invite(to, **({"to": f"<{to}>;tag={tag}"} if tag else {}), **parts))
    wire.run(0.1)
    assert wire.sbc.requests() == []


def test_a_source_that_registered_nothing_is_403() -> None:
    wire = mirrored()
    phone(wire)
    stranger = wire.agent("127.0.9.1", 9999)
    stranger.send(wire.request("INVITE", f"sip:0155@{DOMAIN}", source=stranger.address))
    assert stranger.statuses() == [403]


def test_a_phone_that_unregistered_is_a_stranger() -> None:
    wire = registrar()
    alice = phone(wire)
    alice.unregister()
    alice.agent.clear()
    alice.agent.send(alice.invite(f"sip:0155@{DOMAIN}"))
    assert alice.agent.statuses() == [403]


def test_agent_to_agent_without_mirroring() -> None:
    wire = registrar()
    alice, bob = phone(wire), phone(wire, "bob", 2)
    call = establish(wire, alice.agent, bob.agent, f"sip:bob@{DOMAIN}", from_=f"<sip:alice@{DOMAIN}>;tag=a")
    for number, (end, other) in enumerate(((call.caller, call.callee), (call.callee, call.caller))):
        end.send(call.by_caller("INVITE", 5) if number == 0 else call.by_callee("INVITE", 105))
        other.reply(other.got("INVITE"), 200)
        assert end.statuses("INVITE") == [200]
        end.clear()
        other.clear()
    hang_up(call, "callee")
    assert wire.tel().requests() == [] and wire.sbc.requests() == []


def test_across_transports_there_are_two_record_routes_and_both_ways_work() -> None:
    wire = mirrored(listen=TCP)
    alice = Phone(wire, instance=INSTANCE, reg_id=1, stream=77)
    assert alice.register(listener=1).status == 200
    alice.agent.clear()
    call = to_alice(wire, alice)
    assert len(call.ok.values("Record-Route")) == 2
    wire.tel().send(call.by_caller("BYE"))
    bye = alice.agent.got("BYE")
    assert (bye.stream, bye.listener) == (77, 1)
    alice.agent.reply(bye, 200)
    alice.again(listener=1)
    call = to_alice(wire, alice)
    alice.agent.send(call.by_callee("BYE"), listener=1, stream=77)
    assert len(wire.tel().requests("BYE")) == 1


def test_two_agents_behind_one_flow_are_told_apart_by_from() -> None:
    """A test's load generator, or a gateway behind us."""
    wire = registrar()
    alice, bob = Phone(wire), Phone(wire, "bob")
    assert (alice.register().status, bob.register().status) == (200, 200)
    for each in (alice, bob):
        each.agent.send(each.invite(f"sip:0155@{DOMAIN}"))
    tokens = [p.values("Record-Route")[0].partition("u=")[2][:16] for p in wire.tel().requests("INVITE")]
    assert len(set(tokens)) == 2


def test_a_phone_reached_by_its_contact_calls_and_hangs_up() -> None:
    """No address translation, and a Contact on another port than it registers from."""
    wire = mirrored()
    alice = phone(wire, contact="<sip:alice@127.0.9.1:7000>")
    listens = wire.agent("127.0.9.1", 7000)
    call = establish(wire, wire.tel(), listens, "sip:alice@127.0.9.1", headers=[path_of(wire)])
    listens.send(call.by_callee("BYE"))
    assert len(wire.tel().requests("BYE")) == 1
    alice.agent.send(alice.invite(f"sip:0155@{DOMAIN}"))
    assert alice.agent.statuses() == [] and wire.tel().requests("INVITE")[-1].uri == f"sip:0155@{DOMAIN}"


# --- a phone that moves in mid-call

@pytest.mark.parametrize("make", [to_alice, by_alice])
@pytest.mark.parametrize("method", ["BYE", "INVITE"])
@pytest.mark.parametrize("reg_id", [0, 1])
def test_what_the_server_sends_follows_the_phone(make: object, method: str, reg_id: int) -> None:
    wire = mirrored()
    alice = phone(wire, instance=INSTANCE, reg_id=reg_id)
    call = make(wire, alice)
    wire.run(10)
    moved = phone(wire, number=7, instance=INSTANCE, reg_id=reg_id)
    tel = wire.tel()
    tel.send(call.by_caller(method) if tel is call.caller else call.by_callee(method))
    moved.agent.reply(moved.agent.got(method), 200)
    assert tel.statuses(method) == [200] and alice.agent.requests(method) == []


@pytest.mark.parametrize("make", [to_alice, by_alice])
def test_what_the_phone_sends_from_its_new_place_reaches_the_server(make: object) -> None:
    wire = mirrored()
    call = make(wire, phone(wire, instance=INSTANCE))
    moved = phone(wire, number=7, instance=INSTANCE)
    request = (call.by_callee if call.caller is wire.tel() else call.by_caller)("BYE", source=moved.agent)
    moved.agent.send(request)
    wire.tel().reply(wire.tel().got("BYE"), 200)
    assert moved.agent.statuses("BYE") == [200]


def test_even_before_it_has_registered_there() -> None:
    wire = mirrored()
    call = to_alice(wire, phone(wire, instance=INSTANCE))
    moved = wire.agent("127.0.9.7", 5062)
    moved.send(call.by_callee("BYE", source=moved))
    wire.tel().reply(wire.tel().got("BYE"), 200)
    assert moved.statuses("BYE") == [200]


def test_a_token_is_no_way_in_for_another_call() -> None:
    wire = mirrored()
    call = to_alice(wire, phone(wire, instance=INSTANCE))
    stranger = wire.agent("127.0.66.6")
    request = call.by_callee("BYE", source=stranger)
    request.call_id = "another"
    stranger.send(request)
    new = call.by_callee("INVITE", source=stranger)
    new.to = new.to.partition(";")[0]
    stranger.send(new)
    assert set(stranger.statuses()) == {403} and wire.tel().requests("BYE") == wire.tel().requests("INVITE") == []


# --- a gateway that is started again

def rows(wire: Wire) -> list[tuple[object, ...]]:
    return bindings(wire)


def restart(wire: Wire, restored: bool, keys: object = None) -> None:
    """The gateway dies; the next one has what was kept of the bindings, or nothing."""
    kept = rows(wire)
    wire.restart(keys)
    for user in ("alice", "bob"):
        credential(wire, user)
    if restored:
        assert wire.engine.restore(kept, wire.now) == len(kept)
    wire.settle()


@pytest.mark.parametrize("restored", [True, False])
@pytest.mark.parametrize("make", [to_alice, by_alice])
@pytest.mark.parametrize("ends", ["caller", "callee"])
def test_a_call_goes_on_through_a_restart(make: object, restored: bool, ends: str) -> None:
    wire = mirrored()
    call = make(wire, phone(wire, instance=INSTANCE, contact="<sip:ua@127.0.9.1:5062>"))
    restart(wire, restored)
    hang_up(call, ends)


def test_a_restored_binding_is_as_it_was() -> None:
    wire = mirrored()
    phone(wire, instance=INSTANCE, reg_id=2, contact="<sip:a%20b@127.0.9.1:5062>;q=0.5")
    before = rows(wire)
    restart(wire, True)
    wire.run(3)
    assert [row[:16] for row in rows(wire)] == [row[:16] for row in before]
    assert wire.engine.statistics()["agents"] == 1


def test_what_has_expired_is_not_restored() -> None:
    wire = registrar()
    phone(wire)
    kept = rows(wire)
    wire.run(3601)
    wire.restart()
    assert wire.engine.restore(kept, wire.now) == 0 and bindings(wire) == []


def test_a_restored_connection_is_dead_until_its_phone_is_back() -> None:
    wire = mirrored(listen=TCP)
    alice = Phone(wire, instance=INSTANCE, reg_id=1, stream=77)
    alice.register(listener=1)
    route = path_of(wire)
    restart(wire, True)
    wire.run(1)
    wire.tel().send(wire.request("INVITE", "sip:alice@x", source=wire.tel().address, headers=[route]))
    assert wire.tel().final().status == 430
    again = Phone(wire, instance=INSTANCE, reg_id=1, stream=78, call_id="again")
    assert again.register(listener=1).status == 200
    assert len(bindings(wire)) == 1 and bindings(wire)[0][13] == 78


@pytest.mark.parametrize("change", [
    {0: 5}, {1: "x" * 600}, {10: "nonsense"}, {3: "x"}, {3: -1}, {4: 10 ** 9}, {7: 2 ** 40}, {8: "soon"}, {11: 99999},
    {2: None},
    {5: "y" * 2000}, {0: "z" * 300}, {12: "x"},
])
def test_a_row_that_is_none_of_ours_is_refused_and_leaves_nothing(change: dict[int, object]) -> None:
    wire = registrar()
    phone(wire)
    row = list(rows(wire)[0])
    for at, value in change.items():
        row[at] = value
    wire.restart()
    with pytest.raises(ValueError, match=r".+"):
        wire.engine.restore([tuple(row)], wire.now)
    with pytest.raises(ValueError, match=r".+"):
        wire.engine.restore([tuple(row[:9])], wire.now)
    assert bindings(wire) == [] and wire.engine.statistics()["bindings"] == 0


def test_odd_rows_do_no_harm() -> None:
    wire = registrar()
    phone(wire)
    row = list(rows(wire)[0])
    row[12], row[15], row[4] = 200, 0xFFFF, 60000
    wire.restart()
    assert wire.engine.restore([tuple(row)], wire.now) == 1
    wire.sbc.send(wire.request("INVITE", f"sip:alice@{DOMAIN}"))
    assert len(wire.agent("127.0.9.1", 5062).requests("INVITE")) == 1


def test_an_answer_passes_a_gateway_that_was_restarted_with_nothing() -> None:
    wire = mirrored()
    alice = phone(wire)
    wire.tel().send(wire.request("INVITE", "sip:alice@x", source=wire.tel().address, headers=[path_of(wire)]))
    leg = alice.agent.got("INVITE")
    wire.restart()
    alice.agent.reply(leg, 200)
    assert wire.tel().statuses("INVITE") == [200]


def test_a_forged_answer_of_a_stranger_does_not() -> None:
    wire = mirrored()
    alice = phone(wire)
    wire.tel().send(wire.request("INVITE", "sip:alice@x", source=wire.tel().address, headers=[path_of(wire)]))
    leg = alice.agent.got("INVITE")
    wire.restart([OTHER_KEY])
    alice.agent.reply(leg, 200)
    assert wire.tel().statuses("INVITE") == [] and counter(wire, "forged_responses") == 1


@pytest.mark.parametrize("mirror", [True, False])
def test_a_cancel_passes_a_gateway_that_was_restarted(mirror: bool) -> None:
    wire = mirrored() if mirror else registrar()
    phones = [phone(wire)] if mirror else [phone(wire), phone(wire, number=2)]
    caller = wire.tel() if mirror else wire.sbc
    uri = "sip:alice@127.0.9.1:5062" if mirror else f"sip:alice@{DOMAIN}"
    invite = wire.request("INVITE", uri, source=caller.address, headers=[path_of(wire)] if mirror else [])
    caller.send(invite)
    legs = [each.agent.got("INVITE") for each in phones]
    restart(wire, True)
    caller.send(cancel(invite))
    assert caller.statuses("CANCEL") == [200]
    for each, leg in zip(phones, legs, strict=True):
        got = each.agent.got("CANCEL")
        assert (got.branch, got.uri) == (leg.branch, leg.uri), "so that the phone finds what it cancels"


# --- what is told

def test_the_journal_tells_every_change() -> None:
    wire = registrar()
    alice = phone(wire, instance=INSTANCE)
    alice.again([("Expires", "120"), ("User-Agent", "Phone/1 " + "x" * 100)])
    alice.unregister()
    made, refreshed, ended = journal(wire)
    assert made[:5] == [1, f"alice@{DOMAIN}", alice.uri, INSTANCE, 0]
    assert (made[5], made[8], made[11:15]) == (1000, 2, ["127.0.9.1", 5062, 0, 0])
    assert made[9] - made[10] == 3600 and refreshed[9] - refreshed[10] == 120 and refreshed[15].startswith("Phone/1 x")
    assert len(refreshed[15]) == 64
    assert ended == [0, f"alice@{DOMAIN}", alice.uri, INSTANCE, 0, 1]
    assert journal(wire) == []


def test_the_journal_restores() -> None:
    wire = registrar()
    phone(wire, instance=INSTANCE)
    (made,) = journal(wire)
    wire.restart()
    assert wire.engine.restore([made[1:]], wire.now) == 1
    assert rows(wire)[0][0] == f"alice@{DOMAIN}"


def test_pages_of_bindings() -> None:
    users = [f"u{n}" for n in range(30)]
    wire = registrar(users=users)
    for number, user in enumerate(users):
        phone(wire, user, number + 1)
    seen, after = [], 0
    while True:
        after, page = wire.engine.bindings(after, 7, wire.now)
        assert len(page) <= 7
        seen += [row[0] for row in page]
        if after == 0:
            break
    assert sorted(seen) == sorted(f"{user}@{DOMAIN}" for user in users)
    assert wire.engine.bindings(10 ** 6, 7, wire.now) == (0, [])


def test_the_round_trip_to_a_phone_is_measured() -> None:
    wire = registrar()
    alice = Phone(wire)
    alice.send(alice.request())
    wire.run(0.040)
    alice.again()
    assert rows(wire)[0][17] == pytest.approx(40_000, abs=1500)


def test_an_idle_gateway_with_bindings_sleeps() -> None:
    wire = mirrored()
    phone(wire)
    wire.run(70)
    due = wire.engine.next_timer()
    assert due is not None and due > wire.now + 30


def test_nothing_is_left_when_all_has_expired() -> None:
    wire = mirrored()
    phone(wire)
    wire.run(3700)
    statistics = wire.engine.statistics()
    assert (statistics["bindings"], statistics["agents"], statistics["transactions"], statistics["buffers"]) == (0,) * 4
    assert wire.engine.next_timer() is None
