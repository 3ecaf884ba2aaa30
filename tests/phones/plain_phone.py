# SPDX-License-Identifier: Apache-2.0
"""A phone of a few lines, for what real ones do not do at a word: move, be called elsewhere than registered."""

from __future__ import annotations

import hashlib
import itertools
import re
import socket
import time

from plain_sip import Address, Packet, Request, response
from site_parts import REALM, USERS

PATIENCE = 15.0


def authorization(challenge: str, user: str, password: str, uri: str) -> str:
    """The answer to a Digest challenge with qop=auth and SHA-256 (RFC 8760)."""

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    nonce = re.findall(r'nonce="([^"]+)"', challenge)[0]
    secret, request = digest(f"{user}:{REALM}:{password}"), digest(f"REGISTER:{uri}")
    answer = digest(f"{secret}:{nonce}:00000001:cnonce:auth:{request}")
    return (
        f'Digest username="{user}", realm="{REALM}", nonce="{nonce}", uri="{uri}", algorithm=SHA-256, '
        f'qop=auth, nc=00000001, cnonce="cnonce", response="{answer}"'
    )


class PlainPhone:
    """One flow of the phone of *user*, to one gateway: its instance is the same in all of them, *reg_id* differs."""

    def __init__(
        self, user: str, host: str, gateway: Address, transport: str = "udp", *, reg_id: int = 1, password: str = ""
    ) -> None:
        self.user = user
        self.reg_id = reg_id
        self.password = password or USERS[user]
        self.transport = transport
        self.contact = ""
        """Where it may be called, when that is not where it registers from."""
        self._gateway = gateway
        self._cseq = 0
        self._branches = itertools.count(1)
        self._waiting: list[Packet] = []
        self._open(host)

    def __enter__(self) -> PlainPhone:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def _open(self, host: str) -> None:
        kind = socket.SOCK_DGRAM if self.transport == "udp" else socket.SOCK_STREAM
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.bind((host, 0))
        self._socket.settimeout(0.05)
        self._socket.connect(self._gateway)
        self._rest = b""
        self.host, self.port = self._socket.getsockname()

    def close(self) -> None:
        """It is gone without a word."""
        self._socket.close()

    def move(self, host: str) -> None:
        """Another address: the old one is closed without a word."""
        self._socket.close()
        self._open(host)

    @property
    def uri(self) -> str:
        """Its Contact."""
        return self.contact or f"sip:{self.user}@{self.host}:{self.port};transport={self.transport}"

    def register(self) -> Packet:
        """Register, answer the challenge; gives the last answer."""
        answer = self._register()
        if answer.status == 401:
            challenge = answer.get("WWW-Authenticate")
            answer = self._register(authorization(challenge, self.user, self.password, f"sip:{REALM}"))
        return answer

    def _register(self, credentials: str = "") -> Packet:
        self._cseq += 1
        branch = f"z9hG4bK-{next(self._branches)}-{self.port}"
        via = f"SIP/2.0/{self.transport.upper()} {self.host}:{self.port};rport;branch={branch}"
        own = f"<sip:{self.user}@{REALM}>"
        instance = f"<urn:uuid:00000000-0000-1000-8000-{int(self.user):012x}>"
        outbound = "" if self.contact else f';+sip.instance="{instance}";reg-id={self.reg_id}'
        headers = [("Contact", f"<{self.uri}>{outbound}"), ("Supported", "path, outbound"), ("Expires", "600")]
        if credentials:
            headers.append(("Authorization", credentials))
        call_id = f"plain-{self.user}-{self.reg_id}"
        request = Request(
            "REGISTER", f"sip:{REALM}", [via], f"{own};tag=plain", own, call_id, self._cseq, headers=headers
        )
        self.send(bytes(request))
        return self.awaits("REGISTER", is_response=True)

    def send(self, data: bytes) -> None:
        self._socket.send(data)

    def awaits(self, method: str, *, is_response: bool = False) -> Packet:
        """The next message of this kind; others wait for their turn, repeated requests do so too."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for packet in self._waiting:
                if packet.method == method and packet.is_response == is_response:
                    self._waiting.remove(packet)
                    return packet
            assert time.monotonic() < deadline, f"no {method} came to {self.user}, but {self._waiting}"
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(65535)
        except TimeoutError:
            return
        if self.transport == "udp":
            self._waiting.append(Packet(data))
            return
        assert data, "the gateway closed the connection"
        self._rest += data
        while b"\r\n\r\n" in self._rest:
            head = self._rest.partition(b"\r\n\r\n")[0]
            size = len(head) + 4 + int(Packet(head + b"\r\n\r\n").get("Content-Length") or 0)
            if len(self._rest) < size:
                return
            self._waiting.append(Packet(self._rest[:size]))
            self._rest = self._rest[size:]

    def answer(self, request: Packet, status: int = 200) -> None:
        """Answer; with what it would say and hear if it had ears, to an INVITE."""
        if request.method != "INVITE" or status != 200:
            self.send(response(request, status, to_tag="plain"))
            return
        body = (
            f"v=0\r\no=- 1 1 IN IP4 {self.host}\r\ns=-\r\nc=IN IP4 {self.host}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n"
        ).encode()
        headers = [("Contact", f"<{self.uri}>"), ("Content-Type", "application/sdp")]
        self.send(response(request, 200, to_tag="plain", headers=headers, body=body))
