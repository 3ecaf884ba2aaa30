# SPDX-License-Identifier: Apache-2.0
"""A controller for one database tier within the test: the probes, the verdict, the planner and the runner as they are,
without lease and store. What a test wants between any two of its steps it does there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tiers.mariadb_rig import Databases

from ubisip.failover.action import Action, MemberView, Refusal, Situation
from ubisip.failover.actions.mariadb_ackers import AckersAction
from ubisip.failover.actions.mariadb_promote import PromoteAction
from ubisip.failover.actions.mariadb_rejoin import RejoinAction
from ubisip.failover.actions.mariadb_switchover import SwitchoverAction
from ubisip.failover.database import POLICY
from ubisip.failover.plan import Journal, Plan, pack, unpack
from ubisip.failover.planner import Standing, plan
from ubisip.failover.runner import Runner
from ubisip.failover.verdict import Verdict
from ubisip.failover.votes import vote
from ubisip.health.machine import State
from ubisip.health.probe import Target
from ubisip.health.prober import Prober, Watched
from ubisip.health.probes.mariadb import MariadbProbe

TIER = "database"
RULES = {"dead_primary": ("mariadb-promote",)}


class Settings:
    """[tiers.database] as the documentation recommends it."""

    interval = 0.5
    fast_interval = 0.2
    down_interval = 0.5
    timeout = 0.5
    fall = 3
    rise = 2
    slow_start = 0.0


class Killed(Exception):
    """The controller has died here."""


class Driver:
    """One controller of the tier; *epoch* as its lease would have it."""

    def __init__(
        self,
        databases: Databases,
        epoch: int = 1,
        parameters: Mapping[str, Any] | None = None,
        rules: Mapping[str, Sequence[str]] | None = None,
        more: Mapping[str, Action] | None = None,
    ) -> None:
        self.databases = databases
        self.epoch = epoch
        self.journals: list[Journal] = []
        self.rules = rules or RULES
        values = parameters or {}
        self.actions: dict[str, Action] = {
            "mariadb-promote": PromoteAction(values),
            "mariadb-switchover": SwitchoverAction(values),
            "mariadb-rejoin": RejoinAction(values),
            "mariadb-ackers": AckersAction(values),
            **(more or {}),
        }
        targets = [one.target for one in databases.servers]
        self.prober = Prober([Watched(TIER, Settings(), targets, MariadbProbe({}))], lambda _key, _transition: None)
        self.before_write: Callable[[Journal], None] = lambda _journal: None

    async def __aenter__(self) -> Driver:
        self.prober.start()
        await self.until(lambda verdict: verdict.code != "unknown", "a first verdict")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.prober.stop()

    # What it sees

    def members(self) -> tuple[MemberView, ...]:
        now = time.monotonic()
        return tuple(
            MemberView(
                one.target, one.state, one.reason, one.facts, now - one.facts_at, one.problem, {"PA2": vote(one)}
            )
            for one in self.prober.watch.seen(TIER, now)
        )

    def verdict(self) -> Verdict:
        return POLICY.verdict(self.members(), time.monotonic())

    def situation(self, wanted: str = "", request: str = "") -> Situation:
        verdict = self.verdict()
        return Situation(
            TIER,
            "mariadb",
            self.members(),
            verdict.code,
            verdict.why,
            "PA2",
            wanted,
            ("PA2",),
            verdict.accused,
            request,
        )

    async def until(self, condition: Callable[[Verdict], bool], what: str, timeout: float = 30.0) -> Verdict:
        """The verdict as soon as *condition* holds of it."""
        deadline = time.monotonic() + timeout
        while not condition(verdict := self.verdict()):
            assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {what}: {verdict}"
            await asyncio.sleep(0.02)
        return verdict

    async def until_code(self, *codes: str, timeout: float = 30.0) -> Verdict:
        return await self.until(lambda verdict: verdict.code in codes, " or ".join(codes), timeout)

    # What it does

    def plan(self, wanted: str = "", request: str = "") -> Plan | Refusal:
        standing = Standing(epoch=self.epoch, now=time.time(), asked_by="test" if request else "")
        identity = f"plan-{self.epoch}-{len(self.journals)}"
        return plan(identity, self.situation(wanted, request), self.rules, POLICY, self.actions, standing)

    async def act(self, wanted: str = "", request: str = "", timeout: float = 10.0) -> Journal:
        """Make a plan as soon as one can be made, and run it."""
        deadline = time.monotonic() + timeout
        while isinstance(made := self.plan(wanted, request), Refusal):
            assert time.monotonic() < deadline, f"no plan: {made.reasons}"
            await asyncio.sleep(0.05)
        return await self.run(made)

    async def run(self, made: Plan) -> Journal:
        self.journals.append(await self._runner().run(made))
        return self.journals[-1]

    async def resume(self, journal: bytes) -> Journal:
        """Take up a plan whose controller has died."""
        known = {(TIER, one.name): one.target for one in self.databases.servers}
        return await self._runner().resume(unpack(journal, known), self.epoch)

    def _runner(self) -> Runner:
        async def write(journal: Journal) -> None:
            self.before_write(journal)

        return Runner(self.actions, write, lambda: self.epoch)


def told(journal: Journal) -> str:
    """A plan with what came of it, for a failure's text."""
    steps = [
        f"{step}: {it.state.value} {it.reason}" for step, it in zip(journal.plan.steps, journal.steps, strict=True)
    ]
    return "\n".join([f"{journal.progress.value}: {journal.reason}", *steps])


__all__ = ["TIER", "Driver", "Killed", "State", "Target", "pack", "told"]
