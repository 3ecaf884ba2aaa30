# SPDX-License-Identifier: Apache-2.0
"""docs/operations.md leaves nothing out: counters, metrics, HTTP paths, status; README.md has the last figures."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from fake_worker import write_platform
from prometheus_client import CollectorRegistry

from ubisip.admin.http import application
from ubisip.admin.metrics import GatewayCollector
from ubisip.config import Config
from ubisip.core.engine import Engine
from ubisip.core.snapshot import Slots, Snapshot
from ubisip.health.monitor import Monitor
from ubisip.proxy.node import node_of
from ubisip.proxy.status import status_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")


class Still:
    """A gateway that carries nothing: what it shows is of the real core."""

    def __init__(self, folder: Path) -> None:
        config = Config.load(write_platform(folder, port=5060))
        self._node = node_of(config, "pa2-gw1")
        self._slots = Slots()
        self._monitor = Monitor(config.health.sip, self._node.targets)
        self._engine = Engine(Snapshot(config, "pa2-gw1", self._slots), [bytes(16)])

    def silent_for(self) -> float:
        return 0.0

    def ready(self) -> str:
        return ""

    def statistics(self) -> dict[str, Any]:
        worker = {"batches": 0, "received": 0, "sent": 0, "together": 0, "send_errors": 0, "busy": 0.0}
        return {**self._engine.statistics(), "worker": worker, "alive": 0.0}

    def own_statistics(self) -> dict[str, dict[str, int]]:
        names = ("hook_failures", "hook_answers", "events_lost", "control_errors", "credentials", "in_step")
        agents = dict.fromkeys(("bindings", "agents", "alive", "one_site"), 0)
        kept = dict.fromkeys(("snapshot", "journal", "errors"), 0)
        sharing = dict.fromkeys(("up", "bindings", "told", "heard", "refused", "lost"), 0)
        return {**{name: {} for name in names}, "agents": agents, "bindings_kept": kept, "sharing": sharing}

    def status(self) -> dict[str, Any]:
        facts = {"state": "ready", "uptime": 1.0, "panic": frozenset()}
        return status_of(self._node, self._monitor, self._slots, self.statistics(), 0.0, facts)

    def switch(self, name: str, state: object, who: str) -> None:
        raise NotImplementedError

    name = "pa2-gw1"

    async def agents(self, aor: str, after: int, limit: int, only_here: bool) -> dict[str, Any]:
        raise NotImplementedError

    def agent_marks(self) -> bytes | None:
        raise NotImplementedError

    async def reload(self, *, who: str) -> str:
        raise NotImplementedError

    @property
    def tiers(self) -> None:
        return None

    def push(self, tier: str, member: str, outcome: str, text: str) -> None:
        raise NotImplementedError

    def admin_of(self, name: str) -> str:
        raise NotImplementedError

    def audit_entries(self, limit: int) -> list[dict[str, Any]]:
        raise NotImplementedError


@pytest.fixture
def gateway(tmp_path: Path) -> Still:
    return Still(tmp_path)


def first_cells(heading: str) -> set[str]:
    """The names in code in the first column of the tables of a section."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| ")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_counter_of_the_core_is_explained_and_none_besides(gateway: Still) -> None:
    assert first_cells("Counters") == set(gateway.statistics()["counters"])


def test_every_metric_is_explained_and_none_besides(gateway: Still) -> None:
    registry = CollectorRegistry()
    registry.register(GatewayCollector(gateway))
    scraped = {f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()}
    rows = {name.partition("{")[0] for name in first_cells("Metrics")} - {"process_*"}
    worker = {f"ubisip_worker{name}" for name in rows if name.startswith("_")}
    assert {name for name in rows if not name.startswith("_")} | worker == scraped


def test_every_path_is_explained(gateway: Still) -> None:
    for resource in application(gateway, lambda: "").router.resources():
        for route in resource:
            path = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), resource.canonical)
            assert route.method == "HEAD" or f"| `{route.method} {path}` |" in PAGE


def test_every_field_of_the_status_is_explained(gateway: Still) -> None:
    status = gateway.status()
    assert first_cells("Status") == set(status) | set(status["destinations"][0])


def test_the_figures_of_the_readme_are_those_measured_last() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "make_figures.py"))["readme"]()
    assert written == (ROOT / "README.md").read_text("utf-8"), "run python docs/make_figures.py"
