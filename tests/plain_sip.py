# SPDX-License-Identifier: Apache-2.0
"""SIP messages as the tests write and read them: by the book and apart from the core that is under test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

Address = tuple[str, int]
Header = tuple[str, str]

COMPACT = {
    "v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length", "c": "content-type",
    "e": "content-encoding", "s": "subject", "k": "supported", "o": "event", "u": "allow-events", "r": "refer-to",
}
"""Short header names (RFC 3261 section 7.3.3 and the registry) and what they stand for."""

ADDRESS = re.compile(r'^(?:"(?:\\.|[^"\\])*"|[^"<])*<[^>]*>')
"""name-addr: what stands before the parameters."""

REASONS = {100: "Trying", 180: "Ringing", 183: "Session Progress", 200: "OK", 487: "Request Terminated"}


def long_name(name: str) -> str:
    """The header name in lower case and in its long form."""
    name = name.strip().lower()
    return COMPACT.get(name, name)


def split_values(text: str) -> list[str]:
    """The comma-separated values of a header field, commas in quotes and angle brackets left alone."""
    values, start, quoted, angled, escaped = [], 0, False, False, False
    for position, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif not quoted and char in "<>":
            angled = char == "<"
        elif char == "," and not quoted and not angled:
            values.append(text[start:position].strip())
            start = position + 1
    return [*values, text[start:].strip()]


def parameter(value: str, name: str) -> str | None:
    """The value of a header parameter, after the address if there is one; "" for a flag, None when it is absent."""
    rest = ADDRESS.sub("", value, count=1)
    for part in rest.split(";")[0 if rest != value else 1 :]:
        key, _, text = part.partition("=")
        if key.strip().lower() == name:
            return text.strip()
    return None


@dataclass(frozen=True)
class Packet:
    """One datagram that the gateway sent, or that a test wants to read."""

    data: bytes
    time: float = 0.0
    source: Address = ("", 0)
    """The listener it left from."""
    address: Address = ("", 0)
    """Where it went."""
    listener: int = 0
    """Number of the listener it left from."""
    stream: int = 0
    """Number of the connection it went over; 0: it was a datagram."""

    @cached_property
    def _parts(self) -> tuple[str, list[Header], bytes]:
        head, _, body = self.data.partition(b"\r\n\r\n")
        start, *lines = re.sub(r"\r\n[ \t]+", " ", head.decode("utf-8", "surrogateescape")).split("\r\n")
        pairs = [line.partition(":") for line in lines]
        return start, [(name, value.strip()) for name, _, value in pairs], body

    @property
    def start(self) -> str:
        """The start line."""
        return self._parts[0]

    @property
    def headers(self) -> list[Header]:
        """Names as written and values, in order."""
        return self._parts[1]

    @property
    def body(self) -> bytes:
        return self._parts[2]

    @property
    def is_response(self) -> bool:
        return self.start.startswith("SIP/")

    @property
    def status(self) -> int:
        """Status code; 0 for a request."""
        return int(self.start.split(" ")[1]) if self.is_response else 0

    @property
    def reason(self) -> str:
        return self.start.split(" ", 2)[2] if self.is_response else ""

    @property
    def method(self) -> str:
        """The request's method; of a response the one in CSeq."""
        return self.get("CSeq").rpartition(" ")[2] if self.is_response else self.start.split(" ")[0]

    @property
    def uri(self) -> str:
        """Request-URI."""
        return self.start.split(" ")[1]

    def lines(self, name: str) -> list[str]:
        """The values of every line of a header field, compact forms included."""
        return [value for key, value in self.headers if long_name(key) == long_name(name)]

    def values(self, name: str) -> list[str]:
        """The values of a header field that may hold a comma-separated list, in order."""
        return [value for line in self.lines(name) for value in split_values(line)]

    def get(self, name: str) -> str:
        """The first line of a header field; "" when there is none."""
        return next(iter(self.lines(name)), "")

    @property
    def via(self) -> str:
        """The top Via value."""
        return self.values("Via")[0]

    @property
    def branch(self) -> str:
        return parameter(self.via, "branch") or ""

    @property
    def cseq(self) -> int:
        return int(self.get("CSeq").split()[0])

    @property
    def call_id(self) -> str:
        return self.get("Call-ID")

    def tag(self, name: str) -> str | None:
        """The tag of From or To."""
        return parameter(self.get(name), "tag")

    def __repr__(self) -> str:
        return f"<{self.time:.4f} {self.source} -> {self.address}: {self.start[:80]} [{self.get('CSeq')}]>"


def joined(start: str, headers: Iterable[Header], body: bytes = b"") -> bytes:
    """The octets of a message; Content-Length is the caller's business."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{start}\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + body


@dataclass
class Request:
    """A request in the making: change a part, then take its ``bytes()``."""

    method: str
    uri: str
    via: Sequence[str]
    from_: str = "<sip:0102030405@127.0.0.1:5090>;tag=caller"
    to: str = "<sip:0155@127.0.0.1:5060>"
    call_id: str = "call@127.0.0.1"
    cseq: int = 1
    max_forwards: str | None = "70"
    headers: Sequence[Header] = ()
    body: bytes = b""
    cseq_method: str = ""
    length: str | None = field(default="auto")
    """Value of Content-Length; None: no such line."""

    def lines(self) -> list[Header]:
        """The header lines in order."""
        fields = [("Via", value) for value in self.via]
        if self.max_forwards is not None:
            fields.append(("Max-Forwards", self.max_forwards))
        fields += [("From", self.from_), ("To", self.to), ("Call-ID", self.call_id)]
        fields += [("CSeq", f"{self.cseq} {self.cseq_method or self.method}"), *self.headers]
        if self.length is not None:
            fields.append(("Content-Length", str(len(self.body)) if self.length == "auto" else self.length))
        return fields

    def __bytes__(self) -> bytes:
        return joined(f"{self.method} {self.uri} SIP/2.0", self.lines(), self.body)


def response(
    request: Packet,
    status: int,
    *,
    reason: str | None = None,
    to_tag: str | None = "callee",
    headers: Sequence[Header] = (),
    body: bytes = b"",
    via: Sequence[str] | None = None,
    cseq: str = "",
) -> bytes:
    """The answer of a user agent to *request* (RFC 3261 section 8.2.6.2); *via* replaces the request's Via lines."""
    to = request.get("To")
    if to_tag and status != 100 and parameter(to, "tag") is None:
        to += f";tag={to_tag}"
    fields = [("Via", value) for value in (request.lines("Via") if via is None else via)]
    fields += [("From", request.get("From")), ("To", to), ("Call-ID", request.call_id)]
    fields += [("CSeq", cseq or request.get("CSeq"))]
    fields += [("Record-Route", value) for value in request.lines("Record-Route")]
    fields += [*headers, ("Content-Length", str(len(body)))]
    text = reason if reason is not None else REASONS.get(status, "Because")
    return joined(f"SIP/2.0 {status} {text}", fields, body)
