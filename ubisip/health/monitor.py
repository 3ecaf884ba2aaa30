# SPDX-License-Identifier: Apache-2.0
"""The health of all destinations of one gateway: evidence in, transitions and states out, no I/O (DESIGN section 7).

The control loop calls :meth:`Monitor.due` and sends the probes, reports what came of them and of the calls, and
hands :meth:`Monitor.states` to the core. Times are seconds on one monotonic clock.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ubisip.health import evidence
from ubisip.health.machine import (
    FAILURES,
    USABLE,
    Health,
    Sample,
    Settings,
    State,
    Transition,
    advance,
    pardon,
    usable,
    weight,
)
from ubisip.health.observer import Case, Group, Observer, Testimony, note
from ubisip.platform import DestinationState, Kind, Switch

PATIENCE = 3.0
"""Seconds for which targets are asked more often while we distrust ourselves: nothing new shows until one answers."""
SPREAD = 0.25
"""A probe comes up to this part of its interval early, by name and round, so that probes spread out."""


@dataclass(frozen=True, slots=True)
class Change:
    """A transition of one destination, for the log, the events and the metrics."""

    name: str
    kind: Kind
    site: str
    transition: Transition


@dataclass(slots=True)
class _Target:
    """One destination: its health, the operator's switch, and its probing."""

    name: str
    testimony: Testimony[Kind]
    health: Health = field(default_factory=Health)
    switch: Switch = Switch.READY
    sent_at: float = -math.inf
    """When the last probe was sent."""
    waiting: bool = False
    """Its result is not known yet."""
    rounds: int = 0
    """Probes sent."""
    spread: float = 0.0
    """How early the next one comes, as a part of SPREAD; see :meth:`Monitor._spread`."""
    urgent: bool = False
    """Wanted as a witness: do not wait for the interval."""
    doubted_since: float = math.inf
    """Since when it would be down, did we not distrust ourselves."""

    @property
    def probed(self) -> bool:
        return self.switch is not Switch.MAINTENANCE

    @property
    def counts(self) -> bool:
        """Health lets calls go there (in maintenance it is DOWN): only such a one can fail, or bear witness."""
        return self.health.state in USABLE


class Monitor:
    """Owns the health of every target and says which to probe when.

    *targets* are ``{name: (kind, site)}``; *seed*, such as the gateway's name, keeps several gateways from
    probing in step. An unknown name in evidence is ignored, since a reload may have removed it meanwhile.
    """

    def __init__(self, settings: Settings, targets: Mapping[str, Group], seed: str = "") -> None:
        self._settings = settings
        self._seed = seed
        self._observer = Observer()
        self._targets = {name: self._target(name, group) for name, group in targets.items()}

    def _target(self, name: str, group: Group) -> _Target:
        return _Target(name, Testimony(group), spread=self._spread(name, 0))

    def replace(self, settings: Settings, targets: Mapping[str, Group]) -> None:
        """Use *settings* and *targets* from now on; a name that stays keeps its health, switch and schedule."""
        self._settings = settings
        known = self._targets
        self._targets = {name: known.get(name) or self._target(name, group) for name, group in targets.items()}
        for name, group in targets.items():
            self._targets[name].testimony = replace(self._targets[name].testimony, group=group)

    def states(self, now: float) -> dict[str, DestinationState]:
        """What the core must know of each target at *now*."""
        return {
            name: DestinationState(usable(it.health, now), weight(it.health, self._settings, now), it.switch)
            for name, it in self._targets.items()
        }

    def health(self, name: str) -> Health:
        """The health of one target.

        :raises KeyError: no such target.
        """
        return self._targets[name].health

    def panic(self, now: float) -> frozenset[Kind]:
        """The kinds in which the operator lets calls through but nothing is usable: the core tries them all."""
        ready = [it for it in self._targets.values() if it.switch is Switch.READY]
        alive = {_kind(it) for it in ready if usable(it.health, now)}
        return frozenset({_kind(it) for it in ready} - alive)

    def abstains(self, now: float) -> str:
        """Why the gateway distrusts itself at *now*: ``lag``, ``most targets fail``, or empty."""
        return self._observer.abstains(self._settings, now)

    def due(self, now: float) -> list[str]:
        """The targets to probe at *now*; each is handed out once and then waits for :meth:`probed`.

        A result that never comes costs one interval beyond the time-out, not the probing.
        """
        names = [name for name, it in self._targets.items() if it.probed and self._due_at(it) <= now]
        for name in names:
            it = self._targets[name]
            it.sent_at, it.waiting, it.urgent, it.rounds = now, True, False, it.rounds + 1
            it.spread = self._spread(name, it.rounds)
        return names

    def next_due(self) -> float | None:
        """When :meth:`due` next has something; minus infinity: at once; None: there is nothing to probe."""
        return min((self._due_at(it) for it in self._targets.values() if it.probed), default=None)

    def probed(
        self, name: str, status: int, round_trip: float, now: float, *, retry_after: float = 0.0
    ) -> Change | None:
        """The result of a probe: its final status, 0 for no answer, -1 for an ICMP error; round trip in seconds."""
        it = self._targets.get(name)
        if it is None:
            return None
        sent_at, it.waiting = it.sent_at if it.waiting else None, False
        sample = evidence.probe(status, round_trip, self._settings.timeout, retry_after=retry_after, sent_at=sent_at)
        return self._take(it, sample, now)

    def observe(self, name: str, sample: Sample, now: float) -> Change | None:
        """Evidence from real traffic, see :func:`ubisip.health.evidence.attempt`."""
        it = self._targets.get(name)
        return None if it is None else self._take(it, sample, now)

    def succeeded(self, name: str, count: int, now: float) -> Change | None:
        """*count* more attempts brought a response other than a 503 since the last call."""
        return self.observe(name, evidence.SERVED, now) if count > 0 else None

    def lag(self, seconds: float, now: float) -> None:
        """The control loop woke *seconds* later than it should have."""
        self._observer.lagged(seconds, self._settings, now)

    def switch(self, name: str, switch: Switch) -> None:
        """The operator's wish. `ready` also ends a rest and forgets flapping.

        A target in maintenance is not probed, and nothing is known of it: afterwards it must pass `rise` probes.

        :raises KeyError: no such target.
        """
        it = self._targets[name]
        if switch is Switch.MAINTENANCE:
            it.health = Health(State.DOWN, "maintenance")
            it.testimony = Testimony(it.testimony.group)
            it.sent_at, it.waiting = -math.inf, False
        elif switch is Switch.READY:
            it.health = pardon(it.health)
        it.switch = switch

    def to_record(self) -> dict[str, Any]:
        """What must survive a restart: ``{"switches": {name: "drain" | "maintenance"}}``."""
        set_by_hand = {name: it.switch for name, it in self._targets.items() if it.switch is not Switch.READY}
        return {"switches": {name: switch.value for name, switch in set_by_hand.items()}}

    def from_record(self, record: Mapping[str, Any]) -> None:
        """Set the switches as :meth:`to_record` gave them; names that are no longer targets are passed over.

        :raises ValueError: it is no such record; no switch was changed.
        """
        switches = record.get("switches")
        if not isinstance(switches, Mapping):
            raise ValueError("a health record needs a table 'switches'")
        wishes = {name: Switch(value) for name, value in switches.items() if name in self._targets}
        for name, wish in wishes.items():
            self.switch(name, wish)

    def _take(self, it: _Target, sample: Sample, now: float) -> Change | None:
        if not it.probed:
            return None
        it.testimony = note(it.testimony, sample, now)
        if sample.answered:
            for other in self._targets.values():
                other.doubted_since = math.inf
        if sample.verdict in FAILURES and it.counts:
            self._call_witnesses(it)
        health, transition = advance(it.health, sample, self._settings, now)
        if transition is not None and self._doubts(it, sample, transition, now):
            it.doubted_since = min(it.doubted_since, now)
            return None
        it.doubted_since = math.inf
        it.health = health
        return None if transition is None else Change(it.name, *it.testimony.group, transition)

    def _doubts(self, it: _Target, sample: Sample, transition: Transition, now: float) -> bool:
        usable = [other.testimony for other in self._targets.values() if other.counts]
        case = Case(sample, transition.after, it.testimony, usable)
        return self._observer.doubts(case, self._settings, now)

    def _call_witnesses(self, accused: _Target) -> None:
        """Probe at once whoever has not answered since *accused* began to fail, itself included: is it them or us?"""
        since = accused.testimony.failing_since
        for it in self._targets.values():
            if since is not None and it.testimony.answered_at < since and it.counts:
                it.urgent = True

    def _due_at(self, it: _Target) -> float:
        if it.waiting:
            return it.sent_at + self._settings.timeout + self._settings.interval
        return it.sent_at + self._interval(it) * (1.0 - SPREAD * it.spread)

    def _spread(self, name: str, rounds: int) -> float:
        return zlib.crc32(f"{self._seed}:{name}:{rounds}".encode()) / 2**32

    def _interval(self, it: _Target) -> float:
        state = it.health.state
        if state in (State.DOWN, State.HELD):
            return self._settings.down_interval
        changing = state in (State.FALLING, State.RISING)
        fast = (changing or it.urgent) and it.sent_at - it.doubted_since < PATIENCE
        return self._settings.fast_interval if fast else self._settings.interval


def _kind(it: _Target) -> Kind:
    return it.testimony.group[0]
