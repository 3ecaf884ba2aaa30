# SPDX-License-Identifier: Apache-2.0
"""Who may speak to the admin side: this machine only, or who holds the token."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware


def read_token(path: str | Path) -> str:
    """The token in the first line of *path*.

    :raises OSError: it cannot be read.
    :raises ValueError: it is empty or not UTF-8.
    """
    token = Path(path).read_text("utf-8").partition("\n")[0].strip()
    if not token:
        raise ValueError(f"{path}: the first line must hold the token, and is empty")
    return token


def guard(current: Callable[[], str]) -> Middleware:
    """Lets in whoever bears the *current* token; while there is none ("") only peers and names of this machine."""

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer, token = request.remote or "", current()
        if token:
            if not _bears(request, token):
                raise web.HTTPUnauthorized(text="a bearer token is needed\n", headers={"WWW-Authenticate": "Bearer"})
        elif not _is_here(peer):
            raise web.HTTPForbidden(text="only this machine may ask, as no admin_token_file is configured\n")
        elif not _is_here(urlsplit(f"//{request.host}").hostname or ""):
            raise web.HTTPForbidden(text="the Host header must name this machine\n")  # a web page that rebinds its name
        if request.method == "POST" and not _same_origin(request):
            raise web.HTTPForbidden(text="not from another site's web page\n")
        return await handler(request)

    return checked


def who_asks(request: web.Request, token: str) -> str:
    """Who sent a request that passed the guard, for the audit log; *token* is the one that was asked for."""
    peer = request.remote or "unknown"
    return f"token from {peer}" if token else peer


def _bears(request: web.Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    matches = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    return scheme.lower() == "bearer" and matches


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _same_origin(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host
