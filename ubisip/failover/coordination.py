# SPDX-License-Identifier: Apache-2.0
"""What the controllers of one platform agree through: a small store of keys with leases and compared transactions.

Implementations: ubisip.store.sqlite (processes of one machine), ubisip.store.etcd (machines). Both are linearizable:
what one commit has compared is true when it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """The store gave no answer, or not the one that was asked for: nothing is known about what was done."""


class LeaseLost(Exception):
    """The lease is not alive any more; what was put under it is gone."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of the store."""

    key: str
    value: bytes
    created: int
    """Revision in which the key came to be: for the key of the lease, its epoch."""
    modified: int
    """Revision of its newest value."""


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on a key: that it was created, or last modified, in exactly this revision; 0: it is absent."""

    key: str
    created: int | None = None
    modified: int | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """A value for a key; under a *lease* it goes when that ends."""

    key: str
    value: bytes
    lease: int = 0


class Store(Protocol):
    """One connection to the store. Every method may raise StoreError, within TIMEOUT."""

    async def grant(self, ttl: float) -> int:
        """A new lease of *ttl* seconds: its number, never 0."""

    async def renew(self, lease: int) -> None:
        """Let it run its full time again.

        :raises LeaseLost: it is over.
        """

    async def revoke(self, lease: int) -> None:
        """End it now."""

    async def get(self, key: str) -> Entry | None:
        """The key as it is now."""

    async def range(self, prefix: str) -> list[Entry]:
        """All keys that begin with *prefix*, in order."""

    async def commit(self, compares: Sequence[Compare], puts: Sequence[Put], deletes: Sequence[str] = ()) -> int:
        """If all *compares* hold, do the rest; the new revision, 0 when one does not hold.

        :raises LeaseLost: a lease that something was to be put under is over.
        """

    async def tidy(self) -> None:
        """Forget old revisions, where they are kept."""

    async def close(self) -> None:
        """Give back what it holds."""


TIMEOUT = 1.5
"""Seconds that one operation may take: renewal every 2 s, twice this, and the lease's 6 s still hold."""
