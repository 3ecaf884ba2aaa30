# SPDX-License-Identifier: Apache-2.0
"""Any gateway can continue any call (DESIGN section 5): a restart is a fresh engine with the same key ring."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from calls import cancel, establish, establish_outgoing, failure_ack, place
from plain_sip import Packet, response
from wire import KEY, OTHER_KEY, SERIAL, Wire, on_time, platform, when


@pytest.fixture
def wire() -> Wire:
    return Wire(platform(servers=6))


def ringing(wire: Wire, *, status: int = 180) -> tuple[object, Packet]:
    """A call that rings when its gateway dies and is back."""
    invite, leg = place(wire)
    wire.holder().reply(leg, status)
    wire.restart()
    wire.sbc.clear()
    return invite, leg


def own_via(leg: Packet, branch: str) -> list[str]:
    """The Via lines of a response to *leg*, our branch exchanged."""
    return [leg.via.replace(leg.branch, branch), *leg.lines("Via")[1:]]


def test_a_retransmitted_invite_goes_out_with_the_same_bytes_to_the_same_server(wire: Wire) -> None:
    for _ in range(10):
        invite, leg = place(wire)
        wire.restart()
        wire.sbc.send(invite)
        first, again = wire.holder().requests("INVITE")
        assert again.data == first.data == leg.data
        wire.holder().clear()


def test_a_retransmitted_non_invite_too(wire: Wire) -> None:
    message = wire.request("MESSAGE")
    wire.sbc.send(message)
    wire.restart()
    wire.sbc.send(message)
    first, again = wire.holder("MESSAGE").requests("MESSAGE")
    assert again.data == first.data


def test_another_key_makes_other_branches(wire: Wire) -> None:
    invite, leg = place(wire)
    other = Wire(platform(servers=6), keys=[OTHER_KEY])
    other.sbc.send(invite)
    assert other.holder().got("INVITE").branch != leg.branch


@pytest.mark.parametrize("status", [180, 183, 200, 302, 404, 486, 503, 603])
def test_a_response_to_an_invite_without_transaction_is_forwarded(wire: Wire, status: int) -> None:
    _, leg = ringing(wire)
    sent = Packet(wire.holder().reply(leg, status, body=b"body"))
    wire.run(0.4)
    seen = wire.sbc.responses()
    assert {packet.status for packet in seen} == {status}
    assert seen[0].headers == sent.headers[1:]
    assert seen[0].body == b"body"


def test_a_100_is_not_forwarded_even_then(wire: Wire) -> None:
    _, leg = ringing(wire)
    wire.holder().reply(leg, 100)
    assert wire.sbc.inbox == []


def test_it_goes_where_the_next_via_says(wire: Wire) -> None:
    """received and rport were put there by the gateway that died."""
    vias = ["SIP/2.0/UDP host.invalid:5999;rport;branch=z9hG4bK-r"]
    _, leg = place(wire, via=vias)
    wire.restart()
    wire.sbc.clear()
    wire.holder().reply(leg, 180)
    assert wire.sbc.statuses() == [180]


def test_every_octet_of_the_branch_counts(wire: Wire) -> None:
    _, leg = ringing(wire)
    holder = wire.holder()
    for position in range(7, len(leg.branch)):
        octet = "a" if leg.branch[position] not in "aA" else "b"
        forged = leg.branch[:position] + octet + leg.branch[position + 1 :]
        holder.reply(leg, 200, via=own_via(leg, forged))
    for forged in (leg.branch[:-1], leg.branch + "0", leg.branch[:7], ""):
        holder.reply(leg, 200, via=own_via(leg, forged))
    wire.run(1)
    assert wire.sbc.inbox == []


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"Call-ID: call-1@test", b"Call-ID: call-2@test"),
        lambda data: data.replace(b"CSeq: 1 INVITE", b"CSeq: 2 INVITE"),
        lambda data: data.replace(b";tag=caller1", b";tag=caller2"),
        lambda data: data.replace(b"127.0.0.1:5090;branch=z9hG4bK-1", b"127.0.0.1:5091;branch=z9hG4bK-1"),
        lambda data: data.replace(b"127.0.0.1:5090;branch=z9hG4bK-1", b"127.0.0.9:5090;branch=z9hG4bK-1"),
        lambda data: data.replace(b"127.0.0.1:5090;branch=z9hG4bK-1", b"127.0.0.1:5090;branch=z9hG4bK-2"),
        lambda data: data.replace(b";branch=z9hG4bK-1\r", b";branch=z9hG4bK-1;received=127.0.0.9\r"),
        lambda data: data.replace(b";branch=z9hG4bK-1\r", b";branch=z9hG4bK-1;rport=5091;received=127.0.0.1\r"),
    ],
    ids=["call-id", "cseq", "from-tag", "port", "host", "branch", "received", "rport"],
)
def test_a_response_that_does_not_fit_its_branch_is_dropped(wire: Wire, change: Callable[[bytes], bytes]) -> None:
    """Else a true branch would be a ticket to send anything anywhere through us."""
    _, leg = ringing(wire)
    data = response(leg, 200)
    assert change(data) != data
    before = len(wire.log)
    wire.holder().send(change(data))
    wire.run(1)
    assert len(wire.log) == before


def test_a_maddr_put_into_the_next_via_leads_nowhere(wire: Wire) -> None:
    _, leg = ringing(wire)
    wire.holder().send(response(leg, 200).replace(b";branch=z9hG4bK-1\r", b";branch=z9hG4bK-1;maddr=127.0.0.9\r"))
    assert wire.agent("127.0.0.9", 5090).inbox == wire.agent("127.0.0.9").inbox == []


def test_a_response_from_a_stranger_is_dropped(wire: Wire) -> None:
    _, leg = ringing(wire)
    wire.agent("127.0.9.9").send(response(leg, 200))
    wire.run(1)
    assert wire.sbc.inbox == []


@pytest.mark.parametrize("method", ["MESSAGE", "OPTIONS", "BYE", "REGISTER", "FOOBAR"])
def test_responses_to_other_methods_are_dropped(wire: Wire, method: str) -> None:
    """RFC 4320 section 4.2: the client repeats its request and so makes the transaction anew."""
    request = wire.request(method)
    wire.sbc.send(request)
    holder = wire.holder(method)
    leg = holder.got(method)
    wire.restart()
    holder.reply(leg, 200)
    wire.run(1)
    assert wire.sbc.inbox == []
    wire.sbc.send(request)
    holder.reply(leg, 200)
    assert wire.sbc.statuses() == [200]


def test_a_response_that_claims_to_be_to_an_invite_is_dropped_when_it_was_another_method(wire: Wire) -> None:
    wire.sbc.send(wire.request("MESSAGE"))
    holder = wire.holder("MESSAGE")
    leg = holder.got("MESSAGE")
    wire.restart()
    holder.reply(leg, 200, cseq="1 INVITE")
    wire.run(1)
    assert wire.sbc.inbox == []


def test_a_cancel_after_the_restart_reaches_the_ringing_server(wire: Wire) -> None:
    invite, leg = ringing(wire)
    holder = wire.holder()
    wire.sbc.send(cancel(invite))
    wire.run(0.01)
    assert wire.sbc.statuses("CANCEL") == [200]
    seen = holder.got("CANCEL")
    assert seen.branch == leg.branch
    assert seen.via == leg.via
    assert seen.uri == leg.uri
    elsewhere = [packet for tel in wire.tels if tel is not holder for packet in tel.inbox]
    assert {packet.method for packet in elsewhere} <= {"CANCEL"}  # it may have been tried there after a failover
    assert leg.branch not in {packet.branch for packet in elsewhere}
    for packet in elsewhere:
        wire.agent(*packet.address).reply(packet, 481)
    holder.reply(seen, 200)
    holder.reply(leg, 487)
    wire.run(0.1)
    assert wire.sbc.final().status == 487
    assert wire.sbc.statuses("CANCEL") == [200]


def test_the_ack_of_a_failure_after_the_restart_reaches_the_server(wire: Wire) -> None:
    """Nobody else can stop its retransmissions: the gateway that would have acknowledged is dead."""
    invite, leg = ringing(wire)
    holder = wire.holder()
    holder.reply(leg, 486)
    wire.sbc.send(failure_ack(invite, wire.sbc.final()))
    wire.run(0.1)
    assert holder.requests("ACK")
    assert {packet.branch for packet in holder.requests("ACK")} == {leg.branch}


@pytest.mark.parametrize("method", ["BYE", "INVITE", "UPDATE", "INFO"])
@pytest.mark.parametrize("begin", [establish, establish_outgoing])
def test_in_dialog_requests_of_both_sides_after_the_restart(wire: Wire, method: str, begin: Callable) -> None:
    call = begin(wire)
    wire.restart()
    call.caller.send(call.by_caller(method))
    seen = call.callee.got(method)
    assert seen.values("Route") == []
    call.callee.reply(seen, 200)
    assert call.caller.final(method).status == 200
    wire.restart()
    call.callee.send(call.by_callee(method))
    seen = call.caller.got(method)
    call.caller.reply(seen, 200)
    assert call.callee.final(method).status == 200


def test_the_2xx_and_its_ack_after_the_restart(wire: Wire) -> None:
    _, leg = ringing(wire)
    holder = wire.holder()
    holder.reply(leg, 200)
    call_ok = wire.sbc.final()
    wire.restart()
    routes = [("Route", value) for value in reversed(call_ok.values("Record-Route"))]
    ack = wire.request("ACK", "sip:ua@127.0.3.1:5060", from_=call_ok.get("From"), to=call_ok.get("To"),
                       call_id=call_ok.call_id, headers=routes)
    ack.uri = f"sip:ua@{holder.address[0]}:5060"
    wire.sbc.send(ack)
    assert holder.got("ACK").call_id == leg.call_id


def token_at(call_uri: str) -> slice:
    """Where the token stands in a Record-Route value."""
    start = call_uri.index(";u=") + 3
    end = min(position for position in (call_uri.find(">", start), call_uri.find(";", start)) if position > 0)
    return slice(start, end)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_token_with_any_octet_changed_is_answered_403(wire: Wire, fresh: bool) -> None:
    call = establish(wire)
    if fresh:
        wire.restart()
    own = call.ok.values("Record-Route")[0]
    where = token_at(own)
    for position in range(where.start, where.stop):
        octet = "a" if own[position] != "a" else "b"
        forged = own[:position] + octet + own[position + 1 :]
        bye = call.by_caller("BYE", cseq=position)
        bye.headers = [("Route", forged)]
        wire.sbc.clear()
        wire.sbc.send(bye)
        wire.run(0.01)
        assert wire.sbc.final("BYE").status == 403
        assert [tel.inbox for tel in wire.tels] == [[]] * 6


@pytest.mark.parametrize("token", ["", "x", "%00", "A" * 500, "zzzz~zzzz", "u=u=u"])
def test_a_senseless_token_is_answered_403(wire: Wire, token: str) -> None:
    call = establish(wire)
    own = call.ok.values("Record-Route")[0]
    bye = call.by_caller("BYE")
    bye.headers = [("Route", own.replace(own[token_at(own)], token))]
    wire.sbc.send(bye)
    wire.run(0.01)
    assert wire.sbc.final("BYE").status == 403
    assert [tel.inbox for tel in wire.tels] == [[]] * 6


def test_an_ack_with_a_wrong_token_is_dropped(wire: Wire) -> None:
    call = establish(wire)
    own = call.ok.values("Record-Route")[0]
    where = token_at(own)
    ack = call.ack()
    ack.headers = [("Route", own[: where.start] + "A" * (where.stop - where.start) + own[where.stop :])]
    before = len(wire.log)
    wire.sbc.send(ack)
    wire.run(1)
    assert len(wire.log) == before


def test_a_token_from_a_stranger_does_not_open_the_platform(wire: Wire) -> None:
    """A token says where a dialog goes, not who may speak in it."""
    call = establish(wire)
    stranger = wire.agent("127.0.9.9")
    stranger.send(bytes(call.by_caller("BYE")))
    wire.run(0.1)
    assert [tel.requests("BYE") for tel in wire.tels] == [[]] * 6


def test_a_rolled_key_verifies_what_the_old_one_signed_and_signs_anew(wire: Wire) -> None:
    call = establish(wire)
    invite, leg = place(wire)
    holder = wire.holder(call_id=invite.call_id)
    old = call.ok.values("Record-Route")
    wire.restart(keys=[OTHER_KEY, KEY])
    wire.sbc.clear()
    holder.reply(leg, 180)
    assert wire.sbc.statuses() == [180]
    wire.sbc.send(call.by_caller("BYE"))
    assert call.callee.got("BYE").call_id == call.invite.call_id
    new = establish(wire)
    assert [value[:22] for value in new.ok.values("Record-Route")] == [value[:22] for value in old]
    wire.restart(keys=[OTHER_KEY])
    wire.sbc.send(new.by_caller("BYE"))
    assert new.callee.got("BYE").call_id == new.invite.call_id
    wire.sbc.send(call.by_caller("INFO", cseq=5))
    wire.run(0.01)
    assert wire.sbc.final("INFO").status == 403


def test_keys_can_be_rolled_in_a_running_engine(wire: Wire) -> None:
    call = establish(wire)
    invite, leg = place(wire)
    wire.engine.set_keys([OTHER_KEY, KEY])
    wire.sbc.send(invite)
    holder = wire.holder(call_id=invite.call_id)
    assert len(holder.requests("INVITE")) == 1
    holder.reply(leg, 180)
    assert wire.sbc.statuses()[-1] == 180
    wire.sbc.send(call.by_caller("BYE"))
    assert call.callee.got("BYE")


def test_a_key_that_nobody_has_is_worth_nothing(wire: Wire) -> None:
    call = establish(wire)
    wire.restart(keys=[OTHER_KEY])
    wire.sbc.send(call.by_caller("BYE"))
    wire.run(0.01)
    assert wire.sbc.final("BYE").status == 403
    assert [tel.inbox for tel in wire.tels] == [[]] * 6


def test_a_call_is_not_set_up_twice_when_the_gateway_dies_after_a_failover() -> None:
    """Its first server refused; the gateway that comes back tries it again, is refused again, and finds the second."""
    wire = Wire(platform(servers=2))
    invite, _ = place(wire)
    dead = wire.holder()
    for tel in wire.tels:
        tel.clear()
    wire.restart()
    wire.refused.add(dead.address)
    wire.sbc.send(invite)
    alive = next(tel for tel in wire.tels if tel is not dead)
    first = alive.got("INVITE")
    wire.restart()
    wire.sbc.send(invite)
    assert [packet.data for packet in alive.requests("INVITE")] == [first.data, first.data]


def test_two_gateways_with_one_key_agree_without_talking() -> None:
    one, two = Wire(platform(servers=6)), Wire(platform(servers=6))
    for _ in range(30):
        invite, leg = place(one)
        two.sbc.send(invite)
        holder = two.holder(call_id=invite.call_id)
        assert holder.address == one.holder(call_id=invite.call_id).address
        assert holder.requests("INVITE")[-1].data == leg.data


def test_a_restart_with_t1_of_the_rfc_keeps_the_call_ringing() -> None:
    wire = Wire(platform(**SERIAL))
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.restart()
    wire.sbc.send(invite)
    wire.run(0.1)
    wire.tel().reply(leg, 200)
    wire.run(0.1)
    assert wire.sbc.final().status == 200
    assert {packet.data for packet in wire.tel().requests("INVITE")} == {leg.data}


@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("death", [0.0, 0.05, 0.149])
def test_a_call_killed_before_its_100_is_set_up_by_the_retransmission(death: float, hook: bool) -> None:
    """What it sent on was lost with it; the caller, who heard nothing, asks again (RFC 3261 section 17.1.1.2)."""
    wire = Wire(platform(servers=6), hook=hook)
    invite = wire.request("INVITE")
    wire.sbc.send(invite)
    wire.run(death)
    assert wire.sbc.inbox == []
    for tel in wire.tels:
        tel.clear()
    wire.restart()
    wire.run(0.5 - death)
    wire.sbc.send(invite)
    if hook:
        (asked,) = wire.events("ask")
        assert wire.engine.decide(asked.handle, -1, wire.now)
        wire.settle()
    holder = wire.holder()
    holder.reply(holder.got("INVITE"), 180)
    holder.reply(holder.got("INVITE"), 200)
    assert wire.sbc.statuses() == [180, 200]
    assert wire.transactions == 2


def test_the_first_invite_and_its_retransmission_through_another_gateway_are_one_call(wire: Wire) -> None:
    """Both reach the server, before and after the death: the same octets, so it sees a retransmission."""
    invite, leg = place(wire)
    holder = wire.holder()
    wire.run(0.05)
    wire.restart()
    start = wire.now
    wire.sbc.send(invite)
    assert [packet.data for packet in holder.requests("INVITE")] == [leg.data] * 2
    wire.run(0.2)
    assert on_time(when(wire.sbc.inbox, start), [0.15])  # to the new gateway it is a first INVITE
    assert wire.sbc.statuses() == [100]
    holder.reply(leg, 200)
    assert wire.sbc.statuses() == [100, 200]
    assert sum(bool(tel.inbox) for tel in wire.tels) == 1
