# SPDX-License-Identifier: Apache-2.0
"""Bindings as a value for JSON: ``GET /api/v1/agents``; and the search for some of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ubisip.agents.census import Census
from ubisip.core.snapshot import Slots
from ubisip.platform import Peer
from ubisip.proxy.node import Node

SLICE = 250
"""Bindings looked at in one turn of the loop: some 2 ms."""
PAUSE = 0.002
"""Seconds between two turns of a pass over all bindings."""


class Table(Protocol):
    """The core's bindings."""

    def bindings(self, after: int, limit: int) -> tuple[int, list[tuple[Any, ...]]]: ...


class Seen(NamedTuple):
    """A row of ``worker.bindings``."""

    aor: str
    contact: str
    instance: str
    reg_id: int
    q1000: int
    path: str
    call_id: str
    cseq: int
    expires_at: float
    registered_at: float
    ip: str
    port: int
    listener: int
    stream: int
    user_agent: str
    flags: int
    in_step: int
    """A bit for each slot of a server that has the binding as it stands."""
    rtt_us: int
    alive: bool


async def count(table: Table) -> Census:
    """All bindings, counted in slices."""
    census, after = Census(), 0
    while True:
        after, rows = table.bindings(after, SLICE)
        for row in rows:
            census.add(row)
        if not after:
            await asyncio.to_thread(census.settle)
            return census
        await asyncio.sleep(PAUSE)


async def find(table: Table, after: int, limit: int, wanted: Callable[[Seen], bool]) -> tuple[int, list[Seen]]:
    """Bindings that are *wanted*: the search ends with the slice that brings *limit*, so there may be some more."""
    found: list[Seen] = []
    while True:
        after, rows = table.bindings(after, min(limit, SLICE))
        found += filter(wanted, map(Seen._make, rows))
        if not after or len(found) >= limit:
            return after, found
        await asyncio.sleep(0)


def page(table: Table, after: int, limit: int) -> tuple[int, list[Seen]]:
    """At most *limit* bindings after number *after*."""
    after, rows = table.bindings(after, limit)
    return after, [Seen._make(row) for row in rows]


def is_named(aor: str) -> Callable[[Seen], bool]:
    """Whether a binding is of *aor*, which may be its user part alone."""
    aor = aor.removeprefix("sip:").removeprefix("sips:")
    whole = "@" in aor
    return lambda row: (row.aor if whole else row.aor.partition("@")[0]) == aor


def binding_of(row: Seen, node: Node, slots: Slots) -> dict[str, Any]:
    """One binding as docs/agents.md describes it."""
    now = time.time()
    servers = mirrored(node)
    has = {server.name: bool(row.in_step >> slots.slot(server.name) & 1) for server in servers}
    listen = node.gateway.listen
    return {
        "aor": row.aor,
        "contact": row.contact,
        "instance": row.instance,
        "reg_id": row.reg_id,
        "q": row.q1000 / 1000,
        "site": node.gateway.site,
        "gateway": node.gateway.name,
        "address": f"[{row.ip}]:{row.port}" if ":" in row.ip else f"{row.ip}:{row.port}",
        "listener": str(listen[row.listener]) if row.listener < len(listen) else "",
        "connection": bool(row.stream),
        "alive": row.alive,
        "age": round(max(0.0, now - row.registered_at), 1),
        "expires": round(max(0.0, row.expires_at - now), 1),
        "round_trip": None if row.rtt_us < 0 else row.rtt_us / 1e6,
        "in_step": [name for name, known in has.items() if known],
        "out_of_step": [name for name, known in has.items() if not known],
        "path": row.path,
        "user_agent": row.user_agent,
    }


def mirrored(node: Node) -> Sequence[Peer]:
    """The servers that a registration is passed on to."""
    agents = node.config.agents
    if agents is None or agents.mirror == "off":
        return ()
    servers = node.config.servers
    return servers if agents.mirror == "platform" else [one for one in servers if one.site == node.gateway.site]
