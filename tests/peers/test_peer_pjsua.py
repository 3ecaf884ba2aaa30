# SPDX-License-Identifier: Apache-2.0
"""Calls between two PJSIP phones, one at the carrier, one as telephony server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Address, Place, wait_until

pytest.importorskip("pjsua2", reason="the wheel pjsua2-python exists for x86-64 only")

PHONE = Path(__file__).with_name("pjsua_phone.py")


class Phone:
    """A PJSIP phone in a process of its own."""

    def __init__(self, place: Place, name: str, address: Address) -> None:
        self._child = place.run(name, [sys.executable, str(PHONE), address[0], str(address[1])], talks=True)
        self._seen = 0
        self.hears("ready")

    def does(self, command: str) -> None:
        assert self._child.process.stdin is not None
        self._child.process.stdin.write(f"{command}\n".encode())
        self._child.process.stdin.flush()

    def hears(self, line: str) -> None:
        """Wait until it tells this, after whatever it was last waited for."""

        def told() -> bool:
            lines = self._child.output.read_text().splitlines()
            if line not in lines[self._seen :]:
                assert self._child.running, self._child.words()
                return False
            self._seen = lines.index(line, self._seen) + 1
            return True

        try:
            wait_until(told, line, 10)
        except AssertionError:
            raise AssertionError(f"no {line!r} among {self._child.output.read_text()!r}") from None


Pair = tuple[Phone, Phone]


@pytest.fixture(params=["from the carrier", "from the server"])
def pair(place: Place, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Caller and callee."""
    place.write(servers=1, carriers=1)
    place.start_gateway()
    ends = [Phone(place, "carrier", place.carrier()), Phone(place, "server", place.server())]
    if request.param == "from the server":
        ends.reverse()
    yield ends[0], ends[1]
    for phone in ends:
        phone.does("quit")


def ring(place: Place, caller: Phone, callee: Phone) -> None:
    host, port = place.gateway()
    caller.does(f"call sip:+33155500001@{host}:{port}")
    callee.hears("incoming")
    callee.does("answer 180")
    caller.hears("state EARLY 180")


def answer(caller: Phone, callee: Phone) -> None:
    callee.does("answer 200")
    caller.hears("state CONFIRMED 200")
    callee.hears("state CONFIRMED 200")


@pytest.mark.parametrize("ends_it", ["caller", "callee"])
def test_a_call_with_all_that_happens_within_one(place: Place, pair: Pair, ends_it: str) -> None:
    caller, callee = pair
    ring(place, caller, callee)
    answer(caller, callee)
    for one, other in (caller, callee), (callee, caller):
        one.does("hold")
        other.hears("media held-by-them")
        one.hears("media held-by-us")
        one.does("resume")
        other.hears("media active")
        one.hears("media active")
        one.does("info 5")
        other.hears("digit 5")
        one.hears("done INFO 200")
        one.does("update")
        one.hears("done UPDATE 200")
    one, other = (caller, callee) if ends_it == "caller" else (callee, caller)
    one.does("bye")
    other.hears("state DISCONNECTED 200")
    one.hears("state DISCONNECTED 200")


def test_a_call_that_is_cancelled(place: Place, pair: Pair) -> None:
    caller, callee = pair
    ring(place, caller, callee)
    caller.does("bye")
    callee.hears("state DISCONNECTED 487")
    caller.hears("state DISCONNECTED 487")


@pytest.mark.parametrize("status", [486, 603])
def test_a_call_that_is_refused(place: Place, pair: Pair, status: int) -> None:
    caller, callee = pair
    ring(place, caller, callee)
    callee.does(f"answer {status}")
    caller.hears(f"state DISCONNECTED {status}")
    callee.hears(f"state DISCONNECTED {status}")
