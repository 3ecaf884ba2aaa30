# SPDX-License-Identifier: Apache-2.0
"""Parked calls, draining, probes, and what strangers and overload can take (DESIGN sections 2, 6 and 7)."""

from __future__ import annotations

import pytest
from calls import cancel, establish, failure_ack, place
from plain_sip import Packet, Request
from wire import Wire, on_time, platform, server, server_address, when

MAX = 1 << 31


def parked(servers: int = 2, **routing: object) -> tuple[Wire, Request, int]:
    """A new call that waits for a decision, and its handle."""
    wire = Wire(platform(servers=servers, **routing), hook=True)
    invite = wire.request("INVITE")
    wire.sbc.send(invite)
    (event,) = wire.events("ask")
    return wire, invite, event.handle


def test_a_parked_call_hears_100_after_150_ms_and_waits() -> None:
    wire, _, _ = parked(hook_timeout=0.4)
    start = wire.now
    wire.run(0.148)
    assert wire.sbc.inbox == []
    wire.run(0.2)
    assert wire.sbc.statuses() == [100]
    assert on_time(when(wire.sbc.inbox, start), [0.15])
    assert [tel.inbox for tel in wire.tels] == [[], []]


@pytest.mark.parametrize("status", [180, 200, 486])
def test_a_decision_and_an_answer_within_150_ms_spare_the_100(status: int) -> None:
    wire, _, handle = parked()
    wire.run(0.05)
    wire.engine.decide(handle, -1, wire.now)
    wire.settle()
    wire.holder().reply(wire.holder().got("INVITE"), status)
    wire.run(0.4)
    assert wire.sbc.statuses() == [status]


def test_the_100_of_a_parked_call_counts_from_its_invite() -> None:
    """A decision at 100 ms does not put it off, and none comes after it."""
    wire, _, handle = parked()
    start = wire.now
    wire.run(0.1)
    wire.engine.decide(handle, -1, wire.now)
    wire.run(0.5)
    assert wire.sbc.statuses() == [100]
    assert on_time(when(wire.sbc.inbox, start), [0.15])


def test_a_late_decision_after_the_100_carries_the_call() -> None:
    wire, _, handle = parked(hook_timeout=2.0)
    wire.run(1.0)
    assert wire.engine.decide(handle, wire.slots.slot("tel2"), wire.now)
    wire.settle()
    wire.tel(1).reply(wire.tel(1).got("INVITE"), 200)
    assert wire.sbc.statuses() == [100, 200]


def test_the_question_holds_the_invite() -> None:
    wire = Wire(hook=True)
    invite = wire.request("INVITE", body=b"v=0\r\n")
    wire.sbc.send(invite)
    (event,) = wire.events("ask")
    asked = Packet(event.data)
    assert asked.call_id == invite.call_id
    assert asked.uri == invite.uri
    assert asked.body == b"v=0\r\n"


@pytest.mark.parametrize("index", range(4))
def test_the_decision_is_tried_first(index: int) -> None:
    wire, _, handle = parked(servers=4)
    assert wire.engine.decide(handle, wire.slots.slot(f"tel{index + 1}"), wire.now)
    wire.settle()
    assert wire.holder() is wire.tel(index)
    wire.tel(index).reply(wire.tel(index).got("INVITE"), 503)
    assert sum(bool(tel.requests("INVITE")) for tel in wire.tels) == 2  # and then the policy goes on


def test_minus_one_is_the_default_policy() -> None:
    plain = Wire(platform(servers=4))
    _, leg = place(plain)
    wire, _, handle = parked(servers=4)
    assert wire.engine.decide(handle, -1, wire.now)
    wire.settle()
    assert wire.holder().got("INVITE").data == leg.data


@pytest.mark.parametrize("slot", [-2, 77, 10_000, MAX - 1, -MAX])
def test_a_senseless_slot_is_the_default_policy(slot: int) -> None:
    wire, _, handle = parked()
    wire.engine.decide(handle, slot, wire.now)
    wire.run(0.5)
    assert wire.holder().requests("INVITE")


def test_a_decision_is_taken_once() -> None:
    wire, _, handle = parked()
    assert wire.engine.decide(handle, wire.slots.slot("tel1"), wire.now) is True
    assert wire.engine.decide(handle, wire.slots.slot("tel2"), wire.now) is False
    wire.settle()
    assert sum(len(tel.requests("INVITE")) for tel in wire.tels) == 1


@pytest.mark.parametrize("handle", [-1, 0, 12345, MAX - 1])
def test_a_handle_that_nobody_has_is_refused(handle: int) -> None:
    wire = Wire(hook=True)
    assert wire.engine.decide(handle, -1, wire.now) is False
    wire.settle()
    assert wire.log == []


def test_after_hook_timeout_the_policy_decides() -> None:
    wire = Wire(platform(servers=2, hook_timeout=0.4), hook=True)
    start = wire.now
    wire.sbc.send(wire.request("INVITE"))
    (event,) = wire.events("ask")
    wire.run(0.39)
    assert [tel.inbox for tel in wire.tels] == [[], []]
    wire.run(0.02)
    assert on_time(when(wire.holder().requests("INVITE"), start), [0.4])
    assert wire.engine.decide(event.handle, 0, wire.now) is False


def test_a_retransmission_asks_no_second_time() -> None:
    wire, invite, _ = parked()
    wire.sbc.send(invite)
    assert wire.events("ask") == []
    assert wire.sbc.statuses() == [100]
    wire.run(0.2)
    assert wire.sbc.statuses() == [100]  # the one that came early is not repeated at 150 ms
    wire.sbc.send(invite)
    assert wire.events("ask") == []
    assert wire.sbc.statuses() == [100, 100]


def test_a_cancelled_parked_call_goes_nowhere() -> None:
    wire, invite, handle = parked()
    wire.sbc.send(cancel(invite))
    assert wire.sbc.statuses("CANCEL") == [200]
    assert wire.sbc.final().status == 487
    wire.sbc.send(failure_ack(invite, wire.sbc.final()))
    assert wire.engine.decide(handle, 0, wire.now) is False
    wire.run(40)
    assert [tel.inbox for tel in wire.tels] == [[], []]
    assert wire.transactions == 0


def test_only_new_calls_are_asked_about() -> None:
    wire = Wire(hook=True)
    wire.sbc.send(wire.request("MESSAGE"))
    assert len(wire.tel().requests("MESSAGE")) == 1
    wire.swap(hook=False)
    call = establish(wire)
    wire.swap(hook=True)
    wire.sbc.send(call.by_caller("INVITE"))
    assert len(wire.tel().requests("INVITE")) == 1
    assert wire.events("ask") == []


def test_a_call_parked_when_the_hook_goes_is_still_carried() -> None:
    wire, _, handle = parked()
    wire.swap(hook=False)
    wire.run(0.5)
    assert wire.holder().requests("INVITE")
    assert wire.engine.decide(handle, 0, wire.now) is False


def test_draining_refuses_new_calls_and_keeps_the_old() -> None:
    wire = Wire()
    call = establish(wire)
    ringing, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.swap(draining=True)
    wire.sbc.clear()
    wire.tel().clear()
    wire.sbc.send(wire.request("INVITE"))
    wire.run(0.01)
    assert wire.sbc.final().status == 503
    assert wire.sbc.final().get("Retry-After")
    assert wire.tel().inbox == []
    wire.sbc.clear()
    wire.tel().reply(leg, 200)
    wire.sbc.send(call.by_caller("INVITE"))
    wire.tel().reply(wire.tel().got("INVITE"), 200)
    assert wire.sbc.statuses("INVITE") == [200, 200]
    wire.tel().send(call.by_callee("BYE"))
    assert wire.sbc.got("BYE").call_id == call.invite.call_id
    assert ringing.call_id == leg.call_id


def test_a_retransmission_is_no_new_call_for_a_draining_gateway() -> None:
    wire = Wire()
    invite, leg = place(wire)
    wire.swap(draining=True)
    wire.sbc.send(invite)
    assert wire.sbc.statuses() == [100]
    wire.tel().reply(leg, 200)
    assert wire.sbc.final().status == 200


def test_a_draining_gateway_carries_emergency_calls() -> None:
    wire = Wire(draining=True)
    wire.sbc.send(wire.request("INVITE", "sip:112@127.0.0.1:5060"))
    assert wire.tel().got("INVITE").uri == "sip:112@127.0.3.1:5060"


def test_shedding_leaves_no_state_behind() -> None:
    wire = Wire(draining=True)
    for _ in range(200):
        wire.sbc.send(wire.request("INVITE"))
    assert set(wire.sbc.statuses()) == {503}
    assert wire.transactions == 0


def limited(**limits: object) -> str:
    lines = [f"{key} = {value}" for key, value in limits.items()]
    return "\n".join([platform(), "[limits]", *lines, ""])


def test_transactions_are_bounded() -> None:
    """The attack: INVITEs without end. Beyond the bound 503; emergency calls still pass; all comes back in time."""
    wire = Wire(limited(transactions=50))
    for _ in range(200):
        wire.sbc.send(wire.request("INVITE"))
    assert wire.transactions <= 50
    refused = [packet for packet in wire.sbc.responses() if packet.status == 503]
    assert len(refused) >= 150
    assert all(packet.get("Retry-After") for packet in refused)
    wire.run(60)
    wire.sbc.clear()
    wire.tel().clear()
    assert wire.transactions == 0
    assert establish(wire)


def test_an_emergency_call_passes_the_bound_on_transactions() -> None:
    wire = Wire(limited(transactions=50))
    for _ in range(200):
        wire.sbc.send(wire.request("INVITE"))
    wire.sbc.send(wire.request("INVITE", "sip:112@127.0.0.1:5060"))
    (call,) = [leg for leg in wire.tel().requests("INVITE") if leg.uri == "sip:112@127.0.3.1:5060"]
    wire.tel().reply(call, 200)
    assert 200 in wire.sbc.statuses()


def test_a_call_in_setup_ends_well_at_the_bound() -> None:
    """ACK, BYE, CANCEL and retransmissions of what we carry are worth more than new calls."""
    wire = Wire(limited(transactions=50))
    call = establish(wire)
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    for _ in range(200):
        wire.sbc.send(wire.request("INVITE"))
    wire.sbc.send(cancel(invite))
    assert wire.sbc.statuses("CANCEL") == [200]
    wire.sbc.send(call.by_caller("BYE"))
    (bye,) = wire.tel().requests("BYE")
    wire.tel().reply(bye, 200)
    assert wire.sbc.statuses("BYE") == [200]


def test_memory_is_bounded() -> None:
    """The attack: few but huge messages. Beyond the bound 503, and all comes back in time."""
    wire = Wire(limited(memory=2))
    for _ in range(200):
        wire.sbc.send(wire.request("INVITE", body=b"x" * 50_000))
    assert wire.engine.statistics()["memory"] <= 3 << 20
    assert wire.sbc.statuses().count(503) > 100
    wire.run(60)
    assert wire.transactions == 0
    wire.sbc.clear()
    wire.tel().clear()
    assert establish(wire)


def test_a_source_is_limited_and_others_are_not_hit() -> None:
    text = "\n".join([
        platform(carriers=[
            {"name": "one", "centre": "m", "site": "PA2", "uri": "sip:127.0.1.1:5090"},
            {"name": "two", "centre": "m", "site": "PA2", "uri": "sip:127.0.1.2:5090"},
        ]),
        "[limits]", "source_cps = 10", "",
    ])
    wire = Wire(text)
    one, two = wire.agent("127.0.1.1", 5090), wire.agent("127.0.1.2", 5090)
    for _ in range(100):
        one.send(wire.request("INVITE", source=one.address))
    two.send(wire.request("INVITE", source=two.address))
    wire.run(0.2)
    assert one.statuses().count(503) >= 80
    assert two.statuses() == [100]
    one.clear()
    one.send(wire.request("INVITE", "sip:112@127.0.0.1:5060", source=one.address))
    wire.run(0.2)
    assert one.statuses() == [100]
    wire.run(2)
    one.clear()
    one.send(wire.request("INVITE", source=one.address))
    wire.run(0.2)
    assert one.statuses() == [100]


def test_strangers_get_403_up_to_a_rate_and_then_silence() -> None:
    wire = Wire(limited(refusals=10))
    stranger = wire.agent("127.0.9.9")
    for _ in range(200):
        stranger.send(wire.request("INVITE", source=stranger.address))
    assert set(stranger.statuses()) == {403}
    assert 5 <= len(stranger.statuses()) <= 20
    assert wire.transactions == 0
    assert wire.tel().inbox == []


def test_a_strangers_ack_and_response_bring_no_answer() -> None:
    wire = Wire()
    stranger = wire.agent("127.0.9.9")
    stranger.send(wire.request("ACK", source=stranger.address))
    stranger.send(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\n"
                  b"To: <sip:a@b>;tag=2\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\r\n")
    wire.run(1)
    assert wire.log == []


PROBE = (
    b"OPTIONS sip:127.0.3.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKp0123456789abcdef\r\n"
    b"Max-Forwards: 0\r\nFrom: <sip:127.0.0.1>;tag=1\r\nTo: <sip:127.0.3.1>\r\nCall-ID: probe-1\r\n"
    b"CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
)


def probing() -> Wire:
    """A probe is on its way to server 0."""
    wire = Wire(platform([server(0)]))
    wire.tel()
    wire.engine.probe(wire.slots.slot("tel1"), PROBE, 42, 1.0, wire.now)
    wire.settle()
    return wire


@pytest.mark.parametrize("status", [200, 404, 483, 503])
def test_the_answer_to_a_probe_is_an_event(status: int) -> None:
    wire = probing()
    assert wire.tel().got("OPTIONS").data == PROBE
    wire.run(0.25)
    wire.tel().reply(wire.tel().requests("OPTIONS")[0], status)
    (event,) = wire.events("probe")
    assert (event.handle, event.status, wire.slots.name(event.destination)) == (42, status, "tel1")
    assert event.value == pytest.approx(0.25, abs=0.003)
    wire.run(40)
    assert wire.events("probe") == []
    assert wire.transactions == 0


def test_a_probe_without_answer_is_an_event_in_time() -> None:
    wire = probing()
    wire.run(0.99)
    assert wire.events("probe") == []
    wire.run(0.02)
    (event,) = wire.events("probe")
    assert (event.handle, event.status) == (42, 0)
    wire.tel().reply(wire.tel().requests("OPTIONS")[0], 200)
    assert wire.events("probe") == []


def test_a_refused_probe_is_an_event_at_once() -> None:
    wire = Wire(platform([server(0)]))
    wire.tel()
    wire.refused.add(server_address(0))
    wire.engine.probe(wire.slots.slot("tel1"), PROBE, 7, 1.0, wire.now)
    wire.settle()
    (event,) = wire.events("probe")
    assert (event.handle, event.status) == (7, -1)
    wire.run(2)
    assert wire.events("probe") == []


def test_the_answer_to_a_probe_from_elsewhere_does_not_count() -> None:
    wire = probing()
    sent = wire.tel().got("OPTIONS")
    wire.agent("127.0.9.9").reply(sent, 200)
    assert wire.events("probe") == []
