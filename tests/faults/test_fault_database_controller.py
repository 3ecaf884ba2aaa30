# SPDX-License-Identifier: Apache-2.0
"""The controller dies, pauses or loses its store in the middle of a promotion: the next one finishes or undoes it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from processes import Gateway, Place
from tiers.mariadb_driver import Driver, Killed, told
from tiers.mariadb_ledger import Ledger, Writers, check_everywhere
from tiers.mariadb_rig import Databases, free_hosts
from tiers.mariadb_world import World

from ubisip.failover.lease import TTL
from ubisip.failover.plan import Journal, Progress, StepState, pack

NewWorld = Callable[..., Awaitable[World]]
STEPS = ("freeze", "catch-up", "promote", "repoint", "open", "reign")
TAKEN_UP = 10.0
"""Seconds within which the next holder has resumed or undone the plan, the lease's 6 included."""


@pytest.fixture
async def databases(place: Place, template: Path) -> AsyncIterator[Databases]:
    one = Databases(place.directory / "databases", template, free_hosts(place.network))
    await one.start()
    yield one
    one.close()


async def run_until(driver: Driver, step: str, *, taken: bool, **asked: str) -> bytes:
    """Run a plan whose controller dies at *step*: journalled and not taken, or taken and not journalled.

    The journal as it is left behind.
    """
    kept: list[bytes] = []

    def write(journal: Journal) -> None:
        doing = [it.do for it, record in zip(journal.plan.steps, journal.steps, strict=True) if is_doing(record.state)]
        if kept and taken:
            raise Killed
        if doing == [step]:
            kept.append(pack(journal))
            if not taken:
                raise Killed

    driver.before_write = write
    with pytest.raises(Killed):
        await driver.act(**asked)
    return kept[0]


def is_doing(state: StepState) -> bool:
    return state is StepState.DOING


@pytest.mark.long
@pytest.mark.parametrize("taken", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("step", STEPS)
async def test_controller_killed_between_any_two_steps(
    databases: Databases, step: str, taken: bool, record: dict[str, float]
) -> None:
    """Resumed after the point of no return, undone before it, and then done anew: no step has its effect twice."""
    ledger = Ledger()
    async with Driver(databases, epoch=5) as driver:
        await driver.until_code("healthy")
        async with Writers(databases.primary.address, ledger):
            await asyncio.sleep(0.3)
        databases.primary.kill()
        await driver.until_code("dead-primary")
        left = await run_until(driver, step, taken=taken)
        driver.before_write = lambda _journal: None
        driver.epoch = 8
        began = time.monotonic()
        journal = await driver.resume(left)
        assert journal.progress is (Progress.DONE if step in ("open", "reign") else Progress.UNDONE), told(journal)
        if journal.progress is Progress.UNDONE:
            assert [one.name for one in databases.servers if one.running and not (await one.facts())["read_only"]] == []
            await driver.until_code("dead-primary")
            journal = await driver.act()
            assert journal.progress is Progress.DONE, told(journal)
        record["taken up, s"] = time.monotonic() - began
        assert record["taken up, s"] < TAKEN_UP - TTL
        await driver.until_code("replica-down")
    writable = [one for one in databases.servers if one.running and not (await one.facts())["read_only"]]
    assert [one.name for one in writable] == ["db-pa2-2"]
    assert (await writable[0].facts())["reign"] == 1
    async with Writers(writable[0].address, ledger):
        await asyncio.sleep(0.3)
    await check_everywhere(ledger, databases, writable[0])


@pytest.mark.long
@pytest.mark.parametrize("taken", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("step", ["close", *STEPS[1:]])
async def test_controller_killed_in_a_switchover(databases: Databases, step: str, taken: bool) -> None:
    """The old primary serves again, or the new one does; all others follow it and the other site acknowledges."""
    ledger = Ledger()
    async with Driver(databases, epoch=5) as driver:
        await driver.until_code("healthy")
        async with Writers(databases.primary.address, ledger):
            await asyncio.sleep(0.3)
        left = await run_until(driver, step, taken=taken, wanted="db-pa5-1", request="failover")
        driver.before_write = lambda _journal: None
        driver.epoch = 8
        journal = await driver.resume(left)
        done = step in ("open", "reign")
        assert journal.progress is (Progress.DONE if done else Progress.UNDONE), told(journal)
        primary = "db-pa5-1" if done else "db-pa2-1"
        verdict = await driver.until(lambda it: it.code == "healthy" and it.member == primary, f"{primary} to serve")
    writable = [one for one in databases.servers if not (await one.facts())["read_only"]]
    assert [one.name for one in writable] == [verdict.member]
    facts = {one.name: await one.facts() for one in databases.servers}
    assert facts[verdict.member]["semisync_primary"] and facts[verdict.member]["source"] == ""
    assert all(facts[one.name]["acker"] == (one.site != writable[0].site) for one in databases.servers)
    async with Writers(writable[0].address, ledger):
        await asyncio.sleep(0.3)
    await check_everywhere(ledger, databases, writable[0])


@pytest.mark.long
@pytest.mark.parametrize("step", ["promote", "repoint", "open"])
async def test_late_steps_of_an_older_epoch_are_refused(databases: Databases, step: str) -> None:
    """A controller that comes to itself after another has taken over changes nothing any more, on any server."""
    async with Driver(databases, epoch=5) as old, Driver(databases, epoch=8) as new:
        await old.until_code("healthy")
        databases.primary.kill()
        await old.until_code("dead-primary")
        left = await run_until(old, step, taken=False)
        await new.resume(left)
        await new.until_code("dead-primary", "replica-down")
        if new.verdict().code == "dead-primary":
            await new.act()
        await new.until_code("replica-down")
        before = {one.name: await one.facts() for one in databases.servers if one.running}
        old.before_write = lambda _journal: None
        late = await old.resume(left)  # under its own epoch, as if it had not been away
        assert late.progress is not Progress.DONE, told(late)
        after = {one.name: await one.facts() for one in databases.servers if one.running}
        for name, facts in before.items():
            for key in ("read_only", "source", "acker", "semisync_primary", "epoch", "reign"):
                assert after[name][key] == facts[key], (name, key)


async def until_doing(gateway: Gateway, step: str, timeout: float = 30.0) -> None:
    """Wait until *gateway* has logged that it takes *step*."""
    deadline = time.monotonic() + timeout
    while not any(f" {step} " in line and line.endswith(": doing") for line in gateway.log().splitlines()):
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {gateway.name} to take {step}"
        await asyncio.sleep(0.002)


async def leader_of(world: World) -> int:
    """Which gateway leads."""
    while True:
        for number in range(len(world.gateways)):
            if (await world.tiers(number))["leads"]:
                return number
        await asyncio.sleep(0.1)


@pytest.mark.long
@pytest.mark.parametrize("step", [*STEPS, "serve"])
async def test_leading_gateway_killed_in_a_step(new_world: NewWorld, step: str, record: dict[str, float]) -> None:
    """SIGKILL of the gateway that leads as it takes a step: the other one gets the lease and goes on."""
    world = await new_world(gateways=("PA2", "PA2"))
    leader = await leader_of(world)
    async with world.writing() as writers:
        await asyncio.sleep(0.3)
        world.databases.primary.kill()
        await until_doing(world.gateways[leader], step)
        world.gateways[leader].kill()
        moment = time.monotonic()
        record["taken up, s"] = (await writers.until_written(moment, 40.0, world.databases.primary)).at - moment
        assert record["taken up, s"] < TAKEN_UP
        other = 1 - leader
        await world.until_verdict("replica-down", number=other)
        ends = [progress for _, progress in await world.plans(other)]
        assert set(ends) <= {"done", "undone"} and "done" in ends
    await world.check()


@pytest.mark.long
@pytest.mark.parametrize("step", ["freeze", "promote", "repoint"])
async def test_controller_paused_past_its_lease(new_world: NewWorld, step: str) -> None:
    """SIGSTOP in a step until another has led the plan to its end: what it still does when it goes on is refused."""
    world = await new_world(gateways=("PA2", "PA2"))
    leader = await leader_of(world)
    async with world.writing() as writers:
        await asyncio.sleep(0.3)
        world.databases.primary.kill()
        await until_doing(world.gateways[leader], step)
        world.gateways[leader].signal(signal.SIGSTOP)
        await writers.until_written(time.monotonic(), 40.0, world.databases.primary)
        await world.until_verdict("replica-down", number=1 - leader)
        before = {one.name: await one.facts() for one in world.databases.servers if one.running}
        world.gateways[leader].signal(signal.SIGCONT)
        await asyncio.sleep(3.0)
        after = {one.name: await one.facts() for one in world.databases.servers if one.running}
        for name, facts in before.items():
            for key in ("read_only", "source", "acker", "semisync_primary", "epoch", "reign"):
                assert after[name][key] == facts[key], (name, key)
        assert not (await world.tiers(leader))["leads"]
    await world.check()
