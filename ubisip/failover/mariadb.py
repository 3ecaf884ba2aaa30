# SPDX-License-Identifier: Apache-2.0
"""What plans do to MariaDB servers, each thing guarded by the epoch and the same when it is done twice.

``ubisip.claim`` on each server holds the highest epoch that has touched it. It is never written to the binary log: a
plan that is given up must not leave a transaction behind. ``ubisip.reign`` is replicated: it says who is primary and
since how many changes, and writing it is the first acknowledged transaction of a new primary.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ubisip.address import split_address
from ubisip.failover import gtid
from ubisip.failover.action import ActionError, Context, MemberView
from ubisip.failover.database import FRESH
from ubisip.health.machine import State
from ubisip.health.mariadb import PORT, Session, SqlError, session
from ubisip.health.probe import Target
from ubisip.health.probes.mariadb import CLAIM, NO_TABLE, read_facts

PATIENCE = 5.0
"""Seconds for what a living server does at once."""
POLL = 0.02
STUCK_MS = 1000

CREATE_CLAIM = (
    "CREATE DATABASE IF NOT EXISTS ubisip",
    "CREATE TABLE IF NOT EXISTS ubisip.claim (id TINYINT PRIMARY KEY, epoch BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB",
    "INSERT IGNORE INTO ubisip.claim VALUES (1, 0)",
)
RAISE_CLAIM = "UPDATE ubisip.claim SET epoch = %s WHERE id = 1 AND epoch < %s"
OPEN = """BEGIN NOT ATOMIC
    IF (SELECT epoch FROM ubisip.claim WHERE id = 1) <> {epoch} THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'claimed by a higher epoch';
    END IF;
    SET GLOBAL read_only = {read_only};
END"""
"""In one statement, so that no pause of ours comes between the look and the act."""
CREATE_REIGN = (
    "CREATE DATABASE IF NOT EXISTS ubisip",
    "CREATE TABLE IF NOT EXISTS ubisip.reign (id TINYINT PRIMARY KEY, reign BIGINT UNSIGNED NOT NULL,"
    " primary_name VARCHAR(190) NOT NULL) ENGINE=InnoDB",
)
WRITE_REIGN = "REPLACE INTO ubisip.reign VALUES (1, %s, %s)"
FOLLOW = (
    "CHANGE MASTER TO MASTER_HOST=%s, MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s, MASTER_USE_GTID=slave_pos,"
    " MASTER_HEARTBEAT_PERIOD=0.5, MASTER_CONNECT_RETRY=1"
)
FOLLOW_TLS = ", MASTER_SSL=1, MASTER_SSL_CA=%s, MASTER_SSL_VERIFY_SERVER_CERT=%s"


@dataclass(frozen=True, slots=True)
class Source:
    """Whom replicas follow, and as which user."""

    target: Target
    user: str
    password: str
    tls: bool = False
    ca: str = ""
    """A file of the replica's machine; empty: the source's certificate is not verified."""


@asynccontextmanager
async def claimed(target: Target, epoch: int, timeout: float = PATIENCE) -> AsyncIterator[Session]:
    """A session with a member that this epoch may change.

    :raises ActionError: it is not reached, or a higher epoch has claimed it.
    """
    async with told(target), session(target, timeout) as opened:
        await _claim(opened, target, epoch)
        yield opened


@asynccontextmanager
async def told(target: Target) -> AsyncIterator[None]:
    """What goes wrong with a session inside is an ActionError that names the member."""
    try:
        yield
    except SqlError as error:
        raise ActionError(f"{target.name}: {error}", retry=not error.answered) from error


async def _claim(opened: Session, target: Target, epoch: int) -> None:
    await opened.run("SET SESSION sql_log_bin = 0, sql_notes = 0")
    found = await _raised(opened, epoch)
    if found is None:
        await opened.run(*CREATE_CLAIM)
        found = await _raised(opened, epoch)
    await opened.run("SET SESSION sql_log_bin = 1")
    if found is None or found > epoch:
        raise ActionError(f"{target.name} has been claimed by epoch {found}: epoch {epoch} is over")


async def _raised(opened: Session, epoch: int) -> int | None:
    """The claim, raised to *epoch* if it was lower; None: the table or its row is missing, as whoever made it died."""
    try:
        await opened.rows(RAISE_CLAIM, (epoch, epoch))
        row = await opened.row(CLAIM)
    except SqlError as error:
        if error.number not in NO_TABLE:
            raise
        return None
    return int(row["epoch"]) if row else None


async def claim(targets: Sequence[Target], epoch: int) -> None:
    """Raise the claim on all *targets* that are reached, so that whoever acts under an older epoch is refused there.

    :raises ActionError: a higher epoch has claimed one.
    """
    for outcome in await asyncio.gather(*(_claim_one(target, epoch) for target in targets), return_exceptions=True):
        if isinstance(outcome, ActionError) and not outcome.retry:
            raise outcome


async def _claim_one(target: Target, epoch: int) -> None:
    async with claimed(target, epoch, 1.0):
        pass


async def look(member: MemberView, timeout: float = PATIENCE) -> MemberView:
    """*member* with the facts of this moment; as one that does not speak when it is not reached."""
    try:
        async with session(member.target, timeout) as opened:
            facts = await read_facts(opened)
    except SqlError as error:
        return replace(member, state=State.DOWN, reason=error.code, facts_age=max(member.facts_age, 2 * FRESH))
    facts["stream_silence"] = 0.0
    return replace(member, state=State.UP, facts=MappingProxyType(facts), facts_age=0.0)


async def look_all(members: Sequence[MemberView], timeout: float = PATIENCE) -> list[MemberView]:
    """All of them at once."""
    return list(await asyncio.gather(*(look(one, timeout) for one in members)))


async def facts_of(target: Target, timeout: float = PATIENCE) -> dict[str, Any]:
    """What a server says of itself.

    :raises ActionError: it is not reached.
    """
    async with told(target), session(target, timeout) as opened:
        return await read_facts(opened)


async def until(target: Target, wanted: Any, what: str, timeout: float) -> dict[str, Any]:
    """The facts of *target* as soon as *wanted* holds of them; it may be away meanwhile.

    :raises ActionError: not within *timeout* seconds.
    """
    last = "it was not reached"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while True:
                try:
                    facts = await facts_of(target, 1.0)
                    if wanted(facts):
                        return facts
                    last = "it is not so"
                except ActionError as error:
                    last = str(error)
                await asyncio.sleep(POLL)
    raise ActionError(f"{target.name}: waited {timeout:g} s for {what}: {last}", retry=True)


# What is done


async def stop_receiving(target: Target, epoch: int) -> None:
    """No transaction comes in any more and none is acknowledged; what has come in goes on being applied."""
    async with claimed(target, epoch) as opened:
        await opened.run("STOP SLAVE IO_THREAD")


async def start_receiving(target: Target, epoch: int) -> None:
    """Undo :func:`stop_receiving`."""
    async with claimed(target, epoch) as opened:
        if await opened.rows("SHOW ALL SLAVES STATUS"):
            await opened.run("START SLAVE IO_THREAD")


async def catch_up(target: Target, position: str, timeout: float) -> None:
    """Wait until *position* is applied.

    :raises ActionError: it is not, within *timeout* seconds, or nothing applies it.
    """
    if not position:
        return
    async with told(target), session(target, timeout + PATIENCE) as opened:
        status = await opened.row("SHOW ALL SLAVES STATUS")
        if status and status["Slave_SQL_Running"] != "Yes":
            await opened.run("START SLAVE SQL_THREAD")
        reached = await opened.row("SELECT MASTER_GTID_WAIT(%s, %s) AS late", (position, timeout))
    if reached["late"] != 0:
        raise ActionError(f"{target.name} has not applied {position} within {timeout:g} s")


async def become_source(target: Target, epoch: int, *, waits: bool = True) -> None:
    """Follow nobody; *waits*: no write is acknowledged before a replica has acknowledged it. It stays read-only."""
    async with claimed(target, epoch) as opened:
        if await opened.rows("SHOW ALL SLAVES STATUS"):
            await opened.run("STOP SLAVE", "RESET SLAVE ALL")
        await opened.run(
            "SET GLOBAL rpl_semi_sync_slave_enabled = 0", f"SET GLOBAL rpl_semi_sync_master_enabled = {int(waits)}"
        )


async def set_waiting(target: Target, *, waits: bool, epoch: int) -> None:
    """Acknowledge writes only once a replica has, or alone."""
    async with claimed(target, epoch) as opened:
        await opened.run(f"SET GLOBAL rpl_semi_sync_master_enabled = {int(waits)}")


async def follow(target: Target, source: Source, *, acker: bool, epoch: int) -> None:
    """Replicate from *source*, acknowledging its writes or not.

    A crashed primary cuts off what it had not committed, acknowledged or not, and takes it again from its successor.
    But a replica drops transactions that bear its own server id, unless it acknowledges: so it does for this long.

    :raises ActionError: it is not reached or refuses, or writes wait in it that switching its own semi-sync off would
        acknowledge although nobody else has them.
    """
    own = await _own_in(target, source.target)
    async with claimed(target, epoch) as opened:
        await _follow(opened, target, source, acker=acker or bool(own))
    if own:
        await until(target, lambda facts: not _lacks(facts, own), f"its own transactions {gtid.text(own)}", PATIENCE)
        if not acker:
            await set_acker(target, acker=False, epoch=epoch)


async def _own_in(target: Target, source: Target) -> gtid.State:
    """What *source* has of the transactions that *target* wrote and *target* itself lacks; nothing when the source is
    not there: a plan that is undone turns replicas back to a dead one."""
    facts = await facts_of(target)
    try:
        known = gtid.parse_state((await facts_of(source, 1.0))["binlog_state"])
    except ActionError:
        return {}
    own = {key: sequence for key, sequence in known.items() if key[1] == facts["server_id"]}
    return own if _lacks(facts, own) else {}


def _lacks(facts: Mapping[str, Any], wanted: gtid.State) -> bool:
    return bool(gtid.surplus(wanted, gtid.parse_state(facts["binlog_state"])))


async def _follow(opened: Session, target: Target, source: Source, *, acker: bool) -> None:
    facts = await read_facts(opened)
    if facts["waiting"]:
        raise ActionError(f"{target.name}: {facts['waiting']} writes wait in it that nobody has acknowledged")
    await opened.run("SET GLOBAL read_only = 1", "SET GLOBAL rpl_semi_sync_master_enabled = 0")
    if facts["source"]:
        await opened.run("STOP SLAVE")
    start = _start_position(facts)
    if start:
        await opened.rows("SET GLOBAL gtid_slave_pos = %s", (start,))
    await opened.run(f"SET GLOBAL rpl_semi_sync_slave_enabled = {int(acker)}")
    host, port = split_address(source.target.address, PORT)
    values: tuple[object, ...] = (host, port, source.user, source.password)
    if source.tls:
        await opened.rows(FOLLOW + FOLLOW_TLS, (*values, source.ca, int(bool(source.ca))))
    else:
        await opened.rows(FOLLOW, values)
    await opened.run("START SLAVE")


def _start_position(facts: Mapping[str, Any]) -> str:
    """Where a former primary goes on from: what it wrote itself counts, not only what it once received; empty: the
    position that it has is right."""
    written, applied = gtid.parse_state(facts["binlog_pos"]), gtid.parse_state(facts["slave_pos"])
    ahead = gtid.behind(gtid.position(applied), gtid.position(written))
    return str(facts["binlog_pos"]) if ahead else ""


async def set_acker(target: Target, *, acker: bool, epoch: int) -> None:
    """Acknowledge the source's writes from now on, or no longer; takes a new connection to the source."""
    async with claimed(target, epoch) as opened:
        await opened.run(f"SET GLOBAL rpl_semi_sync_slave_enabled = {int(acker)}")
        if await opened.rows("SHOW ALL SLAVES STATUS"):
            await opened.run("STOP SLAVE IO_THREAD", "START SLAVE IO_THREAD")


async def stuck(opened: Session) -> list[int]:
    """The sessions whose writes have waited longer for an acknowledgement than a living replica takes."""
    rows = await opened.rows(
        "SELECT id FROM information_schema.processlist WHERE state LIKE %s AND time_ms > %s",
        ("Waiting for semi-sync ACK%", STUCK_MS),
    )
    return [int(row["id"]) for row in rows]


async def release(target: Target, epoch: int) -> None:
    """End the sessions that wait for an acknowledgement that cannot come any more.

    A replica that begins to acknowledge does so for what it receives from then on; what it had received before holds
    up all later commits. A session that is killed commits and tells its client of a broken connection, not of success.
    """
    async with claimed(target, epoch) as opened:
        for number in await stuck(opened):
            with contextlib.suppress(SqlError):  # it has ended by itself
                await opened.run(f"KILL CONNECTION {number}")


async def close(target: Target, epoch: int, patience: float) -> None:
    """No more writes by applications; those that run are waited for, at most *patience* seconds."""
    async with claimed(target, epoch, patience + PATIENCE) as opened:
        await opened.run(f"SET SESSION lock_wait_timeout = {max(1, round(patience))}", _opening(epoch, read_only=1))


async def open_for_writes(target: Target, epoch: int) -> None:
    """Writable, if no higher epoch has claimed it."""
    async with claimed(target, epoch) as opened:
        await opened.run(_opening(epoch, read_only=0))


async def write_reign(target: Target, reign: int, epoch: int) -> None:
    """The first write of a new primary: it returns when a replica has acknowledged it."""
    async with claimed(target, epoch) as opened:
        await opened.run(*CREATE_REIGN)
        await opened.rows(WRITE_REIGN, (reign, target.name))


def _opening(epoch: int, *, read_only: int) -> str:
    return OPEN.format(epoch=int(epoch), read_only=read_only)


async def kill_clients(target: Target, epoch: int) -> int:
    """End every session that is neither ours nor a replica's; how many there were."""
    async with claimed(target, epoch) as opened:
        rows = await opened.rows(
            "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND user NOT IN"
            " ('system user', 'event_scheduler', %s) AND command NOT LIKE 'Binlog Dump%%'",
            (target.user,),
        )
        for row in rows:
            with contextlib.suppress(SqlError):  # it has ended by itself
                await opened.run(f"KILL CONNECTION {int(row['id'])}")
        return len(rows)


# Contexts


def recalled(context: Context, name: str) -> Any:
    """What an earlier step of the plan returned under *name*.

    :raises ActionError: none did.
    """
    for result in reversed(list(context.results.values())):
        if name in result:
            return result[name]
    raise ActionError(f"no step before has told {name!r}")
