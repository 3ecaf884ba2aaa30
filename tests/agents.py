# SPDX-License-Identifier: Apache-2.0
"""Agents on the virtual wire: phones that register, are challenged, answer, and take and make calls."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
from plain_sip import Address, Header, Packet, Request, parameter
from wire import KEY, Chaos, UserAgent, Wire, entry, platform

from ubisip.core.digest import ha1

DOMAIN = "ubisip.test"
PASSWORD = "secret"
WALL = 1.79e9
"""Seconds from the wire's clock to that of the wall."""
HASHES = {
    "MD5": hashlib.md5, "SHA-256": hashlib.sha256, "SHA-512-256": lambda data: hashlib.new("sha512_256", data),
}
INSTANCE = "<urn:uuid:00000000-0000-1000-8000-000A95A0E128>"
OUTBOUND: tuple[Header, ...] = (("Supported", "path, outbound"),)


def agents(servers: Any = 1, *, limits: dict[str, object] | None = None, routing: dict[str, object] | None = None,
           listen: Sequence[str] = ("udp:127.0.0.1:5060",), carriers: Sequence[Any] = (), **section: object) -> str:
    """A configuration whose gateway is a registrar; *section* goes into [agents]."""
    values = {"realm": DOMAIN, "domains": [DOMAIN], "credentials": "file:users.csv", "mirror": "off", **section}
    text = platform(servers, carriers, listen=listen, **(routing or {}))
    return "\n".join([text, entry("[agents]", values), entry("[limits]", limits) if limits else ""])


def credential(wire: Wire, user: str, password: str = PASSWORD, *, algorithms: Iterable[str] = HASHES,
               realm: str = DOMAIN, lifetime: float = float("inf")) -> None:
    """Tell the engine a user's digests, as the control thread does."""
    digests = [ha1(name, user, realm, password) if name in algorithms else b"" for name in HASHES]
    wire.engine.credential(user, realm, *digests, True, lifetime, wire.now)
    wire.settle()


def registrar(text: str = "", users: Iterable[str] = ("alice", "bob"), *, keys: Sequence[bytes] = (KEY,),
              complete: bool = True, chaos: Chaos | None = None, **options: Any) -> Wire:
    """A wire whose gateway knows *users*; *complete*: and nobody else is asked for."""
    wire = Wire(text or agents(), keys=keys, chaos=chaos, credentials_complete=complete, wall=WALL, **options)
    for user in users:
        credential(wire, user)
    return wire


def challenges(packet: Packet) -> dict[str, dict[str, str]]:
    """The challenges of a 401, by algorithm in their order."""
    found = {}
    for line in packet.lines("WWW-Authenticate"):
        pairs = re.findall(r'([\w-]+) *= *(?:"([^"]*)"|([^\s,]+))', line.removeprefix("Digest "))
        values = {name: quoted or plain for name, quoted, plain in pairs}
        found[values["algorithm"]] = values
    return found


@dataclass
class Phone:
    """One phone: where it stands, who it is, how it registers."""

    wire: Wire
    user: str = "alice"
    address: Address = ("127.0.9.1", 5062)
    password: str = PASSWORD
    contact: str | None = None
    """Its Contact header value; None: its own address."""
    instance: str = ""
    reg_id: int = 0
    stream: int = 0
    algorithm: str = ""
    """It takes this one; "": the first it is offered."""
    domain: str = DOMAIN
    call_id: str = ""
    cseq: int = 0
    nonce_count: int = 0
    challenge: dict[str, str] = field(default_factory=dict)
    username: str | None = None

    def __post_init__(self) -> None:
        self.call_id = self.call_id or f"reg-{self.user}-{self.address[0]}-{self.address[1]}-{self.reg_id}"

    @property
    def agent(self) -> UserAgent:
        return self.wire.agent(*self.address)

    @property
    def uri(self) -> str:
        return f"sip:{self.user}@{self.address[0]}:{self.address[1]}"

    def contacts(self) -> list[Header]:
        if self.contact == "":
            return []
        value = self.contact or f"<{self.uri}>"
        if self.instance:
            value += f';+sip.instance="{self.instance}"'
        if self.reg_id:
            value += f";reg-id={self.reg_id}"
        return [("Contact", value)]

    def request(self, headers: Iterable[Header] = (), contacts: Iterable[str] | None = None, **parts: Any) -> Request:
        """The next REGISTER, without credentials."""
        self.cseq += 1
        aor = f"<sip:{self.user}@{self.domain}>"
        lines = self.contacts() if contacts is None else [("Contact", value) for value in contacts]
        lines += OUTBOUND if self.reg_id else ()
        defaults = {"from_": f"{aor};tag=x", "to": aor, "call_id": self.call_id, "cseq": self.cseq}
        uri = parts.pop("uri", f"sip:{self.domain}")
        return self.wire.request(
            "REGISTER", uri, source=self.address, headers=[*lines, *headers], **{**defaults, **parts})

    def credentials(self, uri: str, **other: str) -> str:
        """An Authorization value for the challenge that came last."""
        self.nonce_count += 1
        user = self.user if self.username is None else self.username
        realm, nonce, algorithm = (self.challenge[name] for name in ("realm", "nonce", "algorithm"))
        hash_ = HASHES[algorithm]

        def h(text: str) -> str:
            return hash_(text.encode()).hexdigest()

        count = f"{self.nonce_count:08x}"
        response = h(f"{h(f'{user}:{realm}:{self.password}')}:{nonce}:{count}:c:auth:{h(f'REGISTER:{uri}')}")
        quoted = {"username": user, "realm": realm, "nonce": nonce, "uri": uri, "response": response, "cnonce": "c"}
        plain = {"algorithm": algorithm, "qop": "auth", "nc": count}
        values = [f'{name}="{value}"' for name, value in {**quoted, **other}.items()]
        return "Digest " + ", ".join([*values, *(f"{name}={value}" for name, value in plain.items())])

    def authorized(self, headers: Iterable[Header] = (), **parts: Any) -> Request:
        """The next REGISTER, with credentials for the last challenge."""
        uri = parts.get("uri", f"sip:{self.domain}")
        return self.request([("Authorization", self.credentials(uri)), *headers], **parts)

    def send(self, request: Request | bytes, listener: int = 0) -> Packet | None:
        """Send; the last answer to a REGISTER that it brought at once, or None. A challenge is remembered."""
        before = len(self.agent.inbox)
        self.agent.send(request, listener=listener, stream=self.stream)
        answers = [p for p in self.agent.inbox[before:] if p.is_response and p.method == "REGISTER"]
        answer = answers[-1] if answers else None
        if answer is not None and answer.status == 401:
            offered = challenges(answer)
            self.challenge = offered[self.algorithm] if self.algorithm in offered else next(iter(offered.values()))
            self.nonce_count = 0
        return answer

    def register(self, headers: Iterable[Header] = (), listener: int = 0, **parts: Any) -> Packet | None:
        """A whole registration: REGISTER, 401, REGISTER with credentials; what the last one brought."""
        headers = list(headers)
        answer = self.send(self.request(headers, **parts), listener)
        if answer is not None and answer.status == 401:
            answer = self.send(self.authorized(headers, **parts), listener)
        return answer

    def again(self, headers: Iterable[Header] = (), listener: int = 0, **parts: Any) -> Packet | None:
        """Register with the nonce there is."""
        return self.send(self.authorized(headers, **parts), listener)

    def unregister(self, **parts: Any) -> Packet | None:
        return self.again([("Expires", "0")], **parts)

    def fetch(self) -> list[str]:
        """The Contact values of the address of record."""
        answer = self.again(contacts=())
        assert answer is not None and answer.status == 200, answer
        return answer.values("Contact")

    def invite(self, uri: str, **parts: Any) -> Request:
        """A new call of the phone's, as it is written."""
        aor = f"<sip:{self.user}@{self.domain}>;tag=from-{self.user}"
        return self.wire.request("INVITE", uri, source=self.address, **{"from_": aor, **parts})


def phone(wire: Wire, user: str = "alice", number: int = 1, **options: Any) -> Phone:
    """A phone that is registered; *number* is of its address."""
    made = Phone(wire, user, (f"127.0.9.{number}", 5062), **options)
    answer = made.register()
    assert answer is not None and answer.status == 200, answer
    made.agent.clear()
    return made


def expires(packet: Packet) -> list[int]:
    """The expires of each Contact of a 200."""
    return [int(parameter(value, "expires") or "-1") for value in packet.values("Contact")]


def bindings(wire: Wire) -> list[tuple[Any, ...]]:
    """Every binding, as the control thread reads them."""
    rows: list[tuple[Any, ...]] = []
    after = 0
    while True:
        after, page = wire.engine.bindings(after, 256, wire.now)
        rows += page
        if after == 0:
            return rows


def journal(wire: Wire) -> list[list[Any]]:
    """The changes of bindings since the last call."""
    unpacker = msgpack.Unpacker(unicode_errors="surrogateescape")
    unpacker.feed(wire.engine.take_journal())
    return list(unpacker)


def counter(wire: Wire, name: str) -> int:
    return int(wire.engine.statistics()["counters"][name])
