# SPDX-License-Identifier: Apache-2.0
"""Destinations with host names: looked up beside the calls; and which address a probe gives as its own."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from typing import Any

import pytest

from ubisip.platform import Endpoint, Kind, Peer
from ubisip.proxy import addresses
from ubisip.proxy.addresses import Addresses, origin_of

INSIDE = Endpoint("udp", "10.1.0.5", 5060)
OUTSIDE = Endpoint("udp", "192.0.2.5", 5070)
SIX = Endpoint("udp", "2001:db8::5", 5060)
ANY = Endpoint("udp", "0.0.0.0", 5080)


def peer(host: str, listener: str = "") -> Peer:
    return Peer(Kind.SERVER, "tel1", "PA2", f"sip:{host}", Endpoint("udp", host, 5060), (), listener=listener)


@pytest.mark.parametrize(
    ("address", "listener", "listen", "advertise", "origin"),
    [
        ("10.1.0.9", "", [OUTSIDE, INSIDE], "", "10.1.0.5:5060"),
        ("192.0.2.9", "", [INSIDE, OUTSIDE], "sip.pa2.test", "192.0.2.5:5070"),
        ("10.1.0.9", "udp:192.0.2.5:5070", [INSIDE, OUTSIDE], "", "192.0.2.5:5070"),
        ("2001:db8::9", "", [INSIDE, SIX], "", "[2001:db8::5]:5060"),
        ("203.0.113.9", "", [INSIDE, OUTSIDE, SIX], "", "10.1.0.5:5060"),
        ("10.1.0.9", "", [ANY], "sip.pa2.test", "sip.pa2.test:5080"),
        ("10.1.0.9", "", [ANY], "sip.pa2.test:5099", "sip.pa2.test:5099"),
        ("10.1.0.9", "", [ANY], "[2001:db8::7]", "[2001:db8::7]:5080"),
        ("10.1.0.9", "", [Endpoint("tcp", "10.1.0.9", 5060), INSIDE], "", "10.1.0.5:5060"),
    ],
)
def test_a_probe_names_the_listener_that_calls_leave_from(
    address: str, listener: str, listen: list[Endpoint], advertise: str, origin: str
) -> None:
    assert origin_of(peer(address, listener), address, listen, advertise) == (origin, "udp")


def test_a_probe_over_a_stream_names_a_listener_of_streams() -> None:
    listen = [INSIDE, Endpoint("tcp", "192.0.2.5", 5070), Endpoint("tcp", "10.1.0.5", 5062)]
    target = dataclasses.replace(peer("10.1.0.9"), endpoint=Endpoint("tcp", "10.1.0.9", 5060))
    assert origin_of(target, "10.1.0.9", listen, "") == ("10.1.0.5:5062", "tcp")


class Resolver:
    """Answers for the event loop's own look-up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._answer)

    async def _answer(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        answer = self.answers[host]
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        families = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in answer]
        return [(family, 0, 0, "", (one, port)) for family, one in zip(families, answer, strict=True)]


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


async def test_only_names_are_looked_up_and_only_reachable_addresses_taken(resolver: Resolver) -> None:
    resolver.answers = {"tel1.test": ["2001:db8::1", "10.1.0.21"]}
    known = Addresses()
    await known.refresh([peer("10.1.0.22"), peer("tel1.test")], [INSIDE])
    assert (resolver.asked, known.known) == (["tel1.test"], {"tel1": "10.1.0.21"})
    await known.refresh([peer("tel1.test")], [SIX])
    assert known.known == {"tel1": "2001:db8::1"}


@pytest.mark.parametrize("trouble", [OSError("no such host"), [], UnicodeError("label too long")])
async def test_the_last_good_address_is_kept(resolver: Resolver, trouble: Any) -> None:
    known = Addresses()
    resolver.answers = {"tel1.test": ["10.1.0.21"]}
    await known.refresh([peer("tel1.test")], [INSIDE])
    resolver.answers = {"tel1.test": trouble}
    await known.refresh([peer("tel1.test")], [INSIDE])
    assert known.known == {"tel1": "10.1.0.21"}
    await known.refresh([], [INSIDE])
    assert known.known == {}


async def test_a_silent_resolver_is_waited_for_only_so_long(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(addresses, "PATIENCE", 0.01)
    resolver.answers = {"tel1.test": None}
    known = Addresses()
    for _ in range(3):
        await known.refresh([peer("tel1.test")], [INSIDE])
    assert known.known == {}
    assert [record.getMessage() for record in caplog.records] == [
        "no address for tel1.test: the resolver did not answer"
    ]
