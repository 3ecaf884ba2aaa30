# SPDX-License-Identifier: Apache-2.0
"""A step as ``exec`` and ``http-request`` tell it to programs of others: plain values, no password among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ubisip.failover.action import PRIMARY, Context, Proof, Situation, Step
from ubisip.failover.actions.serving import is_required
from ubisip.parameters import thaw

Class = Literal["R", "G", "S"]


def plan_order(situation: Situation, before: Sequence[Step], do: str, proof: Class, deadline: float) -> list[Step]:
    """One step; what it is about is the tier."""
    return [Step("", do, situation.tier, Proof(proof), deadline=deadline, required=is_required(before))]


def order_of(step: Step, context: Context) -> dict[str, Any]:
    """All that the program is told."""
    it = context.situation
    return {
        "plan": context.plan,
        "key": context.key,
        "epoch": context.epoch,
        "action": step.action,
        "do": step.do,
        "tier": it.tier,
        "kind": it.kind,
        "verdict": it.verdict,
        "why": list(it.why),
        "accused": list(it.accused),
        "request": it.request,
        "wanted": it.wanted,
        "primary": primary_of(context),
        "members": [
            {
                "name": one.target.name,
                "site": one.target.site,
                "address": one.target.address,
                "state": one.state.value,
                "reason": one.reason,
            }
            for one in it.members
        ],
        "results": thaw(context.results),
    }


def primary_of(context: Context) -> str:
    """The member that a step before has made primary; empty: none has."""
    told = [str(result[PRIMARY]) for result in context.results.values() if result.get(PRIMARY)]
    return told[-1] if told else ""


def environment_of(order: Mapping[str, Any]) -> dict[str, str]:
    """The order as UBISIP_... of an environment: what a line of shell wants to know."""
    words = ("plan", "key", "epoch", "action", "do", "tier", "kind", "verdict", "request", "wanted", "primary")
    return {
        **{f"UBISIP_{name.upper()}": str(order[name]) for name in words},
        "UBISIP_ACCUSED": " ".join(order["accused"]),
        "UBISIP_WHY": "\n".join(order["why"]),
    }
