# SPDX-License-Identifier: Apache-2.0
"""Invariant: whatever peers and strangers send, in whatever order and however damaged, what a stranger sends moves
nothing but an answer to itself, every request that leaves is a SIP message and goes to a peer unless a Route says
otherwise, one datagram in gives a handful out, and once all timers have fired no transaction, buffer or call in set-up
is left."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable

from messages import SDP, Address, header, hop_request, in_dialog, new_request, response
from mutation import LONGEST, Reader, damage
from platform_under_test import (
    CARRIERS,
    GATEWAY,
    GATEWAY_URI,
    KEY,
    PEERS,
    PLAIN,
    SERVERS,
    SLOTS,
    STRANGER,
    drain,
    in_use,
    snapshot,
)

from ubisip.core.engine import Datagram, Engine
from ubisip.core.message import Message
from ubisip.platform import DestinationState

STEPS = 48
"""Steps of one input; more repeat the same."""
HANDFUL = 12
"""Datagrams that one may cause: an attempt, its 100, a CANCEL and an ACK for each of five destinations."""
DELAYS = (0.001, 0.05, 0.1, 0.5, 1.05, 3.6, 5.0, 33.0, 181.0)
STATUSES = (100, 180, 183, 199, 200, 204, 302, 401, 408, 486, 487, 503, 600, 699)
METHODS = (b"MESSAGE", b"OPTIONS", b"REGISTER", b"SUBSCRIBE", b"PUBLISH", b"FOO", b"BYE", b"ACK", b"CANCEL")
URIS = (GATEWAY_URI, b"sip:112@127.0.0.1:5060", b"tel:+33155", b"sip:far.example", b"sip:127.0.0.1:5060",
        b"sip:x@127.0.3.2:5060", b"sip:x@192.0.2.7")


class Play:
    """One engine and the peers around it; each step takes its decisions from the input."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.now = 1000.0
        self.engine = Engine(PLAIN, [KEY])
        self.number = 0
        self.sent: list[tuple[bytes, Address]] = []
        self.requests: list[Datagram] = []
        self.responses: list[Datagram] = []
        self.handles: list[int] = []
        self.wild = False
        """A Route was sent: it is followed anywhere, and so is the remote target of a dialog."""

    def step(self) -> None:
        STEP[self.reader.below(len(STEP))](self)
        self.take()

    def take(self) -> list[Datagram]:
        """Look at what leaves, and remember it for the peers."""
        outbox = self.engine.outbox()
        for datagram in outbox:
            if datagram.data.startswith(b"SIP/2.0 "):
                self.responses.append(datagram)
                continue
            Message(datagram.data)
            assert datagram.address in PEERS or self.wild, f"a request to {datagram.address}"
            self.requests.append(datagram)
        self.handles += [event.handle for event in self.engine.events() if event.kind == "ask"]
        return outbox

    def send(self, data: bytes, source: Address) -> None:
        """Damage *data* as the input says, and send it from *source*, another peer or a stranger."""
        for _ in range(max(0, self.reader.below(16) - 10)):
            data = damage(data, self.reader)[:LONGEST]
        other = self.reader.below(16)
        source = STRANGER if other == 15 else PEERS[other % len(PEERS)] if other > 12 else source
        self.sent.append((data, source))
        self.wild = self.wild or (b"oute" in data and source != STRANGER)
        self.take()
        self.engine.receive(data, source, 0, self.now, 7 if other == 12 else 0)  # now and then over a connection
        left = self.take()
        assert len(left) <= HANDFUL, f"{len(left)} datagrams"
        if source == STRANGER:
            assert all(datagram.address[0] == STRANGER[0] for datagram in left), "a stranger moves something"
            assert len(left) <= 1

    def pick(self, among: list[Datagram]) -> Datagram | None:
        """One of the last few."""
        return among[-1 - self.reader.below(min(len(among), 8))] if among else None

    # -- the steps

    def new_call(self) -> None:
        self.number += 1
        source = PEERS[self.reader.below(len(PEERS))] if self.reader.below(4) == 3 else CARRIERS[0]
        uri = URIS[max(0, self.reader.below(2 * len(URIS)) - len(URIS))]
        self.send(new_request(b"INVITE", uri, source, self.number, SDP), source)

    def other_request(self) -> None:
        self.number += 1
        method, uri = METHODS[self.reader.below(len(METHODS))], URIS[self.reader.below(len(URIS))]
        self.send(new_request(method, uri, CARRIERS[0], self.number), CARRIERS[0])

    def answer(self) -> None:
        request = self.pick(self.requests)
        if request is not None:
            status = STATUSES[self.reader.below(len(STATUSES))]
            more = (b"Retry-After: 3",) if status == 503 else ()
            self.send(response(request.data, status, more=more), request.address)

    def acknowledge(self) -> None:
        answer = self.pick([each for each in self.responses if b" INVITE" in header(each.data, b"CSeq")])
        if answer is None:
            return
        if answer.data.startswith(b"SIP/2.0 2"):
            self.number += 1
            self.send(in_dialog(b"ACK", answer.data, answer.address, self.number, by_caller=True), answer.address)
        else:
            self.hop(b"ACK", header(answer.data, b"Call-ID"), header(answer.data, b"To"))

    def cancel(self) -> None:
        if self.sent:
            invite = self.sent[-1 - self.reader.below(min(len(self.sent), 8))][0]
            self.hop(b"CANCEL", header(invite, b"Call-ID"), header(invite, b"To"))

    def hop(self, method: bytes, call_id: bytes, to: bytes) -> None:
        for data, source in reversed(self.sent):
            if data.startswith(b"INVITE ") and header(data, b"Call-ID") == call_id:
                self.send(hop_request(method, data, to), source)
                return

    def hang_up(self) -> None:
        by_caller = self.reader.below(2) == 0
        method = (b"BYE", b"INVITE", b"UPDATE", b"INFO")[self.reader.below(4)]
        answers = [(data, source) for data, source in self.sent if data.startswith(b"SIP/2.0 200")]
        heard = [(each.data, each.address) for each in self.responses if each.data.startswith(b"SIP/2.0 200")]
        among = heard if by_caller else answers
        if among:
            self.number += 1
            data, source = among[-1 - self.reader.below(min(len(among), 4))]
            self.send(in_dialog(method, data, source, self.number, by_caller=by_caller), source)

    def again(self) -> None:
        if self.sent:
            data, source = self.sent[-1 - self.reader.below(min(len(self.sent), 8))]
            self.send(data, source)

    def reflect(self) -> None:
        """What the gateway sent comes back to it, from whom it went to."""
        datagram = self.pick(self.requests if self.reader.below(2) else self.responses)
        if datagram is not None:
            self.send(datagram.data, datagram.address)

    def wait(self) -> None:
        end = self.now + DELAYS[self.reader.below(len(DELAYS))]
        self.now = drain(self.engine, self.now, end - self.now)
        self.now = end

    def refuse(self) -> None:
        request = self.pick(self.requests)
        if request is not None:
            self.engine.transport_error(request.data[: 28 + self.reader.below(1500)], request.address, self.now)

    def swap(self) -> None:
        bits = self.reader.octet()
        states = {f"servers{i}": DestinationState(usable=not bits >> i & 1) for i in range(len(SERVERS))}
        options = {"draining": bits >> 6 & 1 == 1, "hook": bits >> 4 & 1 == 1, "record": bits >> 5 & 1 == 1}
        self.engine.swap(snapshot(states, **options), self.now)

    def decide(self) -> None:
        handle = self.handles.pop() if self.handles else self.reader.octet()
        self.engine.decide(handle, self.reader.below(8) - 2, self.now)

    def probe(self) -> None:
        slot = SLOTS.slot(f"servers{self.reader.below(len(SERVERS))}")
        where = b"%s:%d" % (GATEWAY[0].encode(), GATEWAY[1])
        request = new_request(b"OPTIONS", b"sip:127.0.3.1", GATEWAY, self.reader.octet())
        request = request.replace(b";branch=z9hG4bK-", b";branch=z9hG4bKp%016x;n=" % self.reader.octet())
        self.engine.probe(slot, request.replace(b"UDP 127.0.0.1:5060", b"UDP " + where), 1, 1.0, self.now)

    def restart(self) -> None:
        """The gateway dies; another with the same key takes its place, and its state is gone."""
        if self.reader.below(4) == 0:
            self.engine = Engine(PLAIN, [KEY])

    def raw(self) -> None:
        self.send(self.reader.chunk(255), PEERS[self.reader.below(len(PEERS))])


STEP: list[Callable[[Play], None]] = [
    Play.new_call, Play.answer, Play.answer, Play.acknowledge, Play.cancel, Play.hang_up, Play.again, Play.wait,
    Play.other_request, Play.refuse, Play.swap, Play.decide, Play.probe, Play.restart, Play.reflect, Play.raw,
]


def script(*steps: tuple[Callable[[Play], None], bytes]) -> bytes:
    return b"".join(bytes([STEP.index(step)]) + decisions for step, decisions in steps)


def seeds() -> list[bytes]:
    """Whole calls without damage, and scripts at random."""
    invite, dice = (Play.new_call, b"\0\0\0\0"), random.Random(1)
    ringing, ok, busy = ((Play.answer, bytes([0, STATUSES.index(n), 0, 0])) for n in (180, 200, 486))
    ack, bye, second = (Play.acknowledge, b"\0\0\0"), (Play.hang_up, b"\0\0\0\0\0"), (Play.wait, b"\3")
    cancel = (Play.cancel, b"\0\0\0")
    return [
        script(invite, ringing, ok, ack, bye, ok),
        script(invite, busy, ack),
        script(invite, ringing, cancel, ok, (Play.answer, bytes([1, STATUSES.index(487), 0, 0])), ack),
        script(invite, second, ringing, (Play.restart, b"\0"), ok, ack, bye),
        script((Play.swap, b"\x30"), invite, (Play.decide, b"\2"), ok, ack, (Play.swap, b"\x07")),
        script((Play.probe, b"\0\1\1"), ok, (Play.refuse, b"\0\xff"), (Play.other_request, b"\0\0\0\0"), ok),
        *(dice.randbytes(dice.randrange(16, 512)) for _ in range(32)),
    ]


def one_input(data: bytes) -> Hashable:
    """Play the script, check the invariant; what comes back tells scripts of different kinds apart."""
    play = Play(Reader(data))
    for _ in range(STEPS):
        if not play.reader.more:
            break
        play.step()
    drain(play.engine, play.now)
    assert not any(in_use(play.engine).values()), in_use(play.engine)
    counters = play.engine.statistics()["counters"]
    assert counters["wrong_events"] == 0
    return frozenset((name, min(value, 3)) for name, value in counters.items() if value and name in TELLING)


TELLING = (
    "malformed_requests", "malformed_dropped", "strangers_refused", "retransmissions", "failovers", "late_answers",
    "cancels", "abandoned_cancelled", "stateless_responses", "forged_responses", "stray_responses",
    "stranger_responses", "bad_tokens", "loops", "shed_draining", "shed_capacity", "no_destination",
    "bound_transactions", "bound_memory", "bound_edits", "timeouts", "refused", "silent", "hook_late",
)
"""Counters that tell scripts apart."""
