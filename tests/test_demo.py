# SPDX-License-Identifier: Apache-2.0
"""The demo for real: gateways as processes, a server and a gateway killed, no call lost, nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from ubisip.lab.platform import free_platform
from ubisip.proxy import demo

DEMO = [sys.executable, "-m", "ubisip.proxy", "--demo"]


@pytest.fixture(scope="module")
def seconds() -> list[dict[str, Any]]:
    """What a short demo tells, one dictionary a second and the final one."""
    platform = free_platform(phones=demo.AGENTS)
    run = subprocess.run(
        [*DEMO, "--duration", "12", "--rate", "10", "--json"], capture_output=True, text=True, timeout=90
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr
    assert platform.is_free(), "a socket is left behind"
    return [json.loads(text) for text in run.stdout.splitlines()]


def test_no_call_is_lost(seconds: list[dict[str, Any]]) -> None:
    final = seconds[-1]
    assert final["final"] and final["exit"] == 0
    assert (final["lost"], final["failed"]) == ({}, {})
    assert final["calls"] == final["ended"] + final["cut"] >= 80
    assert "killed: no call lost, none failed" in final["sentence"]


def test_each_second_is_told(seconds: list[dict[str, Any]]) -> None:
    assert [told["second"] for told in seconds[:-1]] == list(range(1, 13))
    assert sum(told["new"] for told in seconds[:-1]) == seconds[-1]["calls"]


def test_a_server_and_a_gateway_die_and_return(seconds: list[dict[str, Any]]) -> None:
    killed = {"gateway": set(), "server": set()}
    for told in seconds[:-1]:
        for part in told["parts"]:
            if part["state"] == "killed":
                killed[part["kind"]].add(part["name"])
    assert [len(names) for names in killed.values()] == [1, 1]
    last = {part["name"]: part["state"] for part in seconds[-2]["parts"]}
    for name in killed["gateway"] | killed["server"]:
        assert last[name] != "killed"
    assert any("new calls" in event for told in seconds[:-1] for event in told["events"])


def test_the_gateways_see_every_server(seconds: list[dict[str, Any]]) -> None:
    before = {part["name"]: part["state"] for part in seconds[1]["parts"] if part["kind"] != "gateway"}
    assert set(before.values()) == {"up"}, before


def test_every_server_and_gateway_carries_calls(seconds: list[dict[str, Any]]) -> None:
    carried = {part["name"] for told in seconds[:-1] for part in told["parts"] if part["calls"]}
    assert carried == {part["name"] for part in seconds[0]["parts"]}


def test_agents_are_registered_with_both_sites_and_take_the_calls(seconds: list[dict[str, Any]]) -> None:
    told, final = seconds[:-1], seconds[-1]
    assert {second["agents"] for second in told} == {demo.AGENTS}
    assert max(second["at_both_sites"] for second in told) == demo.AGENTS
    assert told[-1]["at_both_sites"] + told[-1]["at_one_site"] == demo.AGENTS
    assert final["taken_by_agents"] > final["calls"] / 2  # most of the calls come in, the others go out
    assert "agents took" in " ".join(final["details"])


def test_an_interrupt_leaves_nothing_behind() -> None:
    platform = free_platform(phones=demo.AGENTS)
    with subprocess.Popen([*DEMO, "--rate", "10"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout
        assert "calls" in run.stdout.readline()
        assert not platform.is_free()
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=30)
    assert run.returncode == demo.INTERRUPTED
    assert "interrupted" in told.splitlines()[-1]
    assert platform.is_free()


def test_a_gateway_that_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = free_platform(phones=demo.AGENTS)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert demo.run_demo(duration=5, rate=1) == 1
    assert "gw1 ended by itself (exit status 1)" in capsys.readouterr().err
    assert platform.is_free()
