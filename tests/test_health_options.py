# SPDX-License-Identifier: Apache-2.0
"""The OPTIONS request that probes a peer, octet by octet, and the branch of each."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ubisip.health import Branches, Origin, options

REQUEST = b"""\
OPTIONS sip:192.0.2.1:5060 SIP/2.0\r
Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKp0000000000000001;rport\r
Max-Forwards: 70\r
From: <sip:ubisip@127.0.0.1:5060>;tag=p0000000000000001\r
To: <sip:192.0.2.1:5060>\r
Call-ID: p0000000000000001@127.0.0.1:5060\r
CSeq: 7 OPTIONS\r
Contact: <sip:ubisip@127.0.0.1:5060>\r
Accept: application/sdp\r
User-Agent: ubisip\r
Content-Length: 0\r
\r
"""


def test_the_request_is_complete() -> None:
    assert options("sip:192.0.2.1:5060", Origin("127.0.0.1:5060"), "z9hG4bKp0000000000000001", 7) == REQUEST


@pytest.mark.parametrize(
    ("transport", "via", "contact"),
    [
        ("udp", b"Via: SIP/2.0/UDP [2001:db8::1]:5060;", b"Contact: <sip:ubisip@[2001:db8::1]:5060>\r\n"),
        ("tcp", b"Via: SIP/2.0/TCP [2001:db8::1]:5060;", b"Contact: <sip:ubisip@[2001:db8::1]:5060;transport=tcp>\r\n"),
        ("tls", b"Via: SIP/2.0/TLS [2001:db8::1]:5060;", b"Contact: <sip:ubisip@[2001:db8::1]:5060;transport=tls>\r\n"),
    ],
)
def test_the_transport_shows_in_via_and_contact(transport: str, via: bytes, contact: bytes) -> None:
    request = options("sip:a.example", Origin("[2001:db8::1]:5060", transport), next(Branches(1)))
    assert via in request and contact in request


@pytest.mark.parametrize("uri", ["", "sip:a b", "sip:a\r\nX: y", "sip:a>", "<sip:a", 'sip:"a', "sip:a\0", "sip:a\t"])
def test_a_uri_cannot_break_out_of_its_line(uri: str) -> None:
    with pytest.raises(ValueError):
        options(uri, Origin("127.0.0.1"), next(Branches(1)))
    with pytest.raises(ValueError):
        options("sip:a", Origin(uri), next(Branches(1)))


@given(st.integers(0, 2**64 - 1))
def test_branches_are_distinct_and_well_formed(seed: int) -> None:
    some = list(itertools.islice(Branches(seed), 500))
    assert len(set(some)) == 500
    assert all(re.fullmatch(r"z9hG4bKp[0-9a-f]{16}", branch) for branch in some)


def test_the_seed_keeps_two_processes_apart() -> None:
    assert not set(itertools.islice(Branches(1), 1000)) & set(itertools.islice(Branches(2), 1000))


def test_two_probes_share_no_identifier() -> None:
    branches = Branches(42)
    first, second = (options("sip:a", Origin("127.0.0.1"), next(branches)) for _ in range(2))
    for header in (b"branch=", b"tag=", b"Call-ID: "):
        values = [re.search(header + rb"([^;\r]+)", request) for request in (first, second)]
        assert values[0] and values[1] and values[0][1] != values[1][1]
