# SPDX-License-Identifier: Apache-2.0
"""HAProxy's run-time socket (Management Guide section 9.3): commands, and what it says of its servers.

One connection a request, closed by HAProxy after the answers. A command that changes something answers with nothing,
or with a text that tells what it did or why it did not.
"""

from __future__ import annotations

import asyncio
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ubisip.address import split_address

MAX_ANSWER = 8 * 2**20
"""Octets. A few thousand servers take 2 MiB; what is no HAProxy must not fill the memory."""
STATE_FORMAT = "1"
"""The version of ``show servers state`` that is understood."""

MAINT = 0x01
"""Bit of srv_admin_state: maintenance, asked for by the socket or by ``disabled`` (which leaves 0x04 set for ever)."""
DRAIN = 0x08
_WORD = re.compile(r"[!-:<-~]+")
"""What stands as one word in a command: no space, no semicolon, no control character."""


class HaproxyError(Exception):
    """HAProxy did not do what it was told, or its answer is none; the text is its own."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a backend as HAProxy sees it (``show servers state``)."""

    name: str
    address: str
    port: int
    running: bool
    """It would get new connections if nothing else held them back."""
    admin: int
    """The bits of srv_admin_state."""
    weight: int
    """As it is now."""
    initial_weight: int
    """As it was configured: 100 %."""

    @property
    def state(self) -> str:
        """The state by the operator's word: ``ready``, ``drain`` or ``maint``."""
        if self.admin & MAINT:
            return "maint"
        return "drain" if self.admin & DRAIN else "ready"


def word(text: str) -> str:
    """*text*, which stands as one word in a command.

    :raises ValueError: it would not.
    """
    if not _WORD.fullmatch(text):
        raise ValueError(f"expected a word without spaces and semicolons, found {text!r}")
    return text


async def talk(where: str, command: str, timeout: float) -> str:
    """The answer to *command*; *where* is the path of a Unix socket or ``host:port``.

    :raises OSError: HAProxy cannot be reached, or does not answer within *timeout* seconds (TimeoutError).
    :raises HaproxyError: the answer is too long.
    """
    async with asyncio.timeout(timeout):
        reader, writer = await _connected(where)
        try:
            writer.write(command.encode() + b"\n")
            return await _answer(reader)
        finally:
            writer.transport.abort()


async def _connected(where: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    path = where.removeprefix("unix:")
    if path.startswith("/"):
        return await asyncio.open_unix_connection(path)
    return await asyncio.open_connection(*split_address(where))


async def _answer(reader: asyncio.StreamReader) -> str:
    answer = bytearray()
    while more := await reader.read(65_536):
        answer += more
        if len(answer) > MAX_ANSWER:
            raise HaproxyError("the answer has no end")
    return answer.decode(errors="replace")


async def servers_of(where: str, backend: str, timeout: float) -> Mapping[str, Server]:
    """The servers of *backend* by name.

    :raises OSError, HaproxyError: as :func:`talk`; or there is no such backend.
    """
    answer = await talk(where, f"show servers state {word(backend)}", timeout)
    version, _, rest = answer.strip().partition("\n")
    if version != STATE_FORMAT or not rest.startswith("# "):
        raise HaproxyError(f"{where} has no backend {backend}: {answer.strip()[:200]!r}")
    rows = csv.DictReader(rest[2:].splitlines(), delimiter=" ")
    return {row["srv_name"]: _server(row) for row in rows}


def _server(row: Mapping[str, str]) -> Server:
    try:
        return Server(
            name=row["srv_name"],
            address=row["srv_addr"],
            port=int(row["srv_port"]),
            running=int(row["srv_op_state"]) == 2,
            admin=int(row["srv_admin_state"]),
            weight=int(row["srv_uweight"]),
            initial_weight=int(row["srv_iweight"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise HaproxyError(f"a line of 'show servers state' that cannot be read: {error}") from error


async def statistics(where: str, timeout: float) -> Sequence[Mapping[str, str]]:
    """The rows of ``show stat``, a mapping each.

    :raises OSError, HaproxyError: as :func:`talk`; or the answer is none.
    """
    answer = await talk(where, "show stat", timeout)
    if not answer.startswith("# pxname,"):
        raise HaproxyError(f"{where} gives no statistics: {answer.strip()[:200]!r}")
    return list(csv.DictReader(answer[2:].strip().splitlines()))
