# SPDX-License-Identifier: Apache-2.0
"""The command ``ubisip``: check a configuration, make keys, see and steer a running gateway.

Exit codes, of every command: 0 done; 1 it could not be done; 2 the command line or the configuration has mistakes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from ubisip import keys
from ubisip.admin.access import read_token
from ubisip.admin.client import AdminClient, AdminRefused, AdminUnreachable
from ubisip.admin.tables import agents_view, configuration_view, platform_view
from ubisip.config import Config
from ubisip.errors import ConfigError, UsageError
from ubisip.platform import GatewayNode, Switch
from ubisip.transport.tls import CertificateError, Certificates, problems_of
from ubisip.version import VERSION

FAILED = 1
MISTAKES = 2
PAGE = 1_000
"""Bindings of agents asked for at a time."""
DEFAULT_ADMIN = "http://127.0.0.1:8080"

app = typer.Typer(
    name="ubisip",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="SIP load balancing and failover: check a configuration, make keys, see and steer a running gateway.",
)

CODES = "\n\nExit codes: 0 done, 1 it could not be done, 2 mistakes in the command line or the configuration."

AsJson = Annotated[bool, typer.Option("--json", help="Answer as one JSON object.")]
Admin = Annotated[
    str, typer.Option(help=f"The gateway's HTTP address, such as {DEFAULT_ADMIN} (the default).", envvar="UBISIP_ADMIN")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Configuration file to take the address from.")]
NodeName = Annotated[str, typer.Option("--node", help="Gateway of that file; needed when it has several.")]
TokenFile = Annotated[Path | None, typer.Option(help="File with the bearer token.", envvar="UBISIP_TOKEN_FILE")]


@app.command(
    short_help="Name every mistake of a configuration file.",
    help="Check a configuration file and the certificates that it names, and name every mistake with its line." + CODES,
    epilog="Example: ubisip check platform.toml --node pa2-gw1",
)
def check(
    file: Annotated[Path, typer.Argument(help="The configuration file.")],
    node: Annotated[str, typer.Option(help="A gateway that must be in it.")] = "",
    as_json: AsJson = False,
) -> None:
    config = _load(file, node, as_json)
    warnings = _check_certificates(config, as_json)
    if as_json:
        _say({"file": str(file), "mistakes": [], "warnings": warnings, "configuration": config.digest})
    else:
        for warning in warnings:
            print(f"{file}: warning: {warning}", file=sys.stderr)
        Console().print(configuration_view(config))


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
    except (OSError, UsageError) as error:
        _fail([str(error)], FAILED, as_json)
    if as_json:
        _say({"file": str(file), "keys": number})
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
    answer = _asked(_client(admin, config, node, token_file, as_json).platform, as_json)
    if as_json:
        _say(answer)
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
    client = _client(admin, config, node, token_file, as_json)
    row = _asked(lambda: client.switch(name, state.value), as_json)
    if as_json:
        _say(row)
    else:
        print(f"{row['name']} is set to {row['switch']} (health: {row['state']}, calls now: {row['calls']})")


@app.command(
    short_help="Show agents: where their phones are, which servers know them.",
    help="Show the bindings of agents: flow, age, round trip, servers in step. With --config and without --node, every"
    " gateway of the file is asked, so that both sites' flows of a phone are seen." + CODES
    + " 1 also when AOR is registered nowhere.",
    epilog="Example: ubisip agents 1001 --config platform.toml",
)  # fmt: skip
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
    clients = _clients(admin, config, node, token_file, as_json)
    answers, failures = _all_asked(clients, lambda client: _agents(client, aor, limit, one_site), as_json)
    rows = sorted((row for answer in answers for row in answer["bindings"]), key=_by_agent)
    if as_json:
        gateways = [{key: answer[key] for key in ("gateway", "site", "totals", "more")} for answer in answers]
        _say({"bindings": rows, "gateways": gateways, "errors": failures})
    else:
        Console().print(agents_view(rows, answers))
        for failure in failures:
            print(failure, file=sys.stderr)
    if aor and not rows:
        raise typer.Exit(FAILED)


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
    answer = _asked(_client(admin, config, node, token_file, as_json).reload, as_json)
    if as_json:
        _say(answer)
    else:
        print(f"reloaded, configuration {answer['configuration']} is in force")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ubisip {VERSION}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    """Options of the command itself."""


def _load(file: Path, node: str, as_json: bool) -> Config:
    """The configuration, with the gateway *node* in it; ends the command where it has mistakes."""
    try:
        config = Config.load(file)
        if node:
            config.gateway(node)
    except ConfigError as error:
        _tell_mistakes(str(file), error, as_json)
    except UsageError as error:
        _fail([str(error)], MISTAKES, as_json)
    return config


def _tell_mistakes(file: str, error: ConfigError, as_json: bool) -> NoReturn:
    if as_json:
        _say({"file": file, "mistakes": [asdict(mistake) for mistake in error.mistakes]})
        raise typer.Exit(MISTAKES) from None
    _fail(str(error).splitlines(), MISTAKES, as_json)


def _check_certificates(config: Config, as_json: bool) -> list[str]:
    """What is wrong with them that is no mistake; ends the command where they cannot be used."""
    if config.tls is None:
        return []
    try:
        Certificates.read(config.tls)
    except CertificateError as error:
        _tell_mistakes(config.path, ConfigError([replace(error.mistake, file=config.path)]), as_json)
    return problems_of(config.tls, time.time())


def _client(admin: str, config: Path | None, node: str, token_file: Path | None, as_json: bool) -> AdminClient:
    """Who to ask: the address as given, or that of a gateway of the configuration file, with its token."""
    token = str(token_file or "")
    if config is not None and not admin:
        gateway = _gateway(_load(config, node, as_json), node, as_json)
        admin, token = _url(gateway, as_json), token or gateway.admin_token_file
    try:
        return AdminClient(admin or DEFAULT_ADMIN, read_token(token) if token else "")
    except (OSError, ValueError) as error:
        _fail([str(error)], MISTAKES, as_json)


def _clients(
    admin: str, config: Path | None, node: str, token_file: Path | None, as_json: bool
) -> dict[str, AdminClient]:
    """Who to ask, by name: every gateway of the file that has an admin address, unless one is chosen."""
    if config is None or admin or node:
        return {node or admin or DEFAULT_ADMIN: _client(admin, config, node, token_file, as_json)}
    names = [gateway.name for gateway in _load(config, "", as_json).gateways if gateway.admin is not None]
    if not names:
        _fail([f"no gateway of {config} has an `admin` address"], MISTAKES, as_json)
    return {name: _client("", config, name, token_file, as_json) for name in names}


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
        _fail(failures, FAILED, as_json)
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


def _gateway(config: Config, node: str, as_json: bool) -> GatewayNode:
    if not node and len(config.gateways) > 1:
        names = ", ".join(gateway.name for gateway in config.gateways)
        _fail([f"{config.path} has several gateways, say which with --node: {names}"], MISTAKES, as_json)
    return config.gateway(node) if node else config.gateways[0]


def _url(gateway: GatewayNode, as_json: bool) -> str:
    if gateway.admin is None:
        _fail([f"{gateway.name} has no `admin` address in the configuration"], MISTAKES, as_json)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(gateway.admin.host, gateway.admin.host)
    return f"http://[{host}]:{gateway.admin.port}" if ":" in host else f"http://{host}:{gateway.admin.port}"


def _asked(question: Callable[[], dict[str, Any]], as_json: bool) -> dict[str, Any]:
    """The gateway's answer; ends the command when there is none, or when it is no."""
    try:
        return question()
    except AdminUnreachable as error:
        _fail([str(error)], FAILED, as_json)
    except AdminRefused as error:
        details = error.answer.get("mistakes") or [str(error)]
        _fail([str(detail) for detail in details], MISTAKES if error.status in (400, 404, 409) else FAILED, as_json)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer, indent=2, ensure_ascii=False))


def _fail(lines: list[str], code: int, as_json: bool) -> NoReturn:
    """Say why on standard error (as JSON on standard output) and end with *code*."""
    if as_json:
        _say({"mistakes" if code == MISTAKES else "errors": lines})
    else:
        for line in lines:
            print(line, file=sys.stderr)
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the command."""
    app(prog_name="ubisip")
