# SPDX-License-Identifier: Apache-2.0
"""Plans, and the journal of one: what is to be done, what has been begun, how it ended. All frozen values.

A journal is written before each step, as plain values under msgpack, so that whoever leads next can finish or undo.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it has no stubs

from ubisip.failover.action import MemberView, Proof, Situation, Step
from ubisip.health.machine import State
from ubisip.health.probe import Target
from ubisip.parameters import thaw
from ubisip.schema import freeze

_ORDER = {Proof.R: 0, Proof.G: 1, Proof.S: 2}


class StepState(enum.Enum):
    """How far one step has come."""

    WAITING = "waiting"
    DOING = "doing"
    """Journalled before it is done: after a crash it may be done or not."""
    DONE = "done"
    REFUSED = "refused"
    """Its precheck said no: nothing was done."""
    FAILED = "failed"
    """It was begun and is not as wished."""
    UNDOING = "undoing"
    UNDONE = "undone"


class Progress(enum.Enum):
    """How far a plan has come."""

    RUNNING = "running"
    UNDOING = "undoing"
    DONE = "done"
    UNDONE = "undone"
    INCOMPLETE = "incomplete"
    """It can neither be finished nor undone: a person is needed."""


Known = Mapping[tuple[str, str], Target]
"""The members of the file, by tier and name."""

OPEN = frozenset({Progress.RUNNING, Progress.UNDOING})
_EFFECTIVE = frozenset({StepState.DONE, StepState.UNDOING})
BEGUN = frozenset({StepState.DOING, StepState.DONE, StepState.FAILED, StepState.UNDOING})
"""Steps that may have had an effect."""
MAYBE = frozenset({StepState.DOING, StepState.DONE, StepState.FAILED})
"""States of a final step in which the point of no return is passed, or may be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, and from what it follows."""

    id: str
    tier: str
    cause: str
    """The rule that it follows: a verdict's code, ``switchover`` or ``failback``."""
    epoch: int
    """Fencing token of the lease under which it was made; 0: local steps, made without one."""
    steps: tuple[Step, ...]
    situation: Situation
    asked_by: str = ""
    """Who asked for it; empty: nobody, it is automatic."""

    @property
    def proof(self) -> Proof:
        """The highest class among its steps."""
        return highest(self.steps)

    @property
    def has_return(self) -> bool:
        """It has a point of no return."""
        return any(step.final for step in self.steps)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What came of one step."""

    state: StepState = StepState.WAITING
    reason: str = ""
    result: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Journal:
    """A plan with what has come of it."""

    plan: Plan
    steps: tuple[StepRecord, ...]
    progress: Progress = Progress.RUNNING
    reason: str = ""
    started_at: float = 0.0
    """Seconds since the epoch."""
    ended_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Something is still to be done or undone."""
        return self.progress in OPEN

    @property
    def committed(self) -> bool:
        """The point of no return is passed, or may be: the plan must be finished."""
        pairs = zip(self.plan.steps, self.steps, strict=True)
        return any(step.final and record.state in MAYBE for step, record in pairs)

    @property
    def changed(self) -> bool:
        """Some step that is done changed something: it says ``changed`` is false when all was so already."""
        return any(it.result.get("changed", True) for it in self.steps if it.state is StepState.DONE)

    def with_step(self, index: int, record: StepRecord) -> Journal:
        """The journal with another record of one step."""
        return replace(self, steps=(*self.steps[:index], record, *self.steps[index + 1 :]))

    def results(self) -> Mapping[str, Mapping[str, Any]]:
        """What the steps that are done returned, by their texts; that of a step, too, that is being undone."""
        pairs = zip(self.plan.steps, self.steps, strict=True)
        return MappingProxyType({str(step): it.result for step, it in pairs if it.state in _EFFECTIVE})


def new_journal(plan: Plan, now: float) -> Journal:
    """The journal of a plan of which nothing is done yet."""
    return Journal(plan, (StepRecord(),) * len(plan.steps), started_at=now)


def highest(steps: Sequence[Step]) -> Proof:
    """The highest class among *steps*; R when there are none."""
    return max((step.proof for step in steps), key=_ORDER.__getitem__, default=Proof.R)


def pack(journal: Journal) -> bytes:
    """The journal as it is kept."""
    return bytes(msgpack.packb(plain_journal(journal)))


def unpack(data: bytes, known: Known) -> Journal:
    """The journal that :func:`pack` made; passwords and parameters of members are not kept in it, but *known* has them.

    :raises ValueError: it is none.
    """
    try:
        return _journal(msgpack.unpackb(data, strict_map_key=False), known)
    except (KeyError, TypeError, AttributeError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"no journal of a plan: {error!r}") from error


def plain_journal(journal: Journal) -> dict[str, Any]:
    """The journal in plain values, for the store and for people."""
    plan = journal.plan
    return {
        "id": plan.id,
        "tier": plan.tier,
        "cause": plan.cause,
        "epoch": plan.epoch,
        "asked_by": plan.asked_by,
        "progress": journal.progress.value,
        "reason": journal.reason,
        "started_at": journal.started_at,
        "ended_at": journal.ended_at,
        "steps": [
            {**plain_step(step), "state": it.state.value, "reason": it.reason, "result": thaw(it.result)}
            for step, it in zip(plan.steps, journal.steps, strict=True)
        ],
        "situation": plain_situation(plan.situation),
    }


def plain_step(step: Step) -> dict[str, Any]:
    """A step in plain values."""
    return {
        "action": step.action,
        "do": step.do,
        "target": step.target,
        "proof": step.proof.value,
        "arguments": thaw(step.arguments),
        "deadline": step.deadline,
        "final": step.final,
        "required": step.required,
    }


def plain_situation(it: Situation) -> dict[str, Any]:
    """A situation in plain values, without passwords."""
    return {
        "tier": it.tier,
        "kind": it.kind,
        "verdict": it.verdict,
        "why": list(it.why),
        "site": it.site,
        "wanted": it.wanted,
        "domains": list(it.domains),
        "accused": list(it.accused),
        "request": it.request,
        "members": [plain_member(one) for one in it.members],
    }


def plain_member(one: MemberView) -> dict[str, Any]:
    """A member in plain values, without its password."""
    target = one.target
    return {
        "name": target.name,
        "site": target.site,
        "address": target.address,
        "user": target.user,
        "state": one.state.value,
        "reason": one.reason,
        "facts": thaw(one.facts),
        "facts_age": one.facts_age if one.facts_age < 1e9 else None,
        "problem": one.problem,
        "votes": dict(one.votes),
    }


def _journal(record: Mapping[str, Any], known: Known) -> Journal:
    plan = Plan(
        record["id"],
        record["tier"],
        record["cause"],
        record["epoch"],
        tuple(_step(step) for step in record["steps"]),
        _situation(record["situation"], known),
        record["asked_by"],
    )
    return Journal(
        plan,
        tuple(StepRecord(StepState(it["state"]), it["reason"], freeze(it["result"])) for it in record["steps"]),
        Progress(record["progress"]),
        record["reason"],
        record["started_at"],
        record["ended_at"],
    )


def _step(record: Mapping[str, Any]) -> Step:
    return Step(
        action=record["action"],
        do=record["do"],
        target=record["target"],
        proof=Proof(record["proof"]),
        arguments=freeze(record["arguments"]),
        deadline=record["deadline"],
        final=record["final"],
        required=record["required"],
    )


def _situation(record: Mapping[str, Any], known: Known) -> Situation:
    return Situation(
        tier=record["tier"],
        kind=record["kind"],
        members=tuple(_member(record["tier"], one, known) for one in record["members"]),
        verdict=record["verdict"],
        why=tuple(record["why"]),
        site=record["site"],
        wanted=record["wanted"],
        domains=tuple(record["domains"]),
        accused=tuple(record["accused"]),
        request=record["request"],
    )


def _member(tier: str, record: Mapping[str, Any], known: Known) -> MemberView:
    name = record["name"]
    own = known.get((tier, name), Target(tier, name, "", ""))
    age = record["facts_age"]
    return MemberView(
        target=replace(own, site=record["site"], address=record["address"], user=record["user"]),
        state=State(record["state"]),
        reason=record["reason"],
        facts=freeze(record["facts"]),
        facts_age=float("inf") if age is None else age,
        problem=record["problem"],
        votes=MappingProxyType(dict(record["votes"])),
    )
