# SPDX-License-Identifier: Apache-2.0
"""Sink ``alert``: Prometheus Alertmanager, API version 2, every one of a cluster.

Alerts are known by their labels, so these stay the same from the first notice to the resolution. Each Alertmanager is
told, as its documentation wants it: they agree among themselves on who tells people.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp

from ubisip.failover.action import ActionError, Notice
from ubisip.failover.sinks.plain import instant
from ubisip.health.asking import short
from ubisip.health.probes.http import basic
from ubisip.health.trust import client_context
from ubisip.parameters import nothing, read_parameters, read_secret
from ubisip.schema import AT_LEAST_ONE, REQUIRED, Between

PATH = "/api/v2/alerts"
_NOT_A_LABEL = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(frozen=True, slots=True)
class AlertmanagerParameters:
    """Whom to tell."""

    alertmanagers: Annotated[tuple[str, ...], AT_LEAST_ONE, REQUIRED] = ()
    """The address of each, such as ``http://127.0.0.1:9093``."""
    labels: Mapping[str, str] = field(default_factory=nothing)
    """Labels to add to each alert."""
    user: str = ""
    """User of basic authentication; empty: none."""
    password_file: str = ""
    """The file with their password."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""
    timeout: Annotated[float, Between(0.1, 60)] = 5.0
    """Seconds that one may take."""


class AlertmanagerSink:
    """Posts an alert to each Alertmanager; one of them suffices."""

    def __init__(self, parameters: Mapping[str, Any], state_dir: Path) -> None:
        """:raises ValueError: a parameter is wrong, or the password cannot be read."""
        self._parameters = read_parameters(AlertmanagerParameters, parameters)
        self._login = basic(self._parameters.user, read_secret(self._parameters.password_file))
        self._context = client_context(self._parameters.ca_file, True)

    async def send(self, notice: Notice) -> None:
        body = json.dumps([self._alert(notice)]).encode()
        found = await asyncio.gather(*(self._post(one, body) for one in self._parameters.alertmanagers))
        if all(found):
            raise ActionError("; ".join(found), retry=True)

    def _alert(self, notice: Notice) -> dict[str, Any]:
        labels = {**self._parameters.labels, **notice.labels, "severity": notice.severity, "key": notice.key}
        alert = {
            "labels": {"alertname": "ubisip", **{_label(name): text for name, text in labels.items() if text}},
            "annotations": {"summary": notice.title, "description": notice.text},
            "startsAt": instant(notice.starts_at),
        }
        # Without endsAt Alertmanager resolves it by itself `resolve_timeout` (5 minutes) after it was last told.
        return alert if notice.ends_at is None else {**alert, "endsAt": instant(notice.ends_at)}

    async def _post(self, where: str, body: bytes) -> str:
        """Why it was not delivered there; empty: it was."""
        limit = aiohttp.ClientTimeout(total=self._parameters.timeout)
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._context)
        headers = {"Content-Type": "application/json", **self._login}
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=limit) as session,
                session.post(where.rstrip("/") + PATH, data=body, headers=headers) as answer,
            ):
                text = short((await answer.content.read(1000)).decode(errors="replace"))
                return "" if answer.status < 300 else f"{where} answers {answer.status}: {text}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"{where}: {short(error) or 'no answer in time'}"

    async def close(self) -> None:
        """It keeps no connections."""


def _label(name: str) -> str:
    return _NOT_A_LABEL.sub("_", name)
