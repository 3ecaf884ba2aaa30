# SPDX-License-Identifier: Apache-2.0
"""The gateway's HTTP side: liveness, readiness, metrics, the platform's state, the operator's switches, reload."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from prometheus_client.exposition import generate_latest

from ubisip.admin.access import guard, who_asks
from ubisip.admin.face import NODE_HEADER, GatewayFace, NoRegistrar, UnknownDestination
from ubisip.admin.metrics import registry_of
from ubisip.errors import UsageError
from ubisip.platform import Endpoint, Switch

MAX_BODY = 16 * 1024
"""Octets of a request's body; the longest that makes sense has under 100."""
MAX_HEADER = 8 * 1024
"""Octets of a request's first line and of each of its header lines."""
MAX_CONNECTIONS = 64
"""Connections at a time (some 100 kB each at worst); the oldest is closed for a new one."""
WORKER_SILENCE = 5.0
"""Seconds without a turn of the worker, which turns every second even when idle, after which it counts as dead."""

MAX_AGENTS = 1_000
"""Bindings of one answer: some 600 kB."""
AGENTS = 100
"""Bindings of one answer unless another number is wished."""

STATES = [state.value for state in Switch]
PLAIN_METRICS = "text/plain; version=0.0.4; charset=utf-8"
"""Not OpenMetrics, in which ubisip_calls (active) and ubisip_calls_total (ever) would be one family."""


class AdminError(UsageError):
    """The admin address cannot be used; the message says why."""


class Admin:
    """Serves a gateway's HTTP side from ``start`` to ``stop``; *token* empty: to this machine only."""

    def __init__(self, gateway: GatewayFace, token: str) -> None:
        self._token = token
        self._runner = web.AppRunner(
            application(gateway, lambda: self._token),
            access_log=None,
            keepalive_timeout=30,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
        )
        self._server: asyncio.Server | None = None

    async def start(self, endpoint: Endpoint) -> None:
        """Listen.

        :raises AdminError: the address cannot be used.
        """
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._connection, endpoint.host, endpoint.port, reuse_address=True)
        except OSError as error:
            await self._runner.cleanup()
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise AdminError(f"cannot serve HTTP on {endpoint}: {reason}") from error

    def set_token(self, token: str) -> None:
        """Ask for *token* from now on."""
        self._token = token

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _connection(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None, "connections come after setup()"
        for oldest in server.connections[: len(server.connections) - MAX_CONNECTIONS + 1]:
            oldest.force_close()
        return server()


def application(gateway: GatewayFace, token: Callable[[], str]) -> web.Application:
    """The routes of DESIGN section 11 over one gateway; *token* tells the one that is asked for now."""
    app = web.Application(middlewares=[guard(token)], client_max_size=MAX_BODY)
    app.on_response_prepare.append(_anonymous)
    app.router.add_get("/livez", _livez(gateway))
    app.router.add_get("/readyz", _readyz(gateway))
    app.router.add_get("/metrics", _metrics(gateway))
    app.router.add_get("/api/v1/platform", _platform(gateway))
    app.router.add_post("/api/v1/destinations/{name}/switch", _switch(gateway, token))
    app.router.add_get("/api/v1/agents", _agents(gateway))
    app.router.add_get("/api/v1/agents/marks", _agent_marks(gateway))
    app.router.add_post("/api/v1/reload", _reload(gateway, token))
    return app


Handling = Callable[[web.Request], Awaitable[web.Response]]


async def _anonymous(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers["Server"] = "ubisip"  # aiohttp would tell its version and Python's


def _livez(gateway: GatewayFace) -> Handling:
    async def livez(_request: web.Request) -> web.Response:
        silence = gateway.silent_for()
        if silence > WORKER_SILENCE:
            return web.Response(text=f"the worker has been silent for {silence:.1f} s\n", status=503)
        return web.Response(text="alive\n")

    return livez


def _readyz(gateway: GatewayFace) -> Handling:
    async def readyz(_request: web.Request) -> web.Response:
        reason = gateway.ready()
        if not reason and gateway.silent_for() > WORKER_SILENCE:
            reason = "the worker is silent"
        return web.Response(text=f"{reason or 'ready'}\n", status=503 if reason else 200)

    return readyz


def _metrics(gateway: GatewayFace) -> Handling:
    registry = registry_of(gateway)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": PLAIN_METRICS})

    return metrics


def _platform(gateway: GatewayFace) -> Handling:
    async def platform(_request: web.Request) -> web.Response:
        return web.json_response(gateway.status())

    return platform


def _switch(gateway: GatewayFace, token: Callable[[], str]) -> Handling:
    async def switch(request: web.Request) -> web.Response:
        state = _wished(await request.text())
        if state is None:
            return _problem(400, 'the body must be {"state": ...} with one of the states', states=STATES)
        name = request.match_info["name"]
        try:
            gateway.switch(name, state, who_asks(request, token()))
        except UnknownDestination as error:
            return _problem(404, str(error), names=error.names)
        rows = gateway.status()["destinations"]
        return web.json_response(next(row for row in rows if row["name"] == name))

    return switch


def _wished(body: str) -> Switch | None:
    try:
        return Switch(json.loads(body)["state"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _agents(gateway: GatewayFace) -> Handling:
    async def agents(request: web.Request) -> web.Response:
        query = request.query
        after, limit = _number(query.get("after", "0")), _number(query.get("limit", str(AGENTS)))
        only_here = {"": False, "0": False, "1": True}.get(query.get("one_site", ""))
        unknown = sorted(set(query) - {"aor", "after", "limit", "one_site"})
        if unknown or after is None or limit is None or not 0 < limit <= MAX_AGENTS or only_here is None:
            return _problem(400, f"expected aor=..., after=NUMBER, limit=1 to {MAX_AGENTS}, one_site=0 or 1")
        try:
            return web.json_response(await gateway.agents(query.get("aor", ""), after, limit, only_here))
        except NoRegistrar as error:
            return _problem(404, str(error))

    return agents


def _number(text: str) -> int | None:
    """A number that fits the core's; None: it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _agent_marks(gateway: GatewayFace) -> Handling:
    async def marks(_request: web.Request) -> web.Response:
        try:
            body = gateway.agent_marks()
        except NoRegistrar as error:
            return _problem(404, str(error))
        if body is None:
            return _problem(503, "not counted yet")
        return web.Response(body=body, headers={NODE_HEADER: gateway.name})

    return marks


def _reload(gateway: GatewayFace, token: Callable[[], str]) -> Handling:
    async def reload(request: web.Request) -> web.Response:
        try:
            digest = await gateway.reload(who=who_asks(request, token()))
        except UsageError as error:
            return _problem(409, "the old configuration stays in force", mistakes=str(error).splitlines())
        return web.json_response({"configuration": digest})

    return reload


def _problem(status: int, text: str, **details: Any) -> web.Response:
    return web.json_response({"error": text, **details}, status=status)
