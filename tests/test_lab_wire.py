# SPDX-License-Identifier: Apache-2.0
"""The lab's user agents datagram by datagram, against a peer that says exactly what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from lab_parts import OTHER, QUICK, SBC, SERVER, until

from ubisip.core.message import Message
from ubisip.lab.nexthops import NextHops
from ubisip.lab.party import Behaviour
from ubisip.lab.sbc import Sbc
from ubisip.lab.server import Mode, Server
from ubisip.lab.tally import Tally
from ubisip.lab.udp import Address, UdpSocket
from ubisip.lab.wire import Request, routes, top_via, uri_address

AT_ONCE = Behaviour(ring=(0.0, 0.0), hold=(5.0, 5.0), hangs_up=0.0, reinvites=0.0)
CALLER, CALLED = "<sip:a@127.77.1.1>;tag=a", "<sip:b@127.77.3.1>"


class Wire:
    """A socket that keeps what it gets."""

    def __init__(self, address: Address) -> None:
        self.got: list[Message] = []
        self.socket = UdpSocket(address, lambda data, _: self.got.append(Message(data)))

    def send(self, request: Request, branch: str, to: Address = SERVER) -> None:
        self.socket.send(request.encode("{}:{}".format(*SBC), f"z9hG4bK{branch}"), to)

    def answer(self, request: Message, status: int, tag: str = "b", extra: str = "") -> None:
        lines = [
            f"SIP/2.0 {status} Test",
            *(f"Via: {via}" for via in request.get_all("Via")),
            f"From: {request.get('From')}",
        ]
        lines += [f"To: {request.get('To')};tag={tag}", f"Call-ID: {request.call_id}", f"CSeq: {request.get('CSeq')}"]
        lines += [extra] * bool(extra) + ["Contact: <sip:b@{}:{}>".format(*SERVER), "Content-Length: 0\r\n\r\n"]
        self.socket.send("\r\n".join(lines).encode(), uri_address(request.get("Contact") or "sip:{}:{}".format(*SBC)))

    def statuses(self, method: str) -> list[int]:
        return [message.status for message in self.got if message.method == method and not message.is_request]

    def methods(self) -> list[str]:
        return [message.method for message in self.got if message.is_request]


@pytest.fixture
async def peer() -> AsyncIterator[Wire]:
    """What stands at the SBC's address."""
    wire = Wire(SBC)
    yield wire
    wire.socket.close()


@pytest.fixture
async def callee() -> AsyncIterator[Server]:
    server = Server("tel1", SERVER, Tally(), NextHops([SBC]), behaviour=AT_ONCE, timers=QUICK)
    server.open()
    yield server
    server.close()
    server.forget()


def request(method: str, cseq: int = 1, tag: str = "", call_id: str = "c1") -> Request:
    called = f"{CALLED};tag={tag}" if tag else CALLED
    return Request(
        method, "sip:b@{}:{}".format(*SERVER), call_id, CALLER, called, cseq, contact="<sip:a@{}:{}>".format(*SBC)
    )


async def established(peer: Wire) -> str:
    """Set a call up; returns the callee's tag."""
    peer.send(request("INVITE"), "1")
    await until(lambda: 200 in peer.statuses("INVITE"))
    tag = peer.got[-1].to_tag
    peer.send(request("ACK", tag=tag), "2")
    return tag


async def test_a_2xx_is_repeated_until_its_ack(peer: Wire, callee: Server) -> None:
    peer.send(request("INVITE"), "1")
    await until(lambda: peer.statuses("INVITE") == [180, 200, 200, 200])
    assert len({message.to_tag for message in peer.got}) == 1
    peer.send(request("ACK", tag=peer.got[-1].to_tag), "2")
    await until(lambda: not callee._unacknowledged)
    peer.send(request("BYE", 2, peer.got[-1].to_tag), "3")
    await until(lambda: peer.statuses("BYE") == [200])
    assert peer.got[-1].method == "BYE", "nothing repeats after ACK"
    assert not callee.tally.faults


async def test_a_failure_is_repeated_until_its_ack(peer: Wire, callee: Server) -> None:
    callee.behaviour = Behaviour(ring=(0.0, 0.0), status=486)
    peer.send(request("INVITE"), "1")
    await until(lambda: peer.statuses("INVITE") == [180, 486, 486])
    peer.send(request("ACK", tag=peer.got[-1].to_tag), "1")
    peer.send(request("OPTIONS", call_id="c2"), "2")
    await until(lambda: peer.statuses("OPTIONS") == [200])
    heard = len(peer.got)
    peer.send(request("OPTIONS", call_id="c3"), "3")
    await until(lambda: len(peer.got) > heard)
    assert peer.got[-1].method == "OPTIONS"


async def test_a_request_that_comes_again_gets_the_same_answer(peer: Wire, callee: Server) -> None:
    callee.behaviour = Behaviour(ring=(5.0, 5.0))
    for times in (1, 2, 3):
        peer.send(request("INVITE"), "1")
        await until(lambda times=times: peer.statuses("INVITE") == times * [180])
    assert callee.new == 1
    for _ in range(2):
        peer.send(request("OPTIONS", call_id="c2"), "2")
    await until(lambda: peer.statuses("OPTIONS") == [200, 200])
    assert peer.got[-1].data == peer.got[-2].data


async def test_cancel_ends_a_ringing_call(peer: Wire, callee: Server) -> None:
    callee.behaviour = Behaviour(ring=(5.0, 5.0))
    peer.send(request("INVITE"), "1")
    await until(lambda: peer.statuses("INVITE") == [180])
    peer.send(request("CANCEL"), "1")
    await until(lambda: 487 in peer.statuses("INVITE") and peer.statuses("CANCEL") == [200])
    assert len({message.to_tag for message in peer.got}) == 1
    peer.send(request("CANCEL", call_id="c9"), "9")
    await until(lambda: peer.statuses("CANCEL") == [200, 481])


async def test_requests_in_a_dialog(peer: Wire, callee: Server) -> None:
    tag = await established(peer)
    peer.send(request("INVITE", 2, tag), "3")
    await until(lambda: callee._unacknowledged and peer.got[-1].cseq == 2)
    assert peer.got[-1].status == 200 and peer.got[-1].to_tag == tag
    peer.send(request("ACK", 2, tag), "4")
    peer.send(request("OPTIONS", 3, tag), "5")
    peer.send(request("BYE", 4, tag), "6")
    await until(lambda: peer.statuses("BYE") == [200])
    assert peer.statuses("OPTIONS") == [200]
    peer.send(request("BYE", 5, tag), "7")  # by another way: the dialog is still remembered
    peer.send(request("INVITE", 6, tag), "8")
    peer.send(request("BYE", 2, "unknown"), "9")
    await until(lambda: peer.statuses("BYE") == [200, 200, 481] and peer.statuses("INVITE")[-1] == 481)


async def test_what_is_no_call(peer: Wire, callee: Server) -> None:
    peer.send(request("PUBLISH"), "1")
    await until(lambda: peer.statuses("PUBLISH") == [405])
    assert "INVITE" in (peer.got[-1].get("Allow") or "")
    peer.socket.send(b"INVITE nonsense", SERVER)
    await until(lambda: callee.malformed == 1)


async def test_a_busy_server_tells_when_to_return(peer: Wire, callee: Server) -> None:
    callee.retry_after = 7
    callee.set_mode(Mode.BUSY)
    peer.send(request("OPTIONS"), "1")
    peer.send(request("INVITE", call_id="c2"), "2")
    await until(lambda: peer.statuses("OPTIONS") == [503] and 503 in peer.statuses("INVITE"))
    assert {message.get("Retry-After") for message in peer.got} == {"7"}


async def test_every_2xx_is_acknowledged_and_a_second_callee_hung_up_on() -> None:
    tally = Tally()
    caller = Sbc("sbc-1", SBC, tally, NextHops([SERVER]), behaviour=AT_ONCE, timers=QUICK)
    peer = Wire(SERVER)
    caller.open()
    try:
        caller.spawn(caller.place("+33155500001"))
        await until(lambda: peer.methods() == ["INVITE"])
        record = "Record-Route: <sip:{0}:{1};lr;u=2>, <sip:{0}:{1};lr;u=1>".format(*SERVER)
        for tag in ("b", "b", "other"):
            peer.answer(peer.got[0], 200, tag, record)
        await until(lambda: "BYE" in peer.methods())
    finally:
        caller.close()
        caller.forget()
        peer.socket.close()
    assert peer.methods() == ["INVITE", "ACK", "ACK", "ACK", "BYE"]
    assert [message.to_tag for message in peer.got[1:]] == ["b", "b", "other", "other"]
    for message in peer.got[1:]:
        assert [route[-4:] for route in routes(message, "Route")] == ["u=1>", "u=2>"]
        assert message.uri == "sip:b@{}:{}".format(*SERVER)
    assert tally.answered == 1


async def test_ack_of_a_failure_repeats_what_its_invite_said() -> None:
    tally = Tally()
    caller = Sbc("sbc-1", SBC, tally, NextHops([SERVER]), behaviour=AT_ONCE, timers=QUICK)
    peer = Wire(SERVER)
    caller.open()
    try:
        caller.spawn(caller.place("+33155500001"))
        await until(lambda: peer.methods() == ["INVITE", "INVITE", "INVITE"])
        invite = peer.got[0]
        peer.answer(invite, 486)
        await until(lambda: bool(tally.failures))
        peer.answer(invite, 486)
        await until(lambda: peer.methods().count("ACK") == 2)
    finally:
        caller.close()
        caller.forget()
        peer.socket.close()
    ack = peer.got[-1]
    assert (ack.branch, ack.uri, ack.call_id, ack.from_tag, ack.to_tag, ack.cseq) == (
        invite.branch, invite.uri, invite.call_id, invite.from_tag, "b", invite.cseq
    )  # fmt: skip
    assert tally.failures == {486: 1}


@pytest.mark.parametrize(
    ("via", "reply_to", "completed"),
    [
        ("SIP/2.0/UDP 127.77.1.1:5070;branch=z9hG4bK1", ("127.77.1.1", 5070), "{}"),
        ("SIP/2.0/UDP 127.77.1.1;branch=z9hG4bK1", ("127.77.1.1", 5060), "{}"),
        ("SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK1", ("127.77.1.1", 5070), "{};received=127.77.1.1"),
        ("SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bK1", SBC, None),
    ],
)
def test_where_responses_go(via: str, reply_to: Address, completed: str | None) -> None:
    """RFC 3261 section 18.2.2 and RFC 3581."""
    plain = request("OPTIONS").encode("x", "z9hG4bK1").decode()
    line = next(text for text in plain.split("\r\n") if text.startswith("Via"))
    top = top_via(Message(plain.replace(line, f"Via: {via}").encode()), SBC)
    assert top.reply_to == reply_to
    if completed is None:
        assert f";rport={SBC[1]};received={SBC[0]}" in top.vias[0]
    else:
        assert set(top.vias[0].split(";")) == set(completed.format(via).split(";"))


def test_a_uri_without_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="no SIP URI"):
        uri_address("tel:+33155500001")
    assert uri_address("<sip:a@127.77.3.2;lr>") == OTHER
