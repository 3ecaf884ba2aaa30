# SPDX-License-Identifier: Apache-2.0
"""A sink named in a rule is an action as well: the plan then has a step that tells of it, in its place in the order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ubisip.failover.action import Check, Context, Notice, Proof, Refusal, Sink, Situation, Step
from ubisip.failover.reports import plan_key

NOTHING: Mapping[str, Any] = {}


class TellAction:
    """Sends a notice to one *sink*; not to be undone, and no plan fails for it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        return [Step("", "tell", situation.tier, Proof.R, required=False)]

    async def precheck(self, step: Step, context: Context) -> Check:
        return Check(True)

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        it = context.situation
        results = (f"{name}: {dict(result)}" for name, result in context.results.items() if result)
        text = "; ".join((*it.why, *results))
        labels = {"tier": it.tier, "verdict": it.verdict, "plan": context.plan}
        title = f"tier {it.tier}: plan for {it.request or it.verdict}"
        await self._sink.send(Notice(plan_key(it), "critical", title, text, labels, time.time()))
        return NOTHING

    async def verify(self, step: Step, context: Context) -> Check:
        return Check(True)

    async def compensate(self, step: Step, context: Context) -> None:
        """What was said is said."""

    async def close(self) -> None:
        """The sink is closed by whoever made it."""
