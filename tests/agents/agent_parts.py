# SPDX-License-Identifier: Apache-2.0
"""What the tests of agents share: rows of the core's table, and a table that gives them in slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ubisip.store.bindings import Row

EXPIRES = 1_800_003_600.0


def row(
    name: str, *, reg_id: int = 1, instance: str | None = None, contact: str = "", expires_at: float = EXPIRES
) -> Row:
    """A binding of agent *name*, with an instance of its own."""
    return Row(
        aor=name,
        contact=contact or f"sip:{name}@192.0.2.1:5062;transport=tcp",
        instance=f"<urn:uuid:00000000-0000-1000-8000-{name}>" if instance is None else instance,
        reg_id=reg_id,
        q1000=1000,
        path="<sip:token@pa2-gw1.example.net;lr;ob>",
        call_id=f"{name}@192.0.2.1",
        cseq=1,
        expires_at=expires_at,
        registered_at=EXPIRES - 3600,
        ip="192.0.2.1",
        port=5062,
        listener=0,
        stream=7,
        user_agent="Phone/1.0",
        flags=1,
    )


class Table:
    """The core's bindings: ``worker.bindings``; *between* is called before each slice with its number, from 1."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.asked: list[int] = []
        self.between: Callable[[int], object] = lambda turn: None

    def bindings(self, after: int, limit: int) -> tuple[int, list[tuple[Any, ...]]]:
        self.asked.append(limit)
        self.between(len(self.asked))
        end = after + limit
        rows = [(*one, 0b11, 12_000, True) for one in self.rows[after:end]]
        return (end if end < len(self.rows) else 0), rows
