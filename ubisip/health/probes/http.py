# SPDX-License-Identifier: Apache-2.0
"""Probe ``http``: status, body and headers of an answer, over a connection of its own each time."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import aiohttp

from ubisip.health.asking import PROTOCOL, RESET, ask, failed, of_error, passed, short, silent, unclear, warned
from ubisip.health.probe import Finding, Target
from ubisip.health.probes.tls import of_tls_error
from ubisip.health.trust import client_context
from ubisip.parameters import nothing, read_parameters
from ubisip.schema import Between

MAX_BODY = 262_144
"""Octets of a body in which `body` is looked for; a page that never ends must not fill the memory."""
CREDENTIALS_WANTED = frozenset({401, 403, 407})


@dataclass(frozen=True, slots=True)
class HttpParameters:
    """What is asked, and what a good answer is."""

    path: str = ""
    """Path and query, added to the member's address; empty: the address as it is."""
    method: Literal["GET", "HEAD", "OPTIONS", "POST"] = "GET"
    """With HEAD there is no body to look into."""
    host: str = ""
    """The Host header; empty: the host of the address."""
    request_headers: Mapping[str, str] = field(default_factory=nothing)
    """Headers to send besides."""
    status: tuple[int, ...] = ()
    """Good statuses; empty: 200 to 399."""
    body: str = ""
    """Text that the first 256 KiB of the body must hold."""
    headers: Mapping[str, str] = field(default_factory=nothing)
    """Headers that the answer must have, each with a text that its value must hold."""
    warn_latency: Annotated[float, Between(0, 300)] = 0.0
    """Seconds; an answer that takes longer is a warning; 0: none is."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""
    verify: bool = True
    """Whether a certificate that is not trusted is a failure."""


class HttpProbe:
    """A request to ``http://host:port/path``, ``https://...`` or ``host:port``."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(HttpParameters, parameters)
        self._context = client_context(self._parameters.ca_file, self._parameters.verify)

    async def check(self, target: Target, timeout: float) -> Finding:
        finding = await ask(self._check(target), timeout)
        limit = self._parameters.warn_latency
        if finding.sample.answered and finding.sample.reason == "ok" and 0 < limit < finding.latency:
            slow = warned("slow", finding.facts)
            return Finding(slow.sample, finding.latency, finding.facts)
        return finding

    async def _check(self, target: Target) -> Finding:
        wanted = self._parameters
        address = target.address if "://" in target.address else f"http://{target.address}"
        headers = {**wanted.request_headers, **({"Host": wanted.host} if wanted.host else {})}
        headers |= basic(target.user, target.password)
        # A connection of its own each time: one that is kept open would hide that new ones are refused.
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._context, use_dns_cache=False)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.request(wanted.method, address + wanted.path, headers=headers, allow_redirects=False) as answer,
            ):
                return self._finding(answer, await _beginning(answer), bool(target.user))
        except aiohttp.InvalidURL as error:
            return unclear("address", f"this is no URL: {short(error)}")
        except aiohttp.ClientError as error:
            return of_client_error(error)

    def _finding(self, answer: aiohttp.ClientResponse, body: bytes, asked_with_password: bool) -> Finding:
        wanted = self._parameters
        facts = {"status": answer.status, "server": short(answer.headers.get("Server", ""))}
        good = answer.status in wanted.status if wanted.status else 200 <= answer.status < 400
        if not good and answer.status in CREDENTIALS_WANTED:
            text = "does not take the user and password" if asked_with_password else "wants credentials"
            return unclear(f"http.{answer.status}", f"the server {text} ({answer.status})", facts)
        if not good:
            return failed(f"http.{answer.status}", facts)
        if wanted.body and wanted.body.encode() not in body:
            return failed("http.body", facts)
        for name, text in wanted.headers.items():
            if name not in answer.headers or text not in ", ".join(answer.headers.getall(name)):
                return failed("http.header", {**facts, "header": name})
        return passed(facts)

    async def close(self) -> None:
        """It keeps no connections."""


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """The body, as far as it is looked at."""
    body = b""
    while len(body) < MAX_BODY and (more := await answer.content.read(MAX_BODY - len(body))):
        body += more
    return body


def basic(user: str, password: str) -> dict[str, str]:
    """The header of basic authentication (RFC 7617); none without a user."""
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {login}"} if user else {}


def of_client_error(error: aiohttp.ClientError) -> Finding:
    """The finding that an error of aiohttp stands for."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            cause = error.certificate_error
            return of_tls_error(cause) if isinstance(cause, ssl.SSLError) else failed(PROTOCOL, problem=short(cause))
        case aiohttp.ClientSSLError():
            return failed(PROTOCOL, problem=f"no TLS: {short(error)}")
        case aiohttp.ClientConnectorDNSError():
            return unclear("name", f"the name does not resolve: {short(error)}")
        case aiohttp.ClientConnectorError():
            return of_error(error.os_error)
        case aiohttp.ServerDisconnectedError():
            return silent(RESET)
        case aiohttp.ClientOSError():
            return of_error(OSError(error.errno, str(error)))
        case aiohttp.ClientPayloadError():
            return failed(RESET)
    return failed(PROTOCOL, problem=short(error))
