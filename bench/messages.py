# SPDX-License-Identifier: Apache-2.0
"""The messages of one call as a carrier's SBC and a telephony server write them."""

from __future__ import annotations

CALLER = ("127.0.60.2", 5060)
GATEWAY = ("127.0.60.1", 5060)

_INVITE = """INVITE sip:0123456789@127.0.60.1:5060 SIP/2.0
Via: SIP/2.0/UDP 127.0.60.2:5060;branch=z9hG4bK-{number:08d}-1
Max-Forwards: 70
From: "Sylvie" <sip:+33687654321@127.0.60.2:5060>;tag=c{number:08d}
To: <sip:0123456789@127.0.60.1:5060>
Call-ID: {number:08d}-10421@127.0.60.2
CSeq: 1 INVITE
Contact: <sip:+33687654321@127.0.60.2:5060>
Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, PRACK
Supported: timer, 100rel
Expires: 90
User-Agent: sbc-1/4.2
P-Asserted-Identity: <sip:+33687654321@carrier.example;user=phone>
Content-Type: application/sdp
Content-Length: {size}

"""

_SDP = """v=0
o=- 53655765 2353687637 IN IP4 127.0.60.2
s=-
c=IN IP4 127.0.60.2
t=0 0
m=audio 16384 RTP/AVP 8 0 101
a=rtpmap:8 PCMA/8000
a=rtpmap:101 telephone-event/8000
"""

_IN_DIALOG = """{method} sip:{host}:5060 SIP/2.0
Via: SIP/2.0/UDP 127.0.60.2:5060;branch=z9hG4bK-{number:08d}-{method}
{route}Max-Forwards: 70
From: "Sylvie" <sip:+33687654321@127.0.60.2:5060>;tag=c{number:08d}
To: <sip:0123456789@127.0.60.1:5060>;tag=s{number:08d}
Call-ID: {number:08d}-10421@127.0.60.2
CSeq: {cseq} {method}
Content-Length: 0

"""

COPIED = (b"Via:", b"Record-Route:", b"From:", b"To:", b"Call-ID:", b"CSeq:")
"""What a response takes over from its request (RFC 3261 section 8.2.6.2)."""


def wire(text: str) -> bytes:
    """*text* with the line ends of SIP."""
    return text.replace("\n", "\r\n").encode()


def invite(number: int) -> bytes:
    """The INVITE of call *number*: 735 octets, 14 header lines with SDP."""
    body = wire(_SDP)
    return wire(_INVITE.format(number=number, size=len(body))) + body


def in_dialog(method: str, cseq: int, number: int, route: bytes, host: str) -> bytes:
    """ACK or BYE of call *number* towards the server at *host*; *route* is the Route header made of Record-Route."""
    text = _IN_DIALOG.format(method=method, cseq=cseq, number=number, host=host, route="")
    head, _, tail = wire(text).partition(b"Max-Forwards")
    return head + route + b"Max-Forwards" + tail


def response(request: bytes, status: str, number: int, host: str, body: str = "") -> bytes:
    """What the server at *host* answers to *request*."""
    lines = [b"SIP/2.0 " + status.encode()]
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        if line.startswith(COPIED):
            with_tag = line.startswith(b"To:") and b";tag=" not in line
            lines.append(line + b";tag=s%08d" % number if with_tag else line)
    payload = wire(body)
    lines += [b"Contact: <sip:%s:5060>" % host.encode(), b"Content-Length: %d" % len(payload), b"", payload]
    return b"\r\n".join(lines)


def answer(request: bytes, number: int, host: str) -> bytes:
    """200 with SDP."""
    return response(request, "200 OK", number, host, _SDP)


def route_set(answered: bytes) -> bytes:
    """The Route header lines that the caller makes of a 200's Record-Route (RFC 3261 section 12.1.2)."""
    lines = answered.partition(b"\r\n\r\n")[0].split(b"\r\n")
    recorded = [line.partition(b":")[2] for line in lines if line.startswith(b"Record-Route:")]
    return b"".join(b"Route:" + value + b"\r\n" for value in reversed(recorded))
