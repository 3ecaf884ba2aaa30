# SPDX-License-Identifier: Apache-2.0
"""Sink ``webhook``: the notice as JSON to a service of yours, signed (see ubisip.failover.signature)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp

from ubisip.failover.action import ActionError, Notice
from ubisip.failover.signature import sign
from ubisip.failover.sinks.plain import json_notice
from ubisip.health.asking import short
from ubisip.health.trust import client_context
from ubisip.parameters import nothing, read_parameters, read_secret
from ubisip.schema import REQUIRED, Between


@dataclass(frozen=True, slots=True)
class WebhookParameters:
    """Whom to tell."""

    url: Annotated[str, REQUIRED] = ""
    """Where the notice is posted to; 200 to 299 is taken for delivered."""
    secret_file: str = ""
    """The file with the secret that signs the body; empty: it is not signed."""
    headers: Mapping[str, str] = field(default_factory=nothing)
    """Headers to send besides."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""
    timeout: Annotated[float, Between(0.1, 60)] = 5.0
    """Seconds that it may take."""


class WebhookSink:
    """Posts each notice."""

    def __init__(self, parameters: Mapping[str, Any], state_dir: Path) -> None:
        """:raises ValueError: a parameter is wrong, or the secret cannot be read."""
        self._parameters = read_parameters(WebhookParameters, parameters)
        self._secret = read_secret(self._parameters.secret_file).encode()
        self._context = client_context(self._parameters.ca_file, True)

    async def send(self, notice: Notice) -> None:
        body = json_notice(notice)
        headers = {**self._parameters.headers, "Content-Type": "application/json"}
        if self._secret:
            headers |= sign(self._secret, body)
        limit = aiohttp.ClientTimeout(total=self._parameters.timeout)
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._context)
        url = self._parameters.url
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=limit) as session,
                session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ActionError(f"{url}: {short(error) or 'no answer in time'}", retry=True) from error
        if not 200 <= status < 300:
            raise ActionError(f"{url} answers {status}", retry=True)

    async def close(self) -> None:
        """It keeps no connections."""
