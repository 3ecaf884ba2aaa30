# SPDX-License-Identifier: Apache-2.0
"""A session with one MariaDB server: opened for one task, closed after it, thrown away when it was interrupted."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from asyncmy import errors
from asyncmy.connection import Connection
from asyncmy.cursors import DictCursor

from ubisip.address import split_address
from ubisip.health.probe import Target
from ubisip.health.trust import client_context

Tls = Literal["off", "on", "unverified"]
PORT = 3306
TOO_MANY_CONNECTIONS = 1040
REFUSED = "refused"
TIMEOUT = "timeout"
BROKEN = "broken"
CLOSED = "closed"
UNTRUSTED = "tls"
RIGHTS = frozenset({1044, 1045, 1049, 1130, 1142, 1143, 1227, 1370, 1698})
"""Errors that say: the server lives, but this user may not ask or the password is wrong."""


class SqlError(Exception):
    """A statement or a connection failed.

    *code* is stable: ``refused``, ``timeout``, ``broken`` (the connection ended), ``closed`` (before it began),
    ``name`` (it does not resolve), ``tls`` (its certificate is not accepted, or there is nothing to check it by) or
    ``sql.1045`` and the like; *number* is MariaDB's error number, 0 where the server said nothing.
    """

    def __init__(self, code: str, number: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.number = number

    @property
    def answered(self) -> bool:
        """The server itself said no: it lives."""
        return self.number != 0


class Session:
    """Statements on one connection, each with the session's deadline; after an interruption it is of no use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def rows(self, statement: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        """All rows of *statement*, a mapping each.

        :raises SqlError: the server refused it, or the connection broke.
        """
        try:
            async with self._connection.cursor(DictCursor) as cursor:
                await cursor.execute(statement, values or None)
                return list(await cursor.fetchall() or ())
        except errors.MySQLError as error:
            raise _sql_error(error) from error
        except (OSError, EOFError) as error:
            raise SqlError(BROKEN, 0, str(error) or type(error).__name__) from error

    async def row(self, statement: str, values: Sequence[object] = ()) -> Mapping[str, Any]:
        """The first row of *statement*; empty when there is none."""
        found = await self.rows(statement, values)
        return found[0] if found else {}

    async def run(self, *statements: str) -> None:
        """Take *statements* one after the other; what they answer does not matter."""
        for statement in statements:
            await self.rows(statement)


@asynccontextmanager
async def session(target: Target, timeout: float) -> AsyncIterator[Session]:
    """A new connection to *target*, in autocommit, for at most *timeout* seconds in all; encrypted when the parameters
    of its tier, ``tls`` and ``ca_file``, say so.

    :raises SqlError: it cannot be had, or the time was up: then the connection has been closed, since the answer to
        an interrupted statement would be taken for that of the next one.
    """
    connection = _connection(target, timeout)
    try:
        async with asyncio.timeout(timeout):
            await _connect(connection)
            yield Session(connection)
            await connection.ensure_closed()
    except TimeoutError as error:
        raise SqlError(TIMEOUT, 0, f"no answer within {timeout:g} s") from error
    finally:
        connection.close()


def _connection(target: Target, timeout: float) -> Connection:
    host, port = split_address(target.address, PORT)
    return Connection(
        host=host, port=port, user=target.user, password=target.password, autocommit=True,
        connect_timeout=max(1, round(timeout)), program_name="ubisip", ssl=tls_context(target.parameters),
    )  # fmt: skip


def tls_context(parameters: Mapping[str, Any]) -> ssl.SSLContext | None:
    """What a connection trusts by the parameters ``tls`` and ``ca_file``; None: it is not encrypted.

    :raises SqlError: the file cannot be read.
    """
    tls, ca_file = parameters.get("tls", "off"), parameters.get("ca_file", "")
    if tls == "off":
        return None
    try:
        return _context(ca_file, tls == "on", os.stat(ca_file).st_mtime_ns if ca_file else 0)
    except (OSError, ValueError) as error:
        raise SqlError(UNTRUSTED, 0, str(error)) from error


@functools.lru_cache(maxsize=16)
def _context(ca_file: str, verify: bool, _version: int) -> ssl.SSLContext:
    """Reading the system's authorities takes longer than a probe; a file that is renewed has another *_version*."""
    return client_context(ca_file, verify)


async def _connect(connection: Connection) -> None:
    """Connect; once more when the server ended the connection before its word, that all are taken perhaps, was read."""
    try:
        await _connect_once(connection)
    except SqlError as error:
        if error.code != CLOSED:
            raise
        await _connect_once(connection)


async def _connect_once(connection: Connection) -> None:
    try:
        await connection.connect()
    except errors.MySQLError as error:
        raise _connect_error(error) from error
    except ConnectionRefusedError as error:
        raise SqlError(REFUSED, 0, "connection refused") from error
    except RuntimeError as error:  # asyncmy's way to find that the server has ended the connection already
        raise SqlError(CLOSED, 0, "it ended the connection at once") from error
    except (OSError, EOFError) as error:
        raise SqlError(BROKEN, 0, str(error) or type(error).__name__) from error


def _connect_error(error: errors.MySQLError) -> SqlError:
    """asyncmy wraps what the network said into error 2003, which no server sends."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ConnectionRefusedError):
        return SqlError(REFUSED, 0, "connection refused")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return SqlError(UNTRUSTED, 0, f"its certificate is not accepted: {cause.verify_message}")
    if isinstance(cause, TimeoutError):
        return SqlError(TIMEOUT, 0, "no answer to the connection")
    if isinstance(cause, socket.gaierror):
        return SqlError("name", 0, str(cause))
    return _sql_error(error)


def _sql_error(error: errors.MySQLError) -> SqlError:
    """2000 to 2999 are the client's own numbers: the server did not speak."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    if number == 0 or 2000 <= number < 3000:
        return SqlError(BROKEN, 0, text)
    return SqlError(f"sql.{number}", number, text)
