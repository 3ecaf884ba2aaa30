# SPDX-License-Identifier: Apache-2.0
"""RFC 3261 sections 16.5 to 16.7 with several bindings: parallel and serial search, the best response. FRK, LOP.

LOP-05: what Max-Breadth does not allow at once is tried in its turn. TGT-03 to TGT-06, TGT-08, FWD-05 are here, for
they need bindings.
"""

from __future__ import annotations

import pytest
from agents import DOMAIN, INSTANCE, Phone, agents, bindings, counter, phone, registrar
from calls import cancel, failure_ack
from plain_sip import Packet, Request
from wire import Wire, route_set

ALICE = f"sip:alice@{DOMAIN}"


def devices(wire: Wire, *qs: float | None) -> list[Phone]:
    """Alice's phones, one for each q (None: she gives none)."""
    made = []
    for number, q in enumerate(qs, 1):
        contact = f"<sip:alice@127.0.9.{number}:5062>" + ("" if q is None else f";q={q}")
        made.append(phone(wire, number=number, contact=contact))
    return made


def ring(wire: Wire, uri: str = ALICE, **parts: object) -> Request:
    invite = wire.request("INVITE", uri, **parts)
    wire.sbc.send(invite)
    return invite


def invited(phones: list[Phone]) -> list[int]:
    """How many INVITEs, retransmissions left out, each phone got."""
    return [len({p.branch for p in each.agent.requests("INVITE")}) for each in phones]


def leg(of: Phone) -> Packet:
    return of.agent.requests("INVITE")[0]


def answer(of: Phone, status: int, **parts: object) -> None:
    of.agent.reply(leg(of), status, to_tag=f"tag-{of.address[0]}", **parts)


def ended(wire: Wire) -> None:
    wire.run(200)
    assert wire.transactions == 0 and wire.engine.statistics()["pending"] == 0


# --- parallel

def test_frk_all_devices_ring_at_once() -> None:
    wire = registrar()
    phones = devices(wire, None, None, None)
    ring(wire)
    assert invited(phones) == [1, 1, 1]
    assert [leg(each).uri for each in phones] == [each.uri for each in phones]
    assert len({leg(each).branch for each in phones}) == 3


def test_frk_every_ringing_goes_to_the_caller_each_with_its_tag() -> None:
    wire = registrar()
    phones = devices(wire, None, None)
    ring(wire)
    for each in phones:
        answer(each, 180)
    assert [(p.status, p.tag("To")) for p in wire.sbc.responses()] == [
        (180, "tag-127.0.9.1"), (180, "tag-127.0.9.2")]


def test_frk_the_first_200_ends_the_others() -> None:
    wire = registrar()
    one, two, three = devices(wire, None, None, None)
    ring(wire)
    answer(one, 180)
    answer(two, 180)
    answer(one, 200)
    assert wire.sbc.final().status == 200
    assert (len(two.agent.requests("CANCEL")), len(one.agent.requests("CANCEL"))) == (1, 0)
    assert three.agent.requests("CANCEL") == [], "not before it has answered with something (section 9.1)"
    answer(three, 180)
    assert len(three.agent.requests("CANCEL")) == 1
    for each in (two, three):
        each.agent.reply(each.agent.got("CANCEL"), 200)
        answer(each, 487)
        assert len(each.agent.requests("ACK")) == 1
    assert set(wire.sbc.statuses()) == {180, 200}
    ended(wire)


def test_frk_a_second_200_is_forwarded_too() -> None:
    wire = registrar()
    one, two = devices(wire, None, None)
    ring(wire)
    answer(one, 200)
    answer(two, 200)
    assert [(p.status, p.tag("To")) for p in wire.sbc.responses()] == [
        (200, "tag-127.0.9.1"), (200, "tag-127.0.9.2")]
    for ok in wire.sbc.responses():
        wire.sbc.send(wire.request("ACK", "sip:alice@192.0.2.1", call_id=ok.call_id, from_=ok.get("From"),
                                   to=ok.get("To"), headers=route_set(ok)))
    assert [len(each.agent.requests("ACK")) for each in (one, two)] == [1, 1]
    ended(wire)


@pytest.mark.parametrize(("statuses", "best"), [
    ((486, 404), 486), ((404, 486), 404), ((503, 486), 486), ((486, 503), 486), ((500, 404), 404), ((302, 486), 302),
    ((486, 302), 302), ((408, 486), 486), ((486, 408), 486), ((503, 503), 500), ((401, 486), 401), ((486, 407), 407),
    ((430, 486), 486), ((486, 430), 486), ((430, 503), 480), ((480, 480), 480), ((488, 415), 415), ((484, 404), 484),
])
def test_frk_the_best_response(statuses: tuple[int, ...], best: int) -> None:
    wire = registrar()
    phones = devices(wire, *[None] * len(statuses))
    ring(wire)
    for each, status in zip(phones, statuses, strict=True):
        assert wire.sbc.statuses() == []
        answer(each, status)
    assert wire.sbc.final().status == best
    ended(wire)


def test_frk_challenges_of_all_branches_are_gathered() -> None:
    wire = registrar()
    phones = devices(wire, None, None)
    ring(wire)
    for number, each in enumerate(phones):
        answer(each, 407, headers=[("Proxy-Authenticate", f'Digest realm="r{number}", nonce="n"')])
    assert len(wire.sbc.final().lines("Proxy-Authenticate")) == 2


@pytest.mark.parametrize("status", [600, 603, 604, 606])
def test_frk_a_6xx_ends_the_search(status: int) -> None:
    wire = registrar()
    one, two, later = devices(wire, None, None, 0.1)
    ring(wire)
    answer(two, 180)
    answer(one, status)
    assert len(two.agent.requests("CANCEL")) == 1 and wire.sbc.statuses("INVITE") == [180]
    answer(two, 487)
    assert wire.sbc.statuses("INVITE")[-1] == status
    assert invited([later]) == [0]
    ended(wire)


def test_frk_the_callers_cancel_goes_to_all_that_ring() -> None:
    wire = registrar()
    phones = devices(wire, None, None, 0.3)
    invite = ring(wire)
    for each in phones[:2]:
        answer(each, 180)
    wire.sbc.send(cancel(invite))
    assert wire.sbc.statuses("CANCEL") == [200]
    for each in phones[:2]:
        each.agent.reply(each.agent.got("CANCEL"), 200)
        answer(each, 487)
    assert wire.sbc.statuses("INVITE")[-1] == 487
    wire.sbc.send(failure_ack(invite, wire.sbc.responses("INVITE")[-1]))
    assert invited(phones) == [1, 1, 0], "and nobody else is tried"
    ended(wire)


def test_frk_more_devices_than_ring_at_once() -> None:
    wire = registrar(agents(max_contacts=50))
    phones = devices(wire, *[None] * 20)
    ring(wire)
    assert sum(invited(phones)) == 16
    ended(wire)


def test_frk_a_device_with_nobody_behind_it_does_not_end_the_search() -> None:
    wire = registrar()
    one, two = devices(wire, None, None)
    wire.refused.add(one.address)
    ring(wire)
    wire.settle()
    answer(two, 180)
    answer(two, 200)
    assert wire.sbc.statuses() == [180, 200]


def test_frk_all_with_nobody_behind_them() -> None:
    wire = registrar()
    wire.refused.update(each.address for each in devices(wire, None, None))
    ring(wire)
    wire.settle()
    assert wire.sbc.final().status == 480
    ended(wire)


def test_frk_other_requests_fork_too() -> None:
    wire = registrar()
    phones = devices(wire, None, None)
    wire.sbc.send(wire.request("MESSAGE", ALICE))
    for each, status in zip(phones, (404, 200), strict=True):
        each.agent.reply(each.agent.got("MESSAGE"), status)
    assert wire.sbc.statuses() == [200]
    ended(wire)


# --- serial

def test_frk_the_highest_q_first_then_the_next() -> None:
    wire = registrar()
    low, high, same = devices(wire, 0.3, 0.8, 0.8)
    ring(wire)
    assert invited([low, high, same]) == [0, 1, 1]
    answer(high, 486)
    assert invited([low]) == [0]
    answer(same, 404)
    assert invited([low]) == [1] and wire.sbc.statuses() == []
    answer(low, 200)
    assert wire.sbc.statuses() == [200]


def test_frk_no_q_is_1_and_0_is_still_tried() -> None:
    wire = registrar()
    zero, none = devices(wire, 0.0, None)
    ring(wire)
    answer(none, 480)
    answer(zero, 486)
    assert wire.sbc.final().status == 480
    ended(wire)


# --- where to: sections 16.5 and 10

def test_tgt_03_the_target_is_the_contact_without_what_no_request_uri_may_carry() -> None:  # FWD-05
    wire = registrar()
    alice = phone(wire, contact="<sip:alice@127.0.9.1:5062;transport=udp;x=1?Subject=a&Route=b>")
    ring(wire)
    assert leg(alice).uri == "sip:alice@127.0.9.1:5062;transport=udp;x=1"


def test_tgt_05_somebody_who_is_registered_nowhere_is_480() -> None:
    wire = registrar()
    ring(wire, f"sip:bob@{DOMAIN}")
    assert wire.sbc.final().status == 480 and wire.tel().requests() == []


def test_tgt_06_somebody_who_is_no_agent_is_the_servers_business() -> None:
    wire = registrar()
    ring(wire, f"sip:0155@{DOMAIN}")
    assert wire.tel().got("INVITE").uri.startswith("sip:0155@")


def test_tgt_06_a_servers_call_to_somebody_who_is_no_agent_goes_out() -> None:
    wire = registrar(agents(mirror="site"))
    wire.tel().send(wire.request("INVITE", source=wire.tel().address))
    assert len(wire.sbc.requests("INVITE")) == 1


def test_calls_by_the_gateways_own_address_find_agents_from_servers_only() -> None:
    wire = registrar()
    alice = phone(wire)
    ring(wire, "sip:alice@127.0.0.1:5060")
    assert invited([alice]) == [0] and len(wire.tel().requests("INVITE")) == 1
    wire.tel().send(wire.request("INVITE", "sip:alice@127.0.0.1:5060", source=wire.tel().address))
    assert invited([alice]) == [1]


def test_with_mirroring_a_carriers_calls_are_the_servers_business() -> None:
    wire = registrar(agents(mirror="site"))
    wire.tel().handler = lambda packet: packet.method == "REGISTER" and wire.tel().reply(packet, 200)
    alice = phone(wire)
    ring(wire)
    assert invited([alice]) == [0] and len(wire.tel().requests("INVITE")) == 1


@pytest.mark.parametrize("uri", ["sip:%61lice@ubisip.test", "sip:alice@UBISIP.test;user=phone",
    "sip:alice:pw@ubisip.test"])
def test_the_address_of_record_is_looked_up_in_its_canonical_form(uri: str) -> None:
    wire = registrar()
    alice = phone(wire)
    ring(wire, uri)
    assert invited([alice]) == [1]


# --- Max-Breadth: RFC 5393 section 5.3.3

def breadths(phones: list[Phone]) -> list[list[str]]:
    return [leg(each).values("Max-Breadth") for each in phones]


@pytest.mark.parametrize(("headers", "number", "expected"), [
    ([], 1, [60]), ([], 2, [30, 30]), ([], 7, [9, 9, 9, 9, 8, 8, 8]), ([("Max-Breadth", "5")], 2, [3, 2]),
    ([("Max-Breadth", "2")], 2, [1, 1]), ([("max-BREADTH", " 100 ")], 2, [30, 30]),
    ([("Max-Breadth", "many")], 1, [60]),
    ([("Max-Breadth", "4"), ("Max-Breadth", "50")], 2, [2, 2]),
])
def test_lop_04_the_branches_share_max_breadth(
        headers: list[tuple[str, str]], number: int, expected: list[int]) -> None:
    wire = registrar()
    phones = devices(wire, *[None] * number)
    ring(wire, headers=headers)
    found = breadths(phones)
    assert all(len(values) == 1 for values in found)
    assert sorted((int(values[0]) for values in found), reverse=True) == expected


def test_lop_05_too_little_for_all_at_once_rings_one_after_the_other() -> None:
    wire = registrar()
    phones = devices(wire, None, None, None)
    ring(wire, headers=[("Max-Breadth", "1")])
    rung: list[Phone] = []
    for number in range(1, 4):
        assert sum(invited(phones)) == number
        (newest,) = [each for each, count in zip(phones, invited(phones), strict=True) if count and each not in rung]
        assert leg(newest).values("Max-Breadth") == ["1"]
        rung.append(newest)
        answer(newest, 486)
    assert wire.sbc.final().status == 486
    ended(wire)


def test_lop_05_the_other_flow_of_a_phone_takes_no_more_than_is_left() -> None:
    wire = registrar()
    for reg_id, host in enumerate(("127.0.9.1", "127.0.9.2"), 1):
        one = Phone(wire, "alice", (host, 5062), instance=INSTANCE, reg_id=reg_id)
        assert one.register().status == 200
    ring(wire, headers=[("Max-Breadth", "8")])
    first, second = wire.agent("127.0.9.2", 5062), wire.agent("127.0.9.1", 5062)
    if not first.requests("INVITE"):
        first, second = second, first
    assert first.requests("INVITE")[0].values("Max-Breadth") == ["8"]
    first.reply(first.requests("INVITE")[0], 430)
    assert second.requests("INVITE")[0].values("Max-Breadth") == ["1"]


def test_lop_05_none_at_all_is_440() -> None:
    wire = registrar()
    phones = devices(wire, None)
    ring(wire, headers=[("Max-Breadth", "0")])
    assert wire.sbc.final().status == 440 and invited(phones) == [0]


def test_lop_04_who_does_not_fork_leaves_it_alone() -> None:
    wire = registrar()
    wire.sbc.send(wire.request("INVITE", headers=[("Max-Breadth", "7")]))
    assert wire.tel().got("INVITE").values("Max-Breadth") == ["7"]


# --- calls that come back: RFC 5393

def test_lop_01_bindings_that_lead_back_here_end_soon() -> None:
    wire = registrar()
    alice = Phone(wire)
    alice.register(contacts=[f"<{ALICE}>", f"<sip:bob@{DOMAIN}>", "<sip:alice@127.0.0.1:5060>", "<sip:bob@127.0.0.1>"])
    ring(wire)
    wire.run(1)
    assert len({p.branch for p in wire.log if p.data.startswith(b"INVITE")}) <= 4
    for invite in {p.branch: p for p in alice.agent.requests("INVITE")}.values():
        alice.agent.reply(invite, 404)
    assert wire.sbc.final().status == 404
    ended(wire)


def test_lop_02_a_request_that_comes_round_is_482() -> None:
    wire = registrar()
    alice = phone(wire)
    ring(wire)
    back = leg(alice)
    again = Request("INVITE", ALICE, ["SIP/2.0/UDP 127.0.9.1:5062;branch=z9hG4bK-b", *back.lines("Via")],
                    back.get("From"), back.get("To"), back.call_id, back.cseq)
    alice.agent.send(again)
    assert alice.agent.final().status == 482


def test_lop_03_a_spiral_is_none() -> None:
    """Alice's phone forwards to Bob: the Request-URI is another."""
    wire = registrar()
    alice, bob = phone(wire), phone(wire, "bob", 2)
    ring(wire)
    back = leg(alice)
    alice.agent.send(Request(
        "INVITE", f"sip:bob@{DOMAIN}", ["SIP/2.0/UDP 127.0.9.1:5062;branch=z9hG4bK-b", *back.lines("Via")],
        back.get("From"), back.get("To"), back.call_id, back.cseq, max_forwards="60"))
    assert invited([bob]) == [1]


def test_an_instance_with_two_contacts_rings_by_the_newest() -> None:
    """A phone without outbound that has moved: its old contact has not expired yet."""
    wire = registrar()
    old = phone(wire, number=1, instance=INSTANCE)
    wire.run(1)
    new = phone(wire, number=2, instance=INSTANCE)
    assert len(bindings(wire)) == 2
    ring(wire)
    assert invited([old, new]) == [0, 1]


def test_counters_tell_calls_to_agents() -> None:
    wire = registrar()
    phone(wire)
    ring(wire)
    assert (counter(wire, "agent_calls"), counter(wire, "calls")) == (1, 1)
