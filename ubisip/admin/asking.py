# SPDX-License-Identifier: Apache-2.0
"""What all commands share: their options, whom they ask, how they answer and end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ubisip.admin.access import read_token
from ubisip.admin.client import AdminClient, AdminRefused, AdminUnreachable
from ubisip.config import Config
from ubisip.errors import ConfigError, UsageError
from ubisip.platform import GatewayNode

FAILED = 1
MISTAKES = 2
DEFAULT_ADMIN = "http://127.0.0.1:8080"

CODES = "\n\nExit codes: 0 done, 1 it could not be done, 2 mistakes in the command line or the configuration."

AsJson = Annotated[bool, typer.Option("--json", help="Answer as one JSON object.")]
Admin = Annotated[
    str, typer.Option(help=f"The gateway's HTTP address, such as {DEFAULT_ADMIN} (the default).", envvar="UBISIP_ADMIN")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Configuration file to take the address from.")]
NodeName = Annotated[str, typer.Option("--node", help="Gateway of that file; needed when it has several.")]
TokenFile = Annotated[Path | None, typer.Option(help="File with the bearer token.", envvar="UBISIP_TOKEN_FILE")]


def load(file: Path, node: str, as_json: bool) -> Config:
    """The configuration, with the gateway *node* in it; ends the command where it has mistakes."""
    try:
        config = Config.load(file)
        if config.incomplete:
            raise ConfigError(config.incomplete)
        if node:
            config.gateway(node)
    except ConfigError as error:
        if as_json:
            say({"file": str(file), "mistakes": [asdict(mistake) for mistake in error.mistakes]})
            raise typer.Exit(MISTAKES) from None
        fail(str(error).splitlines(), MISTAKES, as_json)
    except UsageError as error:
        fail([str(error)], MISTAKES, as_json)
    return config


def client_of(admin: str, config: Path | None, node: str, token_file: Path | None, as_json: bool) -> AdminClient:
    """Who to ask: the address as given, or that of a gateway of the configuration file, with its token."""
    token = str(token_file or "")
    if config is not None and not admin:
        gateway = _gateway(load(config, node, as_json), node, as_json)
        admin, token = _url(gateway, as_json), token or gateway.admin_token_file
    try:
        return AdminClient(admin or DEFAULT_ADMIN, read_token(token) if token else "")
    except (OSError, ValueError) as error:
        fail([str(error)], MISTAKES, as_json)


def _gateway(config: Config, node: str, as_json: bool) -> GatewayNode:
    if not node and len(config.gateways) > 1:
        names = ", ".join(gateway.name for gateway in config.gateways)
        fail([f"{config.path} has several gateways, say which with --node: {names}"], MISTAKES, as_json)
    return config.gateway(node) if node else config.gateways[0]


def _url(gateway: GatewayNode, as_json: bool) -> str:
    if gateway.admin is None:
        fail([f"{gateway.name} has no `admin` address in the configuration"], MISTAKES, as_json)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(gateway.admin.host, gateway.admin.host)
    return f"http://[{host}]:{gateway.admin.port}" if ":" in host else f"http://{host}:{gateway.admin.port}"


def asked(question: Callable[[], dict[str, Any]], as_json: bool) -> dict[str, Any]:
    """The gateway's answer; ends the command when there is none, or when it is no."""
    try:
        return question()
    except AdminUnreachable as error:
        fail([str(error)], FAILED, as_json)
    except AdminRefused as error:
        answer = error.answer
        details = answer.get("mistakes") or answer.get("reasons") or [str(error)]
        refused = "reasons" in answer or "leader" in answer  # nothing is wrong with what was asked
        code = MISTAKES if error.status in (400, 404, 409) and not refused else FAILED
        fail([str(detail) for detail in details], code, as_json)


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer, indent=2, ensure_ascii=False))


def fail(lines: list[str], code: int, as_json: bool) -> NoReturn:
    """Say why on standard error (as JSON on standard output) and end with *code*."""
    if as_json:
        say({"mistakes" if code == MISTAKES else "errors": lines})
    else:
        for line in lines:
            print(line, file=sys.stderr)
    raise typer.Exit(code)
