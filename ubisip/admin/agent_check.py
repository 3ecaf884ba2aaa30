# SPDX-License-Identifier: Apache-2.0
"""The server that HAProxy's ``agent-check`` asks: one connection a question, one line of ASCII for an answer.

With ``agent-send "TIER/MEMBER\\n"`` HAProxy asks for a member of a tier as it is seen from here, with
``"TIER/MEMBER/primary\\n"`` whether it is the primary; without ``agent-send`` for this gateway, with the room it has
left as its weight. Each answer says all that may have to be undone, since only the agent undoes what the agent said.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from dataclasses import dataclass
from typing import Literal, Protocol

from ubisip.admin.http import AdminError
from ubisip.platform import Endpoint

MAX_CONNECTIONS = 256
"""Connections at a time; each HAProxy makes one for each server each `agent-inter`. Beyond, new ones are closed."""
MAX_QUESTION = 256
"""Octets of a question."""
PATIENCE = 0.05
"""Seconds that a question may take to come: HAProxy sends it with the connection, or none at all."""
MAX_REASON = 80
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._:/-]+")


@dataclass(frozen=True, slots=True)
class Share:
    """How much somebody may be given to do."""

    state: Literal["up", "drain", "down"]
    percent: int = 100
    """Of the weight that HAProxy is configured with, from 1 on; only where it is up."""
    ready: bool = False
    """Where it is up: whether an earlier ``drain`` is undone. That undoes what was said on the run-time socket as well
    (HAProxy 2.6), so it is nothing for servers that the action ``haproxy`` takes out."""
    reason: str = ""


class AgentFace(Protocol):
    """Who knows the answers."""

    def share(self, subject: str) -> Share | None:
        """Of the gateway itself (empty *subject*) or of a member; None: nothing is known, so nothing is to change."""


def line(share: Share) -> bytes:
    """The answer as HAProxy 2.6 and later understand it.

    The word and its reason are apart: ``down#reason`` is not understood, and the server would stay up.
    """
    reason = _NOT_PLAIN.sub("-", share.reason)[:MAX_REASON].strip()
    if share.state == "up":
        return f"up {'ready ' if share.ready else ''}{max(1, min(100, share.percent))}%\n".encode()
    word = "drain" if share.state == "drain" else "down"
    return f"{word} #{reason}\n".encode() if reason else f"{word}\n".encode()


class AgentCheck:
    """Answers from ``start`` to ``stop``."""

    def __init__(self, face: AgentFace) -> None:
        self._face = face
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, endpoint: Endpoint) -> None:
        """Listen.

        :raises AdminError: the address cannot be used.
        """
        try:
            self._server = await asyncio.start_server(self._serve, endpoint.host, endpoint.port, limit=MAX_QUESTION)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise AdminError(f"cannot answer agent checks on {endpoint}: {reason}") from error

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                share = self._face.share(await _question(reader))
                writer.write(line(share) if share is not None else b"")
        finally:
            self._open -= 1
            writer.close()


async def _question(reader: asyncio.StreamReader) -> str:
    """What is asked for; empty when nothing comes, or nothing that is a question."""
    question = b""
    with contextlib.suppress(TimeoutError, ConnectionError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE):
            question = await reader.readuntil(b"\n")
    return question.decode("ascii", "replace").strip()
