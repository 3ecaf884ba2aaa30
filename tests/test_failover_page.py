# SPDX-License-Identifier: Apache-2.0
"""docs/failover.md says what the code does: every verdict, metric and command is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from ubisip import plugins
from ubisip.admin.cli import app
from ubisip.admin.tier_metrics import tier_families
from ubisip.failover.lease import CAMPAIGN, PATIENCE, RENEW, TTL
from ubisip.failover.notices import REPEAT, RETRY
from ubisip.failover.observations import STALE
from ubisip.failover.placement import FINISH, HOLD, RESPITE
from ubisip.failover.planner import COOL_DOWN
from ubisip.sections import Tier

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "failover.md").read_text("utf-8")


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("kind", [*plugins.found(plugins.POLICIES)])
def test_every_verdict_is_explained(kind: str) -> None:
    missing = [code for code in plugins.policy(kind).codes if f"`{code}`" not in section("Verdicts")]
    assert not missing


def test_every_rule_that_a_kind_brings_along_is_told() -> None:
    for kind in plugins.found(plugins.POLICIES):
        for names in plugins.policy(kind).rules.values():
            assert all(f"`{name}`" in section("Verdicts") for name in names)


def test_every_metric_is_explained_and_none_besides() -> None:
    member = {"name": "a", "site": "A", "state": "up", "problem": ""}
    tier = {"name": "t", "verdict": "healthy", "healthy": True, "members": [member]}
    counted = [{"tier": "t", "result": "done", "plans": 1}]
    answer = {
        "leads": True,
        "store": "",
        "paused": "",
        "notices": [],
        "running": [],
        "tiers": [tier],
        "counted": counted,
    }
    scraped = {f"{one.name}_total" if one.type == "counter" else one.name for one in tier_families(answer)}
    assert scraped == {name for name in re.findall(r"^\| `(\w+)", section("Metrics"), re.MULTILINE)}


def test_every_command_is_shown() -> None:
    commands = set(get_command(app).commands) - {"key", "status", "switch", "agents", "reload"}  # type: ignore[attr-defined]
    assert {name for name in commands if f"ubisip {name}" in section("Commands")} == commands


def test_the_numbers_are_those_of_the_code() -> None:
    tier = Tier()
    assert f"lease of {TTL:.0f} s that is renewed every {RENEW:.0f} s" in PAGE
    assert f"less than {COOL_DOWN:.0f} s ago" in PAGE and f"not been heard for {STALE} s" in PAGE
    assert f"again every {REPEAT:.0f} s" in PAGE and f"tried again every {RETRY:.0f} s" in PAGE
    assert f"{TTL:.0f} s of the lease, {CAMPAIGN} s until it tries" in PAGE
    assert f"for {HOLD:.0f} s: gives it up" in PAGE and f"for {FINISH:.0f} s while a plan" in PAGE
    assert f"better one for {PATIENCE:.0f} s" in PAGE and f"once in {RESPITE:.0f} s" in PAGE
    assert f"{tier.interval} s (`interval`)" in PAGE and f"{tier.fast_interval} s (`fast_interval`)" in PAGE
    assert f"two time-outs of {tier.timeout} s" in PAGE and tier.fall == 2
