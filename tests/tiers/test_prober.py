# SPDX-License-Identifier: Apache-2.0
"""Members probed in virtual time: how fast a failure is known, whom it makes ask faster, when the observer abstains."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from tiers.virtual import clock, virtually

from ubisip.health.machine import Sample, State, Transition, Verdict
from ubisip.health.probe import Finding, Target
from ubisip.health.prober import EXCITED, GRACE, Key, Prober, Watch, Watched
from ubisip.sections import Tier

PASS = Sample(Verdict.PASS, "ok", answered=True)
REFUSED = Sample(Verdict.FAIL, "refused", hard=True)


@dataclass
class Servers:
    """A probe, and what it finds."""

    refusing: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    odd: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    asked: list[tuple[float, str]] = field(default_factory=list)
    closed: bool = False

    async def check(self, target: Target, timeout: float) -> Finding:
        self.asked.append((clock(), target.name))
        await asyncio.sleep(0.001)
        if target.name in self.broken:
            raise ZeroDivisionError
        if target.name in self.hanging:
            await asyncio.sleep(3600)
        if target.name in self.silent:
            await asyncio.sleep(timeout - 0.001)
            return Finding(Sample(Verdict.FAIL, "timeout"))
        if target.name in self.odd:
            return Finding(Sample(Verdict.INCONCLUSIVE, "sql.1045", answered=True), problem="no right")
        return Finding(REFUSED if target.name in self.refusing else PASS, 0.001, {"at": clock()})

    async def close(self) -> None:
        self.closed = True


def targets(tier: str, names: str) -> list[Target]:
    """``a@PA2 b@PA5``."""
    return [Target(tier, *one.split("@"), "x") for one in names.split()]


@dataclass
class Rig:
    servers: Servers
    prober: Prober
    changes: list[tuple[float, Key, State]]

    def state(self, name: str, tier: str = "db") -> State:
        return next(one.state for one in self.prober.watch.seen(tier, clock()) if one.target.name == name)

    async def until(self, name: str, state: State, limit: float = 60.0) -> float:
        began = clock()
        while self.state(name) is not state:
            assert clock() - began < limit, f"{name} is {self.state(name)}"
            await asyncio.sleep(0.001)
        return clock() - began

    def rate(self, name: str, since: float) -> float:
        """Questions a second to *name* since then."""
        return sum(who == name and at >= since for at, who in self.servers.asked) / (clock() - since)


def run(work: Callable[[Rig], Awaitable[None]], names: str = "a@PA2 b@PA2 c@PA5", other: str = "") -> None:
    async def whole() -> None:
        servers, changes = Servers(), []

        def changed(key: Key, transition: Transition) -> None:
            changes.append((clock(), key, transition.after))

        watched = [Watched("db", Tier(), targets("db", names), servers)]
        if other:
            watched.append(Watched("web", Tier(), targets("web", other), servers))
        rig = Rig(servers, Prober(watched, changed, clock), changes)
        rig.prober.start()
        await asyncio.sleep(5)
        await work(rig)
        await rig.prober.stop()
        assert servers.closed

    virtually(whole)


@pytest.mark.parametrize("offset", [index / 10 for index in range(10)])
def test_a_refused_connection_is_known_well_within_a_second(offset: float) -> None:
    async def work(rig: Rig) -> None:
        await asyncio.sleep(offset)
        rig.servers.refusing.add("a")
        assert await rig.until("a", State.DOWN) < 0.75

    run(work)


def test_silence_is_known_within_two_seconds() -> None:
    async def work(rig: Rig) -> None:
        rig.servers.silent.add("a")
        assert await rig.until("a", State.DOWN) < 2.0

    run(work)


def test_it_is_up_again_after_rise_answers() -> None:
    async def work(rig: Rig) -> None:
        rig.servers.refusing.add("a")
        await rig.until("a", State.DOWN)
        rig.servers.refusing.clear()
        assert await rig.until("a", State.UP) < 2.0

    run(work)


def test_the_others_of_the_tier_are_asked_at_once_and_faster_for_a_while() -> None:
    async def work(rig: Rig) -> None:
        assert rig.rate("b", 2.0) == pytest.approx(2.0, abs=0.5)
        rig.servers.refusing.add("a")
        await rig.until("a", State.FALLING)
        at = clock()
        await asyncio.sleep(2.0)
        assert min(when for when, who in rig.servers.asked if who == "b" and when > at - 0.002) < at + 0.05
        assert rig.rate("b", at) == pytest.approx(5.0, abs=1.0)
        await asyncio.sleep(EXCITED + 2)
        assert rig.rate("b", clock() - 2) == pytest.approx(2.0, abs=0.5)
        assert rig.rate("a", clock() - 5) == pytest.approx(1.0, abs=0.5), "who is down is asked at down_interval"

    run(work)


def test_an_answer_that_says_nothing_changes_nothing_and_abstains() -> None:
    async def work(rig: Rig) -> None:
        rig.servers.odd.add("a")
        await asyncio.sleep(60)
        seen = rig.prober.watch.seen("db", clock())[0]
        assert (seen.state, seen.abstains, seen.problem) == (State.UP, True, "no right")
        rig.servers.odd.clear()
        await asyncio.sleep(2)
        seen = rig.prober.watch.seen("db", clock())[0]
        assert (seen.abstains, seen.problem) == (False, "")

    run(work)


def test_a_fault_of_the_probe_is_no_fault_of_the_member() -> None:
    async def work(rig: Rig) -> None:
        rig.servers.broken.add("a")
        await asyncio.sleep(60)
        seen = rig.prober.watch.seen("db", clock())[0]
        assert seen.state is State.UP and seen.abstains and "ZeroDivisionError" in seen.problem

    run(work)


def test_a_probe_that_hangs_is_a_member_that_does_not_answer_and_stops_no_other() -> None:
    async def work(rig: Rig) -> None:
        rig.servers.hanging.add("a")
        assert await rig.until("a", State.DOWN) < 2.0 + 2 * GRACE
        assert rig.state("b") is State.UP

    run(work)


def test_facts_stay_and_age_while_nobody_answers() -> None:
    async def work(rig: Rig) -> None:
        rig.servers.silent.add("a")
        await asyncio.sleep(30)
        seen = rig.prober.watch.seen("db", clock())[0]
        assert seen.facts["at"] < 6 and clock() - seen.facts_at > 29

    run(work)


def test_when_everything_fails_at_once_it_is_us() -> None:
    """Our own cable is pulled: nobody is condemned, and we abstain from voting, until somebody answers."""

    async def work(rig: Rig) -> None:
        rig.servers.silent |= {"a", "b", "c", "w1", "w2"}
        await asyncio.sleep(60)
        assert not any(state is State.DOWN for _, _, state in rig.changes)
        assert all(one.abstains for one in rig.prober.watch.seen("db", clock()))
        assert rig.prober.watch.abstains(clock()) == "most targets fail"
        rig.servers.silent -= {"b", "c", "w1", "w2"}
        await rig.until("a", State.DOWN, 10.0)
        assert rig.state("c") is State.UP

    run(work, other="w1@PA2 w2@PA5")


def test_a_site_that_is_lost_whole_is_down() -> None:
    async def work(rig: Rig) -> None:
        rig.servers.silent |= {"a", "b", "w1"}
        assert await rig.until("a", State.DOWN) < 4.0
        await rig.until("b", State.DOWN, 1.0)
        assert rig.state("c") is State.UP

    run(work, other="w1@PA2 w2@PA5")


def test_a_loop_that_lags_abstains() -> None:
    """What our own clock timed out while we did not run says nothing."""
    watch = Watch([Watched("db", Tier(), targets("db", "a@PA2 b@PA5"), Servers())])
    for name in "ab":
        watch.take(("db", name), Finding(PASS), 0.0, 0.001)
    watch.lag(3.0, 10.0)
    for moment in (10.1, 10.3):
        watch.take(("db", "a"), Finding(Sample(Verdict.FAIL, "timeout")), moment - 0.5, moment)
    seen = watch.seen("db", 10.3)[0]
    assert seen.state is State.FALLING and seen.abstains
    assert watch.take(("db", "a"), Finding(REFUSED), 10.3, 10.4) is not None, "the network's word is not our clock's"


def test_a_member_that_flaps_is_held() -> None:
    async def work(rig: Rig) -> None:
        for _ in range(4):
            rig.servers.refusing.add("a")
            await asyncio.sleep(3)
            rig.servers.refusing.clear()
            await asyncio.sleep(3)
        assert rig.state("a") is State.HELD
        await rig.until("a", State.UP, 200.0)

    run(work)
