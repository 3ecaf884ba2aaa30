# SPDX-License-Identifier: Apache-2.0
"""Requests and responses as text, as a user agent writes them (RFC 3261 sections 7 and 8)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from ubisip.core.message import Message
from ubisip.lab.udp import Address

REASONS = {
    100: "Trying",
    180: "Ringing",
    200: "OK",
    405: "Method Not Allowed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    486: "Busy Here",
    487: "Request Terminated",
    503: "Service Unavailable",
}
ALLOW = "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS"
SDP = (
    b"v=0\r\no=lab 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=audio 40000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n"
    b"a=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n"
)
"""A session description such as phones send; the lab carries no sound."""

_HOST = re.compile(r"sips?:(?:[^@>]*@)?([^:;>?]+)(?::(\d+))?", re.IGNORECASE)
_VIA = re.compile(r"SIP\s*/\s*2\.0\s*/\s*\w+\s+([^\s:;,]+)(?:\s*:\s*(\d+))?([^,]*)", re.IGNORECASE)
_RPORT = re.compile(r";\s*rport\s*(?=;|$)", re.IGNORECASE)
_ROUTE = re.compile(r"[^,<]*<[^>]*>[^,]*")


def new_tag() -> str:
    """A tag for From or To (RFC 3261 section 19.3)."""
    return secrets.token_hex(6)


def new_branch() -> str:
    """A branch for a new client transaction (RFC 3261 section 8.1.1.7)."""
    return "z9hG4bK" + secrets.token_hex(8)


def uri_address(uri: str) -> Address:
    """Address and port (default 5060) of a SIP URI or of a name-addr around one; the host is an IPv4 address.

    :raises ValueError: there is no SIP URI in it.
    """
    match = _HOST.search(uri)
    if match is None:
        raise ValueError(f"no SIP URI in {uri!r}")
    return match[1], int(match[2] or 5060)


def routes(message: Message, name: str) -> list[str]:
    """Each value of Route or Record-Route, one item each, in order."""
    return [value.strip() for line in message.get_all(name) for value in _ROUTE.findall(line)]


@dataclass(slots=True)
class TopVia:
    """What a server transaction needs of the topmost Via (RFC 3261 section 18.2, RFC 3581)."""

    sent_by: str
    reply_to: Address
    """Where the responses go."""
    vias: list[str]
    """Every Via value line, the topmost completed with ``received`` and ``rport``."""


def top_via(message: Message, source: Address) -> TopVia:
    """Read the topmost Via of a request that came from *source*.

    :raises ValueError: there is no Via that can be read.
    """
    vias = message.get_all("Via")
    match = _VIA.match(vias[0]) if vias else None
    if match is None:
        raise ValueError("no Via")
    host, port = match[1], int(match[2] or 5060)
    if _RPORT.search(match[3]):
        vias[0] = _RPORT.sub(f";rport={source[1]};received={source[0]}", vias[0], count=1)
        return TopVia(f"{host}:{port}", source, vias)
    if host != source[0]:
        vias[0] = f"{match[0]};received={source[0]}" + vias[0][match.end() :]
    return TopVia(f"{host}:{port}", (source[0], port), vias)


@dataclass(slots=True)
class Request:
    """A request, all but its Via: each attempt writes its own."""

    method: str
    uri: str
    call_id: str
    caller: str
    """From: a name-addr with its tag."""
    called: str
    """To: a name-addr, with a tag inside a dialog."""
    cseq: int
    routes: tuple[str, ...] = ()
    contact: str = ""
    body: bytes = b""
    headers: tuple[str, ...] = ()
    """Lines that a method needs beside the usual ones."""

    def encode(self, sent_by: str, branch: str) -> bytes:
        """The datagram of one attempt."""
        lines = [
            f"{self.method} {self.uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {sent_by};branch={branch};rport",
            "Max-Forwards: 70",
            *(f"Route: {route}" for route in self.routes),
            f"From: {self.caller}",
            f"To: {self.called}",
            f"Call-ID: {self.call_id}",
            f"CSeq: {self.cseq} {self.method}",
        ]
        return _encode(lines, self.contact, self.headers, self.body)


def encode_response(
    request: Message,
    vias: Iterable[str],
    status: int,
    *,
    to_tag: str = "",
    contact: str = "",
    headers: Iterable[str] = (),
    body: bytes = b"",
) -> bytes:
    """A response to *request* (RFC 3261 section 8.2.6); *to_tag* is added when To has none."""
    to = request.get("To", "")
    if to_tag and not request.to_tag:
        to = f"{to};tag={to_tag}"
    lines = [
        f"SIP/2.0 {status} {REASONS.get(status, 'Lab')}",
        *(f"Via: {via}" for via in vias),
        *(f"Record-Route: {value}" for value in request.get_all("Record-Route")),
        f"From: {request.get('From')}",
        f"To: {to}",
        f"Call-ID: {request.call_id}",
        f"CSeq: {request.get('CSeq')}",
    ]
    return _encode(lines, contact, headers, body)


def _encode(lines: list[str], contact: str, headers: Iterable[str], body: bytes) -> bytes:
    if contact:
        lines.append(f"Contact: {contact}")
    lines.extend(headers)
    if body:
        lines.append("Content-Type: application/sdp")
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body
