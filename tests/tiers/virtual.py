# SPDX-License-Identifier: Apache-2.0
"""A platform's controllers in virtual time: an event loop whose clock jumps, a store in memory, plug-ins that obey.

:func:`virtually` runs a coroutine function so; hours pass in milliseconds, and every run is the same.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest

from ubisip import plugins
from ubisip.config import Config
from ubisip.failover.action import ActionError, Check, Context, Notice, Proof, Situation, Step
from ubisip.failover.coordination import Compare, Entry, LeaseLost, Put, StoreError
from ubisip.failover.verdict import POOL
from ubisip.health.machine import Sample, Verdict
from ubisip.health.probe import Finding, Target
from ubisip.proxy.tiers import Tiers

_T = TypeVar("_T")

START = 1_700_000_000.0
"""The wall clock's reading when the virtual one reads 0."""


class _Selector(selectors.DefaultSelector):
    """Does not wait: the time that it would have waited has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is not None and timeout > 0:
            self.passed += timeout
        assert ready or timeout is not None, "everything waits for something that never comes"
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is what its waits add up to."""

    def __init__(self) -> None:
        self.jumping = _Selector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.passed


def virtually(work: Callable[[], Awaitable[_T]]) -> _T:
    """What *work* returns, in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work())  # type: ignore[arg-type]
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def clock() -> float:
    """Seconds of the virtual monotonic clock."""
    return asyncio.get_running_loop().time()


def wall() -> float:
    """Seconds since the epoch, virtually."""
    return START + clock()


class Memory:
    """The keys that several :class:`MemoryStore` share: a quorum that is either there or not."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[Entry, int]] = {}
        self.leases: dict[int, tuple[float, float]] = {}
        self.revision = 0
        self.down = False
        self.numbers = 0


class MemoryStore:
    """One controller's way to a :class:`Memory`; ``cut``: it does not get through."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.cut = False
        self.before_commit: Callable[[Sequence[Put]], None] = lambda puts: None
        """Called before each transaction: what it raises, the controller dies of."""

    async def _reach(self) -> Memory:
        await asyncio.sleep(0.005)
        if self.cut or self.memory.down:
            await asyncio.sleep(1.5)
            raise StoreError("no answer")
        it, now = self.memory, clock()
        for number in [number for number, (ends, _) in it.leases.items() if ends <= now]:
            self._end(number)
        return it

    def _end(self, lease: int) -> None:
        self.memory.leases.pop(lease, None)
        for key in [key for key, (_, under) in self.memory.entries.items() if under == lease]:
            del self.memory.entries[key]

    async def grant(self, ttl: float) -> int:
        it = await self._reach()
        it.numbers += 1
        it.leases[it.numbers] = (clock() + ttl, ttl)
        return it.numbers

    async def renew(self, lease: int) -> None:
        it = await self._reach()
        if lease not in it.leases:
            raise LeaseLost("over")
        it.leases[lease] = (clock() + it.leases[lease][1], it.leases[lease][1])

    async def revoke(self, lease: int) -> None:
        await self._reach()
        self._end(lease)

    async def get(self, key: str) -> Entry | None:
        found = (await self._reach()).entries.get(key)
        return None if found is None else found[0]

    async def range(self, prefix: str) -> list[Entry]:
        it = await self._reach()
        return [entry for key, (entry, _) in sorted(it.entries.items()) if key.startswith(prefix)]

    async def commit(self, compares: Sequence[Compare], puts: Sequence[Put], deletes: Sequence[str] = ()) -> int:
        it = await self._reach()
        self.before_commit(puts)
        for compare in compares:
            found = it.entries.get(compare.key)
            created, modified = (0, 0) if found is None else (found[0].created, found[0].modified)
            if compare.created not in (None, created) or compare.modified not in (None, modified):
                return 0
        if any(put.lease and put.lease not in it.leases for put in puts):
            raise LeaseLost("over")
        it.revision += 1
        for put in puts:
            old = it.entries.get(put.key)
            entry = Entry(put.key, put.value, it.revision if old is None else old[0].created, it.revision)
            it.entries[put.key] = (entry, put.lease)
        for key in deletes:
            it.entries.pop(key, None)
        return it.revision

    async def tidy(self) -> None:
        """Nothing is kept that could be tidied."""

    async def close(self) -> None:
        """Nothing to close."""


@dataclass
class World:
    """What the plug-ins of all controllers act upon."""

    down: set[str] = field(default_factory=set)
    """Members that refuse."""
    silent: set[str] = field(default_factory=set)
    """Members that do not answer."""
    unseen: dict[str, set[str]] = field(default_factory=dict)
    """By the site of the observer: members that it does not reach."""
    wrong_password: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)
    """What actions did, in order: ``promote b epoch 3``."""
    notices: list[Notice] = field(default_factory=list)
    failing: dict[str, str] = field(default_factory=dict)
    """Steps (``do``) that raise ActionError, and with what text."""
    hanging: set[str] = field(default_factory=set)
    """Steps (``do``) that never end."""
    epoch: int = 0
    """The highest that the resource has seen: it refuses lower ones."""
    sink_down: bool = False
    primary: str = "a"
    keys: set[str] = field(default_factory=set)
    """Of the steps that had their effect."""
    at: dict[str, float] = field(default_factory=dict)
    """When each thing was done last."""

    def note(self, what: str) -> None:
        self.done.append(what)
        self.at[what] = clock()


WORLD: World = World()


class FakeProbe:
    """Asks the world."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        unknown = parameters.keys() - {"path", "colour"}
        if unknown:
            raise ValueError(f"{min(unknown)}: expected a known key (one of path, colour), found 1")
        self.site = ""

    async def check(self, target: Target, timeout: float) -> Finding:
        sent_at = clock()
        await asyncio.sleep(0.001)
        if target.name in WORLD.wrong_password:
            text = f"{target.user} may not log in"
            return Finding(Sample(Verdict.INCONCLUSIVE, "sql.1045", answered=True), problem=text)
        if target.name in WORLD.down:
            return Finding(Sample(Verdict.FAIL, "refused", hard=True, sent_at=sent_at))
        if target.name in WORLD.silent or target.name in WORLD.unseen.get(self.site, ()):
            await asyncio.sleep(timeout)
            return Finding(Sample(Verdict.FAIL, "timeout", sent_at=sent_at), timeout)
        role = "primary" if target.name == WORLD.primary else "replica"
        return Finding(Sample(Verdict.PASS, "ok", answered=True), 0.001, {"name": target.name, "role": role})

    async def close(self) -> None:
        """It has nothing."""


class FakeAction:
    """``fence``, ``promote`` (the point of no return) and ``follow``, as a database would have them."""

    STEPS = (("fence", Proof.S, False), ("promote", Proof.S, True), ("follow", Proof.G, False))

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        if parameters.keys() - {"cluster"}:
            raise ValueError(f"{min(parameters)}: expected a known key, found 1")

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step]:
        who = situation.wanted or next(one.target.name for one in situation.members if one.state.value == "up")
        return [Step("", do, who, proof, final=final, deadline=5.0) for do, proof, final in self.STEPS]

    async def precheck(self, step: Step, context: Context) -> Check:
        return Check(True)

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        await asyncio.sleep(0.01)
        if step.do in WORLD.hanging:
            await asyncio.sleep(3600)
        if step.do in WORLD.failing:
            raise ActionError(WORLD.failing[step.do])
        if context.epoch < WORLD.epoch:
            raise ActionError(f"epoch {context.epoch} is over, {WORLD.epoch} was here")
        WORLD.epoch = context.epoch
        if context.key in WORLD.keys:  # taken twice, it has the effect of once
            return {"who": step.target}
        WORLD.keys.add(context.key)
        WORLD.note(f"{step.do} {step.target}")
        return {"who": step.target}

    async def verify(self, step: Step, context: Context) -> Check:
        return Check(True)

    async def compensate(self, step: Step, context: Context) -> None:
        WORLD.note(f"undo {step.do} {step.target}")

    async def close(self) -> None:
        """It has nothing."""


class LocalAction(FakeAction):
    """One step of class R, for each member that is down."""

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step]:
        return [Step("", "drain", name, Proof.R) for name in situation.accused]


class GlobalAction(FakeAction):
    """One step of class G."""

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step]:
        return [Step("", "switch", "record", Proof.G)]


class FakeSink:
    """Delivers to the world."""

    def __init__(self, parameters: Mapping[str, Any], state_dir: str) -> None:
        if parameters:
            raise ValueError(f"{min(parameters)}: expected no parameter, found 1")

    async def send(self, notice: Notice) -> None:
        if WORLD.sink_down:
            raise ActionError("nobody there")
        WORLD.notices.append(notice)

    async def close(self) -> None:
        """It has nothing."""


@dataclass(frozen=True)
class Point:
    """An entry point."""

    name: str
    it: Any

    def load(self) -> Any:
        return self.it


FAKE_POLICY = replace(POOL, fallback="member-down", substitutes={"promote": "promote"})
PLUGINS: Mapping[str, Mapping[str, Any]] = {
    plugins.PROBES: {"fake": FakeProbe, "other": FakeProbe, "acted": FakeProbe},
    plugins.POLICIES: {
        "default": POOL,
        "fake": FAKE_POLICY,
        "acted": replace(FAKE_POLICY, acts_at_members=True),
    },
    plugins.ACTIONS: {"promote": FakeAction, "drain": LocalAction, "switch": GlobalAction},
    plugins.SINKS: {"fake": FakeSink},
}


@contextmanager
def fake_plugins(patch: pytest.MonkeyPatch) -> Iterator[World]:
    """Only the plug-ins of this module are there, acting upon a fresh world."""
    global WORLD
    WORLD = World()
    patch.setattr(plugins, "found", lambda group: {name: Point(name, it) for name, it in PLUGINS[group].items()})
    yield WORLD


PLATFORM = """\
[platform]
name = "p"
key_file = "ring"
[sites.PA2]
[sites.PA5]
[sites.W]
[[carriers]]
name = "sbc"
site = "PA2"
uri = "sip:192.0.2.1"
[[servers]]
name = "tel"
site = "PA2"
uri = "sip:127.0.0.1:5071"
[store]
url = "etcd:http://127.0.0.1:1"
"""
TIER = """\
[tiers.db]
kind = "fake"
mode = "automatic"
members = [
  { name = "a", site = "PA2", address = "127.0.0.1:1" },
  { name = "b", site = "PA2", address = "127.0.0.1:2" },
  { name = "c", site = "PA5", address = "127.0.0.1:3" },
]
on_member_down = ["promote"]
[sinks.fake]
"""


def gateways(*names: str) -> str:
    """``pa2-gw1`` stands at PA2."""
    tables = []
    for number, name in enumerate(names, 1):
        site = name.split("-")[0].upper()
        tables.append(f'[[gateways]]\nname = "{name}"\nsite = "{site}"\nlisten = ["udp:127.0.0.{number}:5060"]\n')
    return "".join(tables)


def platform(*names: str, tier: str = TIER) -> Config:
    """A platform with these gateways."""
    return Config.parse(PLATFORM + gateways(*names) + tier)


@dataclass
class Record:
    """A watcher that writes down what it is told."""

    transitions: list[tuple[str, str]] = field(default_factory=list)
    plans: list[tuple[str, str]] = field(default_factory=list)
    steps: list[tuple[str, str]] = field(default_factory=list)
    audits: list[tuple[str, str, str]] = field(default_factory=list)

    def transition(self, tier: str, before: Any, after: Any) -> None:
        self.transitions.append((before.code, after.code))

    def plan(self, journal: Any) -> None:
        self.plans.append((journal.plan.id, journal.progress.value))

    def step(self, journal: Any, index: int) -> None:
        self.steps.append((journal.plan.steps[index].do, journal.steps[index].state.value))

    def audit(self, who: str, what: str, result: str, details: Mapping[str, Any]) -> None:
        self.audits.append((who, what, result))


class Site:
    """One gateway's tiers on a shared memory; ``record`` is what its watcher heard."""

    def __init__(self, config: Config, name: str, memory: Memory) -> None:
        self.name = name
        self.record = Record()
        self.store = MemoryStore(memory)
        self.tiers = Tiers(config, name, self.record, self.store, clock, wall)
        for watched in self.tiers._prober._tiers:
            watched.probe.site = config.gateway(name).site  # type: ignore[attr-defined]

    def start(self) -> Site:
        self.tiers.start()
        return self

    async def kill(self) -> None:
        """It is gone without a word: its lease must end by itself."""
        self.store.cut = True
        for task in [*self.tiers._tasks, *self.tiers._prober._tasks, *self.tiers.controller._tasks]:
            task.cancel()
        await asyncio.sleep(0)

    @property
    def leads(self) -> bool:
        return bool(self.tiers.controller.describe()["epoch"])

    def verdict(self, tier: str = "db") -> str:
        return str(next(row["verdict"] for row in self.tiers.controller.describe()["tiers"] if row["name"] == tier))


async def until(condition: Callable[[], object], limit: float = 60.0) -> float:
    """Wait until *condition* holds; how many virtual seconds that took."""
    began = clock()
    while not condition():
        assert clock() - began < limit, f"waited {limit:.0f} virtual seconds in vain"
        await asyncio.sleep(0.01)
    return clock() - began
