# SPDX-License-Identifier: Apache-2.0
"""Where the journal of a plan is kept: in the store, by transactions that hold only while the lease is ours."""

from __future__ import annotations

import asyncio
import logging

from ubisip.failover.coordination import Compare, Put, Store, StoreError
from ubisip.failover.lease import Leadership
from ubisip.failover.plan import Journal, pack
from ubisip.failover.runner import Fenced

log = logging.getLogger(__name__)

PATIENCE = 0.2
"""Seconds between tries to write while the lease still holds."""


class Keeper:
    """Keeps the journal of one plan under *key*, while *leadership* holds the key *leader* under *epoch*.

    A local plan without a lease (epoch 0) has no journal: all of it can be repeated.
    """

    def __init__(self, store: Store, key: str, leader: str, leadership: Leadership, epoch: int) -> None:
        self._store = store
        self._key = key
        self._leader = leader
        self._leadership = leadership
        self._epoch = epoch

    async def __call__(self, journal: Journal) -> None:
        """Write it.

        :raises Fenced: the lease is lost.
        """
        while self._epoch and not await self._written(journal):
            if self._leadership.epoch != self._epoch:
                raise Fenced(f"plan {journal.plan.id}: the lease of epoch {self._epoch} is lost")
            await asyncio.sleep(PATIENCE)

    async def _written(self, journal: Journal) -> bool:
        """False: the store did not answer.

        :raises Fenced: it did, and the lease is another's.
        """
        ours, put = Compare(self._leader, created=self._epoch), Put(self._key, pack(journal))
        try:
            revision = await self._store.commit([ours], [put])
        except StoreError as error:
            log.warning("the journal of plan %s is not written yet: %s", journal.plan.id, error)
            return False
        if not revision:
            raise Fenced(f"plan {journal.plan.id}: the lease of epoch {self._epoch} is another's")
        return True
