# SPDX-License-Identifier: Apache-2.0
"""The members of all tiers, probed and judged by the health machine (DESIGN section 7).

:class:`Watch` is pure: findings in, transitions and states out. :class:`Prober` asks, each member in a task of its own.
Times are seconds on one monotonic clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ubisip.health.machine import (
    FAILURES,
    USABLE,
    Health,
    Sample,
    Settings,
    State,
    Transition,
    Verdict,
    advance,
    weight,
)
from ubisip.health.observer import Case, Observer, Testimony, note
from ubisip.health.probe import NO_FACTS, Finding, Probe, Target

log = logging.getLogger(__name__)

EXCITED = 5.0
"""Seconds after a failure in which the others of its tier are asked at `fast_interval`: they are its witnesses."""
GRACE = 0.25
"""Seconds that a probe may answer after its time-out before it is given up: its own clock is the better one."""
LAG_TICK = 0.1

Key = tuple[str, str]
"""Tier and member."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One tier to watch."""

    tier: str
    settings: Settings
    targets: Sequence[Target]
    probe: Probe


@dataclass(frozen=True, slots=True)
class Seen:
    """What this observer knows of one member."""

    target: Target
    state: State
    reason: str
    facts: Mapping[str, Any]
    facts_at: float
    """When these were learnt; minus infinity: never."""
    problem: str
    abstains: bool
    """Its last answer said nothing, or the observer is sick."""


@dataclass(slots=True)
class _Member:
    target: Target
    settings: Settings
    testimony: Testimony[str]
    health: Health = field(default_factory=Health)
    last: Finding | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: NO_FACTS)
    facts_at: float = -math.inf

    @property
    def counts(self) -> bool:
        return self.health.state in USABLE


class Watch:
    """The health of every member of every tier, as one observer sees it."""

    def __init__(self, tiers: Sequence[Watched]) -> None:
        self._observer = Observer()
        self._excited: dict[str, float] = {}
        self._members: dict[Key, _Member] = {
            (one.tier, target.name): _Member(target, one.settings, Testimony((one.tier, target.site)))
            for one in tiers
            for target in one.targets
        }

    def take(self, key: Key, finding: Finding, sent_at: float, now: float) -> Transition | None:
        """What *finding*, asked for at *sent_at*, changes."""
        it = self._members[key]
        sample = finding.sample
        if sample.sent_at is None and sample.verdict in FAILURES:
            sample = replace(sample, sent_at=sent_at)
        it.last = finding
        if finding.facts:
            it.facts, it.facts_at = finding.facts, now
        it.testimony = note(it.testimony, sample, now)
        if sample.verdict in FAILURES and it.counts:
            self._excited[key[0]] = now
        health, transition = advance(it.health, sample, it.settings, now)
        if transition is not None and self._doubts(it, sample, transition, now):
            return None
        it.health = health
        if transition is not None and transition.before is not State.UNKNOWN:
            self._excited[key[0]] = now
        return transition

    def interval(self, key: Key, now: float) -> float:
        """Seconds from the last question to the next."""
        it = self._members[key]
        if it.health.state in (State.DOWN, State.HELD):
            return it.settings.down_interval
        changing = it.health.state in (State.FALLING, State.RISING, State.UNKNOWN)
        return it.settings.fast_interval if changing or self.excited(key[0], now) else it.settings.interval

    def excited(self, tier: str, now: float) -> bool:
        """Whether something has just failed in *tier*."""
        return now - self._excited.get(tier, -math.inf) < EXCITED

    def seen(self, tier: str, now: float) -> list[Seen]:
        """The members of *tier*, in the order of the file."""
        doubt = {key: bool(self._observer.abstains(it.settings, now)) for key, it in self._members.items()}
        return [
            Seen(
                it.target,
                it.health.state,
                it.health.reason if it.last is None else it.last.sample.reason,
                it.facts,
                it.facts_at,
                "" if it.last is None else it.last.problem,
                doubt[key] or it.last is None or it.last.sample.verdict is Verdict.INCONCLUSIVE,
            )
            for key, it in self._members.items()
            if key[0] == tier
        ]

    def weight(self, key: Key, now: float) -> float:
        """Factor on the weight of a member: less while it is degraded, and for a while after a recovery."""
        it = self._members[key]
        return weight(it.health, it.settings, now)

    def abstains(self, now: float) -> str:
        """Why the observer distrusts itself: ``lag``, ``most targets fail``, or empty."""
        return next(filter(None, (self._observer.abstains(it.settings, now) for it in self._members.values())), "")

    def lag(self, seconds: float, now: float) -> None:
        """The loop woke *seconds* late."""
        for settings in {id(it.settings): it.settings for it in self._members.values()}.values():
            self._observer.lagged(seconds, settings, now)

    def _doubts(self, it: _Member, sample: Sample, transition: Transition, now: float) -> bool:
        usable = [other.testimony for other in self._members.values() if other.counts]
        return self._observer.doubts(Case(sample, transition.after, it.testimony, usable), it.settings, now)


class Prober:
    """Asks all members from ``start`` to ``stop``; *changed* is told of each transition with its key."""

    def __init__(
        self,
        tiers: Sequence[Watched],
        changed: Callable[[Key, Transition], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.watch = Watch(tiers)
        self._tiers = tiers
        self._changed = changed
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        self._woken: dict[Key, asyncio.Event] = {}

    def start(self) -> None:
        """Begin to ask."""
        loop = asyncio.get_running_loop()
        for one in self._tiers:
            for number, target in enumerate(one.targets):
                self._woken[one.tier, target.name] = asyncio.Event()
                spread = one.settings.fast_interval * number / len(one.targets)
                self._tasks.append(loop.create_task(self._ask_on(one, target, spread)))
        self._tasks.append(loop.create_task(self._measure_lag()))

    async def stop(self) -> None:
        """Ask no more; gives back the probes' connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*(one.probe.close() for one in self._tiers), return_exceptions=True)

    def hurry(self, tier: str) -> None:
        """Ask every member of *tier* at once."""
        for key, woken in self._woken.items():
            if key[0] == tier:
                woken.set()

    async def _ask_on(self, one: Watched, target: Target, spread: float) -> None:
        key = (one.tier, target.name)
        woken = self._woken[key]
        await asyncio.sleep(spread)
        while True:
            sent_at = self._clock()
            woken.clear()
            finding = await self._ask(one, target)
            try:
                self._take(key, finding, sent_at)
            except Exception:  # else this member would never be asked again
                log.exception("what was found of %s in %s is lost", target.name, one.tier)
            with contextlib.suppress(TimeoutError):
                left = sent_at + self.watch.interval(key, self._clock()) - self._clock()
                await asyncio.wait_for(woken.wait(), max(0.01, left))

    def _take(self, key: Key, finding: Finding, sent_at: float) -> None:
        now = self._clock()
        was_calm = not self.watch.excited(key[0], now)
        transition = self.watch.take(key, finding, sent_at, now)
        if was_calm and self.watch.excited(key[0], now):
            self.hurry(key[0])
            self._woken[key].clear()
        if transition is not None:
            self._changed(key, transition)

    async def _ask(self, one: Watched, target: Target) -> Finding:
        timeout = one.settings.timeout
        try:
            async with asyncio.timeout(timeout + GRACE):
                return await one.probe.check(target, timeout)
        except TimeoutError:
            return Finding(Sample(Verdict.FAIL, "timeout"), timeout)
        except Exception as error:  # a fault of the probe says nothing of the member
            log.exception("the probe of %s in %s failed", target.name, one.tier)
            return Finding(Sample(Verdict.INCONCLUSIVE, "probe"), problem=f"the probe itself failed: {error!r}")

    async def _measure_lag(self) -> None:
        while True:
            due = self._clock() + LAG_TICK
            await asyncio.sleep(LAG_TICK)
            now = self._clock()
            self.watch.lag(max(0.0, now - due), now)
