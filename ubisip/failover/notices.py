# SPDX-License-Identifier: Apache-2.0
"""Notices on their way to the sinks: each is sent again until it is acknowledged or resolved."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ubisip.failover.action import ActionError, Notice, Sink

log = logging.getLogger(__name__)

REPEAT = 60.0
"""Seconds after which a notice that is open is sent again."""
RETRY = 5.0
"""Seconds after which one that a sink did not take is tried again."""
SEND_TIMEOUT = 10.0
"""Seconds that a sink has."""
MAX_OPEN = 200
"""Notices open at once; the oldest goes first. Each is a matter for people: more than they can read."""
TURN = 1.0
_NUMBER = re.compile(r"\d[\d.]*")


@dataclass(slots=True)
class _Open:
    notice: Notice
    shape: str
    """What it says, without its numbers."""
    acknowledged_by: str = ""
    due: dict[str, float] = field(default_factory=dict)
    """When each sink gets it next; infinity: it has had its last word."""
    told: set[str] = field(default_factory=set)
    """The sinks that have had it at least once."""
    raised: Notice | None = None
    """As it was before it was settled: who has not had it yet gets it first."""


class Notices:
    """All open notices, and the task that sends them to *sinks*."""

    def __init__(self, sinks: Mapping[str, Sink], clock: Callable[[], float] = time.monotonic) -> None:
        self._sinks = sinks
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._wake = asyncio.Event()

    def tell(self, notice: Notice, news: Sequence[str]) -> None:
        """Open *notice*, or let it say something new.

        *news* is what makes it new, numbers in it aside: while that stays, only its text is kept up to date for the
        next repetition.
        """
        before, shape = self._open.get(notice.key), _NUMBER.sub("#", "\0".join((notice.severity, *news)))
        if before is not None and before.notice.ends_at is None:
            notice = replace(notice, starts_at=before.notice.starts_at)
            if before.shape == shape:
                before.notice = notice
                return
        log.warning("%s: %s", notice.title, notice.text)
        told = set() if before is None else before.told
        self._open[notice.key] = _Open(notice, shape, due=dict.fromkeys(self._sinks, -math.inf), told=told)
        while len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._wake.set()

    def settle(self, prefix: str, text: str, now: float) -> None:
        """The matters whose keys begin with *prefix* are settled: each sink is told so once, and then no more.

        *now*: seconds since the epoch.
        """
        for key, it in self._open.items():
            if key.startswith(prefix) and it.notice.ends_at is None:
                log.info("%s: %s", it.notice.title, text)
                it.raised, it.notice = it.notice, replace(it.notice, text=text, ends_at=now)
                it.due = dict.fromkeys(self._sinks, -math.inf)
                self._wake.set()

    def acknowledge(self, key: str, who: str) -> bool:
        """*who* takes care of it: it is not repeated; False: no such notice is open."""
        it = self._open.get(key)
        if it is None or it.notice.ends_at is not None:
            return False
        it.acknowledged_by = who
        return True

    def drop(self, prefix: str = "") -> None:
        """Say no more of those whose key begins with *prefix*: another gateway does."""
        for key in [key for key in self._open if key.startswith(prefix)]:
            del self._open[key]

    def open(self) -> list[tuple[Notice, str]]:
        """Those that are not settled, each with who acknowledged it."""
        return [(it.notice, it.acknowledged_by) for it in self._open.values() if it.notice.ends_at is None]

    async def run(self) -> None:
        """Send, until cancelled."""
        while True:
            await self.turn()
            try:
                await asyncio.wait_for(self._wake.wait(), TURN)
            except TimeoutError:
                continue
            self._wake.clear()

    async def turn(self) -> None:
        """Send what is due now, to all sinks at once: one that hangs keeps no other waiting."""
        now = self._clock()
        due = [(it, name) for it in self._open.values() for name, at in it.due.items() if at <= now]
        await asyncio.gather(*(self._send(it, name) for it, name in due))
        settled = [
            key
            for key, it in self._open.items()
            if it.notice.ends_at is not None and all(at == math.inf for at in it.due.values())
        ]
        for key in settled:
            del self._open[key]

    async def _send(self, it: _Open, name: str) -> None:
        notice, shape = it.notice, it.shape
        it.due[name] = self._clock() + SEND_TIMEOUT
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                if it.raised is not None and name not in it.told:
                    await self._sinks[name].send(it.raised)
                await self._sinks[name].send(notice)
        except (ActionError, TimeoutError) as error:
            log.error("the sink %s did not take %r: %s", name, notice.title, error or "no answer")
            again = RETRY
        except Exception:
            log.exception("the sink %s failed", name)
            again = REPEAT
        else:
            it.told.add(name)
            again = math.inf if notice.ends_at is not None or it.acknowledged_by else REPEAT
        if it.shape == shape and it.notice.ends_at == notice.ends_at:  # else it has something new to say, and is due
            it.due[name] = self._clock() + again
