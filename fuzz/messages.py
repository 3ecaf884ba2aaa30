# SPDX-License-Identifier: Apache-2.0
"""SIP messages as the peers of a fuzzed gateway write them, and the little they read of what they get."""

from __future__ import annotations

import re

Address = tuple[str, int]

SDP = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\n"
REASONS = {100: b"Trying", 180: b"Ringing", 200: b"OK", 302: b"Moved", 486: b"Busy", 487: b"Request Terminated"}
COPIED = (b"via", b"from", b"to", b"call-id", b"cseq", b"record-route")


def header(data: bytes, name: bytes) -> bytes:
    """The value of the first line of a header field; empty when there is none."""
    found = re.search(rb"(?im)^" + re.escape(name) + rb"[ \t]*:[ \t]*(.*?)\r?$", data.partition(b"\r\n\r\n")[0])
    return found[1] if found else b""


def lines_of(data: bytes, name: bytes) -> list[bytes]:
    """Every line of a header field, without its line end."""
    head = data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [line for line in head if line.partition(b":")[0].strip().lower() == name]


def join(start: bytes, lines: list[bytes], body: bytes = b"") -> bytes:
    return b"\r\n".join([start, *lines, b"Content-Length: %d" % len(body), b"", body])


def new_request(method: bytes, uri: bytes, source: Address, number: int, body: bytes = b"") -> bytes:
    """A request outside a dialog; *number* makes its Call-ID, tag and branch."""
    where = b"%s:%d" % (source[0].encode(), source[1])
    lines = [
        b"Via: SIP/2.0/UDP %s;branch=z9hG4bK-%d;rport" % (where, number),
        b"Max-Forwards: 70",
        b"From: \"A caller\" <sip:0102@%s>;tag=f%d" % (where, number),
        b"To: <%s>" % uri,
        b"Call-ID: call-%d@fuzz" % number,
        b"CSeq: 1 %s" % method,
        b"Contact: <sip:ua@%s>" % where,
    ]
    return join(b"%s %s SIP/2.0" % (method, uri), lines, body)


def response(request: bytes, status: int, tag: bytes = b"callee", more: tuple[bytes, ...] = ()) -> bytes:
    """An answer to *request* with what must be copied from it (RFC 3261 section 8.2.6)."""
    lines = []
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        name = line.partition(b":")[0].strip().lower()
        if name in COPIED:
            tagged = name != b"to" or b";tag=" in line or status == 100
            lines.append(line if tagged else line + b";tag=" + tag)
    return join(b"SIP/2.0 %d %s" % (status, REASONS.get(status, b"Other")), [*lines, *more])


def hop_request(method: bytes, invite: bytes, to: bytes) -> bytes:
    """CANCEL, or the ACK of a failure: the INVITE's own Via, Call-ID, From and number (sections 9.1 and 17.1.1.3)."""
    lines = [line for name in (b"via", b"from", b"call-id", b"route") for line in lines_of(invite, name)]
    number = header(invite, b"CSeq").split(b" ")[0]
    uri = invite.split(b" ", 2)[1] if invite.count(b" ") > 1 else b"sip:nobody"
    return join(method + b" " + uri + b" SIP/2.0", [*lines, b"To: " + to, b"CSeq: " + number + b" " + method])


def in_dialog(method: bytes, answer: bytes, source: Address, number: int, *, by_caller: bool) -> bytes:
    """A request within the dialog that *answer*, a 2xx as the caller or the callee has it, made (section 12.2)."""
    routes = [line.partition(b":")[2].strip() for line in lines_of(answer, b"record-route")]
    parties = (b"From", b"To") if by_caller else (b"To", b"From")
    lines = [
        b"Via: SIP/2.0/UDP %s:%d;branch=z9hG4bK-d%d" % (source[0].encode(), source[1], number),
        b"Max-Forwards: 70",
        b"From: " + header(answer, parties[0]),
        b"To: " + header(answer, parties[1]),
        b"Call-ID: " + header(answer, b"Call-ID"),
        b"CSeq: %d %s" % (1 if method == b"ACK" else 2 + number, method),
        *(b"Route: " + route for route in (reversed(routes) if by_caller else routes)),
    ]
    return join(method + (b" sip:ua@127.0.3.1:5060 SIP/2.0" if by_caller else b" sip:ua@127.0.0.1:5090 SIP/2.0"), lines)
