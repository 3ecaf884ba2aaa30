# SPDX-License-Identifier: Apache-2.0
"""Invariant: whatever the REGISTER of an agent who knows his password says, what goes to servers and phones is a sound
message of header fields that we write or were sent, nobody but they gets any, the table holds no more than its bounds,
what is read from it can be put back and told to another gateway, and once all has expired nothing is left."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable

from messages import Address, join, new_request, response
from mutation import LONGEST, Reader, damage
from platform_under_test import CONFIG_TEXT, KEY, PEERS, SERVERS, drain, in_use

from ubisip.config import Config
from ubisip.core.digest import ha1
from ubisip.core.engine import Engine
from ubisip.core.message import Message
from ubisip.core.snapshot import Slots, Snapshot

STEPS = 24
"""Steps of one input."""
AGENTS = '[agents]\nrealm = "d.test"\ndomains = ["d.test"]\ncredentials = "file:u"\nmax_contacts = 4\nmirror = "%s"\n' \
    'service_route = true\n[store]\nsoft = "redis://127.0.0.1/0"\n'
USERS = ("alice", "bob", "a b", "\u00e9", "x@y", "%")
AORS = (b"sip:alice@d.test", b"sip:%61lice@D.test;a=b", b"sip:bob@127.0.0.1:5060", b"sip:a%20b@d.test",
    b"sip:%C3%a9@d.test",
        b"sip:x%40y@d.test", b"sip:%25@d.test", b"sips:alice@d.test")
NAMES = ("alice", "alice", "bob", "a b", "\u00e9", "x@y", "%", "alice")
PHONES: list[Address] = [("127.0.9.1", 5062), ("127.0.9.2", 5062), ("::1", 5062)]
HOSTS = {host for host, _ in [*PEERS, *PHONES]}
LINES = (
    b"Contact: <sip:alice@127.0.9.1:5062>", b"m: sip:alice@127.0.9.1:5062;expires=60", b"Contact: *", b"Expires: 0",
    b"Contact: <sip:a@[::1]:5062;transport=udp>;q=0.3;+sip.instance=\"<urn:uuid:1>\";reg-id=1", b"Expires: 600",
    b"Contact: \"A, \\\"B\" <sip:%61@h?Subject=x>;expires=3600, <sip:b@127.0.9.2:7000>;q=0",
    b"Supported: path, outbound",
    b"k: outbound", b"Path: <sip:p@127.0.9.9;lr;ob>", b"Path: :", b"Path: <sip:a>,\r\n <sip:b;ob>",
    b"Require: path, none",
    b"User-Agent: x", b"Contact: <sip:x@127.0.0.1:5090>", b"Contact: <" + b"sip:" + b"a" * 507 + b">",
    b"Path: <sip:" + b"b" * 1000 + b">",
    b"Contact: <sip:a@h>;+sip.instance=\"" + b"c" * 128 + b"\";reg-id=65536",
)
WRITTEN = {
    "via", "from", "to", "call-id", "cseq", "max-forwards", "content-length", "contact", "path", "supported", "expires",
    "date", "require", "flow-timer", "www-authenticate", "retry-after", "min-expires", "unsupported", "record-route",
    "route", "max-breadth", "service-route",
}
SNAPSHOTS = [
    Snapshot(Config.parse(CONFIG_TEXT + AGENTS % mirror), "gw", Slots(), credentials_complete=True, wall=1.79e9)
    for mirror in ("off", "site")
]


def md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8")).hexdigest()


class Play:
    """One registrar and its agents; each step takes its decisions from the input."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.now = 1000.0
        self.number = 0
        self.engine = Engine(SNAPSHOTS[reader.below(2)], [KEY])
        self.statuses: list[int] = []
        for user in USERS:
            digests = [ha1(name, user, "d.test", "s") for name in ("MD5", "SHA-256", "SHA-512-256")]
            self.engine.credential(user, "d.test", *digests, True, float("inf"), self.now)

    def step(self) -> None:
        kind = self.reader.below(8)
        if kind < 6:
            self.register()
        elif kind == 6:
            self.call()
        else:
            self.now += (0.01, 1.0, 5.0, 70.0)[self.reader.below(4)]
            self.engine.advance(self.now)
            self.take()

    def take(self) -> bytes:
        """Look at what leaves, and let servers accept; the last answer to a phone."""
        last = b""
        for data, address, listener, _ in self.engine.outbox():
            assert data.startswith(b"INVITE ") or address[0] in HOSTS, address
            if data.startswith(b"SIP/2.0 "):
                last = data
                self.statuses.append(int(data[8:11]))
                if self.statuses[-1] in (200, 401, 420, 423, 503):
                    self.sound(data)
                continue
            self.sound(data)
            if data.startswith(b"REGISTER "):
                self.engine.receive(response(data, (200, 200, 500)[self.reader.below(3)]), tuple(address), listener,
                    self.now)
        assert len(self.engine.events()) < 4096
        return last

    @staticmethod
    def sound(data: bytes) -> None:
        """Nothing broke out of its header field."""
        Message(data)
        assert data.count(b"\r\n\r\n") == 1 and data.endswith(b"\r\n\r\n"), data
        names = {line.partition(b":")[0].strip().lower().decode("latin-1")
                 for line in re.sub(rb"\r\n[ \t]+", b" ", data[:-4]).split(b"\r\n")[1:]}
        assert names <= WRITTEN | {"v", "f", "t", "i", "l", "x"}, names - WRITTEN

    def register(self) -> None:
        self.number += 1
        which = self.reader.below(len(AORS))
        source = PHONES[self.reader.below(len(PHONES))]
        chosen = [LINES[self.reader.below(len(LINES))] for _ in range(self.reader.below(5))]
        lines = b"\r\n".join(chosen) + b"\r\n"
        for _ in range(max(0, self.reader.below(12) - 6)):
            lines = damage(lines, self.reader)[:LONGEST - 4000]
        where = b"127.0.9.1:5062" if self.reader.below(4) else b"10.0.0.1"
        common = [
            b"Via: SIP/2.0/UDP %s;branch=z9hG4bK-%d;rport" % (where, self.number), b"From: <%s>;tag=f" % AORS[which],
            b"To: <%s>" % AORS[which], b"Call-ID: r%d" % self.reader.below(3), b"CSeq: %d REGISTER" % self.number,
        ]
        self.engine.receive(join(b"REGISTER sip:d.test SIP/2.0", common), source, 0, self.now)
        nonce = re.search(rb'nonce="(\w+)"', self.take())
        if nonce is None:
            return
        user = NAMES[which]
        inner = md5(f"{md5(f'{user}:d.test:s')}:{nonce[1].decode()}:00000001:c:auth:{md5('REGISTER:sip:d.test')}")
        authorization = (f'Authorization: Digest username="{user}", realm="d.test", nonce="{nonce[1].decode()}", '
                         f'uri="sip:d.test", response="{inner}", cnonce="c", qop=auth, nc=00000001, algorithm=MD5')
        common[4] = b"CSeq: %d REGISTER" % (self.number + 100 - self.reader.below(2) * 100)
        common[0] = common[0].replace(b";rport", b"-2;rport")
        head = join(b"REGISTER sip:d.test SIP/2.0", [*common, authorization.encode()]).partition(b"Content-Length")[0]
        self.engine.receive((head + lines + b"Content-Length: 0\r\n\r\n")[:LONGEST], source, 0, self.now)
        self.take()
        self.look()

    def call(self) -> None:
        self.number += 1
        self.engine.receive(
            new_request(b"INVITE", AORS[self.reader.below(len(AORS))], SERVERS[0], self.number), SERVERS[0], 0,
            self.now)
        self.take()

    def look(self) -> None:
        _, rows = self.engine.bindings(0, 256, self.now)
        statistics = self.engine.statistics()
        assert len(rows) == statistics["bindings"] <= 4 * len(USERS) + 4
        assert len({row[0] for row in rows}) <= len(USERS)


def one_input(data: bytes) -> Hashable:
    play = Play(Reader(data))
    for _ in range(STEPS):
        if not play.reader.more:
            break
        play.step()
    _, rows = play.engine.bindings(0, 256, play.now)
    outcome = (len(rows), tuple(play.statuses[-8:]))
    other = Engine(SNAPSHOTS[0], [KEY])
    for row in rows:
        other.share(row, 1, "127.0.0.2:5060", play.now)
    assert sorted(row[:3] for row in other.bindings(0, 256, play.now, 1)[1]) == sorted(row[:3] for row in rows)
    assert other.restore(rows, play.now) == len(rows)
    drain(play.engine, play.now, 8000.0)
    assert play.engine.statistics()["bindings"] == play.engine.statistics()["agents"] == 0
    assert not any(in_use(play.engine).values()), in_use(play.engine)
    return outcome


def seeds() -> list[bytes]:
    return [bytes([mirror, 0, aor, 0, 1, line, 0, 1, 0, 0, *rest]) for mirror in (0, 1) for aor in range(len(AORS))
            for line in range(len(LINES)) for rest in ([6, aor], [7, 3], [])]
