# SPDX-License-Identifier: Apache-2.0
"""The command for agents: where their phones are, which servers know them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ubisip.admin.asking import (
    CODES,
    DEFAULT_ADMIN,
    FAILED,
    MISTAKES,
    Admin,
    AsJson,
    ConfigFile,
    NodeName,
    TokenFile,
    client_of,
    fail,
    load,
    say,
)
from ubisip.admin.client import AdminClient, AdminRefused, AdminUnreachable
from ubisip.admin.tables import agents_view

PAGE = 1_000
"""Bindings of agents asked for at a time."""


def add_to(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command(
        short_help="Show agents: where their phones are, which servers know them.",
        help="Show the bindings of agents: flow, age, round trip, servers in step. With --config and without --node,"
        " every gateway of the file is asked, so that both sites' flows of a phone are seen."
        + CODES
        + " 1 also when AOR is registered nowhere.",
        epilog="Example: ubisip agents 1001 --config platform.toml",
    )(agents)


def agents(
    aor: Annotated[str, typer.Argument(help="An agent: user@domain, or the user alone. Default: all.")] = "",
    one_site: Annotated[bool, typer.Option("--one-site", help="Only phones that no other site reaches.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Bindings of each gateway at most.")] = 100,
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    clients = clients_of(admin, config, node, token_file, as_json)
    answers, failures = _all_asked(clients, lambda client: _agents(client, aor, limit, one_site), as_json)
    rows = sorted((row for answer in answers for row in answer["bindings"]), key=_by_agent)
    if as_json:
        shown = ("gateway", "site", "totals", "more", "sharing")
        gateways = [{key: answer.get(key) for key in shown} for answer in answers]
        say({"bindings": rows, "gateways": gateways, "errors": failures})
    else:
        Console().print(agents_view(rows, answers))
        for failure in failures:
            print(failure, file=sys.stderr)
    if aor and not rows:
        raise typer.Exit(FAILED)


def clients_of(
    admin: str, config: Path | None, node: str, token_file: Path | None, as_json: bool
) -> dict[str, AdminClient]:
    """Who to ask, by name: every gateway of the file that has an admin address, unless one is chosen."""
    if config is None or admin or node:
        return {node or admin or DEFAULT_ADMIN: client_of(admin, config, node, token_file, as_json)}
    names = [gateway.name for gateway in load(config, "", as_json).gateways if gateway.admin is not None]
    if not names:
        fail([f"no gateway of {config} has an `admin` address"], MISTAKES, as_json)
    return {name: client_of("", config, name, token_file, as_json) for name in names}


def _all_asked(
    clients: dict[str, AdminClient], question: Callable[[AdminClient], dict[str, Any]], as_json: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """The answers, and why others did not come; ends the command when there is none."""
    answers, failures = [], []
    for name, client in clients.items():
        try:
            answers.append(question(client))
        except (AdminUnreachable, AdminRefused) as error:
            failures.append(f"{name}: {error}")
    if not answers:
        fail(failures, FAILED, as_json)
    return answers, failures


def _agents(client: AdminClient, aor: str, limit: int, one_site: bool) -> dict[str, Any]:
    """Up to *limit* bindings of one gateway, page by page; ``more``: there are others."""
    rows: list[dict[str, Any]] = []
    after = 0
    while True:
        answer = client.agents(aor, after, min(limit - len(rows), PAGE), one_site)
        rows += answer["bindings"]
        after = answer["after"]
        if not after or len(rows) >= limit:
            return {**answer, "bindings": rows[:limit], "more": bool(after) or len(rows) > limit}


def _by_agent(row: dict[str, Any]) -> tuple[str, str, int, str]:
    return row["aor"], row["instance"], row["reg_id"], row["gateway"]
