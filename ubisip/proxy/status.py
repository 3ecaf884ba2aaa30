# SPDX-License-Identifier: Apache-2.0
"""The platform as one gateway sees it, as a value for JSON: ``GET /api/v1/platform``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ubisip.core.snapshot import Slots
from ubisip.health.monitor import Monitor
from ubisip.platform import Peer
from ubisip.proxy.node import Node
from ubisip.version import VERSION

COUNTED = ("calls", "setup", "attempts", "answered", "failed", "failovers")
"""Of each destination: calls it carries and calls in set-up now, the others since the start."""


def status_of(
    node: Node, monitor: Monitor, slots: Slots, statistics: Mapping[str, Any], now: float, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """All that is shown, from the configuration, the health and the worker's counters.

    *facts* are ``state``, ``uptime`` in seconds, and ``panic``: the kinds all of whose destinations look down.
    """
    config, gateway = node.config, node.gateway
    rows = [_destination(peer, monitor, slots, statistics, now) for peer in node.peers.values()]
    return {
        "platform": config.platform.name,
        "environment": config.platform.environment,
        "node": gateway.name,
        "site": gateway.site,
        "version": VERSION,
        "configuration": config.digest,
        "uptime": facts["uptime"],
        "state": facts["state"],
        "panic": sorted(kind.value for kind in facts["panic"]),
        "doubt": monitor.abstains(now),
        "listeners": [str(endpoint) for endpoint in gateway.listen],
        "sites": list(config.sites),
        "gateways": [
            {"name": one.name, "site": one.site, "listen": [str(endpoint) for endpoint in one.listen]}
            for one in config.gateways
        ],
        "destinations": rows,
        "totals": _totals(statistics, rows),
    }


def _destination(
    peer: Peer, monitor: Monitor, slots: Slots, statistics: Mapping[str, Any], now: float
) -> dict[str, Any]:
    health, state = monitor.health(peer.name), monitor.states(now)[peer.name]
    counted = statistics["destinations"].get(slots.slot(peer.name), {})
    return {
        "name": peer.name,
        "kind": peer.kind.value,
        "site": peer.site,
        "centre": peer.centre,
        "uri": peer.uri,
        "state": health.state.value,
        "reason": health.reason,
        "switch": state.switch.value,
        "usable": state.usable,
        "weight": peer.weight,
        "ramp": state.ramp,
        **{name: counted.get(name, 0) for name in COUNTED},
    }


def _totals(statistics: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    summed = {name: sum(row[name] for row in rows) for name in ("attempts", "answered", "failed", "failovers")}
    return {
        "calls": statistics["calls"],
        "pending": statistics["pending"],
        "taken": statistics["counters"].get("calls", 0),
        **summed,
        "responses": dict(statistics["responses"]),
        "transactions": statistics["transactions"],
        "memory": statistics["memory"],
    }
