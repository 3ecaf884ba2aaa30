# SPDX-License-Identifier: Apache-2.0
"""A real gateway process that watches tiers: the usual platform, and what a test adds to its file."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from processes import Gateway, Place

AGENT_PORT = 8091


def gateways_with(place: Place, more: str, count: int = 1) -> list[Gateway]:
    """Gateways of *place*, started, with *more* in their file: the first in PA2, the second in PA5.

    The first answers agent checks on AGENT_PORT. They agree through one SQLite file.
    """
    config = place.write(servers=1, carriers=1, gateways=count)
    head, *tables = config.read_text().split("[[gateways]]\n")
    tables[0] = f'agent_check = "{place.gateway()[0]}:{AGENT_PORT}"\n{tables[0]}'
    tables[1:] = [one.replace('site = "PA2"', 'site = "PA5"', 1) for one in tables[1:]]
    store = f'[store]\nurl = "sqlite:{place.directory}/store.db"\n'
    config.write_text("[[gateways]]\n".join([head, *tables]) + f"\n{store}{more}\n")
    return [place.start_gateway(number) for number in range(1, count + 1)]


def post(place: Place, path: str, body: Any = None, number: int = 1) -> dict[str, Any]:
    """The answer to a POST on the HTTP side of a gateway."""
    data = b"" if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{place.admin(number)}{path}", data, method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def member_states(gateway: Gateway, tier: str) -> dict[str, str]:
    """The health of each member of a tier, as the gateway tells it."""
    for row in json.loads(gateway.get("/api/v1/tiers"))["tiers"]:
        if row["name"] == tier:
            return {one["name"]: one["state"] for one in row["members"]}
    return {}
