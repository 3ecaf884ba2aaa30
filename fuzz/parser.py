# SPDX-License-Identifier: Apache-2.0
"""Invariant: any octets give either a Message whose every part lies in them, or a ParseError of status 4xx or 5xx whose
offset does; every scanner says the same, and a Message's own octets parse again to the same Message."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from messages import SDP, new_request, response

from ubisip.core.message import Message, ParseError, use_scanner

SCANNERS = [name for name in ("scalar", "sse2", "avx2") if use_scanner(name)]
PARTS = (
    "is_request", "method", "uri", "status", "reason", "call_id", "cseq", "from_tag", "to_tag", "from_user", "to_user",
    "uri_user", "branch", "body", "headers",
)


def seeds() -> list[bytes]:
    """Sound messages, and those in the corpus folder."""
    invite = new_request(b"INVITE", b"sip:0155@127.0.0.1:5060", ("127.0.0.1", 5090), 1, SDP)
    files = sorted((Path(__file__).parent / "corpus" / "parser").glob("*.sip"))
    return [invite, response(invite, 180), response(invite, 200), *(path.read_bytes() for path in files)]


def read(data: bytes) -> tuple[Hashable, ...]:
    """Every part of the message, or what its ParseError says."""
    try:
        message = Message(data)
    except ParseError as error:
        assert 400 <= error.status < 600, error.status
        assert error.reason, "a fault has a name"
        assert 0 <= error.offset <= len(data), error.offset
        return (error.status, error.reason, error.offset)
    assert message.data in data
    assert message.data.endswith(message.body)
    text = message.data.decode("utf-8", "surrogateescape")
    assert all(name in text and value in text for name, value in message.headers)
    assert 1 <= message.cseq + 1 <= 1 << 31
    return tuple(repr(getattr(message, part)) for part in PARTS)


def one_input(data: bytes) -> Hashable:
    """Check the invariant; what comes back tells inputs of different kinds apart."""
    seen = []
    for name in SCANNERS:
        use_scanner(name)
        seen.append(read(data))
    assert len(set(seen)) == 1, seen
    if len(seen[0]) == 3:
        return seen[0][:2]
    whole = Message(data).data
    assert read(whole) == seen[0], "a message's own octets are the message"
    return (Message(data).method[:8], Message(data).status // 100, len(Message(data).headers))
