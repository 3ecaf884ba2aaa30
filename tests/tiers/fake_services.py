# SPDX-License-Identifier: Apache-2.0
"""HTTP services that the tests stand in for: Cloudflare's API, and one that answers as it is told."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tiers.daemons_common import free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """An HTTP server that hands every request to *handler*."""

    def __init__(self, handler: Handler, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.port = port or free_port()
        self._tls = tls
        self.url = f"http://127.0.0.1:{self.port}"
        self._handler = handler
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Service:
        self._runner = web.ServerRunner(web.Server(self._handler), handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


@dataclass
class Heard:
    """One request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Listener:
    """Notes what comes and answers with *status*, or with the next of *statuses* while there are any."""

    status: int = 200
    statuses: list[int] = field(default_factory=list)
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    heard: list[Heard] = field(default_factory=list)

    async def __call__(self, request: web.Request) -> web.Response:
        self.heard.append(Heard(request.method, request.path_qs, dict(request.headers), await request.read()))
        await asyncio.sleep(self.delay)
        status = self.statuses.pop(0) if self.statuses else self.status
        return web.Response(status=status, text=self.text, headers=self.headers)


class Cloudflare:
    """As much of Cloudflare's API v4 as the action needs; a batch is done whole or not at all."""

    def __init__(self, zone: str, token: str) -> None:
        self._zone = zone
        self._token = token
        self._numbers = itertools.count(1)
        self.records: dict[str, dict[str, Any]] = {}
        self.failures: list[tuple[int, dict[str, str]]] = []
        """Statuses and headers to answer the next requests with, one each."""
        self.lose_answers = 0
        """Batches that are done although the answer is 500."""
        self.batches: list[dict[str, Any]] = []
        """All that came, done or not."""
        self.sizes: list[int] = []
        """Records after each change."""

    def add(self, name: str, content: str, comment: str = "") -> None:
        number = f"{next(self._numbers):032x}"
        self.records[number] = {"id": number, "name": name, "type": "A", "content": content, "comment": comment}

    def values(self, name: str) -> list[str]:
        return sorted(one["content"] for one in self.records.values() if one["name"] == name)

    async def __call__(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return self._answer(403, None, [{"code": 9109, "message": "Invalid access token"}])
        path = request.path.removeprefix(f"/zones/{self._zone}/dns_records")
        batch = await request.json() if request.method == "POST" else None
        if batch is not None:
            self.batches.append(batch)
        if self.failures:
            status, headers = self.failures.pop(0)
            return web.Response(status=status, text="busy", headers=headers)
        if request.method == "GET" and path == "":
            wanted = (request.query["name"], request.query["type"])
            return self._answer(200, [one for one in self.records.values() if (one["name"], one["type"]) == wanted])
        if batch is not None and path == "/batch":
            return self._batch(batch)
        return self._answer(404, None, [{"code": 7003, "message": "no route"}])

    def _batch(self, batch: Mapping[str, Any]) -> web.Response:
        for one in batch.get("deletes", ()):
            del self.records[one["id"]]
            self.sizes.append(len(self.records))
        for one in batch.get("patches", ()):
            self.records[one["id"]] |= one
        for one in batch.get("posts", ()):
            number = f"{next(self._numbers):032x}"
            self.records[number] = {**one, "id": number}
        if self.lose_answers:
            self.lose_answers -= 1
            return web.Response(status=500, text="lost")
        return self._answer(200, {"done": True})

    def _answer(self, status: int, result: Any, errors: list[dict[str, Any]] | None = None) -> web.Response:
        return web.json_response({"success": status == 200, "result": result, "errors": errors or []}, status=status)
