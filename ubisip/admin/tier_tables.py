# SPDX-License-Identifier: Apache-2.0
"""What the commands for the other tiers show to people, as rich tables made from the admin side's JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ubisip.admin.tables import COLOURS, duration

PROGRESS = {"done": "green", "running": "yellow", "undoing": "yellow", "undone": "magenta", "incomplete": "red"}
STEPS = {"done": "green", "doing": "yellow", "refused": "red", "failed": "red", "undone": "magenta"}
VOTES = {"up": "green", "down": "red", "abstain": "dim"}


def tiers_view(answer: Mapping[str, Any]) -> RenderableType:
    """A line on who leads, then each tier with its members, then plans and notices."""
    parts: list[RenderableType] = [_leading(answer)]
    if not answer["tiers"]:
        return Text("the configuration has no [tiers]")
    for tier in answer["tiers"]:
        parts += [Text(), *_tier(tier)]
    parts += [Text(), *_plans([*answer["running"], *answer["plans"]])] if answer["running"] or answer["plans"] else []
    if answer["notices"]:
        parts += [Text(), _notices(answer["notices"])]
    return Group(*parts)


def plan_view(answer: Mapping[str, Any]) -> RenderableType:
    """The facts, the rule, the steps, and what stands against them."""
    rule = ", ".join(answer["actions"]) or "nothing"
    parts: list[RenderableType] = [*_tier(answer), Text(), Text(f"rule: {answer['rule']} = {rule}")]
    if answer["steps"]:
        parts.append(Text("would be done:" if answer["permitted"] else "would be done, were it not for what follows:"))
        parts.append(_steps(answer["steps"]))
    for reason in answer["against"]:
        parts.append(Text.assemble(("not now: ", "red"), reason))
    return Group(*parts)


def journal_view(journal: Mapping[str, Any]) -> RenderableType:
    """A plan that ended: how, and what came of each step."""
    return Group(*_plans([journal]), _steps(journal["steps"]))


def audit_view(entries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line for each entry."""
    table = _table("time", "node", "who", "what", "result", "details")
    for entry in entries:
        known = ("time", "node", "who", "what", "result")
        more = ", ".join(f"{key}={value}" for key, value in entry.items() if key not in known and value)
        words = (str(entry.get(key, "")) for key in known[1:])
        table.add_row(_moment(entry.get("time", 0.0)), *map(Text, words), Text(more))
    return table


def _leading(answer: Mapping[str, Any]) -> Text:
    text = Text.assemble((answer["leader"] or "nobody", "bold"), " leads")
    for word, colour in ((answer.get("store"), "red"), (answer.get("refusal"), "red"), (answer.get("doubt"), "yellow")):
        if word:
            text.append(f"; {word}", colour)
    if answer["paused"]:
        text.append(f"; automatic action is paused by {answer['paused']}", "magenta")
    return text


def _tier(tier: Mapping[str, Any]) -> Iterator[RenderableType]:
    since = "" if tier["since"] is None else f" for {duration(tier['since'])}"
    colour = "green" if tier["healthy"] else "red"
    yield Text.assemble(
        (tier["name"], "bold"), f" ({tier['kind']}, {tier['mode']}): ", (tier["verdict"], colour), since
    )
    for why in tier["why"]:
        yield Text(f"  {why}")
    for text in tier["misfits"]:
        yield Text(f"  not as the file says: {text}", "red")
    if tier["cool_down"]:
        yield Text(f"  no automatic plan for {duration(tier['cool_down'])}, as one has succeeded", "yellow")
    table = _table("  member", "site", "state", "votes", "facts")
    for one in tier["members"]:
        table.add_row(f"  {one['name']}", one["site"], _state(one), _votes(one["votes"]), Text(_facts(one)))
    yield table


def _state(one: Mapping[str, Any]) -> Text:
    return Text.assemble((one["state"], COLOURS.get(one["state"], "")), f" {one['reason']}" if one["reason"] else "")


def _votes(votes: Mapping[str, str]) -> Text:
    words = [(f"{domain}:{word} ", VOTES.get(word, "")) for domain, word in sorted(votes.items())]
    return Text.assemble(*words)


def _facts(one: Mapping[str, Any]) -> str:
    if one["problem"]:
        return str(one["problem"])
    facts = ", ".join(f"{key}={value}" for key, value in one["facts"].items())
    old = one["facts_age"] is not None and one["facts_age"] > 5
    return f"{facts} ({one['facts_age']:.0f} s old)" if old and facts else facts


def _plans(plans: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    table = _table("plan", "cause", "asked by", "began", "took", "result")
    for it in plans:
        took = f"{it['ended_at'] - it['started_at']:.1f} s" if it["ended_at"] else ""
        result = Text.assemble((it["progress"], PROGRESS.get(it["progress"], "")))
        if it["reason"]:
            result.append(f": {it['reason']}")
        table.add_row(it["id"], it["cause"], it["asked_by"] or "nobody", _moment(it["started_at"]), took, result)
    yield table


def _steps(steps: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("  step", "class", "state", "")
    for it in steps:
        state = it.get("state", "")
        notes = [word for word in ("point of no return" if it["final"] else "", it.get("reason", "")) if word]
        text = f"  {it['action']} {it['do']} {it['target']}"
        table.add_row(text, it["proof"], Text(state, STEPS.get(state, "")), Text("; ".join(notes)))
    return table


def _notices(notices: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("notice", "since", "", "acknowledged by")
    for it in notices:
        table.add_row(it["key"], _moment(it["starts_at"]), Text(it["title"]), it["acknowledged_by"])
    return table


def _table(*columns: str) -> Table:
    table = Table(header_style="underline", box=None, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name)
    return table


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def inspection_view(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What each member answered to ``ubisip check --live``."""
    table = _table("tier", "member", "site", "address", "answer", "not as it should be")
    for it in rows:
        answer = Text(f"{it['answer']} {it['reason']}", "green" if it["answer"] == "pass" else "red")
        table.add_row(it["tier"], it["member"], it["site"], it["address"], answer, Text("; ".join(it["misfits"])))
    return table
