# SPDX-License-Identifier: Apache-2.0
"""Invariant: no response whose branch, Call-ID, From tag, CSeq number, next Via branch or address is not what a gateway
signed is passed on by another gateway, and no request follows a Route token in which, or in whose Call-ID, an octet
changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable

from messages import SDP, header, in_dialog, new_request, response
from mutation import Reader
from platform_under_test import CARRIERS, GATEWAY_URI, KEY, PLAIN

from ubisip.core.engine import Engine

ALPHABET = b"0123456789abcdefABCDEFGHz-.!%*_+~"
SIGNED = re.compile(
    rb"branch=(z9hG4bKu\w+)|branch=(z9hG4bK-\d+)|received=([\d.]+)|rport=(\d+)|From:.*;tag=(\w+)"
    rb"|Call-ID: (\S+)|CSeq: (\d+)"
)
FOLLOWED = re.compile(rb";u=(\w+)|Call-ID: (\S+)")


def call() -> tuple[bytes, bytes]:
    """An INVITE as its server got it, and the 200 as its caller got it."""
    engine = Engine(PLAIN, [KEY])
    engine.receive(new_request(b"INVITE", GATEWAY_URI, CARRIERS[0], 1, SDP), CARRIERS[0], 0, 1000.0)
    (leg,) = (each for each in engine.outbox() if each.data.startswith(b"INVITE"))
    engine.receive(response(leg.data, 200), leg.address, 0, 1000.0)
    return leg.data, engine.outbox()[0].data


LEG, ANSWER = call()
RINGING = response(LEG, 180)
BYE = in_dialog(b"BYE", ANSWER, CARRIERS[0], 1, by_caller=True)
SERVER = ("127.0.3.1", 5060)


def forge(data: bytes, parts: re.Pattern[bytes], reader: Reader) -> bytes:
    """*data* with a few octets of one signed part changed, put in or taken out."""
    spans = [found.span(found.lastindex or 0) for found in parts.finditer(data)]
    start, end = spans[reader.below(len(spans))]
    text = data[start:end]
    for _ in range(1 + reader.below(3)):
        place, octet = reader.below(len(text) + 1), bytes([ALPHABET[reader.below(len(ALPHABET))]])
        text = text[:place] + octet + text[place + reader.below(3) :]
    return data[:start] + text + data[end:]


def try_response(reader: Reader) -> Hashable:
    forged = forge(RINGING, SIGNED, reader)
    engine = Engine(PLAIN, [KEY])
    engine.receive(forged, SERVER, 0, 1000.0)
    passed = engine.outbox()
    assert not passed or same_values(forged, RINGING), (forged, passed)
    return bool(passed)


def same_values(forged: bytes, true: bytes) -> bool:
    """Only the way a number is written differs (CSeq: 01), which nobody signs."""
    numbers = re.compile(rb"\b0+(?=\d)")
    return numbers.sub(b"", forged) == numbers.sub(b"", true)


def try_request(reader: Reader) -> Hashable:
    forged = forge(BYE, FOLLOWED, reader)
    engine = Engine(PLAIN, [KEY])
    engine.receive(forged, CARRIERS[0], 0, 1000.0)
    outbox = engine.outbox()
    followed = [each for each in outbox if not each.data.startswith(b"SIP/2.0 ")]
    assert not followed or forged == BYE, (forged, followed)
    return tuple(header(each.data, b"SIP/2.0")[:3] for each in outbox)


TRIALS: list[Callable[[Reader], Hashable]] = [try_response, try_request]


def seeds() -> list[bytes]:
    """Each part with one octet changed at its front, in its middle and behind its end."""
    return [bytes([trial, part, 0, place, 10, 1]) for trial in range(2) for part in range(7) for place in (0, 8, 41)]


def one_input(data: bytes) -> Hashable:
    """Check the invariant for one forgery."""
    reader = Reader(data)
    return TRIALS[reader.below(2)](reader)
