# SPDX-License-Identifier: Apache-2.0
"""The probe ``mariadb``: whether a server answers, what its role is, and what it knows of the others.

``stream_silence`` is a replica's testimony on its source: the seconds since the source last sent it anything, a
transaction or a heartbeat. One probe sees the counters only; it remembers when they last moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ubisip.health.machine import Sample, Verdict
from ubisip.health.mariadb import RIGHTS, TOO_MANY_CONNECTIONS, UNTRUSTED, Session, SqlError, Tls, session
from ubisip.health.probe import NO_FACTS, Finding, Target
from ubisip.health.trust import client_context
from ubisip.parameters import read_parameters

LONG_TIMEOUT = 3_600_000
"""Milliseconds. A primary that waits less for its ackers goes on without them, and what it then acknowledges is lost
with it."""
SHUTTING_DOWN = frozenset({1053, 1077, 1079})
NO_TABLE = frozenset({1049, 1146})

VARIABLES = """SELECT @@version AS version, @@server_id AS server_id, @@gtid_domain_id AS domain_id,
    @@global.read_only AS read_only, @@log_bin AS log_bin, @@log_slave_updates AS log_slave_updates,
    @@gtid_strict_mode AS gtid_strict, @@global.gtid_binlog_state AS binlog_state,
    @@global.gtid_binlog_pos AS binlog_pos, @@global.gtid_slave_pos AS slave_pos,
    @@global.rpl_semi_sync_master_enabled AS semisync_primary,
    @@global.rpl_semi_sync_master_timeout AS semisync_timeout,
    @@global.rpl_semi_sync_master_wait_point AS wait_point,
    @@global.rpl_semi_sync_slave_enabled AS acker"""
STATUS = """SHOW GLOBAL STATUS WHERE Variable_name IN ('Uptime', 'Rpl_semi_sync_master_status',
    'Rpl_semi_sync_master_clients', 'Rpl_semi_sync_master_yes_tx',
    'Rpl_semi_sync_master_wait_sessions', 'Slave_heartbeat_period')"""
CLAIM = "SELECT epoch FROM ubisip.claim WHERE id = 1"
REIGN = "SELECT reign, primary_name FROM ubisip.reign WHERE id = 1"
FLAGS = ("read_only", "log_bin", "log_slave_updates", "gtid_strict", "semisync_primary", "acker")
NO_MARKS = {"epoch": 0, "reign": 0, "reigning": ""}
NEEDED = (
    "RELOAD", "PROCESS", "BINLOG MONITOR", "BINLOG ADMIN", "CONNECTION ADMIN", "READ_ONLY ADMIN",
    "REPLICATION SLAVE ADMIN", "REPLICATION MASTER ADMIN", "SLAVE MONITOR",
)  # fmt: skip
"""Rights on everything that reading the state and changing a role take."""


@dataclass(frozen=True, slots=True)
class MariadbParameters:
    """``[tiers.NAME.parameters]`` of kind ``mariadb``."""

    lag: float = 30.0
    """Seconds behind its source from which a replica is reported."""
    tls: Tls = "off"
    """``on``: TLS with a certificate that is trusted and names the host; ``unverified``: with any. All that is done to
    the members goes by it, too."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""


class MariadbProbe:
    """Asks MariaDB servers over a new connection each time: an old one says nothing of whether clients get in."""

    def __init__(self, parameters: Mapping[str, Any], clock: Callable[[], float] = time.monotonic) -> None:
        """:raises ValueError: a parameter that it does not know, or a file that cannot be read."""
        it = read_parameters(MariadbParameters, parameters)
        if it.tls != "off":
            client_context(it.ca_file, True)  # sessions make their own: here only mistakes are found
        self._lag = it.lag
        self._clock = clock
        self._moved: dict[str, tuple[tuple[object, ...], float]] = {}
        self._acknowledged: dict[str, tuple[int, float]] = {}
        self._met: dict[str, tuple[str, int]] = {}

    async def check(self, target: Target, timeout: float) -> Finding:
        """See :class:`ubisip.health.probe.Probe`."""
        began = self._clock()
        try:
            async with session(target, timeout) as opened:
                facts = await read_facts(opened)
        except SqlError as error:
            return _failed(error, self._clock() - began)
        facts["stream_silence"] = self._silence(target.name, facts)
        facts["source_id"] = self._source_id(target.name, facts)
        facts["waiting_for"] = self._waiting_for(target.name, facts)
        return self._judged(facts, began)

    async def close(self) -> None:
        """Connections do not outlive a check."""

    def _silence(self, name: str, facts: Mapping[str, Any]) -> float:
        """Seconds since the stream from the source last moved; 0 when seen for the first time."""
        now = self._clock()
        counters = (facts["source"], facts["io_pos"], facts["heartbeats"])
        if name not in self._moved or self._moved[name][0] != counters:
            self._moved[name] = (counters, now)
        return now - self._moved[name][1]

    def _waiting_for(self, name: str, facts: Mapping[str, Any]) -> float:
        """Seconds in which writes have waited and none was acknowledged. Not asked of the process list: reading it
        every half second has crashed a server whose sessions were ending."""
        now = self._clock()
        known, since = self._acknowledged.get(name, (-1, now))
        if not facts["waiting"] or known != facts["acknowledged"]:
            self._acknowledged[name] = (facts["acknowledged"], now)
            return 0.0
        return now - since

    def _source_id(self, name: str, facts: Mapping[str, Any]) -> int:
        """The server id of its source, remembered from when it was connected there; 0: not known."""
        if facts["source_id"]:
            self._met[name] = (facts["source"], facts["source_id"])
        source, number = self._met.get(name, ("", 0))
        return number if source == facts["source"] else 0

    def _judged(self, facts: Mapping[str, Any], began: float) -> Finding:
        latency = self._clock() - began
        if facts["missing"]:
            problem = f"the user lacks {', '.join(facts['missing'])}"
            return Finding(Sample(Verdict.INCONCLUSIVE, "rights", answered=True), latency, facts, problem)
        problem = advice(facts)
        reason = _trouble(facts, self._lag)
        verdict = Verdict.WARN if reason else Verdict.PASS
        return Finding(Sample(verdict, reason, answered=True), latency, facts, problem)


async def read_facts(opened: Session) -> dict[str, Any]:
    """All that a server says of itself, in plain values.

    :raises SqlError: it refuses, or the connection broke.
    """
    await opened.run("SELECT 1")
    facts = dict(await opened.row(VARIABLES))
    facts.update({name: bool(facts[name]) for name in FLAGS})
    missing = _missing([str(next(iter(row.values()))) for row in await opened.rows("SHOW GRANTS")])
    facts["missing"] = missing
    facts.update(_replication(await opened.rows("SHOW ALL SLAVES STATUS") if "SLAVE MONITOR" not in missing else []))
    facts.update(_status({row["Variable_name"]: row["Value"] for row in await opened.rows(STATUS)}))
    facts["waiting_for"] = 0.0
    facts["attached"] = await _attached(opened) if "REPLICATION MASTER ADMIN" not in missing else ()
    facts.update(await _marks(opened) if not missing else NO_MARKS)
    facts["role"] = "replica" if facts["source"] else "alone" if facts["read_only"] else "primary"
    return facts


def _replication(rows: list[dict[str, Any]]) -> dict[str, Any]:
    row = rows[0] if rows else {}
    return {
        "sources": len(rows),
        "source": f"{row['Master_Host']}:{row['Master_Port']}" if row else "",
        # Else it is that of whom it was connected to before: perhaps somebody else.
        "source_id": int(row.get("Master_Server_Id") or 0) if row.get("Slave_IO_Running") == "Yes" else 0,
        "io": row.get("Slave_IO_Running") or "No",
        "sql": row.get("Slave_SQL_Running") or "No",
        "io_errno": int(row.get("Last_IO_Errno") or 0),
        "io_error": row.get("Last_IO_Error") or "",
        "sql_errno": int(row.get("Last_SQL_Errno") or 0),
        "sql_error": row.get("Last_SQL_Error") or "",
        "io_pos": row.get("Gtid_IO_Pos") or "",
        "heartbeats": int(row.get("Slave_received_heartbeats") or 0),
        "lag": row.get("Seconds_Behind_Master"),
        "delay": int(row.get("SQL_Delay") or 0),
    }


def _status(values: Mapping[str, str]) -> dict[str, Any]:
    return {
        "uptime": int(values.get("Uptime", 0)),
        "semisync_active": values.get("Rpl_semi_sync_master_status") == "ON",
        "ackers": int(values.get("Rpl_semi_sync_master_clients", 0)),
        "acknowledged": int(values.get("Rpl_semi_sync_master_yes_tx", 0)),
        "waiting": int(values.get("Rpl_semi_sync_master_wait_sessions", 0)),
        "heartbeat_period": float(values.get("Slave_heartbeat_period", 0.0)),
    }


async def _attached(opened: Session) -> tuple[int, ...]:
    """Server ids of the replicas that read from this server now."""
    return tuple(sorted(int(row["Server_id"]) for row in await opened.rows("SHOW SLAVE HOSTS")))


async def _marks(opened: Session) -> dict[str, Any]:
    """What plans left here: the highest epoch that claimed it, and whose reign it knows of."""
    claim, reign = await _mark(opened, CLAIM), await _mark(opened, REIGN)
    return {
        "epoch": int(claim.get("epoch") or 0),
        "reign": int(reign.get("reign") or 0),
        "reigning": reign.get("primary_name") or "",
    }


async def _mark(opened: Session, statement: str) -> Mapping[str, Any]:
    try:
        return await opened.row(statement)
    except SqlError as error:
        if error.number not in NO_TABLE:
            raise
        return {}


def _missing(grants: list[str]) -> tuple[str, ...]:
    """The needed rights that none of the *grants* on everything gives."""
    given: set[str] = set()
    for grant in grants:
        rights, on, _ = grant.removeprefix("GRANT ").partition(" ON *.* TO ")
        if on:
            given.update(right.strip() for right in rights.split(","))
    return () if "ALL PRIVILEGES" in given else tuple(right for right in NEEDED if right not in given)


def _trouble(facts: Mapping[str, Any], lag: float) -> str:
    """What is wrong with its replication, as a code; empty: nothing."""
    if not facts["source"]:
        return ""
    if facts["sql"] != "Yes" or facts["io_errno"]:
        return "replication"
    return "lag" if facts["lag"] is not None and facts["lag"] > lag else ""


def advice(facts: Mapping[str, Any]) -> str:
    """The first setting that makes a promotion from or to this server unsafe, and why; empty: none."""
    if facts["semisync_primary"] and facts["semisync_timeout"] < LONG_TIMEOUT:
        return (
            f"rpl_semi_sync_master_timeout is {facts['semisync_timeout']} ms: cut off, this server would acknowledge "
            f"writes that nobody else has; set {LONG_TIMEOUT} or more"
        )
    if facts["semisync_primary"] and facts["wait_point"] != "AFTER_SYNC":
        return "rpl_semi_sync_master_wait_point must be AFTER_SYNC: others could read what is then lost"
    if facts["semisync_primary"] and facts["source"]:
        return "rpl_semi_sync_master_enabled on a replica makes its own applier wait for acknowledgements; set it to 0"
    if not facts["log_bin"] or not facts["log_slave_updates"]:
        return "log_bin and log_slave_updates must be on: it could not feed the others after a promotion"
    return "" if facts["gtid_strict"] else "gtid_strict_mode must be on: transactions of its own would go unnoticed"


def _failed(error: SqlError, latency: float) -> Finding:
    """What a failed conversation says of the server: one that answers, if only with a refusal, is not dead."""
    if not error.answered and error.code not in ("name", UNTRUSTED):
        return Finding(Sample(Verdict.FAIL, error.code, hard=error.code == "refused"), latency)
    if error.number in SHUTTING_DOWN:
        return Finding(Sample(Verdict.FAIL, error.code, hard=True, answered=True), latency)
    sample = Sample(Verdict.INCONCLUSIVE, error.code, answered=error.answered)
    return Finding(sample, latency, NO_FACTS, _problem(error))


def _problem(error: SqlError) -> str:
    if error.number == TOO_MANY_CONNECTIONS:
        return "all its connections are taken (1040)"
    if error.number in RIGHTS:
        return f"it does not let us in or lets us do too little: {error} ({error.number})"
    return f"{error}"
