# SPDX-License-Identifier: Apache-2.0
"""Probe ``etcd``: a member's health and status, by its JSON gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from ubisip.health.asking import PROTOCOL, ask, failed, passed, short, unclear
from ubisip.health.probe import Finding, Target
from ubisip.health.probes.http import of_client_error
from ubisip.health.trust import client_context
from ubisip.parameters import read_parameters

MAX_BODY = 65_536
UNAUTHENTICATED, DENIED, INVALID = 16, 7, 3
"""Codes of gRPC in an error of the gateway."""


@dataclass(frozen=True, slots=True)
class EtcdParameters:
    """Whom to trust, and what to show."""

    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""
    certificate_file: str = ""
    """PEM file of the certificate that members ask for (`--client-cert-auth`); empty: they ask for none."""
    key_file: str = ""
    """PEM file of its key; empty: it is in the same file."""


class EtcdError(Exception):
    """The gateway answered with an error; *code* is that of gRPC."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class EtcdProbe:
    """``/health`` and ``/v3/maintenance/status`` of ``http://host:port``, as the tier's user if it has one."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        it = read_parameters(EtcdParameters, parameters)
        self._context = client_context(it.ca_file, True, it.certificate_file, it.key_file)

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target), timeout)

    async def _check(self, target: Target) -> Finding:
        address = target.address if "://" in target.address else f"http://{target.address}"
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._context, use_dns_cache=False)
        try:
            async with aiohttp.ClientSession(
                address, connector=connector, cookie_jar=aiohttp.DummyCookieJar()
            ) as session:
                return _finding(await _health(session), await _status(session, target))
        except aiohttp.ClientError as error:
            return of_client_error(error)
        except EtcdError as error:
            return _of_etcd_error(error)
        except ValueError as error:
            return failed(PROTOCOL, problem=short(error))

    async def close(self) -> None:
        """It keeps no connections."""


async def _health(session: aiohttp.ClientSession) -> Mapping[str, Any]:
    async with session.get("/health") as answer:
        return await _object(answer)


async def _status(session: aiohttp.ClientSession, target: Target) -> Mapping[str, Any]:
    headers = {}
    if target.user:
        login = {"name": target.user, "password": target.password}
        headers["Authorization"] = (await _call(session, "/v3/auth/authenticate", login, {}))["token"]
    return await _call(session, "/v3/maintenance/status", {}, headers)


async def _call(
    session: aiohttp.ClientSession, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> Mapping[str, Any]:
    async with session.post(path, json=dict(body), headers=headers) as answer:
        found = await _object(answer)
    if answer.status != 200:
        raise EtcdError(int(found.get("code", 0)), str(found.get("message") or found.get("error") or answer.status))
    return found


async def _object(answer: aiohttp.ClientResponse) -> Mapping[str, Any]:
    body = await answer.content.read(MAX_BODY)
    while len(body) < MAX_BODY and (more := await answer.content.read(MAX_BODY - len(body))):
        body += more
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("expected an object of JSON")
    return found


def _finding(health: Mapping[str, Any], status: Mapping[str, Any]) -> Finding:
    member = str(status.get("header", {}).get("member_id", ""))
    leader = str(status.get("leader", "0"))
    errors = tuple(short(one) for one in status.get("errors", ()))
    facts = {
        "role": "leader" if leader == member else "follower",
        "leader": leader,
        "member": member,
        "cluster": str(status.get("header", {}).get("cluster_id", "")),
        "term": int(status.get("raftTerm", 0)),
        "index": int(status.get("raftIndex", 0)),
        "db_size": int(status.get("dbSize", 0)),
        "version": str(status.get("version", "")),
        "errors": errors,
    }
    if leader == "0":
        return failed("etcd.no-leader", facts)
    if any("NOSPACE" in one for one in errors):
        return failed("etcd.no-space", facts, "the database of etcd is full: it takes no writes")
    if str(health.get("health")).lower() != "true":
        return failed("etcd.unhealthy", facts, short(health.get("reason", "")))
    return passed(facts)


def _of_etcd_error(error: EtcdError) -> Finding:
    if error.code in (UNAUTHENTICATED, DENIED, INVALID):
        return unclear("etcd.auth", f"etcd does not let us look: {short(error)}")
    return failed("etcd.error", problem=short(error))
