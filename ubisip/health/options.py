# SPDX-License-Identifier: Apache-2.0
"""The OPTIONS request that probes a peer (RFC 3261 section 11), as octets."""

from __future__ import annotations

import re
from dataclasses import dataclass

_GOLDEN = 0x9E3779B97F4A7C15
"""Odd, so that its multiples modulo 2**64 run through every value before one returns."""
_FORBIDDEN = re.compile(r'[\x00-\x20\x7f<>"]')


class Branches:
    """An endless supply of branch parameters for probes, each distinct from all before it.

    They read ``z9hG4bKp`` and 16 hexadecimal digits; *seed* (64 bits at random) keeps those of two processes apart
    and from being guessed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0

    def __iter__(self) -> Branches:
        return self

    def __next__(self) -> str:
        self._count += 1
        return f"z9hG4bKp{(self._seed + self._count * _GOLDEN) % 2**64:016x}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who probes: what goes into Via and Contact."""

    sent_by: str
    """``host`` or ``host:port``, an IPv6 address in brackets."""
    transport: str = "udp"


def options(uri: str, origin: Origin, branch: str, cseq: int = 1) -> bytes:
    """The whole OPTIONS request to *uri*, outside any dialog, ready to send.

    :raises ValueError: *uri* or ``sent_by`` has a character that would break out of its place.
    """
    for text in (uri, origin.sent_by):
        if not text or _FORBIDDEN.search(text):
            raise ValueError(f"{text!r} cannot stand in a request line")
    unique = branch.removeprefix("z9hG4bK")
    stream = "" if origin.transport == "udp" else f";transport={origin.transport}"
    lines = (
        f"OPTIONS {uri} SIP/2.0",
        f"Via: SIP/2.0/{origin.transport.upper()} {origin.sent_by};branch={branch};rport",
        "Max-Forwards: 70",
        f"From: <sip:ubisip@{origin.sent_by}>;tag={unique}",
        f"To: <{uri}>",
        f"Call-ID: {unique}@{origin.sent_by}",
        f"CSeq: {cseq} OPTIONS",
        f"Contact: <sip:ubisip@{origin.sent_by}{stream}>",
        "Accept: application/sdp",
        "User-Agent: ubisip",
        "Content-Length: 0",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()
