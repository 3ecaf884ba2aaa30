# SPDX-License-Identifier: Apache-2.0
"""All phones of a site register within a short time: thousands of them in one process, over UDP, with digest.

    python -m ubisip.lab.storm 127.0.2.1:5060 --phones 5000 --within 5

writes one line of JSON when every phone is registered, or when the time is over: what became of them.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import heapq
import json
import random
import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import uvloop

from ubisip.lab.platform import DOMAIN, PASSWORD
from ubisip.lab.udp import Address, UdpSocket

TURN = 0.005
"""Seconds between two looks at what is due."""
MOST_A_TURN = 100
"""Requests sent in one turn: what comes in must not wait."""
INTERVALS = (0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0)
"""Timer E: seconds between the repetitions of a request without an answer (RFC 3261 section 17.1.2.2)."""
GIVE_UP_FOR = 1.0
"""Seconds after a request that was never answered before the phone begins anew."""
SOCKETS = 16

_NUMBER = re.compile(rb"\r\nCall-ID: s-(\d+)\r\nCSeq: (\d+) ")
_NONCE = re.compile(rb'nonce="([^"]+)"')
_RETRY_AFTER = re.compile(rb"\r\nRetry-After: (\d+)")


@dataclass
class Outcome:
    """What became of the phones."""

    phones: int
    registered: int = 0
    refused: int = 0
    """503 with Retry-After."""
    refused_without_time: int = 0
    """503 that did not say when to come back."""
    other: dict[int, int] = field(default_factory=dict)
    """Other final responses, by status."""
    repeated: int = 0
    """Requests sent again."""
    unanswered: int = 0
    """Requests that never had an answer; their phones began anew."""
    retry_after: tuple[int, int] = (0, 0)
    """The shortest and the longest that a phone was told, in seconds."""
    seconds: float = 0.0
    """Until the last was registered."""
    slowest: float = 0.0
    """The longest that one phone took from its first REGISTER."""
    worst_turn: float = 0.0
    """The longest that this process itself was away from its sockets."""


class Storm:
    """*count* phones, the first named ``agent1``, that begin in equal steps over *within* seconds."""

    def __init__(
        self,
        gateway: Address,
        hosts: Sequence[str],
        count: int,
        within: float,
        *,
        plain: bool = False,
        expires: int = 3600,
        seed: int = 0,
    ) -> None:
        """*plain*: they know nothing of RFC 5626."""
        self.outcome = Outcome(count)
        self._gateway = gateway
        self._hosts = hosts
        self._count = count
        self._within = within
        self._plain = plain
        self._expires = expires
        self._random = random.Random(f"{seed} storm")
        self._sockets: list[UdpSocket] = []
        self._cseq = [0] * (count + 1)
        self._began = [0.0] * (count + 1)
        self._open: dict[int, bytes] = {}
        """The request without an answer, by phone."""
        self._again: list[deque[tuple[float, int, int]]] = [deque() for _ in INTERVALS]
        """When, phone and CSeq, by the number of the repetition: each in the order of time."""
        self._later: list[tuple[float, int]] = []
        """Heap of the phones that were told to come back."""
        self._told: Counter[int] = Counter()
        self._other: Counter[int] = Counter()

    async def run(self, limit: float) -> Outcome:
        """Register them all, within *limit* seconds.

        :raises OSError: a host is none of this machine.
        """
        loop = asyncio.get_running_loop()
        self._sockets = [UdpSocket((host, 0), self._receive) for host in self._hosts for _ in range(SOCKETS)]
        start = turned = loop.time()
        begun = 0
        try:
            while self.outcome.registered < self._count and loop.time() < start + limit:
                now = loop.time()
                self.outcome.worst_turn = max(self.outcome.worst_turn, now - turned - TURN)
                turned = now
                due = min(
                    self._count, int((now - start) / self._within * self._count) + 1 if self._within else begun + 99
                )
                for number in range(begun + 1, min(due, begun + MOST_A_TURN) + 1):
                    self._began[number] = now
                    self._ask(number, now)
                    begun = number
                self._repeat(now)
                self._come_back(now)
                await asyncio.sleep(TURN)
        finally:
            for one in self._sockets:
                one.close()
        self.outcome.seconds = loop.time() - start
        self.outcome.other = dict(self._other)
        self.outcome.retry_after = (min(self._told, default=0), max(self._told, default=0))
        return self.outcome

    # ---- what goes out

    def _ask(self, number: int, now: float, nonce: str = "") -> None:
        """A new REGISTER."""
        self._cseq[number] += 1
        cseq = self._cseq[number]
        socket = self._sockets[number % len(self._sockets)]
        self._open[number] = self._request(number, cseq, socket.address, nonce)
        socket.send(self._open[number], self._gateway)
        self._again[0].append((now + INTERVALS[0], number, cseq))

    def _request(self, number: int, cseq: int, source: Address, nonce: str) -> bytes:
        user, (host, port) = f"agent{number}", source
        credentials = _credentials(user, nonce) if nonce else ""
        flow = "" if self._plain else f';reg-id=1;+sip.instance="<urn:uuid:00000000-0000-4000-8000-{number:012}>"'
        return (
            f"REGISTER sip:{DOMAIN} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bKs{number}-{cseq};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:{user}@{DOMAIN}>;tag={number}\r\nTo: <sip:{user}@{DOMAIN}>\r\n"
            f"Call-ID: s-{number}\r\nCSeq: {cseq} REGISTER\r\n"
            f"Contact: <sip:{user}@{host}:{port}>{flow}\r\n{credentials}"
            f"Expires: {self._expires}\r\nSupported: path, outbound\r\nUser-Agent: storm\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode()

    def _repeat(self, now: float) -> None:
        """Send again what has no answer yet."""
        for turn, waiting in enumerate(self._again):
            while waiting and waiting[0][0] <= now:
                _, number, cseq = waiting.popleft()
                if self._cseq[number] != cseq or number not in self._open:
                    continue
                if turn + 1 == len(INTERVALS):
                    del self._open[number]
                    self.outcome.unanswered += 1
                    heapq.heappush(self._later, (now + GIVE_UP_FOR, number))
                    continue
                self.outcome.repeated += 1
                self._sockets[number % len(self._sockets)].send(self._open[number], self._gateway)
                self._again[turn + 1].append((now + INTERVALS[turn + 1], number, cseq))

    def _come_back(self, now: float) -> None:
        for _ in range(MOST_A_TURN):
            if not self._later or self._later[0][0] > now:
                return
            self._ask(heapq.heappop(self._later)[1], now)

    # ---- what comes in

    def _receive(self, data: bytes, _source: Address) -> None:
        found = _NUMBER.search(data)
        if found is None:
            return
        number, cseq, status = int(found[1]), int(found[2]), int(data[8:11])
        if status < 200 or self._cseq[number] != cseq or self._open.pop(number, None) is None:
            return
        now = asyncio.get_running_loop().time()
        nonce = _NONCE.search(data) if status == 401 else None
        if status == 200:
            self.outcome.registered += 1
            self.outcome.slowest = max(self.outcome.slowest, now - self._began[number])
        elif nonce is not None:
            self._ask(number, now, nonce[1].decode())
        elif status == 503:
            self._refused(number, data, now)
        else:
            self._other[status] += 1
            heapq.heappush(self._later, (now + GIVE_UP_FOR, number))

    def _refused(self, number: int, data: bytes, now: float) -> None:
        found = _RETRY_AFTER.search(data)
        seconds = int(found[1]) if found else 0
        if found:
            self.outcome.refused += 1
            self._told[seconds] += 1
        else:
            self.outcome.refused_without_time += 1
        heapq.heappush(self._later, (now + seconds + self._random.random(), number))


def _credentials(user: str, nonce: str) -> str:
    """The Authorization line; MD5, as hardware phones have it."""
    uri = f"sip:{DOMAIN}"
    inner = _md5(f"{_md5(f'{user}:{DOMAIN}:{PASSWORD}')}:{nonce}:00000001:c0ffee:auth:{_md5(f'REGISTER:{uri}')}")
    return (
        f'Authorization: Digest username="{user}", realm="{DOMAIN}", nonce="{nonce}", uri="{uri}", response="{inner}", '
        'algorithm=MD5, qop=auth, nc=00000001, cnonce="c0ffee"\r\n'
    )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gateway", help="address:port")
    parser.add_argument("--phones", type=int, default=5000)
    parser.add_argument("--within", type=float, default=5.0, help="seconds over which they begin (5)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which it ends anyway (120)")
    parser.add_argument("--hosts", default="127.0.0.1", help="addresses of the phones, by commas (127.0.0.1)")
    parser.add_argument("--plain", action="store_true", help="phones without +sip.instance and reg-id")
    parser.add_argument("--expires", type=int, default=3600)
    args = parser.parse_args(words)
    host, _, port = args.gateway.partition(":")
    hosts = args.hosts.split(",")
    storm = Storm((host, int(port)), hosts, args.phones, args.within, plain=args.plain, expires=args.expires)
    outcome = uvloop.run(storm.run(args.limit))
    print(json.dumps(asdict(outcome)), flush=True)
    return int(outcome.registered < outcome.phones)


if __name__ == "__main__":
    raise SystemExit(main())
