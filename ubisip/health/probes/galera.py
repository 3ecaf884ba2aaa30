# SPDX-License-Identifier: Apache-2.0
"""Probe ``galera``: whether a node of a Galera cluster takes writes, by its wsrep status."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import asyncmy
import asyncmy.errors

from ubisip.address import split_address
from ubisip.health.asking import ask, failed, of_error, passed, short, unclear, warned
from ubisip.health.probe import Finding, Target
from ubisip.health.trust import client_context
from ubisip.parameters import read_parameters
from ubisip.schema import Between

GALERA_PORT = 3306
SYNCED = 4
STATES = {1: "joining", 2: "donor", 3: "joined", SYNCED: "synced"}
"""wsrep_local_state."""
OUR_FAULT = frozenset({1044, 1045, 1049, 1130, 1142, 1143, 1227, 1370, 1698})
"""The server lives, but this user may not ask or the password is wrong."""
FAR = 2003
"""Of the client: no connection; the cause is inside."""
GONE = frozenset({2006, 2013})

_QUESTION = """
SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_ready', 'wsrep_cluster_status', 'wsrep_local_state',
    'wsrep_cluster_size', 'wsrep_local_recv_queue', 'wsrep_flow_control_paused', 'wsrep_last_committed',
    'wsrep_local_state_uuid')
"""


@dataclass(frozen=True, slots=True)
class GaleraParameters:
    """When to warn."""

    max_queue: Annotated[int, Between(0, 1_000_000)] = 100
    """Write sets that wait to be applied; more are a warning."""
    max_paused: Annotated[float, Between(0, 1)] = 0.1
    """Part of the time that flow control may hold the cluster back before it is a warning."""
    donor: bool = True
    """Whether a donor still takes writes (with mariabackup it does, with rsync it does not)."""
    tls: Literal["off", "on", "unverified"] = "off"
    """``on``: TLS with a certificate that is trusted and names the host; ``unverified``: with any."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""


class GaleraProbe:
    """A session with ``host:port`` as the tier's user, who needs no right but to connect."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        it = self._parameters = read_parameters(GaleraParameters, parameters)
        self._tls = client_context(it.ca_file, it.tls == "on") if it.tls != "off" else None

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target, timeout), timeout)

    async def _check(self, target: Target, timeout: float) -> Finding:
        try:
            status = await _status(target, timeout, self._tls)
        except asyncmy.errors.MySQLError as error:
            return of_mysql_error(error)
        if "wsrep_ready" not in status:
            return unclear("galera.none", "this server has no Galera: it shows no wsrep status")
        return self._finding(_facts(status))

    def _finding(self, facts: Mapping[str, Any]) -> Finding:
        taking = {"synced", "donor"} if self._parameters.donor else {"synced"}
        if facts["cluster_status"] != "Primary":
            return failed("galera.no-quorum", facts)
        if not facts["ready"] or facts["state"] not in taking:
            return failed(f"galera.{facts['state']}" if facts["ready"] else "galera.not-ready", facts)
        if facts["queue"] > self._parameters.max_queue:
            return warned("galera.queue", facts)
        if facts["paused"] > self._parameters.max_paused:
            return warned("galera.paused", facts)
        return passed(facts)

    async def close(self) -> None:
        """It keeps no connections."""


async def _status(target: Target, timeout: float, tls: ssl.SSLContext | None) -> Mapping[str, str]:
    host, port = split_address(target.address, GALERA_PORT)
    connection = await asyncmy.connect(
        host=host, port=port, user=target.user, password=target.password, connect_timeout=max(1, round(timeout)),
        ssl=tls,
    )  # fmt: skip
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(_QUESTION)
            return dict(await cursor.fetchall())
    finally:
        connection.close()


def _facts(status: Mapping[str, str]) -> Mapping[str, Any]:
    return {
        "ready": status["wsrep_ready"] == "ON",
        "cluster_status": status.get("wsrep_cluster_status", ""),
        "state": STATES.get(int(status.get("wsrep_local_state", 0)), "unknown"),
        "size": int(status.get("wsrep_cluster_size", 0)),
        "queue": int(status.get("wsrep_local_recv_queue", 0)),
        "paused": float(status.get("wsrep_flow_control_paused", 0)),
        "committed": int(status.get("wsrep_last_committed", -1)),
        "uuid": status.get("wsrep_local_state_uuid", ""),
    }


def of_mysql_error(error: asyncmy.errors.MySQLError) -> Finding:
    """The finding that an error of the driver stands for."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    cause = error.__cause__ or error.__context__
    if number in OUR_FAULT:
        return unclear(f"sql.{number}", f"the database does not let us look: {short(error.args[-1])}")
    if number in GONE or number == FAR:
        return of_error(cause if isinstance(cause, OSError) else ConnectionResetError())
    return failed(f"sql.{number}", problem=short(error.args[-1] if error.args else error))
