# SPDX-License-Identifier: Apache-2.0
"""The queue of a call centre, and a server's register of where its agents are (RFC 3327, RFC 5626)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ubisip.core.message import Message
from ubisip.lab.udp import Address
from ubisip.lab.wire import uri_address

_CONTACT = re.compile(r"<([^>]*)>(.*)", re.DOTALL)
_EXPIRES = re.compile(r";\s*expires\s*=\s*(\d+)", re.IGNORECASE)
_FLOW = re.compile(r";\s*(\+sip\.instance|reg-id)\s*=\s*\"?([^\";]+)", re.IGNORECASE)


class Queue:
    """Which agents are free; all servers of a platform share it, as they would share their database."""

    def __init__(self, agents: Iterable[str], seed: int | str = 0) -> None:
        self._random = random.Random(f"{seed} queue")
        self._free = list(agents)
        self._random.shuffle(self._free)

    def take(self, known: Iterable[str]) -> str | None:
        """A free agent among those *known* to the server that asks; the one who has waited longest."""
        reachable = set(known)
        for place, agent in enumerate(self._free):
            if agent in reachable:
                return self._free.pop(place)
        return None

    def give_back(self, agent: str) -> None:
        """The agent has hung up."""
        self._free.append(agent)


@dataclass(frozen=True, slots=True)
class Location:
    """One way to an agent: by which gateway."""

    contact: str
    path: str
    """The Path value that was registered with it."""
    expires_at: float

    @property
    def hop(self) -> Address:
        """The gateway that has the flow."""
        return uri_address(self.path or self.contact)


class Locations:
    """The bindings that a server was told of: by agent, then by instance and reg-id, else by contact."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Location]] = {}

    def clear(self) -> None:
        """Forget all, as a process that dies does."""
        self._known.clear()

    def take(self, register: Message, now: float) -> list[str]:
        """Note what a REGISTER says; returns the Contact lines of its 200."""
        agent = register.to_user
        ways = self._known.setdefault(agent, {})
        path = next(iter(register.get_all("Path")), "")
        for value in register.get_all("Contact"):
            match = _CONTACT.search(value)
            if match is None:
                continue
            flow = dict(_FLOW.findall(match[2]))
            key = f"{flow['+sip.instance']} {flow.get('reg-id')}" if "+sip.instance" in flow else match[1]
            expires = _EXPIRES.search(match[2])
            seconds = int(expires[1]) if expires else 3600
            ways.pop(key, None)
            if seconds:
                ways[key] = Location(match[1], path, now + seconds)
        return [
            f"Contact: <{way.contact}>;expires={max(0, int(way.expires_at - now))}"
            for way in ways.values()
            if way.expires_at > now
        ]

    def of(self, agent: str, now: float) -> list[Location]:
        """The ways to an agent that have not expired."""
        return [way for way in self._known.get(agent, {}).values() if way.expires_at > now]

    def agents(self, now: float) -> list[str]:
        """Everybody who can be reached."""
        return [agent for agent in self._known if self.of(agent, now)]
