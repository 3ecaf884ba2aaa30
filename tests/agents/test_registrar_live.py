# SPDX-License-Identifier: Apache-2.0
"""Gateways with the real core: phones register, passwords change, databases and gateways die."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Mariadb
from processes import Child, wait_until
from register import Phone

from ubisip.config import Config
from ubisip.proxy import registrations
from ubisip.proxy.events import AgentRefreshed, AgentRegistered, AgentUnregistered
from ubisip.proxy.gateway import Gateway

PLATFORM = """\
[platform]
name = "test"
state_dir = "state"
[sites.PA2]
[[servers]]
name = "pa2-tel1"
site = "PA2"
uri = "sip:127.0.9.221:5071"
[[gateways]]
name = "pa2-gw1"
site = "PA2"
listen = ["udp:127.0.9.201:{port}"]
admin = "127.0.0.1:{admin}"
[agents]
realm = "ubisip.test"
domains = ["ubisip.test"]
mirror = "off"
credentials = "{credentials}"
credentials_refresh = 1
"""


def free_port(kind: socket.SocketKind, host: str) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Stage:
    """A configuration in a folder, and phones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "platform.toml"
        self.address = ("127.0.9.201", free_port(socket.SOCK_DGRAM, "127.0.9.201"))
        self.admin = free_port(socket.SOCK_STREAM, "127.0.0.1")
        self._phones: list[Phone] = []

    def write(self, credentials: str) -> None:
        text = PLATFORM.format(port=self.address[1], admin=self.admin, credentials=credentials)
        self.path.write_text(text)

    def gateway(self) -> Gateway:
        return Gateway(Config.load(self.path), node="pa2-gw1")

    def phone(self, user: str) -> Phone:
        self._phones.append(Phone(self.address, user))
        return self._phones[-1]

    def agents(self) -> dict[str, Any]:
        """By address of record, the bindings that the gateway shows."""
        url = f"http://127.0.0.1:{self.admin}/api/v1/agents"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return {row["aor"]: row for row in json.loads(answer.read())["bindings"]}

    def close(self) -> None:
        for phone in self._phones:
            phone.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    one = Stage(tmp_path)
    yield one
    one.close()


async def until_status(phone: Phone, password: str, status: int) -> None:
    """A change is seen after a while that is stated in seconds."""
    async with asyncio.timeout(20):
        while await phone.register(password) != status:
            await asyncio.sleep(0.1)


async def test_a_phone_registers_and_what_the_file_says_anew_counts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrations, "POLL", 0.05)
    stage.write("file:users.csv")
    users = stage.folder / "users.csv"
    users.write_text("alice;wonder\n")
    async with stage.gateway() as gateway:
        alice, bob = stage.phone("alice"), stage.phone("bob")
        events = gateway.events()
        assert await alice.register("wonder") == 200
        assert await alice.register("wrong") == 401
        assert await bob.register("anything") == 401
        assert await alice.register("wonder") == 200
        assert await alice.register("wonder", expires=0) == 200
        told = []
        async for event in events:
            if isinstance(event, AgentRegistered | AgentUnregistered):
                told.append(type(event))
            if isinstance(event, AgentUnregistered):
                break
        assert told == [AgentRegistered, AgentRefreshed, AgentUnregistered]
        users.write_text("alice;changed\nbob;here\n")
        await until_status(bob, "here", 200)
        assert await alice.register("changed") == 200
        assert await alice.register("wonder") == 401
        page = await gateway.agents("bob")
        assert [row["aor"] for row in page["bindings"]] == ["bob@ubisip.test"]


async def test_a_password_changed_in_the_database_and_a_database_that_is_down(
    stage: Stage, request: pytest.FixtureRequest
) -> None:
    """The new password is good at once; while the source is down, known agents go on and others get 503."""
    database = Mariadb(
        "CREATE TABLE users (name VARCHAR(100) PRIMARY KEY, password VARCHAR(100));"
        "INSERT INTO users VALUES ('alice', 'wonder'), ('bob', 'b');"
    )
    request.addfinalizer(database.close)
    stage.write(f"mariadb://reader:s;ecret@{database.address}/sip")
    async with stage.gateway() as gateway:
        alice, bob = stage.phone("alice"), stage.phone("bob")
        assert await alice.register("wonder") == 200
        database.execute("UPDATE users SET password = 'new' WHERE name = 'alice'")
        assert await alice.register("new") == 200
        assert await alice.register("wonder") == 401

        database.kill()
        await asyncio.sleep(1.5)  # what was looked up has passed credentials_refresh
        assert await alice.register("new") == 200
        assert await bob.register("b") == 503
        results = gateway.own_statistics()["credentials"]
        assert results["cached"] >= 1 and results["failed"] >= 1

        database.start()
        await until_status(bob, "b", 200)


def test_a_gateway_that_is_killed_knows_its_agents_when_it_is_back(
    stage: Stage, request: pytest.FixtureRequest
) -> None:
    stage.write("file:users.csv")
    (stage.folder / "users.csv").write_text("alice;wonder\nbob;b\n")
    command = [sys.executable, "-m", "ubisip.proxy", "--config", str(stage.path), "--node", "pa2-gw1"]

    def start(name: str) -> Child:
        child = Child(name, command, stage.folder)
        request.addfinalizer(child.kill)
        wait_until(lambda: child.output.read_text().startswith("ubisip pa2-gw1 ready"), f"{name} to be ready")
        return child

    async def register() -> None:
        assert await stage.phone("alice").register("wonder") == 200
        assert await stage.phone("bob").register("b") == 200

    first = start("first")
    asyncio.run(register())
    before = stage.agents()
    journal = stage.folder / "state" / "pa2-gw1.bindings.journal"
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"bob@ubisip.test"), "bob to be written down")
    first.kill()
    start("second")
    after = stage.agents()
    assert set(after) == {"alice@ubisip.test", "bob@ubisip.test"}
    for aor, row in after.items():
        assert row["contact"] == before[aor]["contact"] and row["address"] == before[aor]["address"]
        assert row["expires"] <= before[aor]["expires"]
