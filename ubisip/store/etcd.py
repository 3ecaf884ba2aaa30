# SPDX-License-Identifier: Apache-2.0
"""The store in etcd, through its JSON gateway (``/v3/*``, etcd 3.4 and later).

Every operation goes to one member and, when that does not answer in time, to the next: to repeat one does no harm,
since each transaction says what must hold. Reads are linearizable, and no decision rests on one: only on a transaction.

Where etcd has users, its gateway takes none from a client's certificate: a token is asked for with name and password.
It holds at every member, and is asked for anew when etcd does not know it any more: five minutes unused, a restart, a
change of users or rights.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from ubisip.failover.coordination import TIMEOUT, Compare, Entry, LeaseLost, Put, StoreError

ATTEMPT = 0.6
"""Seconds that one member has: a second one is asked well within TIMEOUT."""
PAUSE = 0.05
"""Seconds before the next is asked when one answered that it cannot now: it has no leader..."""
MAX_ANSWER = 16 * 1024 * 1024
"""Octets. A platform's keys are some hundred kB; more is not from our etcd."""

LEASE_NOT_FOUND = 5
"""The gRPC code NOT_FOUND: of what we ask for, only leases can be missing."""
UNAUTHENTICATED = 16
"""The gRPC code of a token that is not known (any more)."""
OLD_TOKEN = "revision of auth store is old"
"""In an INVALID_ARGUMENT: users or rights have changed since the token was given."""


class EtcdStore:
    """The members at *urls* (``http://127.0.0.1:2379``); see :class:`ubisip.failover.coordination.Store`.

    *context*: what is trusted and shown over ``https``; *user*: empty where etcd has no users.
    """

    def __init__(
        self, urls: Sequence[str], context: ssl.SSLContext | None = None, user: str = "", password: str = ""
    ) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._context = context
        self._login = {"name": user, "password": password} if user else None
        self._token = ""
        self._revision = 0
        """Of the newest transaction that we know of."""
        self._first = 0
        """The member that answered last."""
        self._session: aiohttp.ClientSession | None = None

    async def grant(self, ttl: float) -> int:
        answer = await self._ask("lease/grant", {"TTL": str(math.ceil(ttl))})
        return int(answer["ID"])

    async def renew(self, lease: int) -> None:
        answer = await self._ask("lease/keepalive", {"ID": str(lease)})
        if int(answer.get("result", {}).get("TTL", 0)) <= 0:
            raise LeaseLost(f"lease {lease} is over")

    async def revoke(self, lease: int) -> None:
        await self._ask("lease/revoke", {"ID": str(lease)})

    async def get(self, key: str) -> Entry | None:
        answer = await self._ask("kv/range", {"key": _coded(key)})
        found = [_entry(item) for item in answer.get("kvs", ())]
        return found[0] if found else None

    async def range(self, prefix: str) -> list[Entry]:
        answer = await self._ask("kv/range", {"key": _coded(prefix), "range_end": _base64(_after(prefix.encode()))})
        return [_entry(item) for item in answer.get("kvs", ())]

    async def commit(self, compares: Sequence[Compare], puts: Sequence[Put], deletes: Sequence[str] = ()) -> int:
        body = {
            "compare": [part for compare in compares for part in _compared(compare)],
            "success": [*map(_put, puts), *({"request_delete_range": {"key": _coded(key)}} for key in deletes)],
        }
        answer = await self._ask("kv/txn", body)
        self._revision = int(answer["header"]["revision"])
        return self._revision if answer.get("succeeded") else 0

    async def tidy(self) -> None:
        """Compact all revisions before our last one: etcd keeps them for ever otherwise, and then refuses writes."""
        try:
            await self._ask("kv/compaction", {"revision": str(self._revision)})
        except StoreError as error:
            if "compacted" not in str(error):  # another was quicker
                raise

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the first member that has one.

        :raises StoreError: none has one in TIMEOUT seconds.
        :raises LeaseLost: the lease that *body* names is over.
        """
        problem = "no answer"
        try:
            async with asyncio.timeout(TIMEOUT):
                while True:
                    for number in range(len(self._urls)):
                        turn = (self._first + number) % len(self._urls)
                        answer = await self._asked(self._urls[turn], path, body)
                        if isinstance(answer, dict):
                            self._first = turn
                            return answer
                        problem = answer
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            raise StoreError(f"no member of etcd answers in {TIMEOUT:g} s, the last: {problem}") from None

    async def _asked(self, url: str, path: str, body: Mapping[str, Any]) -> dict[str, Any] | str:
        """What one member answers; a text: why there is no answer that counts."""
        if self._login is None:
            return _sifted(url, await self._posted(url, path, body))
        for _ in range(2):
            if not self._token:
                found = _sifted(url, await self._posted(url, "auth/authenticate", self._login))
                if isinstance(found, str):
                    return found
                self._token = str(found.get("token", ""))
            answer = await self._posted(url, path, body)
            if isinstance(answer, str) or not _unknown(answer):
                break
            self._token = ""
        return _sifted(url, answer)

    async def _posted(self, url: str, path: str, body: Mapping[str, Any]) -> dict[str, Any] | str:
        """What one member says, be it an error; a text: it says nothing that we understand."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._context or True),
                timeout=aiohttp.ClientTimeout(total=ATTEMPT),
            )
        headers = {"Authorization": self._token} if self._token else {}
        try:
            async with self._session.post(f"{url}/v3/{path}", json=body, headers=headers) as response:
                answer = json.loads(await _body(response))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return f"{url}: {str(error) or 'no answer'}"
        if not isinstance(answer, dict):
            return f"{url}: no answer of etcd's"
        return answer if response.status == 200 or "error" in answer else f"{url}: status {response.status}"


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """All of it.

    :raises ValueError: it is longer than anything of ours.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise ValueError(f"an answer of more than {MAX_ANSWER} octets")
    return bytes(body)


def _error(answer: Mapping[str, Any]) -> tuple[int, str]:
    """The gRPC code of an error, and what it says; 0 and nothing: it is none."""
    error = answer.get("error", "")
    details = error if isinstance(error, Mapping) else answer  # a stream wraps it once more
    return details.get("code", details.get("grpc_code", 0)), str(details.get("message") or error)


def _unknown(answer: Mapping[str, Any]) -> bool:
    """Whether our token does not hold any more."""
    code, text = _error(answer)
    return code == UNAUTHENTICATED or OLD_TOKEN in text


def _sifted(url: str, answer: dict[str, Any] | str) -> dict[str, Any] | str:
    """The answer that counts, or why a member did not do it.

    :raises LeaseLost: the lease is over.
    :raises StoreError: another member would say the same.
    """
    if isinstance(answer, str) or "error" not in answer:
        return answer
    code, text = _error(answer)
    if code == LEASE_NOT_FOUND:
        raise LeaseLost(text)
    if code in (3, 7, 11, 12, 16):  # invalid, no permission, out of range, unimplemented, unauthenticated
        raise StoreError(f"{url}: {text}")
    return f"{url}: {text}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _coded(key: str) -> str:
    return _base64(key.encode())


def _after(prefix: bytes) -> bytes:
    """The first key behind all those that begin with *prefix*, which is ASCII."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _entry(item: Mapping[str, str]) -> Entry:
    return Entry(
        base64.b64decode(item["key"]).decode(),
        base64.b64decode(item.get("value", "")),
        int(item["create_revision"]),
        int(item["mod_revision"]),
    )


def _compared(compare: Compare) -> list[dict[str, str]]:
    parts = []
    for target, field, wanted in (
        ("CREATE", "create_revision", compare.created),
        ("MOD", "mod_revision", compare.modified),
    ):
        if wanted is not None:
            parts.append({"key": _coded(compare.key), "target": target, "result": "EQUAL", field: str(wanted)})
    return parts


def _put(put: Put) -> dict[str, Any]:
    return {"request_put": {"key": _coded(put.key), "value": _base64(put.value), "lease": str(put.lease)}}
