# SPDX-License-Identifier: Apache-2.0
"""Whether the observer itself is sick, and so abstains (DESIGN section 7).

Two signs: the control loop lags, or most unrelated destinations fail at once. Destinations are unrelated when they
differ in site or kind; one (kind, site) is a group, and a group fails when more than half of its usable members do:
what one switch or one power supply takes down together says nothing about us. A sick observer may suspect
(FALLING), it may not condemn (DOWN): the caller drops the sample that would.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from ubisip.health.machine import FAILURES, Sample, Settings, State, Verdict
from ubisip.platform import Kind

LAG_LIMIT = 0.1
"""Seconds of control-loop lag from which time-outs prove nothing."""

_K = TypeVar("_K", bound=Hashable)

Group = tuple[Kind, str]
"""Kind and site: what fails together by its own cause. For members of tiers the kind is the tier's name."""


@dataclass(frozen=True, slots=True)
class Testimony(Generic[_K]):
    """When a destination was last heard, and since when it has not been; times are seconds."""

    group: tuple[_K, str]
    answered_at: float = -math.inf
    failed_at: float = -math.inf
    failing_since: float | None = None
    """First failure since it last answered."""

    def failing(self, now: float, window: float) -> bool:
        """Its last word is a failure, and a recent one."""
        return self.failing_since is not None and now - self.failed_at <= window


@dataclass(frozen=True, slots=True)
class Case(Generic[_K]):
    """What is to be judged: may *sample* take *accused* to the state *after*?"""

    sample: Sample
    after: State
    accused: Testimony[_K]
    usable: Collection[Testimony[_K]]
    """Of all destinations that can still fail, *accused* included."""


def note(testimony: Testimony[_K], sample: Sample, now: float) -> Testimony[_K]:
    """The testimony after *sample*: any answer, even a 503, shows that we can hear."""
    if sample.answered:
        return replace(testimony, answered_at=now, failing_since=None)
    if sample.verdict in FAILURES:
        since = now if testimony.failing_since is None else testimony.failing_since
        return replace(testimony, failed_at=now, failing_since=since)
    return testimony


def suspect_ourselves(case: Case[Any], now: float, window: float) -> bool:
    """Whether the failures of the last *window* seconds look like our own fault rather than the accused's.

    Only when there are unrelated destinations to compare with. A hard failure is doubted when more than half of all
    groups fail at once. Silence, which lost datagrams make as well, is doubted also when nobody was heard since the
    accused began to fail, when more than half of the groups fail that failed or were heard since then, and when
    every site of the accused's kind fails at once.
    """
    members = defaultdict(list)
    for testimony in case.usable:
        members[testimony.group].append(testimony)
    if len(members) < 2:
        return False
    failing = {group for group, them in members.items() if 2 * sum(t.failing(now, window) for t in them) > len(them)}
    if case.sample.hard:
        return 2 * len(failing) > len(members)
    since = now if case.accused.failing_since is None else case.accused.failing_since
    heard = {group for group, them in members.items() if any(t.answered_at >= since for t in them)}
    same_kind = {group for group in members if group[0] == case.accused.group[0]}
    return not heard or 2 * len(failing) > len(failing | heard) or 1 < len(same_kind) == len(same_kind & failing)


class Observer:
    """Remembers lag, and the episode of doubt.

    Doubt lasts while nobody at all answers. Once somebody does, we evidently hear, and after one more round of probes
    (`interval` + `timeout`) those that are still silent are taken at their word.
    """

    def __init__(self) -> None:
        self._blind_until = -math.inf
        self._began = -math.inf
        """When the first suspicion of the episode arose."""
        self._last = -math.inf
        """When its last did; the episode is over a round later."""
        self._heard_since: float | None = None
        """When somebody was first heard in it."""

    def lagged(self, seconds: float, settings: Settings, now: float) -> None:
        """The control loop woke *seconds* late; what it timed in that while is worth nothing."""
        if seconds > LAG_LIMIT:
            self._blind_until = max(self._blind_until, now + min(seconds, settings.timeout))

    def abstains(self, settings: Settings, now: float) -> str:
        """Why the observer abstains at *now*: ``lag``, ``most targets fail``, or empty."""
        if now < self._blind_until:
            return "lag"
        doubting = now - self._last <= _round(settings) and not self._exhausted(settings, now)
        return "most targets fail" if doubting else ""

    def doubts(self, case: Case[Any], settings: Settings, now: float) -> bool:
        """Whether the transition must not be made."""
        if case.after in (State.FALLING, State.UP, State.RISING):
            return False
        if now < self._blind_until and _hangs_on_our_clock(case.sample):
            return True
        if case.sample.answered:
            return False
        if suspect_ourselves(case, now, _round(settings)):
            self._suspect(settings, now)
        elif case.sample.hard or _sent(case.sample, settings, now) > self._last:
            return False
        self._listen(case, now)
        return not self._exhausted(settings, now)

    def _suspect(self, settings: Settings, now: float) -> None:
        if now - self._last > _round(settings):
            self._began, self._heard_since = now, None
        self._last = now

    def _listen(self, case: Case[Any], now: float) -> None:
        if self._heard_since is None and any(testimony.answered_at > self._began for testimony in case.usable):
            self._heard_since = now

    def _exhausted(self, settings: Settings, now: float) -> bool:
        return self._heard_since is not None and now - self._heard_since > _round(settings)


def _hangs_on_our_clock(sample: Sample) -> bool:
    return sample.verdict is Verdict.WARN or not (sample.answered or sample.hard)


def _sent(sample: Sample, settings: Settings, now: float) -> float:
    """When the request left: what we sent while we were deaf proves nothing after we hear again."""
    return now - settings.timeout if sample.sent_at is None else sample.sent_at


def _round(settings: Settings) -> float:
    """Seconds in which every destination is probed once and has answered or not."""
    return settings.interval + settings.timeout
