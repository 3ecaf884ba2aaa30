# SPDX-License-Identifier: Apache-2.0
"""Whole calls through the engine in virtual time: no sockets, no clock, every message made outside what is measured.

    python -m bench.replay 500          as many calls, once: for valgrind (bench.callgrind replay)

A :class:`Replay` holds some calls side by side and moves all of them one message on with each step; a step returns
the datagrams that come next, and :meth:`Replay.feed` hands them to the engine, which is all that is measured.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import messages
from bench.candidates import Place, platform_file
from ubisip.config import Config
from ubisip.core.engine import Datagram, Engine
from ubisip.core.snapshot import Slots, Snapshot

Arrival = tuple[bytes, tuple[str, int]]
"""A datagram and where it came from."""

LONG_AFTER = 100.0
"""Seconds between two batches of calls: every timer of the ones before has fired."""


def engine(policy: str = "hash") -> Engine:
    """An engine with six servers and one carrier, which chooses by *policy*."""
    with tempfile.TemporaryDirectory() as directory:
        config = Config.load(platform_file(Place(Path(directory)), f'\n[routing]\npolicy = "{policy}"\n'))
    return Engine(Snapshot(config, "bench", Slots()), [bytes(16)])


@dataclass
class Call:
    """What the two ends of one call remember."""

    number: int
    request: bytes = b""
    """The last request that reached the server."""
    host: str = ""
    """The server it reached."""
    route: bytes = b""
    """The caller's Route header lines once it is answered."""


@dataclass
class Replay:
    """*count* calls at a time through *engine*."""

    engine: Engine
    count: int
    now: float = 1000.0
    calls: dict[int, Call] = field(default_factory=dict)
    first: int = 0

    def invites(self) -> list[Arrival]:
        """Time passes, old calls are forgotten, new ones begin."""
        self.now += LONG_AFTER
        self.engine.advance(self.now)
        self.engine.outbox()
        self.engine.events()
        self.first += self.count
        self.calls = {number: Call(number) for number in range(self.first, self.first + self.count)}
        return [(messages.invite(number), messages.CALLER) for number in self.calls]

    def feed(self, arrivals: list[Arrival]) -> list[Datagram]:
        """The measured part: the engine takes every datagram and hands out what it would send."""
        receive, now = self.engine.receive, self.now
        for data, source in arrivals:
            receive(data, source, 0, now)
        return self.engine.outbox()

    def delivered(self, sent: list[Datagram], expected: int) -> None:
        """Each end takes what was sent to it.

        :raises AssertionError: other than *expected* datagrams were sent for each call.
        """
        assert len(sent) == expected * self.count, f"{len(sent)} datagrams for {self.count} calls"
        for datagram in sent:
            data = datagram.data
            call = self.calls[_call_number(data)]
            if datagram.address != messages.CALLER:
                call.request, call.host = data, datagram.address[0]
            elif data.startswith(b"SIP/2.0 200") and b"Record-Route:" in data:
                call.route = messages.route_set(data)

    def ringing(self) -> list[Arrival]:
        return self._responses(lambda call: messages.response(call.request, "180 Ringing", call.number, call.host))

    def answers(self) -> list[Arrival]:
        return self._responses(lambda call: messages.answer(call.request, call.number, call.host))

    def acks(self) -> list[Arrival]:
        return self._in_dialog("ACK", 1)

    def byes(self) -> list[Arrival]:
        return self._in_dialog("BYE", 2)

    def goodbyes(self) -> list[Arrival]:
        """200 to BYE."""
        return self._responses(lambda call: messages.response(call.request, "200 OK", call.number, call.host))

    def _responses(self, make: Callable[[Call], bytes]) -> list[Arrival]:
        return [(make(call), (call.host, 5060)) for call in self.calls.values()]

    def _in_dialog(self, method: str, cseq: int) -> list[Arrival]:
        made = []
        for call in self.calls.values():
            made.append((messages.in_dialog(method, cseq, call.number, call.route, call.host), messages.CALLER))
        return made


def _call_number(data: bytes) -> int:
    at = data.index(b"\nCall-ID:") + 9
    return int(data[at:].split(b"-", 1)[0])


STEPS: dict[str, tuple[Callable[[Replay], list[Arrival]], int]] = {
    "INVITE": (Replay.invites, 1),
    "180": (Replay.ringing, 1),
    "200 to INVITE": (Replay.answers, 1),
    "ACK": (Replay.acks, 1),
    "BYE": (Replay.byes, 1),
    "200 to BYE": (Replay.goodbyes, 1),
}
"""The messages of a call in order: how the next batch is made, and how many datagrams the engine sends for each.
Six come in and six go out: a server that answers this soon spares the 100 Trying (RFC 3261 section 17.2.1)."""


def until(replay: Replay, step: str) -> list[Arrival]:
    """Begin new calls and take them up to *step*; returns its datagrams, not yet fed."""
    for name, (make, expected) in STEPS.items():
        arrivals = make(replay)
        if name == step:
            return arrivals
        replay.delivered(replay.feed(arrivals), expected)
    raise KeyError(step)


def main() -> int:
    replay = Replay(engine(), int(sys.argv[1]))
    for make, expected in STEPS.values():
        replay.delivered(replay.feed(make(replay)), expected)
    return 0


if __name__ == "__main__":
    sys.exit(main())
