# SPDX-License-Identifier: Apache-2.0
"""Whether the observer itself is sick, and so abstains (DESIGN section 7).

Two signs: the control loop lags, or most unrelated destinations fail at once. Destinations are unrelated when they
differ in site or kind; one (kind, site) is a group, and a group fails when more than half of its usable members do.
A sick observer may suspect (FALLING), it may not condemn (DOWN): the caller drops the sample that would.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace

from ubisip.health.machine import Sample, Settings, State, Verdict
from ubisip.platform import Kind

LAG_LIMIT = 0.1
"""Seconds of control-loop lag from which time-outs prove nothing."""

Group = tuple[Kind, str]
"""Kind and site: what fails together by its own cause."""

FAILURES = frozenset({Verdict.FAIL, Verdict.LOST})


@dataclass(frozen=True, slots=True)
class Testimony:
    """When a destination was last heard, and since when it has not been; times are seconds."""

    group: Group
    answered_at: float = -math.inf
    failed_at: float = -math.inf
    failing_since: float | None = None
    """First failure since it last answered."""

    def failing(self, now: float, window: float) -> bool:
        """Its last word is a failure, and a recent one."""
        return self.failing_since is not None and now - self.failed_at <= window


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be judged: may *sample* take *accused* to the state *after*?"""

    sample: Sample
    after: State
    accused: Testimony
    usable: Collection[Testimony]
    """Of all destinations that can still fail, *accused* included."""


def note(testimony: Testimony, sample: Sample, now: float) -> Testimony:
    """The testimony after *sample*: any answer, even a 503, shows that we can hear."""
    if sample.answered:
        return replace(testimony, answered_at=now, failing_since=None)
    if sample.verdict in FAILURES:
        since = now if testimony.failing_since is None else testimony.failing_since
        return replace(testimony, failed_at=now, failing_since=since)
    return testimony


def suspect_ourselves(case: Case, now: float, window: float) -> bool:
    """More than half of the groups that can bear witness fail at once, within *window* seconds.

    A group bears witness by failing too, or by an answer newer than the first failure of the accused. For a hard
    failure every group counts, heard or not: lost datagrams make silence, they never make an ICMP error.
    """
    members = defaultdict(list)
    for testimony in case.usable:
        members[testimony.group].append(testimony)
    if len(members) < 2:
        return False
    since = now if case.accused.failing_since is None else case.accused.failing_since
    failing = {group for group, them in members.items() if 2 * sum(t.failing(now, window) for t in them) > len(them)}
    heard = {group for group, them in members.items() if any(t.answered_at >= since for t in them)}
    witnesses = len(members) if case.sample.hard else len(failing | heard)
    return 2 * len(failing) > witnesses


class Observer:
    """Remembers lag and episodes of doubt.

    Doubt for want of company lasts while nobody at all answers; once somebody does, we evidently hear, and after
    one more round of probes (`interval` + `timeout`) those that are still silent are taken at their word.
    """

    def __init__(self) -> None:
        self._blind_until = -math.inf
        self._doubted_since = -math.inf
        self._doubted_at = -math.inf

    def lagged(self, seconds: float, settings: Settings, now: float) -> None:
        """The control loop woke *seconds* late; what it timed in that while is worth nothing."""
        if seconds > LAG_LIMIT:
            self._blind_until = max(self._blind_until, now + min(seconds, settings.timeout))

    def abstains(self, settings: Settings, now: float) -> str:
        """Why the observer abstains at *now*: ``lag``, ``most targets fail``, or empty."""
        if now < self._blind_until:
            return "lag"
        return "most targets fail" if now - self._doubted_at <= _round(settings) else ""

    def doubts(self, case: Case, settings: Settings, now: float) -> bool:
        """Whether the transition must not be made."""
        if case.after in (State.FALLING, State.UP, State.RISING):
            return False
        if now < self._blind_until and self._hangs_on_our_clock(case.sample):
            return True
        if case.sample.answered or not suspect_ourselves(case, now, _round(settings)):
            return False
        return self._may_still_doubt(case, settings, now)

    @staticmethod
    def _hangs_on_our_clock(sample: Sample) -> bool:
        return sample.verdict is Verdict.WARN or not (sample.answered or sample.hard)

    def _may_still_doubt(self, case: Case, settings: Settings, now: float) -> bool:
        if now - self._doubted_at > _round(settings):
            self._doubted_since = now
        heard = any(testimony.answered_at > self._doubted_since for testimony in case.usable)
        if heard and now - self._doubted_since > _round(settings):
            return False
        self._doubted_at = now
        return True


def _round(settings: Settings) -> float:
    """Seconds in which every destination is probed once and has answered or not."""
    return settings.interval + settings.timeout
