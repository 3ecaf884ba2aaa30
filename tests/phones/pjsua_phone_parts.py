# SPDX-License-Identifier: Apache-2.0
"""Agents' PJSIP phones, each a process of its own that does what a test tells it."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence

from processes import wait_until
from site_parts import HERE, REALM, USERS, Sites

AUDIBLE = 10
"""Level, of 255, above which the other's tone is heard: silence is 0, the tone 36."""
_numbers = itertools.count(1)


class Phone:
    """A PJSIP phone of one agent; *proxies*: those it registers with, one after the other with reg-id 1, 2..."""

    def __init__(self, sites: Sites, user: str, *, proxies: Sequence[str] = (), ca: str = "") -> None:
        number = next(_numbers)
        host = sites.place.other(number % 200 + 1)[0]
        settings = {
            "user": user,
            "password": USERS[user],
            "realm": REALM,
            "proxies": list(proxies or sites.proxies("tcp")),
            "instance": f"<urn:uuid:00000000-0000-1000-8000-{int(user):012x}>",
            "host": host,
            "media_port": 40000,
            "expires": 600,
            "log": str(sites.place.directory / f"pjsua-{user}-{number}.log"),
        }
        if ca:
            settings["ca"] = ca
        self._lines_seen = 0
        command = [sys.executable, str(HERE / "pjsua_agent.py"), json.dumps(settings)]
        self._child = sites.place.run(f"pjsua-{user}", command, talks=True)

    def does(self, command: str) -> None:
        assert self._child.process.stdin is not None
        self._child.process.stdin.write(f"{command}\n".encode())
        self._child.process.stdin.flush()

    def _lines(self) -> list[str]:
        return self._child.output.read_text().rpartition("\n")[0].splitlines()

    def hears(self, start: str, timeout: float = 15) -> str:
        """Wait until it tells a line that begins so, after whatever it was last waited for; gives the line."""
        found: list[int] = []

        def told() -> bool:
            lines = self._lines()
            found[:] = [number for number in range(self._lines_seen, len(lines)) if lines[number].startswith(start)]
            assert found or self._child.running, self._child.words()
            return bool(found)

        try:
            wait_until(told, start, timeout)
        except AssertionError:
            raise AssertionError(f"no {start!r} after line {self._lines_seen} of {self._lines()!r}") from None
        self._lines_seen = found[0] + 1
        return self._lines()[found[0]]

    def heard(self, start: str) -> int:
        """How many lines began so until now."""
        return sum(line.startswith(start) for line in self._lines())

    def registers(self, times: int = 2) -> None:
        """Wait until so many registrations have been accepted in all."""
        accepted = [f"registration {number} 200" for number in (1, 2)]
        wait_until(
            lambda: sum(map(self.heard, accepted)) >= times, f"{times} registrations; it told {self._lines()!r}", 15
        )

    def hears_the_other(self) -> None:
        """Wait until the other's tone arrives, in packets that come now."""

        def received() -> tuple[int, int]:
            self.does("audio")
            _, packets, level = self.hears("audio").split()
            return int(packets), int(level)

        before = received()[0]

        def audible() -> bool:
            packets, level = received()
            return packets > before + 10 and level > AUDIBLE

        wait_until(audible, "the other to be heard", 10)

    def kill(self) -> None:
        """Take it off the mains."""
        self._child.kill()


def talk(caller: Phone, callee: Phone, uri: str) -> None:
    """A call from one to the other that is answered, and heard by both."""
    caller.does(f"call {uri}")
    callee.hears("incoming")
    caller.hears("state EARLY 180")
    callee.does("answer")
    caller.hears("state CONFIRMED")
    callee.hears("state CONFIRMED")
    caller.hears_the_other()
    callee.hears_the_other()


def reinvite(one: Phone, other: Phone) -> None:
    """*one* asks the other for the same media once more."""
    one.does("reinvite")
    other.hears("done INVITE 200")
    one.hears("media")


def hang_up(one: Phone, other: Phone) -> None:
    """*one* ends the call."""
    one.does("bye")
    other.hears("state DISCONNECTED")
    one.hears("state DISCONNECTED")
