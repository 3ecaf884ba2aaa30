# SPDX-License-Identifier: Apache-2.0
"""Action ``dns-cloudflare``: the records of a name are replaced by Cloudflare's API, version 4.

One request (``dns_records/batch``) replaces the set; records are changed in place as far as there are any, so that it
is never empty. The comment of each record keeps the epoch and the key of the step, the same however often it is tried.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import aiohttp

from ubisip.failover.action import ActionError, Check, Context, Refusal, Situation, Step
from ubisip.failover.actions.records import (
    RecordParameters,
    epoch_text,
    plan_records,
    previous_values,
    refuse_if_overtaken,
    wanted_values,
)
from ubisip.parameters import read_parameters, read_secret
from ubisip.schema import REQUIRED, Between

API = "https://api.cloudflare.com/client/v4"
MAX_ANSWER = 2**20
"""Octets of an answer; a few records take some KiB."""
MAX_RECORDS = 100
"""Records of one name that are read; a name has one or a few."""
MAX_WAIT = 5.0
"""Seconds that a 429 is waited for within one attempt; the step's deadline is around all of them."""
TOO_MANY = 429


@dataclass(frozen=True, slots=True)
class CloudflareParameters(RecordParameters):
    """Where and how the zone is updated."""

    zone: Annotated[str, REQUIRED] = ""
    """The identity of the zone (32 hexadecimal digits)."""
    token_file: Annotated[str, REQUIRED] = ""
    """The file that holds the API token; it needs the right Zone.DNS:Edit."""
    proxied: bool = False
    """Whether Cloudflare stands in front of the addresses."""
    api: str = API
    """The address of the API."""
    timeout: Annotated[float, Between(0.1, 60)] = 5.0
    """Seconds that one request may take."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the API gives it."""

    id: str
    content: str
    comment: str


class CloudflareAction:
    """Sets the records of each of `names`."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        """:raises ValueError: a parameter is wrong, or the token cannot be read."""
        self._parameters = read_parameters(CloudflareParameters, parameters)
        self._headers = {"Authorization": f"Bearer {read_secret(self._parameters.token_file)}"}

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        return plan_records(situation, before, self._parameters, deadline=20.0)

    async def precheck(self, step: Step, context: Context) -> Check:
        records = await self._records(step.target)
        refuse_if_overtaken(step.target, [one.comment for one in records], context)
        wanted_values(step, context, self._parameters, [one.content for one in records])
        return Check(True)

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        records = await self._records(step.target)
        now = sorted(one.content for one in records)
        wanted = wanted_values(step, context, self._parameters, now)
        if now != wanted:
            await self._replace(step, context, records, wanted)
        return {"changed": now != wanted, "values": wanted, "previous": now}

    async def verify(self, step: Step, context: Context) -> Check:
        now = sorted(one.content for one in await self._records(step.target))
        if now == wanted_values(step, context, self._parameters, now):
            return Check(True)
        return Check(False, f"{step.target} has the values {', '.join(now) or 'none'}")

    async def compensate(self, step: Step, context: Context) -> None:
        previous = sorted(previous_values(step, context))
        records = await self._records(step.target)
        if previous and sorted(one.content for one in records) != previous:
            await self._replace(step, context, records, previous)

    async def close(self) -> None:
        """It keeps no connections."""

    async def _records(self, name: str) -> list[Record]:
        """The records of *name* as they are now."""
        query = {"name": name, "type": self._parameters.type, "per_page": str(MAX_RECORDS)}
        found = await self._call("GET", "", query, None)
        if not isinstance(found, list):
            raise ActionError("Cloudflare gives no list of records", retry=True)
        return [Record(str(it["id"]), str(it["content"]), str(it.get("comment") or "")) for it in found]

    async def _replace(self, step: Step, context: Context, records: Sequence[Record], wanted: Sequence[str]) -> None:
        """Replace *records* by *wanted* in one transaction.

        :raises ActionError: it was not done.
        """
        refuse_if_overtaken(step.target, [one.comment for one in records], context)
        await self._call("POST", "/batch", {}, self._batch(step, context, records, wanted))

    def _batch(
        self, step: Step, context: Context, records: Sequence[Record], wanted: Sequence[str]
    ) -> dict[str, list[dict[str, Any]]]:
        body = {
            "name": step.target,
            "type": self._parameters.type,
            "ttl": 1 if self._parameters.proxied else self._parameters.ttl,
            "proxied": self._parameters.proxied,
            "comment": epoch_text(context),
        }
        kept = {one.content: one for one in records if one.content in wanted}
        free = [one for one in records if kept.get(one.content) is not one]
        missing = [value for value in wanted if value not in kept]
        changed = [(one, value) for one, value in zip(free, missing, strict=False)]
        patches = [(one, one.content) for one in kept.values()] + changed
        return {
            "patches": [{**body, "id": one.id, "content": value} for one, value in patches],
            "posts": [{**body, "content": value} for value in missing[len(changed) :]],
            "deletes": [{"id": one.id} for one in free[len(changed) :]],
        }

    async def _call(self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None) -> Any:
        """The result of one request.

        :raises ActionError: it was not done.
        """
        url = f"{self._parameters.api}/zones/{self._parameters.zone}/dns_records{path}"
        limit = aiohttp.ClientTimeout(total=self._parameters.timeout)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=limit) as session,
                session.request(method, url, params=dict(query), json=body) as answer,
            ):
                return await _result(answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ActionError(f"Cloudflare does not answer: {error or 'no answer in time'}", retry=True) from error


async def _result(answer: aiohttp.ClientResponse) -> Any:
    text = (await answer.content.read(MAX_ANSWER)).decode(errors="replace")
    while len(text) < MAX_ANSWER and (more := await answer.content.read(MAX_ANSWER)):
        text += more.decode(errors="replace")
    if answer.status == TOO_MANY:
        await asyncio.sleep(min(MAX_WAIT, _seconds(answer.headers.get("Retry-After", "1"))))
        raise ActionError("Cloudflare says 429: too many requests", retry=True)
    if answer.status >= 500:
        raise ActionError(f"Cloudflare says {answer.status}", retry=True)
    try:
        found = json.loads(text)
        if answer.status < 300 and found["success"]:
            return found["result"]
        errors = "; ".join(f"{one.get('code')} {one.get('message')}" for one in found.get("errors") or ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ActionError(f"Cloudflare's answer ({answer.status}) is none of its API", retry=True) from error
    raise ActionError(f"Cloudflare refuses ({answer.status}): {errors or 'without a reason'}")


def _seconds(text: str) -> float:
    """The value of Retry-After; 1 s where it is a date."""
    return float(text) if text.isdecimal() else 1.0
