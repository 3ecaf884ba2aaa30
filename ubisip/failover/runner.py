# SPDX-License-Identifier: Apache-2.0
"""The runner: takes the steps of a plan, each journalled before it is taken (DESIGN section 9).

Before the point of no return a plan that fails is undone, last step first; after it, it is finished. A plan whose
runner died is taken up by :meth:`Runner.resume`: the same rules, from the journal alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ubisip.failover.action import Action, ActionError, Context, Step
from ubisip.failover.plan import BEGUN, Journal, Plan, Progress, StepRecord, StepState, new_journal

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""Times a required step is tried after the point of no return; an undoing as often."""
ORPHANED = "the controller that ran it was lost before the point of no return"
"""Why a plan is undone that did not fail itself."""
PAUSE = 0.2
"""Seconds before a step is tried again; they double, up to PATIENCE."""
PATIENCE = 2.0


class Fenced(Exception):
    """We do not lead any more under the plan's epoch: whoever does goes on with it, or undoes it."""


Write = Callable[[Journal], Awaitable[None]]
"""Keeps the journal; raises Fenced when we may not any more."""
Told = Callable[[Journal, int | None], None]
"""Is told of every change: the journal, and the index of the step that changed."""


class Runner:
    """Runs plans with *actions*; *epoch* tells the fencing token that is ours now."""

    def __init__(
        self,
        actions: Mapping[str, Action],
        write: Write,
        epoch: Callable[[], int],
        told: Told = lambda _journal, _index: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._actions = actions
        self._write = write
        self._epoch = epoch
        self._told = told
        self._clock = clock

    async def run(self, plan: Plan) -> Journal:
        """Run *plan* to its end, whatever that is.

        :raises Fenced: we lost the lease on the way; the journal says how far it came.
        """
        return await self._forward(new_journal(plan, self._clock()), 0)

    async def resume(self, journal: Journal, epoch: int) -> Journal:
        """Finish or undo a plan whose runner is gone, under our own *epoch*.

        It is finished when its point of no return is passed, or when it has none: then every step can be repeated.
        """
        journal = replace(journal, plan=replace(journal.plan, epoch=epoch))
        if journal.progress is Progress.UNDOING or not (journal.committed or not journal.plan.has_return):
            reason = journal.reason or ORPHANED
            return await self._backward(journal, reason)
        passed = (StepState.DONE, StepState.FAILED, StepState.REFUSED)
        first = next((i for i, it in enumerate(journal.steps) if it.state not in passed), len(journal.steps))
        return await self._forward(journal, first)

    # Forward

    async def _forward(self, it: Journal, first: int) -> Journal:
        for index in range(first, len(it.plan.steps)):
            it = await self._keep(it.with_step(index, StepRecord(StepState.DOING)), index)
            it = await self._taken(it, index)
            self._told(it, index)
            step, record = it.plan.steps[index], it.steps[index]
            if record.state is StepState.DONE or not step.required:
                continue
            reason = f"{step}: {record.reason}"
            if not it.committed:
                return await self._backward(it, reason)
            return await self._end(it, Progress.INCOMPLETE, reason)
        return await self._end(it, Progress.DONE, "")

    async def _taken(self, it: Journal, index: int) -> Journal:
        """The journal with what came of the step; after the point of no return it is tried again and again."""
        step = it.plan.steps[index]
        again = ATTEMPTS if step.required and it.committed else 1
        record = await self._take(it, index)
        doubtful = record.state is StepState.FAILED
        for attempt in range(1, again):
            if record.state is StepState.DONE or (step.final and not doubtful):
                break
            await asyncio.sleep(min(PATIENCE, PAUSE * 2**attempt))
            record = await self._take(it, index)
            doubtful = doubtful or record.state is StepState.FAILED
        if doubtful and record.state is StepState.REFUSED:  # an earlier try may have had its effect
            record = replace(record, state=StepState.FAILED)
        return it.with_step(index, record)

    async def _take(self, it: Journal, index: int) -> StepRecord:
        """Take one step, within its deadline."""
        step = it.plan.steps[index]
        context = self._context(it, index)
        begun = False
        try:
            async with asyncio.timeout(step.deadline):
                check = await self._patiently(lambda: self._actions[step.action].precheck(step, context), it)
                if not check.ok:
                    return StepRecord(StepState.REFUSED, check.reason)
                begun = True
                result = await self._patiently(lambda: self._actions[step.action].apply(step, context), it)
                return await self._verified(it, step, context, result)
        except TimeoutError:
            return StepRecord(StepState.FAILED if begun else StepState.REFUSED, f"not done in {step.deadline:g} s")
        except ActionError as error:
            # A final step that says it was not done has not passed the point of no return.
            refused = not begun or step.final
            return StepRecord(StepState.REFUSED if refused else StepState.FAILED, str(error))
        except Fenced:
            raise
        except Exception as error:  # a fault of the action: what it did is not known
            log.exception("%s of plan %s failed", step, it.plan.id)
            return StepRecord(StepState.FAILED if begun else StepState.REFUSED, f"a fault of the action: {error!r}")

    async def _verified(self, it: Journal, step: Step, context: Context, result: Mapping[str, Any]) -> StepRecord:
        """Look until it is as wished; the step's deadline is around this."""
        pause = PAUSE / 4
        while True:
            check = await self._patiently(lambda: self._actions[step.action].verify(step, context), it)
            if check.ok:
                return StepRecord(StepState.DONE, check.reason, MappingProxyType(dict(result or {})))
            log.info("%s of plan %s is not as wished yet: %s", step, it.plan.id, check.reason)
            await asyncio.sleep(pause)
            pause = min(PATIENCE, pause * 2)

    async def _patiently(self, work: Callable[[], Awaitable[Any]], it: Journal) -> Any:
        """Do *work*, again while it says that a moment may help; not a single time without the lease."""
        pause = PAUSE
        while True:
            self._fence(it)
            try:
                return await work()
            except ActionError as error:
                if not error.retry:
                    raise
                log.info("plan %s tries again: %s", it.plan.id, error)
            await asyncio.sleep(pause)
            pause = min(PATIENCE, pause * 2)

    # Backward

    async def _backward(self, it: Journal, reason: str) -> Journal:
        """Undo what was begun, the last first."""
        it = replace(it, progress=Progress.UNDOING, reason=reason)
        stuck = []
        for index in reversed(range(len(it.plan.steps))):
            if it.steps[index].state not in BEGUN:
                continue
            before = it.steps[index]
            it = await self._keep(it.with_step(index, replace(before, state=StepState.UNDOING)), index)
            problem = await self._undone(it, index)
            if problem:
                stuck.append(f"{it.plan.steps[index]} is not undone: {problem}")
                it = it.with_step(index, StepRecord(StepState.FAILED, problem, before.result))
            else:
                it = it.with_step(index, StepRecord(StepState.UNDONE, before.reason, before.result))
            self._told(it, index)
        if stuck:
            return await self._end(it, Progress.INCOMPLETE, "; ".join([reason, *stuck]))
        return await self._end(it, Progress.UNDONE, reason)

    async def _undone(self, it: Journal, index: int) -> str:
        """Undo one step; empty, or why it could not be."""
        step, context, problem = it.plan.steps[index], self._context(it, index), ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(min(PATIENCE, PAUSE * 2**attempt))
            self._fence(it)
            try:
                async with asyncio.timeout(step.deadline):
                    await self._actions[step.action].compensate(step, context)
                return ""
            except TimeoutError:
                problem = f"not done in {step.deadline:g} s"
            except ActionError as error:
                problem = str(error)
            except Exception as error:
                log.exception("undoing %s of plan %s failed", step, it.plan.id)
                problem = f"a fault of the action: {error!r}"
        return problem

    # Both

    def _fence(self, it: Journal) -> None:
        """Go no further without the lease.

        :raises Fenced: the lease under which the plan runs is not ours any more.
        """
        if self._epoch() != it.plan.epoch:
            raise Fenced(f"plan {it.plan.id}: the lease of epoch {it.plan.epoch} is lost")

    async def _keep(self, it: Journal, index: int | None) -> Journal:
        """Journal before act."""
        self._fence(it)
        await self._write(it)
        self._told(it, index)
        return it

    async def _end(self, it: Journal, progress: Progress, reason: str) -> Journal:
        return await self._keep(replace(it, progress=progress, reason=reason, ended_at=self._clock()), None)

    def _context(self, it: Journal, index: int) -> Context:
        plan = it.plan
        return Context(plan.id, f"{plan.id}/{index}", plan.epoch, plan.situation, it.results())
