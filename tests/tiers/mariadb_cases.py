# SPDX-License-Identifier: Apache-2.0
"""Database tiers in few words: ``down | conn ok gone`` is a primary that is down and three replicas, one of which
cannot connect to it, one still hears it, one is down itself. :func:`tier` makes the views that a verdict is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ubisip.failover.action import MemberView
from ubisip.health.machine import State
from ubisip.health.probe import Target

NAMES = ("db-pa2-1", "db-pa2-2", "db-pa5-1", "db-pa5-2")
SITES = ("PA2", "PA2", "PA5", "PA5")
POSITION = "0-1-500"

Change = Callable[[MemberView], MemberView]

FACTS: Mapping[str, Any] = MappingProxyType(
    {
        "version": "10.11.19-MariaDB-log", "domain_id": 0, "log_bin": True, "log_slave_updates": True,
        "gtid_strict": True, "binlog_state": POSITION, "binlog_pos": POSITION, "slave_pos": "", "epoch": 0,
        "wait_point": "AFTER_SYNC", "semisync_timeout": 3_600_000_000, "semisync_primary": False,
        "semisync_active": False, "acker": False, "missing": (), "sources": 0, "source": "", "source_id": 0,
        "io": "No", "sql": "No", "io_errno": 0, "io_error": "", "sql_errno": 0, "sql_error": "", "io_pos": "",
        "heartbeats": 7, "lag": None, "delay": 0, "uptime": 1000, "ackers": 0, "waiting": 0, "waiting_for": 0.0,
        "heartbeat_period": 0.5,
        "attached": (), "reign": 0, "reigning": "", "stream_silence": 0.1,
    }
)  # fmt: skip


def member(number: int) -> MemberView:
    """A healthy member: the first is the primary, the others follow it, those of PA5 acknowledge."""
    target = Target("database", NAMES[number], SITES[number], f"127.0.0.1:{3311 + number}", "ubisip", "secret")
    own: dict[str, Any] = {"server_id": number + 1, "read_only": number > 0}
    if number == 0:
        own.update(semisync_primary=True, semisync_active=True, ackers=2, attached=(2, 3, 4), role="primary")
    else:
        own.update(
            source="127.0.0.1:3311", source_id=1, sources=1, io="Yes", sql="Yes", io_pos=POSITION, slave_pos=POSITION,
            lag=0, acker=number > 1, role="replica",
        )  # fmt: skip
    return MemberView(target, State.UP, facts=MappingProxyType({**FACTS, **own}), facts_age=0.2)


def known(**facts: Any) -> Change:
    """It says this of itself."""
    return lambda one: replace(one, facts=MappingProxyType({**one.facts, **facts}))


def seen(state: State, reason: str = "", age: float = 0.2, problem: str = "") -> Change:
    """It is seen so."""
    return lambda one: replace(one, state=state, reason=reason, facts_age=age, problem=problem)


def both(*changes: Change) -> Change:
    def change(one: MemberView) -> MemberView:
        for it in changes:
            one = it(one)
        return one

    return change


def nothing_known(one: MemberView) -> MemberView:
    return replace(one, state=State.UNKNOWN, facts=MappingProxyType({}), facts_age=float("inf"))


ALONE = known(source="", source_id=0, sources=0, io="No", sql="No", io_pos="", lag=None, acker=False)
WORDS: Mapping[str, Change] = MappingProxyType(
    {
        "ok": both(),
        "up": both(),
        # The primary
        "down": seen(State.DOWN, "refused", 2.0),
        "mute": seen(State.DOWN, "timeout", 4.0),
        "fall": seen(State.FALLING, "refused", 1.0),
        "slow": seen(State.FALLING, "timeout", 3.5),
        "rising": seen(State.RISING, "", 0.2),
        "held": seen(State.HELD, "refused", 9.0),
        "flapping": seen(State.HELD, "", 0.4),
        "new": nothing_known,
        "never": both(nothing_known, seen(State.DOWN, "refused", float("inf"))),
        "full": seen(State.UP, "sql.1040", 4.0, "all its connections are taken (1040)"),
        "barred": seen(State.UNKNOWN, "sql.1045", float("inf"), "it does not let us in"),
        "ro": known(read_only=True, semisync_primary=False),
        "locked": known(waiting=3, waiting_for=5.0, ackers=0, attached=(2,)),
        "stuck": known(waiting=3, waiting_for=5.0),
        "busy": known(waiting=3, waiting_for=0.2),
        "unacked": known(ackers=0, attached=(2,)),
        "async": known(semisync_primary=False, semisync_active=False, ackers=0),
        "hasty": known(semisync_timeout=10_000),
        # Replicas, and what they testify
        "conn": known(io="Connecting", io_errno=2003, io_error="error connecting to master", lag=None),
        "cut": known(io="No", io_errno=2013, io_error="lost connection", lag=None),
        "still": known(stream_silence=1.6),
        "away": known(io="Connecting", io_errno=2003, lag=None, stream_silence=9.0),
        "dead": seen(State.DOWN, "timeout", 9.0),
        "forgotten": seen(State.DOWN, "timeout", 1000.0),
        "pause": known(stream_silence=0.9),
        "calm": known(stream_silence=8.0, heartbeat_period=5.0),
        "late": both(known(stream_silence=0.1), seen(State.UP, age=2.5)),
        "stop": known(io="No", sql="No", lag=None),
        "1236": known(io="No", io_errno=1236, io_error="Got fatal error 1236 from master", lag=None),
        "gone": seen(State.DOWN, "refused", 30.0),
        "hidden": seen(State.FALLING, "timeout", 9.0),
        "lost": seen(State.DOWN, "timeout", 3.5),
        "lag": known(lag=60),
        "delay": known(lag=60, delay=60, slave_pos="0-1-100", binlog_state="0-1-100", binlog_pos="0-1-100"),
        "sqlerr": known(sql="No", sql_errno=1062, sql_error="Duplicate entry '1'", lag=None),
        "poor": known(missing=("RELOAD",)),
        "nolog": known(log_bin=False),
        "domain": known(domain_id=7),
        "newer": known(version="11.4.2-MariaDB"),
        "older": known(version="10.6.12-MariaDB"),
        "many": known(sources=2),
        "ahead": known(io_pos="0-1-503"),
        "behind": known(io_pos="0-1-490", slave_pos="0-1-490", binlog_state="0-1-490", binlog_pos="0-1-490"),
        "unapplied": known(slave_pos="0-1-480", binlog_state="0-1-480", binlog_pos="0-1-480"),
        "errant": lambda one: known(binlog_state=f"{POSITION},0-{one.facts['server_id']}-501")(one),
        "holed": known(binlog_state="0-1-400,0-9-450,0-2-600", slave_pos="0-2-600"),
        "mark": known(acker=True),
        "unmark": known(acker=False),
        # Members that were primary once
        "alone": both(ALONE, known(read_only=True)),
        "writable": both(ALONE, known(read_only=False, semisync_primary=True)),
        "tail": both(ALONE, known(read_only=False, semisync_primary=True, waiting=2, binlog_state="0-1-500,0-2-507")),
        "own": both(ALONE, known(read_only=True, binlog_state="0-1-500,0-2-507")),
        # After a failover to the second member, reign 7
        "now": both(
            ALONE,
            known(
                read_only=False, semisync_primary=True, semisync_active=True, ackers=2, attached=(3, 4), role="primary",
                reign=7, reigning="db-pa2-2",
            ),
        ),
        "f2": known(source="127.0.0.1:3312", source_id=2, reign=7, reigning="db-pa2-2"),
        "early": both(ALONE, known(read_only=False, semisync_primary=True, ackers=2, attached=(3, 4), role="primary")),
        "r7": known(reign=7, reigning="db-pa2-2"),
        "joined": known(
            source="127.0.0.1:3312", source_id=2, sources=1, io="Yes", sql="Yes", io_pos=POSITION, slave_pos=POSITION,
            lag=0, reign=7, reigning="db-pa2-2", read_only=True, semisync_primary=False,
        ),
    }
)  # fmt: skip
"""What a word makes of a member; ``conn+behind`` is both."""


def tier(text: str, votes: str = "") -> tuple[MemberView, ...]:
    """The tier that *text* describes: the primary, a bar, the replicas, a word each.

    *votes* on the primary, of PA2, PA5 and the witness: ``DDU`` is down, down, up; ``-`` abstains.
    """
    words = text.replace("|", " ").split()
    members = [_voted(_changed(member(number), word)) for number, word in enumerate(words)]
    if votes:
        members[0] = replace(members[0], votes=ballots(votes))
    return tuple(members)


def _voted(one: MemberView) -> MemberView:
    """With the vote of the one observer that there is."""
    word = {State.UP: "up", State.DOWN: "down", State.HELD: "down"}.get(one.state, "abstain")
    return replace(one, votes=MappingProxyType({"PA2": word}))


def ballots(votes: str) -> Mapping[str, str]:
    by_letter = {"D": "down", "U": "up", "-": "abstain"}
    return MappingProxyType({site: by_letter[it] for site, it in zip(("PA2", "PA5", "W"), votes, strict=False)})


def _changed(one: MemberView, word: str) -> MemberView:
    for part in word.split("+"):
        one = WORDS[part](one)
    return one


def rows(table: str) -> Sequence[Sequence[str]]:
    """The rows of a table of text: columns apart by two blanks or more, ``#`` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in table.splitlines())
    return [[part.strip() for part in line.split("  ") if part.strip()] for line in lines if line]
