# SPDX-License-Identifier: Apache-2.0
"""Probe ``haproxy``: an HAProxy answers on its run-time socket, and what it thinks of its servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ubisip.health.asking import PROTOCOL, ask, failed, passed, short, unclear, warned
from ubisip.health.haproxy import HaproxyError, statistics
from ubisip.health.probe import Finding, Target
from ubisip.parameters import read_parameters

_OWN_ROWS = frozenset({"FRONTEND", "BACKEND"})


@dataclass(frozen=True, slots=True)
class HaproxyParameters:
    """What is looked at."""

    backend: str = ""
    """The backend that matters; empty: all of them."""


class HaproxyProbe:
    """``show stat`` on the path of a Unix socket, or ``host:port``."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(HaproxyParameters, parameters)

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target, timeout), timeout)

    async def _check(self, target: Target, timeout: float) -> Finding:
        try:
            rows = await statistics(target.address, timeout)
        except HaproxyError as error:
            return unclear("haproxy.rights", short(error)) if "Permission" in str(error) else failed(PROTOCOL)
        return self._finding(rows)

    def _finding(self, rows: Sequence[Mapping[str, str]]) -> Finding:
        wanted = self._parameters.backend
        mine = [row for row in rows if not wanted or row["pxname"] == wanted]
        backends = {row["pxname"]: row["status"] for row in mine if row["svname"] == "BACKEND"}
        servers = {f"{row['pxname']}/{row['svname']}": row for row in mine if row["svname"] not in _OWN_ROWS}
        facts = {
            "backends": backends,
            "servers": {name: row["status"] for name, row in servers.items()},
            "sessions": {name: int(row["scur"] or 0) for name, row in servers.items()},
        }
        if wanted and not backends:
            return unclear("haproxy.backend", f"HAProxy has no backend {wanted}", facts)
        if dead := [name for name, status in backends.items() if status != "UP"]:
            return failed("haproxy.no-server", facts, f"no server left in {', '.join(dead)}")
        if down := [name for name, row in servers.items() if row["status"].startswith("DOWN")]:
            return warned("haproxy.server-down", facts, f"down for HAProxy: {', '.join(down)}")
        return passed(facts)

    async def close(self) -> None:
        """It keeps no connections."""
