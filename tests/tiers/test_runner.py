# SPDX-License-Identifier: Apache-2.0
"""The runner: what is journalled, undone, finished, tried again; killed between any two things that it does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tiers.virtual import clock, virtually

from ubisip.failover.action import ActionError, Check, Context, MemberView, Proof, Refusal, Situation, Step
from ubisip.failover.plan import Journal, Plan, Progress, StepState, pack, unpack
from ubisip.failover.runner import ATTEMPTS, Fenced, Runner
from ubisip.health.machine import State
from ubisip.health.probe import Target

MEMBER = Target("db", "a", "PA2", "x:1", "user", "secret")
SITUATION = Situation(
    "db",
    "fake",
    (
        MemberView(MEMBER, State.DOWN, facts={"lag": 1, "list": (1, {"k": 2})}),
        MemberView(Target("db", "b", "PA5", "x:2"), State.UP, facts_age=float("inf"), votes={"PA2": "up"}),
    ),
    "dead-primary",
    ("a is dead",),
    accused=("a",),
)


class Killed(BaseException):
    """The process is gone."""


def steps(text: str) -> tuple[Step, ...]:
    """``fence promote! follow? alert?``: ``!`` the point of no return, ``?`` not required."""
    return tuple(
        Step(
            "it",
            word.rstrip("!?"),
            "b",
            Proof.S,
            deadline=5.0,
            final=word.endswith("!"),
            required=not word.endswith("?"),
        )
        for word in text.split()
    )


def plan(text: str, epoch: int = 1) -> Plan:
    return Plan("p-1", "db", "dead-primary", epoch, steps(text), SITUATION)


@dataclass
class Actor:
    """An action whose steps have an effect once, however often they are taken; dies where it is told."""

    effects: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    fail: dict[str, list[Exception]] = field(default_factory=dict)
    """By ``do`` or ``undo do``: what the next calls raise."""
    refuse: set[str] = field(default_factory=set)
    unwell: dict[str, int] = field(default_factory=dict)
    """Verifications that do not hold yet, by ``do``."""
    slow: dict[str, float] = field(default_factory=dict)
    die_after: int = -1
    epochs: list[int] = field(default_factory=list)

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        return ()

    def _tick(self, what: str) -> None:
        if self.die_after == 0:
            raise Killed
        self.die_after -= 1
        self.calls.append(what)

    async def precheck(self, step: Step, context: Context) -> Check:
        self._tick(f"precheck {step.do}")
        return Check(step.do not in self.refuse, "it may not")

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        self._tick(f"apply {step.do}")
        self.epochs.append(context.epoch)
        await asyncio.sleep(self.slow.get(step.do, 0.0))
        if self.fail.get(step.do):
            raise self.fail[step.do].pop(0)
        if step.do not in self.effects:
            self.effects.append(step.do)
        return {"by": step.do}

    async def verify(self, step: Step, context: Context) -> Check:
        self._tick(f"verify {step.do}")
        left = self.unwell.get(step.do, 0)
        self.unwell[step.do] = left - 1
        return Check(left <= 0, "not yet")

    async def compensate(self, step: Step, context: Context) -> None:
        self._tick(f"undo {step.do}")
        if self.fail.get(f"undo {step.do}"):
            raise self.fail[f"undo {step.do}"].pop(0)
        if step.do in self.effects:
            self.effects.remove(step.do)

    async def close(self) -> None:
        """It has nothing."""


@dataclass
class Desk:
    """A runner with its actor and its journal, which outlives it."""

    actor: Actor = field(default_factory=Actor)
    kept: list[bytes] = field(default_factory=list)
    epoch: int = 1
    die_at_write: int = -1
    after_write: bool = False

    async def write(self, journal: Journal) -> None:
        dies = len(self.kept) == self.die_at_write
        if not dies or self.after_write:
            self.kept.append(pack(journal))
        if dies:
            self.die_at_write = -1
            raise Killed

    @property
    def runner(self) -> Runner:
        return Runner({"it": self.actor}, self.write, lambda: self.epoch, clock=clock)

    def run(self, text: str) -> Journal:
        return virtually(lambda: self.runner.run(plan(text)))

    def resume(self) -> Journal:
        """Another controller takes it up, under the next epoch."""
        self.epoch += 1
        self.actor.die_after = -1
        journal = unpack(self.kept[-1], {("db", "a"): MEMBER})
        assert journal.is_open
        return virtually(lambda: self.runner.resume(journal, self.epoch))


def states(journal: Journal) -> list[str]:
    return [record.state.value for record in journal.steps]


def test_each_step_is_journalled_before_it_is_taken_and_what_came_of_it_with_the_next() -> None:
    desk = Desk()
    journal = desk.run("fence promote! follow")
    assert journal.progress is Progress.DONE
    assert [states(unpack(data, {})) for data in desk.kept] == [
        ["doing", "waiting", "waiting"],
        ["done", "doing", "waiting"],
        ["done", "done", "doing"],
        ["done", "done", "done"],
    ]
    assert journal.results()["it fence b"] == {"by": "fence"}


def test_a_journal_comes_back_as_it_was() -> None:
    desk = Desk()
    journal = desk.run("fence promote!")
    again = unpack(pack(journal), {("db", "a"): MEMBER})
    assert again == journal
    assert again.plan.situation.member("a").target.password == "secret"
    assert b"secret" not in pack(journal)
    with pytest.raises(ValueError, match="no journal"):
        unpack(b"\x81\xa1a\x01", {})


@pytest.mark.parametrize(
    ("text", "broken", "progress", "effects", "left"),
    [
        ("fence promote! follow", "fence", Progress.UNDONE, [], ["undone", "waiting", "waiting"]),
        ("stop fence promote! follow", "fence", Progress.UNDONE, [], ["undone", "undone", "waiting", "waiting"]),
        ("fence promote! follow", "promote", Progress.UNDONE, [], ["undone", "refused", "waiting"]),
        ("fence promote! follow", "follow", Progress.INCOMPLETE, ["fence", "promote"], ["done", "done", "failed"]),
        (
            "fence promote! alert? dns",
            "alert",
            Progress.DONE,
            ["fence", "promote", "dns"],
            ["done", "done", "failed", "done"],
        ),
        ("alert? fence promote!", "alert", Progress.DONE, ["fence", "promote"], ["failed", "done", "done"]),
        ("drain switch", "switch", Progress.UNDONE, [], ["undone", "undone"]),
    ],
)
def test_a_step_that_fails(text: str, broken: str, progress: Progress, effects: list[str], left: list[str]) -> None:
    desk = Desk()
    desk.actor.fail[broken] = [ActionError("no") for _ in range(20)]
    journal = desk.run(text)
    assert (journal.progress, desk.actor.effects, states(journal)) == (progress, effects, left)
    assert broken in journal.reason or progress is Progress.DONE


def test_what_its_precheck_refuses_is_not_undone() -> None:
    desk = Desk()
    desk.actor.refuse.add("fence")
    journal = desk.run("stop fence promote!")
    assert states(journal) == ["undone", "refused", "waiting"] and "undo fence" not in desk.actor.calls
    assert journal.reason == "it fence b: it may not"


def test_what_a_moment_may_help_is_tried_again_within_the_deadline() -> None:
    desk = Desk()
    desk.actor.fail["fence"] = [ActionError("busy", retry=True)] * 3
    assert desk.run("fence promote!").progress is Progress.DONE
    desk = Desk()
    desk.actor.fail["fence"] = [ActionError("busy", retry=True)] * 1000
    journal = desk.run("fence promote!")
    assert journal.progress is Progress.UNDONE and "not done in 5 s" in journal.reason


def test_what_is_not_as_wished_yet_is_looked_at_again_within_the_deadline() -> None:
    desk = Desk()
    desk.actor.unwell["fence"] = 5
    assert desk.run("fence promote!").progress is Progress.DONE
    desk = Desk()
    desk.actor.unwell["fence"] = 10_000
    assert desk.run("fence promote!").progress is Progress.UNDONE


def test_a_step_after_the_point_of_no_return_is_tried_again() -> None:
    desk = Desk()
    desk.actor.fail["follow"] = [ActionError("no")] * (ATTEMPTS - 1)
    assert desk.run("fence promote! follow").progress is Progress.DONE


def test_a_final_step_that_may_have_had_its_effect_is_not_undone() -> None:
    """It hangs, then refuses: nobody knows whether the point of no return is passed, so a person must look."""
    desk = Desk()
    desk.actor.slow["promote"] = 3600.0
    journal = desk.run("fence promote! follow")
    assert journal.progress is Progress.INCOMPLETE and "undo fence" not in desk.actor.calls


def test_what_cannot_be_undone_is_told_and_the_rest_is_undone() -> None:
    desk = Desk()
    desk.actor.fail["fence"] = [ActionError("no")]
    desk.actor.fail["undo fence"] = [ActionError("stuck")] * ATTEMPTS
    journal = desk.run("stop fence promote!")
    assert journal.progress is Progress.INCOMPLETE and "it fence b is not undone: stuck" in journal.reason
    assert states(journal) == ["undone", "failed", "waiting"]


def test_a_fault_of_an_action_is_a_failure_of_its_step() -> None:
    desk = Desk()
    desk.actor.fail["fence"] = [ZeroDivisionError("oops")]
    journal = desk.run("fence promote!")
    assert journal.progress is Progress.UNDONE and "a fault of the action" in journal.reason


def test_without_the_lease_nothing_is_done_any_more() -> None:
    desk = Desk()

    async def work() -> None:
        desk.actor.slow["fence"] = 2.0
        task = asyncio.ensure_future(desk.runner.run(plan("fence promote! follow")))
        await asyncio.sleep(1.0)
        desk.epoch = 0
        with pytest.raises(Fenced):
            await task

    virtually(work)
    assert desk.actor.effects == ["fence"] and not any("promote" in call for call in desk.actor.calls)


PLANS = ["fence promote! follow alert?", "stop fence promote!", "promote!", "drain switch tell?"]


def whole(text: str) -> set[str]:
    return {word.rstrip("!?") for word in text.split()}


@pytest.mark.parametrize("text", PLANS)
@pytest.mark.parametrize("after", [False, True], ids=["before-the-writing", "after-it"])
def test_killed_at_any_writing_of_the_journal_it_is_finished_or_undone(text: str, after: bool) -> None:
    writings = len(text.split()) + 1
    for number in range(writings + 1):
        desk = Desk(die_at_write=number, after_write=after)
        try:
            desk.run(text)
            assert number >= writings
            continue
        except Killed:
            pass
        _taken_up(desk, text)


@pytest.mark.parametrize("text", PLANS)
def test_killed_at_any_call_of_an_action_it_is_finished_or_undone(text: str) -> None:
    for number in range(3 * len(text.split())):
        desk = Desk(Actor(die_after=number))
        with pytest.raises(Killed):
            desk.run(text)
        _taken_up(desk, text)


@pytest.mark.parametrize("number", range(6))
def test_killed_while_undoing_it_is_undone(number: int) -> None:
    desk = Desk(Actor(fail={"promote": [ActionError("no")]}), die_at_write=number)
    try:
        journal = desk.run("stop fence promote! follow")
    except Killed:
        if not desk.kept:
            return
        journal = desk.resume()
    assert (journal.progress, desk.actor.effects) in (
        (Progress.UNDONE, []),
        (Progress.DONE, ["stop", "fence", "promote", "follow"]),
    )


def _taken_up(desk: Desk, text: str) -> None:
    """Whoever leads next leaves it whole or undone, never in between, and no step has its effect twice."""
    if not desk.kept:
        assert desk.actor.effects == [], "nothing is done that is not journalled"
        return
    last = unpack(desk.kept[-1], {})
    if not last.is_open:
        return
    journal = desk.resume()
    if journal.progress is Progress.DONE:
        assert set(desk.actor.effects) == whole(text) and len(desk.actor.effects) == len(whole(text))
    else:
        assert journal.progress is Progress.UNDONE and desk.actor.effects == []
        assert "!" in text, "what has no point of no return is finished"
        assert not last.committed
    assert set(desk.actor.epochs) <= {1, 2}


def test_a_plan_taken_up_twice_is_as_good_as_one() -> None:
    """The second holder dies as well."""
    desk = Desk(die_at_write=2, after_write=True)
    with pytest.raises(Killed):
        desk.run("fence promote! follow")
    desk.die_at_write, desk.after_write = len(desk.kept), False
    with pytest.raises(Killed):
        desk.resume()
    assert desk.resume().progress is Progress.DONE
    assert desk.actor.effects == ["fence", "promote", "follow"]


def test_a_plan_without_the_lease_is_refused_before_its_first_step() -> None:
    desk = Desk(epoch=0)
    with pytest.raises(Fenced):
        desk.run("fence promote!")
    assert desk.actor.calls == [] and desk.kept == []


def test_states_of_a_step_are_told_as_they_come() -> None:
    desk, told = Desk(), []

    def tell(journal: Journal, index: int | None) -> None:
        told.append((index, None if index is None else journal.steps[index].state))

    virtually(lambda: Runner({"it": desk.actor}, desk.write, lambda: 1, tell, clock).run(plan("fence promote!")))
    assert told == [
        (0, StepState.DOING), (0, StepState.DONE), (1, StepState.DOING), (1, StepState.DONE), (None, None),
    ]  # fmt: skip
