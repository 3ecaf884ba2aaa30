# SPDX-License-Identifier: Apache-2.0
"""Credentials from an LDAP directory: one search for each look-up (RFC 4511), in threads, as the library blocks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ldap3
from ldap3.utils.conv import escape_filter_chars

from ubisip.agents.credentials import LOOKUP_LIMIT, Unavailable
from ubisip.agents.pool import CONNECT_LIMIT, SESSIONS, Pool
from ubisip.agents.secret import Secret, merged, read_ha1
from ubisip.agents.source import Options
from ubisip.agents.sql import numbered
from ubisip.source_url import Host

DEFAULT_FILTER = "(uid=:user)"
DEFAULT_ATTRIBUTES = ("userPassword",)
LDAPS_PORT = 636
"""TLS from the first octet on; on other ports it begins with StartTLS."""
_MARKS = ("MD5:", "SHA-256:", "SHA-512-256:")
_SUCCESS, _SIZE_LIMIT, _NO_SUCH_OBJECT = 0, 4, 32


class LdapSession:
    """One bound connection; each call runs in a thread of *run*."""

    def __init__(self, connection: ldap3.Connection, options: Options, threads: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._base = options.url.path
        self._filter, self._names = numbered(
            (options.query or DEFAULT_FILTER).replace("{", "{{").replace("}", "}}"), lambda _number: "{}"
        )
        self._attributes = options.url.attributes or DEFAULT_ATTRIBUTES
        self._threads = threads

    async def ask(self, user: str, realm: str) -> Secret | None:
        values = {"user": escape_filter_chars(user), "realm": escape_filter_chars(realm)}
        wanted = self._filter.format(*(values[name] for name in self._names))
        entries = await _in_thread(self._threads, lambda: self._search(wanted))
        if len(entries) > 1:
            raise Unavailable(f"several entries fit {wanted}")
        return _secret(entries[0]) if entries else None

    def _search(self, wanted: str) -> list[list[bytes]]:
        """The attributes' values of each entry that fits."""
        _done, result, response, _request = self._connection.search(
            self._base, wanted, attributes=list(self._attributes), size_limit=2, time_limit=int(LOOKUP_LIMIT)
        )
        if result["result"] not in (_SUCCESS, _SIZE_LIMIT, _NO_SUCH_OBJECT):
            raise Unavailable(f"search: {result['description']}")
        entries = [entry["raw_attributes"] for entry in response or () if entry["type"] == "searchResEntry"]
        return [[value for values in entry.values() for value in values] for entry in entries]

    async def close(self) -> None:
        """Close the socket; a farewell to a server that hangs would hang as well."""
        if self._connection.socket is not None:
            self._connection.socket.close()


def _secret(values: Iterable[bytes]) -> Secret | None:
    """What the *values* of an entry say; None: none of them can be used for digest authentication.

    A value is a password (with or without ``{CLEARTEXT}``) or an HA1 with its mark; other schemes of RFC 2307, such as
    ``{SSHA}``, hide what we would need.
    """
    found = Secret()
    for value in values:
        text = value.decode("utf-8", "surrogateescape")
        if text.upper().startswith(_MARKS):
            found = merged(found, Secret(ha1=dict([read_ha1(text)])))
        elif text.upper().startswith("{CLEARTEXT}"):
            found = merged(found, Secret(text[len("{CLEARTEXT}") :]))
        elif not text.startswith("{"):
            found = merged(found, Secret(text))
    return None if found == Secret() else found


async def _in_thread(threads: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


class LdapSource(Pool):
    """Sessions to the servers of the URL."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._threads = ThreadPoolExecutor(SESSIONS, "ubisip-ldap")
        super().__init__(options.url.hosts, self._session)

    async def _session(self, host: Host) -> LdapSession:
        connection = await _in_thread(self._threads, lambda: _bound(host, self._options))
        return LdapSession(connection, self._options, self._threads)

    async def close(self) -> None:
        await super().close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _bound(host: Host, options: Options) -> ldap3.Connection:
    """A connection that is encrypted as wished and bound as the URL's user, or anonymous."""
    server = ldap3.Server(
        host.name,
        host.port,
        use_ssl=bool(options.ca_file) and host.port == LDAPS_PORT,
        tls=ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=options.ca_file) if options.ca_file else None,
        connect_timeout=CONNECT_LIMIT,
        get_info=ldap3.NONE,
    )
    connection = ldap3.Connection(
        server,
        options.url.user or None,
        options.password or None,
        client_strategy=ldap3.SAFE_SYNC,
        receive_timeout=int(LOOKUP_LIMIT),
        read_only=True,
        check_names=False,
    )
    connection.open()
    if options.ca_file and host.port != LDAPS_PORT:
        connection.start_tls()
    bound, result, _response, _request = connection.bind()
    if not bound:
        raise Unavailable(f"bind: {result['description']}")
    return connection
