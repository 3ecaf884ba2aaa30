# SPDX-License-Identifier: Apache-2.0
"""The command ``ubisip``: check a configuration, make keys, see and steer a running gateway.

Exit codes, of every command: 0 done; 1 it could not be done; 2 the command line or the configuration has mistakes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ubisip import keys
from ubisip.admin import agent_commands, tier_commands
from ubisip.admin.asking import (
    CODES,
    FAILED,
    MISTAKES,
    Admin,
    AsJson,
    ConfigFile,
    NodeName,
    TokenFile,
    asked,
    client_of,
    fail,
    load,
    say,
    tell_mistakes,
)
from ubisip.admin.tables import configuration_view, platform_view
from ubisip.admin.tier_tables import inspection_view
from ubisip.config import Config
from ubisip.errors import ConfigError, UsageError
from ubisip.failover.inspection import inspect
from ubisip.parameters import thaw
from ubisip.platform import Switch
from ubisip.transport.tls import CertificateError, Certificates, problems_of
from ubisip.version import VERSION

app = typer.Typer(
    name="ubisip",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="SIP load balancing and failover: check a configuration, make keys, see and steer a running gateway.",
)


@app.command(
    short_help="Name every mistake of a configuration file.",
    help="Check a configuration file and the certificates that it names, and name every mistake with its line. With"
    " --live each member of the other tiers is asked once: who is not what the file says, or lacks a right, is a"
    " mistake; who does not answer could not be checked." + CODES,
    epilog="Example: ubisip check platform.toml --node pa2-gw1",
)
def check(
    file: Annotated[Path, typer.Argument(help="The configuration file.")],
    node: Annotated[str, typer.Option(help="A gateway that must be in it.")] = "",
    live: Annotated[bool, typer.Option("--live", help="Ask the members of the other tiers as well.")] = False,
    as_json: AsJson = False,
) -> None:
    config = load(file, node, as_json)
    warnings = [*_check_key_ring(config), *_check_certificates(config, as_json), *config.warnings]
    members = _inspected(config, as_json) if live else []
    if as_json:
        answer = {"file": str(file), "mistakes": [], "warnings": warnings, "configuration": config.digest}
        say(answer | ({"members": members} if live else {}))
    else:
        for warning in warnings:
            print(f"{file}: warning: {warning}", file=sys.stderr)
        Console().print(configuration_view(config))
        if live:
            Console().print(inspection_view(members))
    if any(row["misfits"] for row in members):
        raise typer.Exit(MISTAKES)
    if any(row["answer"] == "fail" for row in members):
        raise typer.Exit(FAILED)


def _inspected(config: Config, as_json: bool) -> list[dict[str, Any]]:
    try:
        found = asyncio.run(inspect(config))
    except UsageError as error:
        fail([str(error)], MISTAKES, as_json)
    return [
        {
            "tier": it.target.tier,
            "member": it.target.name,
            "site": it.target.site,
            "address": it.target.address,
            "answer": it.finding.sample.verdict.value,
            "reason": it.finding.sample.reason,
            "misfits": list(it.misfits),
            "facts": thaw(it.finding.facts),
        }
        for it in found
    ]


@app.command(
    short_help="Make the key ring of all gateways, or add a key.",
    help="Make the key ring that all gateways share (mode 0600), or add a key to it: the newest signs, all verify."
    " To roll: add, copy the file to every gateway, reload each." + CODES,
    epilog="Example: ubisip key cluster.key --add",
)
def key(
    file: Annotated[Path, typer.Argument(help="The key file.")],
    add: Annotated[bool, typer.Option("--add", help="Add a key to a file that exists.")] = False,
    as_json: AsJson = False,
) -> None:
    try:
        keys.add(file) if add else keys.create(file)
        number = len(keys.load_keys(file))
    except OSError as error:
        hint = f"; `ubisip key {file}` makes one" if add and isinstance(error, FileNotFoundError) else ""
        fail([f"{file}: {error.strerror}{hint}"], FAILED, as_json)
    except UsageError as error:
        fail([str(error)], FAILED, as_json)
    if as_json:
        say({"file": str(file), "keys": number})
    else:
        print(f"{file}: {number} key{'s' if number > 1 else ''}, mode 0600; the newest signs, all verify")


@app.command(
    short_help="Show a running gateway: destinations, health, calls.",
    help="Show a running gateway: its destinations, their health and switches, and its calls." + CODES,
    epilog="Example: ubisip status --config platform.toml --node pa2-gw1",
)
def status(
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    answer = asked(client_of(admin, config, node, token_file, as_json).platform, as_json)
    if as_json:
        say(answer)
    else:
        Console().print(platform_view(answer))


@app.command(
    short_help="Set a destination to ready, drain or maintenance.",
    help="Set the operator's switch of a carrier or server on one gateway. ready: new calls; drain: no new calls, those"
    " in progress go on; maintenance: none, and it is not probed. It survives a restart." + CODES,
    epilog="Example: ubisip switch pa2-tel1 drain",
)
def switch(
    name: Annotated[str, typer.Argument(help="A carrier or server.")],
    state: Annotated[Switch, typer.Argument(help="The state that is wished.")],
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    client = client_of(admin, config, node, token_file, as_json)
    row = asked(lambda: client.switch(name, state.value), as_json)
    if as_json:
        say(row)
    else:
        print(f"{row['name']} is set to {row['switch']} (health: {row['state']}, calls now: {row['calls']})")


@app.command(
    short_help="Let a running gateway take its configuration again.",
    help="Let a running gateway take its configuration file again: all of it, or nothing when it has mistakes." + CODES,
    epilog="Example: ubisip reload --admin http://127.0.0.1:8080",
)
def reload(
    admin: Admin = "",
    config: ConfigFile = None,
    node: NodeName = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    answer = asked(client_of(admin, config, node, token_file, as_json).reload, as_json)
    if as_json:
        say(answer)
    else:
        print(f"reloaded, configuration {answer['configuration'][:12]} is in force")  # as much as the log shows


agent_commands.add_to(app)
tier_commands.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ubisip {VERSION}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    """Options of the command itself."""


def _check_key_ring(config: Config) -> list[str]:
    """It need not be where the file is checked, but a gateway does not start without it."""
    name = config.platform.key_file
    if not name or Path(name).exists():
        return []
    return [f"platform.key_file: {name} does not exist here; `ubisip key {name}` makes one"]


def _check_certificates(config: Config, as_json: bool) -> list[str]:
    """What is wrong with them that is no mistake; ends the command where they cannot be used."""
    if config.tls is None:
        return []
    try:
        Certificates.read(config.tls)
    except CertificateError as error:
        tell_mistakes(config.path, ConfigError([replace(error.mistake, file=config.path)]), as_json)
    return problems_of(config.tls, time.time())


def main() -> None:
    """Entry point of the command."""
    app(prog_name="ubisip")
