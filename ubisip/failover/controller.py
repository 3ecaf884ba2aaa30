# SPDX-License-Identifier: Apache-2.0
"""The controller: from what is seen to what is done (DESIGN section 9).

Every gateway observes and judges; the one that holds the lease acts. All of it runs as tasks of the control loop's
thread, none of it blocks, and no call depends on it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgpack  # type: ignore[import-untyped]  # it has no stubs

from ubisip.failover.action import Action, Notice, Proof, Refusal, Situation, Step
from ubisip.failover.coordination import Compare, LeaseLost, Put, Store, StoreError
from ubisip.failover.keeper import Keeper
from ubisip.failover.lease import Keys, Leadership
from ubisip.failover.notices import Notices
from ubisip.failover.observations import Observations
from ubisip.failover.placement import Placement
from ubisip.failover.plan import (
    Journal,
    Known,
    Plan,
    Progress,
    new_journal,
    plain_journal,
    plain_step,
    unpack,
)
from ubisip.failover.planner import COOL_DOWN, Standing, plan, rule_for
from ubisip.failover.reports import Reports
from ubisip.failover.runner import Fenced, Runner
from ubisip.failover.tier import BACK_OFF, TierSetup, TierState
from ubisip.failover.verdict import UNKNOWN, Verdict, event_of

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between judgements when nothing changes, and between exchanges while something does."""
SHARE = 0.5
"""Seconds between exchanges with the other gateways while nothing happens."""
SETTLE = 1.5
"""Seconds that a verdict must last before people are told: a plan may settle it."""
SHOW = 1.0
"""Seconds between looks at the plans of whoever leads."""
TIDY = 600.0
"""Seconds between compactions of the store by the leader."""
PLATFORM = "platform"
"""The slot of plans of class G or S: one at a time. Local ones have a slot for each tier."""
KEPT = 50
"""Plans that are shown after they ended."""


class NotLeading(Exception):
    """Another gateway leads, or nobody can; *leader* is its name, or empty."""

    def __init__(self, text: str, leader: str) -> None:
        super().__init__(text)
        self.leader = leader


class Refused(Exception):
    """An operator's wish may not be done; *reasons* are all there are."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


class UnknownTier(Exception):
    """No tier, or no member of it, has this name."""


class Watcher(Protocol):
    """Who is told what happens: events, hooks, the audit log."""

    def transition(self, tier: str, before: Verdict, after: Verdict) -> None:
        """The verdict on a tier is another one."""

    def plan(self, journal: Journal) -> None:
        """A plan began or ended."""

    def step(self, journal: Journal, index: int) -> None:
        """A step began or ended."""

    def audit(self, who: str, what: str, result: str, details: Mapping[str, Any]) -> None:
        """Something was done that must be on record."""


class Controller:
    """Judges all *tiers* by *observations* and, while *leadership* holds, runs their plans."""

    def __init__(
        self,
        site: str,
        tiers: Sequence[TierSetup],
        observations: Observations,
        actions: Mapping[str, Action],
        store: Store,
        keys: Keys,
        leadership: Leadership,
        notices: Notices,
        watcher: Watcher,
        known: Known,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.paused = ""
        """Who paused automatic action; empty: nobody."""
        self.plans: list[Journal] = []
        """Those that ended, the newest first."""
        self.ended: Counter[tuple[str, str]] = Counter()
        """Plans that ended here, by tier and result."""
        self.closing = False
        """No plan begins any more."""
        self._site = site
        self._tiers = {one.name: TierState(one) for one in tiers}
        self._observations = observations
        self._actions = actions
        self._store = store
        self._keys = keys
        self._leadership = leadership
        self._notices = notices
        self._reports = Reports(notices, wall)
        self._placement = Placement()
        self._acted = [one.name for one in tiers if one.policy.acts_at_members]
        self._watcher = watcher
        self._known = known
        self._clock = clock
        self._wall = wall
        self._running: dict[str, Journal] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._recovered = 0
        """The epoch under which open plans of before were taken up."""
        self._recovering = False
        self._tidied_at = clock()
        self._read_at = -math.inf
        self._elsewhere: list[Journal] = []
        """Plans of whoever leads, or led last."""
        self._wake = asyncio.Event()
        self._number = 0

    # Life

    def wake(self) -> None:
        """Judge at once: something has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Judge and act, until cancelled; plans that run then are left to the journal."""
        try:
            while True:
                self._turn()
                try:
                    await asyncio.wait_for(self._wake.wait(), TICK)
                except TimeoutError:
                    continue
                self._wake.clear()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until no plan runs."""
        while self._running:
            await asyncio.sleep(TICK)

    async def share(self) -> None:
        """Exchange observations and what operators wish with the other gateways, until cancelled."""
        while True:
            began = self._clock()
            try:
                await self._exchange(began)
            except LeaseLost:
                log.debug("the lease is over: what we see is published under the next one")
            except StoreError as error:
                log.debug("observations are not exchanged: %s", error)
            pace = TICK if self._observations.excited(self._clock()) else SHARE
            await asyncio.sleep(max(TICK / 2, began + pace - self._clock()))

    async def _exchange(self, now: float) -> None:
        lease = self._leadership.lease
        if lease:
            await self._observations.share(self._store, self._keys, lease, now)
        await self._observations.gather(self._store, self._keys, now)
        entry = await self._store.get(self._keys.pause)
        self.paused = "" if entry is None else str(msgpack.unpackb(entry.value)["who"])
        if not self._leadership.epoch and now - self._read_at >= SHOW:
            self._read_at = now
            entries = await self._store.range(self._keys.plans)
            self._elsewhere = [one for one in (self._read(entry.value) for entry in entries) if one is not None]
        if self._leadership.epoch and now - self._tidied_at > TIDY:
            self._tidied_at = now
            await self._store.tidy()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # One turn

    def _turn(self) -> None:
        """Judge every tier, do what is called for; a fault in one tier leaves the others alone."""
        now, epoch = self._clock(), self._leadership.epoch
        if epoch and epoch != self._recovered and not self._recovering:
            self._recovering = True
            self._spawn(self._recover(epoch))
        for tier in self._tiers.values():
            try:
                self._judge(tier, now)
                self._act(tier, now)
                self._tell(tier, now)
            except Exception:
                log.exception("the controller failed at tier %s; it goes on", tier.setup.name)
                tier.not_before = now + BACK_OFF
        self._place(now)
        it = self._leadership
        self._reports.ourselves(self._observations.name, store=it.problem if it.alone else "", configuration=it.refusal)

    def _place(self, now: float) -> None:
        """Leave the lease to who sees more than we do."""
        own, best = self._observations.sights(self._acted, now)
        it = self._leadership
        it.outranked = best > own
        if self._placement.gives_up(own, best, now, leads=bool(it.epoch), busy=bool(self._running)):
            why = f"another gateway reaches {best.members} members, we reach {own.members}"
            log.warning("the lease is given up: %s", why)
            self._watcher.audit("controller", "lead", "given up", {"epoch": it.epoch, "reason": why})
            it.hand_over()

    def _judge(self, tier: TierState, now: float) -> None:
        name = tier.setup.name
        tier.views = self._observations.views(name, now)
        verdict = tier.setup.policy.verdict(tier.views, now)
        before, tier.verdict = tier.verdict, verdict
        if verdict.case != before.case:
            tier.since = now
            about = f" ({', '.join(verdict.accused)})" if verdict.accused else ""
            log.warning("tier %s is %s%s, was %s: %s", name, verdict.code, about, before.code, "; ".join(verdict.why))
            self._watcher.transition(name, before, verdict)

    def _act(self, tier: TierState, now: float) -> None:
        """Start a plan if the verdict calls for one and nothing stands against it."""
        tier.turn_to(tier.verdict.case)
        tier.answer = None
        if tier.settled or not tier.setup.policy.rule(tier.verdict.code, tier.setup.rules):
            return
        if tier.given_up:
            tier.answer = Refusal((f"plans for it failed: it waits for `ubisip failover {tier.setup.name}`",))
        elif now >= tier.not_before:
            tier.answer = self._answer(tier, self._situation(tier), "")
            if isinstance(tier.answer, Plan):
                self._start(tier, tier.answer)

    def _situation(self, tier: TierState, request: str = "", wanted: str = "") -> Situation:
        return tier.situation(self._site, self._observations.domains, request, wanted)

    def _answer(self, tier: TierState, situation: Situation, asked_by: str) -> Plan | Refusal:
        it, leadership = tier.setup, self._leadership
        epoch = leadership.epoch
        unread = "of before, which the journal may hold," if epoch and epoch != self._recovered else ""
        if self.closing:
            unread = "of the configuration to come"
        here = [one.plan.id for one in self._running.values() if one.plan.tier == it.name]
        standing = Standing(
            epoch=epoch,
            no_lease=self._no_lease(),
            alone=leadership.alone,
            mode=it.mode,
            paused=self.paused,
            busy=unread or (self._running[PLATFORM].plan.id if PLATFORM in self._running else ""),
            busy_here=unread or next(iter(here), ""),
            misfits=tuple(text for texts in tier.misfits.values() for text in texts),
            cool_until=tier.cool_until,
            cooled_by=tier.cooled_by,
            now=self._wall(),
            asked_by=asked_by,
        )
        began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._wall()))
        identity = f"{it.name}-{began}-{epoch or self._observations.name}-{self._number}"
        return plan(identity, situation, it.rules, it.policy, self._actions, standing)

    def _no_lease(self) -> str:
        it = self._leadership
        if it.problem:
            return f"we do not hold the lease: {it.problem}"
        return it.refusal or (f"{it.leader} leads" if it.leader else "nobody leads yet")

    # Plans

    def _start(self, tier: TierState, it: Plan) -> asyncio.Task[Any]:
        self._number += 1
        slot = PLATFORM if it.proof is not Proof.R else tier.setup.name
        journal = self._running[slot] = new_journal(it, self._wall())
        log.warning("plan %s begins: %s", it.id, "; ".join(map(str, it.steps)))
        self._watcher.plan(journal)
        self._reports.plan(journal)
        return self._spawn(self._carry(slot, journal, lambda runner: runner.run(it)))

    async def _carry(
        self, slot: str, journal: Journal, work: Callable[[Runner], Coroutine[Any, Any, Journal]]
    ) -> Journal | None:
        """Run a plan to its end; None: it is not ours any more."""
        epoch = journal.plan.epoch
        tier = self._tiers.get(journal.plan.tier)
        case = None if tier is None else tier.case
        runner = Runner(
            self._actions,
            Keeper(self._store, self._keys.plans + slot, self._keys.leader, self._leadership, epoch),
            lambda: self._leadership.epoch,
            lambda told, index: self._progress(slot, told, index),
            self._wall,
        )
        try:
            ended = await work(runner)
        except Fenced as lost:
            log.error("%s: whoever leads next takes the plan up", lost)
            self._audit_plan(journal, "given up", str(lost))
            self._recovered = 0  # that may be we again
            return None
        except Exception:
            log.exception("plan %s stopped by a fault of ours; it is taken up from the journal", journal.plan.id)
            await asyncio.sleep(BACK_OFF)
            self._recovered = 0
            return None
        finally:
            self._running.pop(slot, None)
            self.wake()
        self._ended(ended)
        if tier is not None and tier.case == case:
            tier.remember(ended, self._clock())
        await self._cool(ended)
        return ended

    def _progress(self, slot: str, journal: Journal, index: int | None) -> None:
        self._running[slot] = journal
        if index is not None:
            self._watcher.step(journal, index)
            step, record = journal.plan.steps[index], journal.steps[index]
            why = f": {record.reason}" if record.reason else ""
            log.warning("plan %s: %s: %s%s", journal.plan.id, step, record.state.value, why)
            self._watcher.audit(
                journal.plan.asked_by or "controller", str(step), record.state.value,
                {"plan": journal.plan.id, "epoch": journal.plan.epoch, "reason": record.reason},
            )  # fmt: skip

    def _ended(self, journal: Journal) -> None:
        log.warning(
            "plan %s: %s%s", journal.plan.id, journal.progress.value, f": {journal.reason}" * bool(journal.reason)
        )
        self.plans = [journal, *self.plans][:KEPT]
        self.ended[journal.plan.tier, journal.progress.value] += 1
        self._audit_plan(journal, journal.progress.value, journal.reason)
        self._watcher.plan(journal)
        self._reports.plan(journal)

    def _audit_plan(self, journal: Journal, result: str, reason: str) -> None:
        it = journal.plan
        details = {"plan": it.id, "epoch": it.epoch, "cause": it.cause, "reason": reason}
        self._watcher.audit(it.asked_by or "controller", f"plan for {it.tier}", result, details)

    async def _cool(self, journal: Journal) -> None:
        """After an automatic success that changed something comes a pause; an operator's plan ends it."""
        it = journal.plan
        tier = self._tiers.get(it.tier)
        if tier is None or journal.progress is not Progress.DONE or it.proof is Proof.R or not journal.changed:
            return
        tier.cool_until, tier.cooled_by = 0.0 if it.asked_by else journal.ended_at + COOL_DOWN, it.proof
        try:
            await self._store.commit(
                [Compare(self._keys.leader, created=it.epoch)],
                [Put(self._keys.cool + it.tier, msgpack.packb([tier.cool_until, it.proof.value]))],
            )
        except StoreError as error:
            log.error("the pause after plan %s is known to this gateway only: %s", it.id, error)

    async def _recover(self, epoch: int) -> None:
        """We lead: take up the plans that whoever led before left open."""
        try:
            for entry in await self._store.range(self._keys.cool):
                tier = self._tiers.get(entry.key.removeprefix(self._keys.cool))
                if tier is not None:
                    until, proof = msgpack.unpackb(entry.value)
                    tier.cool_until, tier.cooled_by = float(until), Proof(proof)
            for entry in await self._store.range(self._keys.plans):
                self._take_up(entry.key.removeprefix(self._keys.plans), entry.value, epoch)
            self._recovered = epoch
        except StoreError as error:
            log.warning("the journal cannot be read, nothing is begun before: %s", error)
            await asyncio.sleep(TICK)
        finally:
            self._recovering = False
            self.wake()

    def _read(self, value: bytes) -> Journal | None:
        """A journal of the store; None: it cannot be read."""
        try:
            return unpack(value, self._known)
        except ValueError as error:
            log.error("a plan in the journal cannot be read: %s", error)
            return None

    def _take_up(self, slot: str, value: bytes, epoch: int) -> None:
        journal = self._read(value)
        if journal is None or not journal.is_open or slot in self._running:
            return
        missing = {step.action for step in journal.plan.steps} - self._actions.keys()
        if missing:
            log.error("plan %s is open, and its actions %s are not in our file", journal.plan.id, ", ".join(missing))
            return
        journal = replace(journal, plan=replace(journal.plan, epoch=epoch))
        log.warning("plan %s is taken up: its runner is gone", journal.plan.id)
        self._audit_plan(journal, "taken up", journal.reason)
        self._running[slot] = journal
        self._reports.plan(journal)
        self._spawn(self._carry(slot, journal, lambda runner: runner.resume(journal, epoch)))

    # People

    @property
    def _speaks(self) -> bool:
        """Whether it falls to us to tell people: we lead, or nobody can."""
        return bool(self._leadership.epoch) or self._leadership.alone

    def _tell(self, tier: TierState, now: float) -> None:
        name = tier.setup.name
        if not self._speaks:
            self._reports.silence(name)
            return
        runs = any(journal.plan.tier == name for journal in self._running.values())
        lasts = now - tier.since >= SETTLE
        if tier.verdict.code in tier.setup.policy.healthy:
            self._reports.healthy(name, tier.verdict, plans_too=lasts and not runs)
        elif tier.verdict.code != UNKNOWN and lasts:
            against = tier.answer.reasons if isinstance(tier.answer, Refusal) and not runs else ()
            self._reports.verdict(name, tier.verdict, tier.setup.policy, against)
        self._reports.problems(name, tier.views, tier.misfits)

    # What operators ask for

    def describe(self) -> dict[str, Any]:
        """All tiers, for ``GET /api/v1/tiers``."""
        it = self._leadership
        return {
            "leader": it.leader,
            "epoch": it.epoch,
            "leads": bool(it.epoch) and it.epoch == self._recovered,
            "paused": self.paused,
            "store": it.problem,
            "refusal": it.refusal,
            "doubt": self._observations.doubt(self._clock()),
            "domains": list(self._observations.domains),
            "tiers": [tier.plain(self._clock(), self._wall()) for tier in self._tiers.values()],
            "running": [plain_journal(journal) for journal in self._shown_running()],
            "plans": [_in_short(journal) for journal in self._shown_ended()],
            "counted": [
                {"tier": tier, "result": result, "plans": number} for (tier, result), number in self.ended.items()
            ],
            "notices": [_notice(notice, who) for notice, who in self._notices.open()],
        }

    def _shown_running(self) -> list[Journal]:
        elsewhere = [] if self._leadership.epoch else [one for one in self._elsewhere if one.is_open]
        return [*self._running.values(), *elsewhere]

    def _shown_ended(self) -> list[Journal]:
        own = {journal.plan.id for journal in self.plans}
        elsewhere = [one for one in self._elsewhere if not one.is_open and one.plan.id not in own]
        return sorted([*self.plans, *elsewhere], key=lambda journal: -journal.started_at)[:KEPT]

    def explain(self, name: str, request: str = "", wanted: str = "", who: str = "") -> dict[str, Any]:
        """What would be done now and why, or why not, for ``GET /api/v1/tiers/NAME/plan`` and dry runs.

        :raises UnknownTier: no such tier, or member.
        """
        tier = self._tier(name, wanted)
        situation = self._situation(tier, request, wanted)
        answer = self._answer(tier, situation, who)
        cause, actions = rule_for(situation, tier.setup.rules, tier.setup.policy)
        steps: Sequence[Step] = answer.steps
        return {
            **tier.plain(self._clock(), self._wall()),
            "tier": name,
            "request": request,
            "rule": f"on_{event_of(cause)}",
            "actions": list(actions),
            "permitted": isinstance(answer, Plan),
            "against": list(answer.reasons) if isinstance(answer, Refusal) else [],
            "steps": [{**plain_step(step), "text": str(step)} for step in steps],
        }

    async def order(self, name: str, request: str, wanted: str, who: str) -> dict[str, Any]:
        """Do what an operator asks for, *request* being ``failover`` or ``failback``; the plan's journal at its end.

        :raises UnknownTier: no such tier, or member.
        :raises NotLeading: another gateway must be asked.
        :raises Refused: it may not be done.
        """
        tier = self._tier(name, wanted)
        if not self._leadership.epoch:
            raise NotLeading(self._no_lease(), self._leadership.leader)
        answer = self._answer(tier, self._situation(tier, request, wanted), who)
        if isinstance(answer, Refusal):
            self._watcher.audit(who, f"{request} of {name}", "refused", {"to": wanted, "reasons": list(answer.reasons)})
            raise Refused(answer.reasons)
        self._watcher.audit(who, f"{request} of {name}", "begun", {"to": wanted, "plan": answer.id})
        journal = await asyncio.shield(self._start(tier, answer))
        if journal is None:
            raise NotLeading("the lease was lost on the way: the next leader takes the plan up", "")
        return plain_journal(journal)

    async def pause(self, who: str) -> None:
        """No automatic action from now on, on any gateway.

        :raises StoreError: the store does not answer.
        """
        await self._store.commit([], [Put(self._keys.pause, msgpack.packb({"who": who, "at": self._wall()}))])
        self.paused = who
        self._watcher.audit(who, "pause", "done", {})

    async def resume(self, who: str) -> None:
        """Automatic action again; also ends pauses after successes, and matters given up are tried again.

        :raises StoreError: the store does not answer.
        """
        keys = [self._keys.pause, *(self._keys.cool + name for name in self._tiers)]
        await self._store.commit([], [], keys)
        self.paused = ""
        for tier in self._tiers.values():
            tier.cool_until = 0.0
            tier.try_again()
        self._watcher.audit(who, "resume", "done", {})

    def acknowledge(self, key: str, who: str) -> bool:
        """Somebody takes care of a notice; False: it is not open."""
        known = self._notices.acknowledge(key, who)
        self._watcher.audit(who, f"acknowledge {key[:200]}", "done" if known else "no such notice", {})
        return known

    def _tier(self, name: str, wanted: str) -> TierState:
        tier = self._tiers.get(name)
        if tier is None:
            raise UnknownTier(f"no tier is named {name!r}; there are: {', '.join(self._tiers) or 'none'}")
        members = [one.target.name for one in tier.views]
        if wanted and wanted not in members:
            raise UnknownTier(f"no member of {name} is named {wanted!r}; there are: {', '.join(members)}")
        return tier


def _in_short(journal: Journal) -> dict[str, Any]:
    record = plain_journal(journal)
    del record["situation"]
    return record


def _notice(notice: Notice, acknowledged_by: str) -> dict[str, Any]:
    return {
        "key": notice.key,
        "severity": notice.severity,
        "title": notice.title,
        "text": notice.text,
        "starts_at": notice.starts_at,
        "acknowledged_by": acknowledged_by,
    }
