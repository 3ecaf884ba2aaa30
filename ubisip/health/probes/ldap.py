# SPDX-License-Identifier: Apache-2.0
"""Probe ``ldap``: a bind, as the tier's user or anonymous, and on wish a search, in a thread of its own."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ldap3
from ldap3.core import exceptions

from ubisip.address import split_address
from ubisip.health.asking import PROTOCOL, REFUSED, RESET, TIMEOUT, ask, failed, passed, short, silent, unclear
from ubisip.health.probe import Finding, Target
from ubisip.health.trust import client_context
from ubisip.parameters import read_parameters

LDAP_PORTS = {"off": 389, "on": 636, "starttls": 389}
OUR_FAULT = frozenset({7, 8, 13, 34, 48, 49, 50, 53})
"""Result codes (RFC 4511 appendix A) that say nothing of the server's life: wrong password, name, missing right."""
NO_SUCH_OBJECT = 32


@dataclass(frozen=True, slots=True)
class LdapParameters:
    """What is asked after the bind."""

    base: str = ""
    """The entry that must be found; empty: the bind suffices."""
    filter: str = "(objectClass=*)"
    """What it must match."""
    tls: Literal["off", "on", "starttls"] = "off"
    """From the first octet on (`ldaps`), or by StartTLS."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: the certificate is not verified, the probe `tls` can do
    that."""


class LdapProbe:
    """A session with ``host:port``; the tier's `user` is a distinguished name."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        it = self._parameters = read_parameters(LdapParameters, parameters)
        client_context(it.ca_file, True)  # ldap3 makes its own: here only a file that cannot be read is found
        verified = ssl.CERT_REQUIRED if it.ca_file else ssl.CERT_NONE
        self._tls = ldap3.Tls(validate=verified, ca_certs_file=it.ca_file or None)

    async def check(self, target: Target, timeout: float) -> Finding:
        # ldap3 blocks, each step for at most *timeout*: the thread ends by itself when nobody waits for it any more.
        return await ask(asyncio.to_thread(self._ask, target, timeout), timeout)

    def _ask(self, target: Target, timeout: float) -> Finding:
        host, port = split_address(target.address, LDAP_PORTS[self._parameters.tls])
        server = ldap3.Server(
            host, port, use_ssl=self._parameters.tls == "on", tls=self._tls, get_info=ldap3.NONE,
            connect_timeout=timeout,
        )  # fmt: skip
        whole = math.ceil(timeout)  # seconds, as the socket option wants them
        connection = ldap3.Connection(
            server, target.user or None, target.password or None, receive_timeout=whole, raise_exceptions=False
        )
        try:
            return self._asked(connection)
        except exceptions.LDAPExceptionError as error:
            return of_ldap_error(error)
        finally:
            _closed(connection)

    def _asked(self, connection: ldap3.Connection) -> Finding:
        connection.open()
        if self._parameters.tls == "starttls" and not connection.start_tls():
            return _of_result(connection.result)
        if not connection.bind():
            return _of_result(connection.result)
        if not self._parameters.base:
            return passed()
        connection.search(self._parameters.base, self._parameters.filter, ldap3.BASE, attributes=ldap3.NO_ATTRIBUTES)
        if connection.result["result"] in (0, NO_SUCH_OBJECT) and not connection.response:
            return failed("ldap.missing", problem=f"there is no {short(self._parameters.base)} in it")
        return passed() if connection.result["result"] == 0 else _of_result(connection.result)

    async def close(self) -> None:
        """It keeps no connections."""


def _closed(connection: ldap3.Connection) -> None:
    if connection.socket is not None:
        connection.socket.close()


def _of_result(result: Mapping[str, Any]) -> Finding:
    code, text = result["result"], short(result["description"])
    if code in OUR_FAULT:
        return unclear(f"ldap.{code}", f"the directory does not let us look: {text}")
    return failed(f"ldap.{code}", problem=text)


def of_ldap_error(error: exceptions.LDAPExceptionError) -> Finding:
    """The finding that an error of the driver stands for; it keeps causes as text only."""
    text = str(error)
    if isinstance(error, exceptions.LDAPCertificateError) or "CERTIFICATE_VERIFY_FAILED" in text:
        return failed("tls.untrusted", problem=f"the certificate is not accepted: {short(error)}")
    match error:
        case exceptions.LDAPSocketOpenError() if "refused" in text:
            return silent(REFUSED, hard=True)
        case exceptions.LDAPInvalidDnError() | exceptions.LDAPInvalidFilterError():
            return unclear("ldap.parameter", short(error))
        case exceptions.LDAPSocketOpenError() if "not known" in text or "resolution" in text or "address" in text:
            return unclear("name", short(error))
        case exceptions.LDAPSocketOpenError() | exceptions.LDAPResponseTimeoutError():
            return silent(TIMEOUT)
        case exceptions.LDAPSocketReceiveError() if "timed out" in text:
            return silent(TIMEOUT)
        case exceptions.LDAPCommunicationError():
            return silent(RESET)
    return failed(PROTOCOL, problem=short(error))
