# SPDX-License-Identifier: Apache-2.0
"""Action ``http-request``: an HTTP request to a service of yours, with the step as JSON, signed on wish.

The same step always has the same ``Idempotency-Key``; a service that has seen it answers again without doing it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import aiohttp

from ubisip.failover.action import ActionError, Check, Context, Refusal, Situation, Step
from ubisip.failover.actions.order import Class, order_of, plan_order
from ubisip.failover.signature import sign
from ubisip.health.asking import short
from ubisip.health.trust import client_context
from ubisip.parameters import nothing, read_parameters, read_secret
from ubisip.schema import REQUIRED, Between

MAX_ANSWER = 65_536
"""Octets of an answer that are read."""
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""


@dataclass(frozen=True, slots=True)
class HttpRequestParameters:
    """Whom to tell, and how."""

    url: Annotated[str, REQUIRED] = ""
    """Does it. It may be called twice with the same Idempotency-Key and must then have the effect of once."""
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    """Of the request that does it, and of the one that undoes it."""
    verify_url: str = ""
    """Asked after (GET), until it answers 200 to 299; empty: the answer to the request suffices."""
    undo_url: str = ""
    """Undoes it (the same method), be it done or failed; without it, what was done cannot be undone."""
    headers: Mapping[str, str] = field(default_factory=nothing)
    """Headers to send besides."""
    token_file: str = ""
    """The file with a token for ``Authorization: Bearer``."""
    secret_file: str = ""
    """The file with the secret that signs the body: see `webhook`."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""
    proof: Class = "G"
    """What must be proven before it is sent: R (local and reversible), G (global and reversible), S (stateful)."""
    timeout: Annotated[float, Between(0.1, 300)] = 10.0
    """Seconds that all of it may take, attempts included."""


class HttpRequestAction:
    """Sends the request once for each plan."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        """:raises ValueError: a parameter is wrong, or a secret cannot be read."""
        self._parameters = read_parameters(HttpRequestParameters, parameters)
        token = read_secret(self._parameters.token_file)
        self._headers = {**self._parameters.headers, **({"Authorization": f"Bearer {token}"} if token else {})}
        self._secret = read_secret(self._parameters.secret_file).encode()
        self._context = client_context(self._parameters.ca_file, True)

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        return plan_order(situation, before, "request", self._parameters.proof, self._parameters.timeout)

    async def precheck(self, step: Step, context: Context) -> Check:
        return Check(True)

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        return await self._call(self._parameters.method, self._parameters.url, step, context)

    async def verify(self, step: Step, context: Context) -> Check:
        if not self._parameters.verify_url:
            return Check(True)
        try:
            await self._call("GET", self._parameters.verify_url, step, context)
        except ActionError as error:
            return Check(False, str(error))
        return Check(True)

    async def compensate(self, step: Step, context: Context) -> None:
        if not self._parameters.undo_url:
            if context.results.get(str(step)):
                raise ActionError("there is no undo_url")
            return  # it was not taken
        await self._call(self._parameters.method, self._parameters.undo_url, step, context)

    async def close(self) -> None:
        """It keeps no connections."""

    async def _call(self, method: str, url: str, step: Step, context: Context) -> Mapping[str, Any]:
        """What the service answers, as far as it is an object of JSON.

        :raises ActionError: it was not done.
        """
        body = b"" if method == "GET" else json.dumps(order_of(step, context)).encode()
        headers = {**self._headers, **_marks(context), **(sign(self._secret, body) if self._secret else {})}
        if body:
            headers["Content-Type"] = "application/json"
        limit = aiohttp.ClientTimeout(total=self._parameters.timeout)
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._context)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=limit) as session,
                session.request(method, url, data=body or None, headers=headers, allow_redirects=False) as answer,
            ):
                text = (await answer.content.read(MAX_ANSWER)).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ActionError(f"{url}: {short(error) or 'no answer in time'}", retry=True) from error
        if not 200 <= answer.status < 300:
            text = f"{url} answers {answer.status}: {short(text)}"
            raise ActionError(text, retry=answer.status in TRY_AGAIN)
        return {"status": answer.status, **_object(text)}


def _marks(context: Context) -> dict[str, str]:
    return {"Idempotency-Key": context.key, "X-Ubisip-Epoch": str(context.epoch)}


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
