# SPDX-License-Identifier: Apache-2.0
"""The commands for the other tiers: what is the matter, what would be done, and to have it done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from ubisip.admin.asking import (
    CODES,
    FAILED,
    Admin,
    AsJson,
    ConfigFile,
    NodeName,
    TokenFile,
    asked,
    client_of,
    fail,
    say,
)
from ubisip.admin.tier_tables import audit_view, journal_view, plan_view, tiers_view
from ubisip.store.audit import AuditLog

PLAN_CODES = "\n\nExit codes: 0 the plan succeeded, 1 it was refused, undone or not finished, 2 mistakes."

Tier = Annotated[str, typer.Argument(help="A tier of the configuration.")]
To = Annotated[str, typer.Option("--to", metavar="NAME", help="The member to go to; by default the best is chosen.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.command(
        short_help="Show the other tiers: verdicts, members, plans.",
        help="Show the other tiers as a gateway sees them: the verdict on each and why, its members, who leads, the"
        " plans that run or ran, and the notices that are open." + CODES,
        epilog="Example: ubisip tiers --config platform.toml --node pa2-gw1",
    )(tiers)
    app.command(
        short_help="Tell what would be done for a tier now, or why nothing.",
        help="Tell, fact by fact, what the controller would do for a tier now and why, or why not. Nothing is done."
        + CODES,
        epilog="Example: ubisip plan database",
    )(plan)
    app.command(
        short_help="Fail a tier over, or switch it over while it is well.",
        help="Do what the rules say when the tier has failed; while it is well, switch it over to another member. It"
        " overrides the mode, a pause and the votes, never the lease or a safety check." + PLAN_CODES,
        epilog="Example: ubisip failover database --to db-pa5-1 --dry-run",
    )(failover)
    app.command(
        short_help="Bring a tier back to where it belongs.",
        help="Bring a tier back after a failover, by the rule on_failback." + PLAN_CODES,
        epilog="Example: ubisip failback database",
    )(failback)
    app.command(
        short_help="Stop all automatic action.",
        help="Stop all automatic action of all gateways, until `ubisip resume`. Probes and verdicts go on." + CODES,
        epilog="Example: ubisip pause",
    )(pause)
    app.command(
        short_help="Let automatic action go on.",
        help="Let automatic action go on, after `ubisip pause`, after plans that failed, and without waiting for the"
        " end of the time after a success." + CODES,
        epilog="Example: ubisip resume",
    )(resume)
    app.command(
        short_help="Say that somebody takes care of a notice.",
        help="Say that somebody takes care of a notice, so that it is not sent again; `ubisip tiers` has the keys."
        + CODES,
        epilog="Example: ubisip acknowledge tier/database/verdict",
    )(acknowledge)
    app.command(
        short_help="Read the audit log.",
        help="Read the audit log of a gateway, or of a file: who asked for what, what plans did, how it ended." + CODES,
        epilog="Example: ubisip audit --limit 20",
    )(audit)


def _show(answer: dict[str, Any], view: RenderableType, as_json: bool) -> None:
    if as_json:
        say(answer)
    else:
        Console().print(view)


def tiers(
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    answer = asked(client_of(admin, config, node, token_file, as_json).tiers, as_json)
    _show(answer, tiers_view(answer), as_json)


def plan(
    tier: Tier,
    to: To = "",
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    client = client_of(admin, config, node, token_file, as_json)
    answer = asked(lambda: client.plan(tier, "failover" if to else "", to), as_json)
    _show(answer, plan_view(answer), as_json)


def failover(
    tier: Tier,
    to: To = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, do nothing.")] = False,
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    client = client_of(admin, config, node, token_file, as_json)
    _ended(asked(lambda: client.order(tier, "failover", to, dry_run=dry_run), as_json), dry_run, as_json)


def failback(
    tier: Tier,
    to: To = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, do nothing.")] = False,
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    client = client_of(admin, config, node, token_file, as_json)
    _ended(asked(lambda: client.order(tier, "failback", to, dry_run=dry_run), as_json), dry_run, as_json)


def _ended(answer: dict[str, Any], dry_run: bool, as_json: bool) -> None:
    _show(answer, plan_view(answer) if dry_run else journal_view(answer), as_json)
    good = answer.get("permitted") if dry_run else answer.get("progress") == "done"
    if not good:
        raise typer.Exit(FAILED)


def pause(
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    answer = asked(client_of(admin, config, node, token_file, as_json).pause, as_json)
    _show(answer, "automatic action is paused, on all gateways", as_json)


def resume(
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    answer = asked(client_of(admin, config, node, token_file, as_json).resume, as_json)
    _show(answer, "automatic action goes on", as_json)


def acknowledge(
    key: Annotated[str, typer.Argument(help="The key of a notice.")],
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    client = client_of(admin, config, node, token_file, as_json)
    answer = asked(lambda: client.acknowledge(key), as_json)
    _show(answer, f"{key} is not sent again", as_json)


def audit(
    file: Annotated[Path | None, typer.Argument(help="A log to read; by default a running gateway is asked.")] = None,
    limit: Annotated[int, typer.Option(help="How many entries, the newest.", min=1, max=10_000)] = 50,
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    if file is None:
        client = client_of(admin, config, node, token_file, as_json)
        answer = asked(lambda: client.audit(limit), as_json)
    else:
        answer = _read(file, limit, as_json)
    _show(answer, audit_view(answer["entries"]), as_json)


def _read(file: Path, limit: int, as_json: bool) -> dict[str, Any]:
    try:
        if not file.exists():
            fail([f"{file}: no such file"], FAILED, as_json)
        return {"entries": AuditLog(file, "").entries(limit)}
    except OSError as error:
        fail([f"{file}: {error.strerror or error}"], FAILED, as_json)
