# SPDX-License-Identifier: Apache-2.0
"""A few sessions to whichever server of a source can be reached, for sources that stand on several machines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ubisip.agents.credentials import Unavailable
from ubisip.agents.secret import Secret
from ubisip.source_url import Host

SESSIONS = 8
"""Sessions at a time; one serves some hundreds of look-ups a second."""
CONNECT_LIMIT = 0.8
"""Seconds for one server: two dead ones and a living third fit into LOOKUP_LIMIT."""
HOST_REST = 10.0
"""Seconds that a server which failed is tried after all others."""
SESSION_LIFE = 300.0
"""Seconds after which a session is made anew, so that the first server of the list is used again once it is back."""


class Session(Protocol):
    """One connection that answers one question at a time."""

    async def ask(self, user: str, realm: str) -> Secret | None: ...
    async def close(self) -> None: ...


@dataclass(slots=True)
class _Held:
    session: Session
    host: Host
    since: float = field(default_factory=time.monotonic)


class Pool:
    """Answers through sessions made by *connect*, which raises whatever it likes when a server cannot be reached."""

    def __init__(self, hosts: Sequence[Host], connect: Callable[[Host], Awaitable[Session]]) -> None:
        self._hosts = tuple(hosts)
        self._connect = connect
        self._turn = asyncio.Semaphore(SESSIONS)
        self._idle: list[_Held] = []
        self._rests: dict[Host, float] = {}

    async def credentials(self, user: str, realm: str) -> Secret | None:
        """What the first server that answers says.

        :raises Unavailable: none does.
        """
        async with self._turn:
            idle = await self._take_idle()
            if idle is not None:
                try:
                    return await self._ask(idle, user, realm)
                except Unavailable:  # its server went away meanwhile, and with it the other idle ones
                    await self._drop_idle()
            return await self._ask(await self._open(), user, realm)

    async def close(self) -> None:
        await self._drop_idle()

    async def _take_idle(self) -> _Held | None:
        while self._idle:
            held = self._idle.pop()
            if time.monotonic() - held.since < SESSION_LIFE:
                return held
            await held.session.close()
        return None

    async def _drop_idle(self) -> None:
        dropped, self._idle = self._idle, []
        for held in dropped:
            await held.session.close()

    async def _ask(self, held: _Held, user: str, realm: str) -> Secret | None:
        """The session's answer; it is kept only if there was one."""
        try:
            secret = await held.session.ask(user, realm)
        except BaseException as error:  # also when the deadline cut it: what it would answer next is unknown
            self._rests[held.host] = time.monotonic() + HOST_REST
            await held.session.close()
            if isinstance(error, Exception):
                raise Unavailable(f"{held.host}: {_reason(error)}") from error
            raise
        self._idle.append(held)
        return secret

    async def _open(self) -> _Held:
        """A session to the first server that takes one; those that failed lately come last."""
        reasons = []
        now = time.monotonic()
        for host in sorted(self._hosts, key=lambda host: self._rests.get(host, 0.0) > now):
            try:
                async with asyncio.timeout(CONNECT_LIMIT):
                    held = _Held(await self._connect(host), host)
            except Exception as error:
                self._rests[host] = time.monotonic() + HOST_REST
                reasons.append(f"{host}: {_reason(error)}")
            else:
                self._rests.pop(host, None)
                return held
        raise Unavailable("; ".join(reasons))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection within {CONNECT_LIMIT:g} s"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
