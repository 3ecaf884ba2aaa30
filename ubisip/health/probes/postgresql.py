# SPDX-License-Identifier: Apache-2.0
"""Probe ``postgresql``: role, lag and who is in step, over a connection of its own each time."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import asyncpg

from ubisip.address import split_address
from ubisip.health.asking import PROTOCOL, ask, failed, passed, short, unclear, warned
from ubisip.health.probe import Finding, Target
from ubisip.health.probes.tcp import connection
from ubisip.health.trust import client_context
from ubisip.parameters import read_parameters
from ubisip.schema import Between

POSTGRESQL_PORT = 5432
LAG = "lag"
TLS_REQUEST = struct.pack("!II", 8, 80877103)
"""SSLRequest of the protocol: length and code; it can be asked without a password, and nothing is logged for it."""
OUR_FAULT = frozenset({"28000", "28P01", "3D000", "42501", "0A000"})
"""SQLSTATEs that say nothing of the server's life: wrong password, no such database, missing right, unknown feature."""

_STATE = """
SELECT pg_is_in_recovery() AS standby,
       current_setting('server_version') AS version,
       (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END::text AS position,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text AS applied,
       CASE WHEN NOT pg_is_in_recovery() OR pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END::float8 AS lag,
       (SELECT status FROM pg_stat_wal_receiver LIMIT 1) AS receiver,
       current_setting('synchronous_standby_names') AS synchronous_standby_names
"""
_REPLICAS = """
SELECT application_name AS name, state, sync_state, coalesce(extract(epoch FROM replay_lag), 0)::float8 AS lag
FROM pg_stat_replication ORDER BY application_name
"""


@dataclass(frozen=True, slots=True)
class PostgresqlParameters:
    """How to connect, and when to warn."""

    database: str = "postgres"
    """The database to connect to."""
    max_lag: Annotated[float, Between(0, 86_400)] = 10.0
    """Seconds; a standby that is further behind is a warning."""
    tls: Literal["off", "on", "unverified"] = "off"
    """Whether the connection is encrypted, and the certificate verified."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""


class PostgresqlProbe:
    """A session with ``host:port`` as the tier's user, who needs no more than `pg_monitor`."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(PostgresqlParameters, parameters)
        self._tls: ssl.SSLContext | bool = False
        if self._parameters.tls != "off":
            self._tls = client_context(self._parameters.ca_file, self._parameters.tls == "on")

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target, timeout), timeout)

    async def _check(self, target: Target, timeout: float) -> Finding:
        host, port = split_address(target.address, POSTGRESQL_PORT)
        if not await _speaks_postgresql(host, port):
            return failed(PROTOCOL, problem="what listens there is no PostgreSQL")
        try:
            session = await asyncpg.connect(
                host=host, port=port, user=target.user or None, password=target.password or None,
                database=self._parameters.database, ssl=self._tls, timeout=timeout,
                server_settings={"application_name": "ubisip"}, statement_cache_size=0,
            )  # fmt: skip
            try:
                state = await session.fetchrow(_STATE)
                replicas = await session.fetch(_REPLICAS)
            finally:
                session.terminate()  # at once: after an interruption it is of no use, else it has done its work
        except asyncpg.PostgresError as error:
            return of_postgresql_error(error)
        except asyncpg.InterfaceError as error:
            return failed(PROTOCOL, problem=short(error))
        assert state is not None
        return self._finding(_facts(state, replicas))

    def _finding(self, facts: Mapping[str, Any]) -> Finding:
        if facts["role"] == "replica" and facts["receiver"] != "streaming":
            return warned("replication", facts, "it receives nothing from its primary")
        if facts["lag"] is not None and facts["lag"] > self._parameters.max_lag:
            return warned(LAG, facts)
        return passed(facts)

    async def close(self) -> None:
        """It keeps no connections."""


async def _speaks_postgresql(host: str, port: int) -> bool:
    """Whether it answers the question for TLS as PostgreSQL does, with one octet.

    asyncpg 0.32 never returns, and our loop with it, when a message claims to be shorter than its own length field:
    whatever else may listen at that port by mistake is not handed to it.
    """
    async with connection(host, port) as (reader, writer):
        writer.write(TLS_REQUEST)
        return await reader.readexactly(1) in (b"S", b"N")


def _facts(state: asyncpg.Record, replicas: list[asyncpg.Record]) -> Mapping[str, Any]:
    return {
        "role": "replica" if state["standby"] else "primary",
        "version": state["version"],
        "timeline": state["timeline"],
        "position": state["position"],
        "applied": state["applied"],
        "lag": state["lag"],
        "receiver": state["receiver"],
        "synchronous_standby_names": state["synchronous_standby_names"],
        "replicas": tuple(dict(one) for one in replicas),
    }


def of_postgresql_error(error: asyncpg.PostgresError) -> Finding:
    """The finding that an error of the server stands for: it lives, whatever it says."""
    code = getattr(error, "sqlstate", None) or "unknown"
    if code in OUR_FAULT:
        return unclear(f"sql.{code}", f"the database does not let us look: {short(error)}")
    return failed(f"sql.{code}", problem=short(error))
