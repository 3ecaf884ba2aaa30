# SPDX-License-Identifier: Apache-2.0
"""A gateway's choice of servers under load in virtual time: what a fault costs until the monitor has seen it."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from health_cases import ONE, PA5, PLATFORM, Settings

from ubisip.health.evidence import attempt
from ubisip.health.machine import State
from ubisip.health.monitor import Change, Monitor
from ubisip.platform import Kind

SERVERS = {name: group for name, group in PLATFORM.items() if group[0] is Kind.SERVER}
CARRIERS = {name: group for name, group in PLATFORM.items() if group[0] is Kind.CARRIER}
ROUND_TRIP = 0.002
FIRST_RESPONSE_TIMEOUT = 1.0
TICK = 0.1


Fault = Callable[[str, float], str]
"""What the peer of that name does with a request at that moment: ``answer``, ``silent``, ``refuse`` or ``rest``."""


def hashed(data: bytes) -> float:
    """A number above 0 and below 1."""
    return (int.from_bytes(hashlib.blake2b(data, digest_size=4).digest()) + 1) / (2**32 + 1)


@dataclass
class World:
    """One gateway with its monitor, calls at *rate* a second, and peers that behave as *fault* says."""

    fault: Fault
    rate: float = 200.0
    seed: str = "pa2-gw1"
    now: float = 0.0
    sent: list[tuple[float, str]] = field(default_factory=list)
    """First attempts: when, and to whom."""
    failed: int = 0
    """Calls that found no server at all."""
    delays: list[float] = field(default_factory=list)
    """Seconds from the first attempt of a call to its answer."""
    changes: list[tuple[float, str, State]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.monitor = Monitor(Settings(), SERVERS | CARRIERS, self.seed)
        self.random = random.Random(self.seed)
        self.served: Counter[str] = Counter()
        self.order = itertools.count()
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (when, next(self.order), what))

    def run(self, until: float) -> World:
        self.at(0.0, self.tick)
        self.at(0.0, self.call)
        self.at(0.0, self.probe)
        while self.agenda and self.agenda[0][0] <= until:
            self.now, _, what = heapq.heappop(self.agenda)
            what()
        return self

    def tick(self) -> None:
        for name, count in self.served.items():
            self.note(self.monitor.succeeded(name, count, self.now))
        self.served.clear()
        self.at(self.now + TICK, self.tick)

    def probe(self) -> None:
        for name in self.monitor.due(self.now):
            conduct, sent_at = self.fault(name, self.now), self.now
            status, after = {"silent": (0, 1.0), "refuse": (-1, ROUND_TRIP)}.get(conduct, (200, ROUND_TRIP))
            self.at(sent_at + after, lambda n=name, s=status, a=after: self.probed(n, s, a))  # type: ignore[misc]
        self.at(self.now + TICK, self.probe)

    def probed(self, name: str, status: int, after: float) -> None:
        self.note(self.monitor.probed(name, status, after, self.now))

    def call(self) -> None:
        self.at(self.now + self.random.expovariate(self.rate), self.call)
        self.attempt(self.ranking(self.random.randbytes(8)), self.now)

    def ranking(self, call_id: bytes) -> list[str]:
        """Weighted rendezvous over what is usable; all servers in panic."""
        states = self.monitor.states(self.now)
        usable = [name for name in SERVERS if states[name].usable] or list(SERVERS)
        score = {name: hashed(call_id + name.encode()) for name in usable}
        order = sorted(usable, key=lambda name: -math.log(score[name]) / states[name].ramp)
        self.sent.append((self.now, order[0]))
        return order

    def attempt(self, ranking: list[str], began: float) -> None:
        if not ranking:
            self.failed += 1
            return
        name, *others = ranking
        conduct = self.fault(name, self.now)
        if conduct == "silent":
            self.at(self.now + FIRST_RESPONSE_TIMEOUT, lambda: self.lost(name, "silent", others, began))
        elif conduct == "answer":
            self.at(self.now + ROUND_TRIP, lambda: self.answered(name, began))
        else:
            kind = "refused" if conduct == "refuse" else "busy"
            self.at(self.now + ROUND_TRIP, lambda: self.lost(name, kind, others, began))

    def lost(self, name: str, kind: str, others: list[str], began: float) -> None:
        sent_at = self.now - (FIRST_RESPONSE_TIMEOUT if kind == "silent" else ROUND_TRIP)
        sample = attempt(kind, retry_after=5.0 * (kind == "busy"), sent_at=sent_at)
        self.note(self.monitor.observe(name, sample, self.now))
        self.attempt(others, began)

    def answered(self, name: str, began: float) -> None:
        self.served[name] += 1
        self.delays.append(self.now - began)

    def note(self, change: Change | None) -> None:
        if change is not None:
            self.changes.append((self.now, change.name, change.transition.after))

    def sent_to(self, name: str, since: float, until: float = math.inf) -> int:
        return sum(name == to and since <= when < until for when, to in self.sent)

    def ever(self, state: State) -> set[str]:
        return {name for _, name, after in self.changes if after is state}


def after(moment: float, victims: set[str], conduct: str, until: float = math.inf) -> Fault:
    """*victims* show *conduct* from *moment* to *until*."""
    return lambda name, now: conduct if name in victims and moment <= now < until else "answer"


FAULT = 5.0


@pytest.mark.parametrize("seed", [f"gw{i}" for i in range(6)])
def test_a_silent_server_gets_no_call_after_three_seconds(seed: str) -> None:
    world = World(after(FAULT, {ONE}, "silent"), seed=seed).run(FAULT + 6)
    assert world.sent_to(ONE, 0, FAULT) > 100
    assert world.sent_to(ONE, FAULT + 3) == 0
    assert world.sent_to(ONE, FAULT + 1.3) == 0, "a second of silence, two moments, and the way to them"
    assert world.failed == 0 and world.ever(State.DOWN) == {ONE}
    assert max(world.delays) <= FIRST_RESPONSE_TIMEOUT + 2 * ROUND_TRIP + 1e-9


def test_the_calls_of_a_silent_server_are_shared_by_all_the_others() -> None:
    world = World(after(FAULT, {ONE}, "silent")).run(FAULT + 10)
    shares = [world.sent_to(name, FAULT + 3) for name in SERVERS if name != ONE]
    assert min(shares) > 0.7 * max(shares)


@pytest.mark.parametrize("rate", [2.0, 20.0, 1000.0])
def test_a_silent_server_is_seen_at_any_load(rate: float) -> None:
    """With hardly any traffic it takes the probes: an interval, and two time-outs."""
    world = World(after(FAULT, {ONE}, "silent"), rate=rate).run(FAULT + 8)
    assert world.sent_to(ONE, FAULT + 4.1) == 0 and world.ever(State.DOWN) == {ONE}


def test_a_refusing_server_gets_two_calls() -> None:
    world = World(after(FAULT, {ONE}, "refuse")).run(FAULT + 5)
    assert world.sent_to(ONE, FAULT) <= 4, "two refusals; a tick between them may bring older good news"
    assert world.failed == 0 and max(world.delays) <= 2 * ROUND_TRIP + 1e-9


def test_one_that_comes_back_is_ramped() -> None:
    world = World(after(FAULT, {ONE}, "refuse", until=10.0)).run(30.0)
    back = next(when for when, name, state in world.changes if (name, state) == (ONE, State.UP) and when > FAULT)
    assert 10.0 < back <= 10.0 + 2.0 + 2 * 0.5 + 0.1
    tenths = [world.sent_to(ONE, back + i, back + i + 1) for i in range(10)]
    usual = world.sent_to(ONE, 0, FAULT) / FAULT
    assert tenths[0] < 0.4 * usual and sum(tenths[:5]) < 0.6 * sum(tenths[5:])
    assert world.sent_to(ONE, back + 10, back + 15) > 0.7 * 5 * usual


def test_one_that_asks_for_a_rest_gets_it_and_is_not_down() -> None:
    world = World(after(FAULT, {ONE}, "rest", until=FAULT + 1)).run(FAULT + 8)
    assert world.sent_to(ONE, FAULT + 0.3, FAULT + 5.0) == 0
    assert world.sent_to(ONE, FAULT + 5.3) > 30
    assert world.ever(State.DOWN) == set() and world.failed == 0


@pytest.mark.parametrize("duration", [0.05, 0.3, 1.2])
@pytest.mark.parametrize("victims", [set(SERVERS), set(SERVERS) | set(CARRIERS)], ids=["servers", "everybody"])
@pytest.mark.parametrize("seed", ["gw1", "gw2", "gw3"])
def test_a_storm_of_a_moment_takes_nobody_out(duration: float, victims: set[str], seed: str) -> None:
    world = World(after(FAULT, victims, "silent", until=FAULT + duration), seed=seed).run(FAULT + 6)
    assert world.ever(State.DOWN) == set()
    assert {world.monitor.health(name).state for name in SERVERS} == {State.UP}


def test_a_dead_site_is_out_within_three_seconds() -> None:
    site = {name for name, (_, where) in (SERVERS | CARRIERS).items() if where == PA5}
    world = World(after(FAULT, site, "silent")).run(FAULT + 8)
    assert sum(world.sent_to(name, FAULT + 3) for name in site) == 0
    assert world.ever(State.DOWN) == site and world.failed == 0


def test_if_most_servers_of_both_sites_fall_silent_at_once_we_doubt_ourselves_first_but_not_for_long() -> None:
    """Meanwhile each call finds the living one by itself, at the price of a time-out a try."""
    world = World(after(FAULT, set(SERVERS) - {ONE}, "silent")).run(FAULT + 10)
    downs = [when for when, _, state in world.changes if state is State.DOWN]
    assert world.ever(State.DOWN) == set(SERVERS) - {ONE}
    assert min(downs) > FAULT + 3 and max(downs) < FAULT + 5
    assert {name for when, name in world.sent if when >= FAULT + 5} == {ONE} and world.failed == 0


def test_if_they_refuse_there_is_no_doubt() -> None:
    world = World(after(FAULT, set(SERVERS) - {ONE}, "refuse")).run(FAULT + 5)
    assert {name for when, name in world.sent if when >= FAULT + 0.5} == {ONE} and world.failed == 0


def test_a_gateway_that_hears_nobody_keeps_all_and_is_well_at_once_afterwards() -> None:
    world = World(after(FAULT, set(SERVERS) | set(CARRIERS), "silent", until=FAULT + 30), rate=20.0).run(FAULT + 35)
    assert world.ever(State.DOWN) == set()
    assert {world.sent_to(name, FAULT + 31) > 3 for name in SERVERS} == {True}


def test_one_that_flaps_is_held_back() -> None:
    flapping: Fault = lambda name, now: "refuse" if name == ONE and now % 20 > 10 else "answer"  # noqa: E731
    world = World(flapping, rate=20.0).run(100.0)
    assert world.ever(State.HELD) == {ONE}
    held = next(when for when, _, state in world.changes if state is State.HELD)
    assert world.sent_to(ONE, held) == 0
