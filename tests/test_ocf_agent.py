# SPDX-License-Identifier: Apache-2.0
"""The OCF resource agent of examples/ starts, watches and stops a real gateway, by the exit codes of OCF."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from processes import Place

AGENT = Path(__file__).resolve().parents[1] / "examples" / "ocf" / "ubisip"
SUCCESS, ERROR, ARGS, UNIMPLEMENTED, INSTALLED, CONFIGURED, NOT_RUNNING = 0, 1, 2, 3, 5, 6, 7


class Agent:
    """The agent with its parameters."""

    def __init__(self, place: Place, **parameters: str) -> None:
        self.pidfile = place.directory / "gw.pid"
        self._parameters = {
            "python": sys.executable,
            "config": str(place.config),
            "node": "gw1",
            "pidfile": str(self.pidfile),
            "log": str(place.directory / "gw.log"),
            **parameters,
        }

    def __call__(self, action: str) -> int:
        environment = {**os.environ, **{f"OCF_RESKEY_{key}": value for key, value in self._parameters.items()}}
        return subprocess.run(["sh", str(AGENT), action], env=environment, timeout=60, check=False).returncode

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    one.write(servers=1, carriers=1)
    yield one
    pidfile = tmp_path / "gw.pid"
    if pidfile.exists():
        os.kill(int(pidfile.read_text()), signal.SIGKILL)
    one.close()


def test_a_gateway_is_started_watched_and_stopped(place: Place) -> None:
    agent = Agent(place)
    assert agent("monitor") == NOT_RUNNING and agent("stop") == SUCCESS
    assert agent("start") == SUCCESS and agent("start") == SUCCESS
    assert agent("monitor") == SUCCESS
    os.kill(agent.pid, signal.SIGSTOP)
    assert agent("monitor") == ERROR, "it runs and does not answer"
    os.kill(agent.pid, signal.SIGCONT)
    assert agent("monitor") == SUCCESS
    os.kill(agent.pid, signal.SIGKILL)
    assert agent("start") == SUCCESS and agent("monitor") == SUCCESS
    assert agent("stop") == SUCCESS and agent("monitor") == NOT_RUNNING


def test_parameters_that_cannot_be_are_refused(place: Place) -> None:
    assert Agent(place)("validate-all") == SUCCESS
    assert Agent(place, node="gw9")("validate-all") == CONFIGURED
    assert Agent(place, node="gw9")("start") == CONFIGURED
    assert Agent(place, python="/nowhere/python")("start") == INSTALLED
    assert Agent(place)("dance") == UNIMPLEMENTED


def test_it_tells_of_itself(place: Place) -> None:
    told = subprocess.run(["sh", str(AGENT), "meta-data"], capture_output=True, check=True).stdout
    names = {one.get("name") for one in ElementTree.fromstring(told).iter("parameter")}
    assert names == {"node", "config", "python", "pidfile", "log"}
