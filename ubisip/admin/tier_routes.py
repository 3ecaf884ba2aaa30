# SPDX-License-Identifier: Apache-2.0
"""The HTTP side of the other tiers: what is the matter, what would be done, what operators ask for, the audit log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ubisip.admin.access import who_asks
from ubisip.admin.face import GatewayFace, TiersFace
from ubisip.failover.controller import NotLeading, Refused, UnknownTier
from ubisip.failover.coordination import StoreError
from ubisip.health.probes.push import OUTCOMES, Outcome

REQUESTS = ("failover", "failback")
MAX_ENTRIES = 10_000
"""Entries of the audit log in one answer, some 3 MB."""
NOTHING: dict[str, Any] = {"tiers": [], "plans": [], "running": [], "notices": [], "paused": "", "leader": ""}

Handling = Callable[[web.Request], Awaitable[web.Response]]


class NoTiers(Exception):
    """The configuration has no tiers."""


class BadBody(Exception):
    """The body of a request is not what it should be; the message says what it should be."""


def add_routes(app: web.Application, gateway: GatewayFace, token: Callable[[], str]) -> None:
    """The paths below ``/api/v1/`` that concern the other tiers."""
    it = _Routes(gateway, token)
    app.router.add_get("/api/v1/tiers", _answered(it.tiers, gateway))
    app.router.add_get("/api/v1/tiers/{name}/plan", _answered(it.plan, gateway))
    for request in REQUESTS:
        app.router.add_post(f"/api/v1/tiers/{{name}}/{request}", _answered(it.order(request), gateway))
    app.router.add_post("/api/v1/pause", _answered(it.pause, gateway))
    app.router.add_post("/api/v1/resume", _answered(it.resume, gateway))
    app.router.add_post("/api/v1/notices/acknowledge", _answered(it.acknowledge, gateway))
    app.router.add_post("/api/v1/push/{tier}/{member}", _answered(it.push, gateway))
    app.router.add_get("/api/v1/audit", _answered(it.audit, gateway))


Asked = Callable[[web.Request], Awaitable[dict[str, Any]]]


def _answered(asked: Asked, gateway: GatewayFace) -> Handling:
    """Turns what *asked* returns or raises into a response: the one place that does."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return web.json_response(await asked(request))
        except BadBody as error:
            return _problem(400, str(error))
        except UnknownTier as error:
            return _problem(404, str(error))
        except NoTiers:
            return _problem(404, "the configuration has no [tiers]")
        except Refused as error:
            return _problem(409, str(error), reasons=list(error.reasons))
        except NotLeading as error:
            return _problem(409, str(error), leader=error.leader, admin=gateway.admin_of(error.leader))
        except StoreError as error:
            return _problem(503, f"the store does not answer: {error}")
        except OSError as error:
            return _problem(503, f"a file cannot be used: {error.strerror or error}")

    return handle


class _Routes:
    def __init__(self, gateway: GatewayFace, token: Callable[[], str]) -> None:
        self._gateway = gateway
        self._token = token

    @property
    def _tiers(self) -> TiersFace:
        tiers = self._gateway.tiers
        if tiers is None:
            raise NoTiers
        return tiers

    def _who(self, request: web.Request) -> str:
        return who_asks(request, self._token())

    async def tiers(self, _request: web.Request) -> dict[str, Any]:
        return dict(NOTHING) if self._gateway.tiers is None else self._tiers.describe()

    async def plan(self, request: web.Request) -> dict[str, Any]:
        wish = request.query.get("request", "")
        if wish not in ("", *REQUESTS):
            raise BadBody("the query must have request=failover or request=failback, or none")
        who = self._who(request) if wish else ""
        return self._tiers.explain(request.match_info["name"], wish, request.query.get("to", ""), who)

    def order(self, wish: str) -> Asked:
        async def ordered(request: web.Request) -> dict[str, Any]:
            wanted, dry_run = _wished(await request.text())
            name, who = request.match_info["name"], self._who(request)
            if dry_run:
                return self._tiers.explain(name, wish, wanted, who)
            return await self._tiers.order(name, wish, wanted, who)

        return ordered

    async def pause(self, request: web.Request) -> dict[str, Any]:
        await self._tiers.pause(self._who(request))
        return {"paused": self._who(request)}

    async def resume(self, request: web.Request) -> dict[str, Any]:
        await self._tiers.resume(self._who(request))
        return {"paused": ""}

    async def acknowledge(self, request: web.Request) -> dict[str, Any]:
        key = _object(await request.text()).get("key")
        if not isinstance(key, str):
            raise BadBody('the body must be {"key": ...} with the key of a notice')
        if not self._tiers.acknowledge(key, self._who(request)):
            raise UnknownTier(f"no notice {key[:200]!r} is open here")
        return {"key": key, "acknowledged_by": self._who(request)}

    async def push(self, request: web.Request) -> dict[str, Any]:
        tier, member = request.match_info["tier"], request.match_info["member"]
        outcome, text = _reported(await request.text())
        self._gateway.push(tier, member, outcome, text)
        return {"tier": tier, "member": member, "outcome": outcome}

    async def audit(self, request: web.Request) -> dict[str, Any]:
        limit = request.query.get("limit", "100")
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= MAX_ENTRIES:
            raise BadBody(f"limit must be a number from 1 to {MAX_ENTRIES}")
        return {"entries": await asyncio.to_thread(self._gateway.audit_entries, int(limit))}


def _reported(body: str) -> tuple[Outcome, str]:
    """``{"outcome": ..., "text": ...}``, both optional: no body is a success."""
    value = _object(body)
    outcome, text = value.get("outcome", "ok"), value.get("text", "")
    if outcome not in OUTCOMES or not isinstance(text, str) or value.keys() - {"outcome", "text"}:
        raise BadBody(f'the body must be {{"outcome": ..., "text": ...}}, the outcome one of {", ".join(OUTCOMES)}')
    return outcome, text


def _object(body: str) -> dict[str, Any]:
    try:
        value = json.loads(body or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadBody("the body must be a JSON object")
    return value


def _wished(body: str) -> tuple[str, bool]:
    """``{"to": NAME, "dry_run": BOOL}``, both optional."""
    value = _object(body)
    to, dry_run = value.get("to", ""), value.get("dry_run", False)
    if not isinstance(to, str) or not isinstance(dry_run, bool) or value.keys() - {"to", "dry_run"}:
        raise BadBody('the body must be {"to": "MEMBER", "dry_run": true or false}, both optional')
    return to, dry_run


def _problem(status: int, text: str, **details: Any) -> web.Response:
    return web.json_response({"error": text, **details}, status=status)
