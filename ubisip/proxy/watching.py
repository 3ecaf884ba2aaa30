# SPDX-License-Identifier: Apache-2.0
"""Who is told of the other tiers: subscribers get events, hooks are called, the audit log is written."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ubisip.failover.plan import Journal
from ubisip.failover.verdict import Verdict
from ubisip.proxy.events import GatewayEvent, PlanEnded, PlanStarted, StepTaken, Subscribers, TierChanged
from ubisip.proxy.hooks import HookThreads

log = logging.getLogger(__name__)

ON_TRANSITION = "on_transition"
ON_PLAN = "on_plan"
ON_ACTION = "on_action"
MAX_WAITING = 1_000
"""Events that wait for hooks; a hook that hangs must not take the memory. The newest are dropped and counted."""
HOOK_TIMEOUT = 10.0
"""Seconds that a hook has for one event."""

Audit = Callable[..., None]
"""``(who, what, result, **details)``."""


class Watching:
    """Tells *subscribers*, *hooks* and the *audit* log what becomes of tiers and plans; see Watcher in failover.

    Hooks are objects with any of the methods ``on_transition(TierChanged)``, ``on_plan(PlanStarted | PlanEnded)`` and
    ``on_action(StepTaken)``, plain or ``async``: each event is handed to one hook after the other, in order, beside all
    else. ``failures`` counts those that raised, were late, or could not wait.
    """

    def __init__(self, subscribers: Subscribers, hooks: Sequence[object], audit: Audit) -> None:
        self.failures: Counter[str] = Counter()
        self._subscribers = subscribers
        self._hooks = [
            hook for hook in hooks if any(hasattr(hook, name) for name in (ON_TRANSITION, ON_PLAN, ON_ACTION))
        ]
        self._audit = audit
        self._threads = HookThreads() if self._hooks else None
        self._waiting: asyncio.Queue[tuple[str, GatewayEvent]] = asyncio.Queue(MAX_WAITING)

    def transition(self, tier: str, before: Verdict, after: Verdict) -> None:
        self._tell(ON_TRANSITION, TierChanged(time.time(), tier, before.code, after.code, after.accused, after.why))

    def plan(self, journal: Journal) -> None:
        it = journal.plan
        if journal.is_open:
            steps = tuple(map(str, it.steps))
            self._tell(ON_PLAN, PlanStarted(time.time(), it.id, it.tier, it.cause, it.asked_by, steps))
        else:
            self._tell(ON_PLAN, PlanEnded(time.time(), it.id, it.tier, journal.progress.value, journal.reason))

    def step(self, journal: Journal, index: int) -> None:
        it, record = journal.plan, journal.steps[index]
        step = str(it.steps[index])
        self._tell(ON_ACTION, StepTaken(time.time(), it.id, it.tier, step, record.state.value, record.reason))

    def audit(self, who: str, what: str, result: str, details: Mapping[str, Any]) -> None:
        self._audit(who, what, result, **details)

    def _tell(self, method: str, event: GatewayEvent) -> None:
        self._subscribers.publish(event)
        if not self._hooks:
            return
        try:
            self._waiting.put_nowait((method, event))
        except asyncio.QueueFull:
            self.failures["full"] += 1

    async def run(self) -> None:
        """Call the hooks, until cancelled."""
        while True:
            method, event = await self._waiting.get()
            for hook in self._hooks:
                if hasattr(hook, method):
                    await self._call(getattr(hook, method), event)

    async def _call(self, function: Callable[[Any], Any], event: GatewayEvent) -> None:
        try:
            async with asyncio.timeout(HOOK_TIMEOUT):
                if inspect.iscoroutinefunction(function):
                    await function(event)
                elif self._threads is not None:
                    await self._threads.run(function, event)
        except TimeoutError:
            self.failures["late"] += 1
            log.warning("the hook %s has not returned in %.0f s", function.__qualname__, HOOK_TIMEOUT)
        except Exception:
            self.failures["error"] += 1
            log.exception("the hook %s failed", function.__qualname__)
