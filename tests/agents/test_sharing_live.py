# SPDX-License-Identifier: Apache-2.0
"""Two gateways of a site and a real Redis: agents are reached from either, whatever dies."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import msgpack
import pytest
import redis
from daemons import Redis
from processes import Child, until, wait_until
from register import Phone

from ubisip import keys
from ubisip.config import Config
from ubisip.core.message import Message
from ubisip.proxy import gateway as gateway_module
from ubisip.proxy import sharing
from ubisip.proxy.gateway import Gateway

PLATFORM = """\
[platform]
name = "test"
key_file = "cluster.key"
state_dir = "state"
[sites.PA2]
[sites.PA5]
[[servers]]
name = "pa2-tel1"
site = "PA2"
uri = "sip:127.0.9.221:{server}"
[[gateways]]
name = "pa2-gw1"
site = "PA2"
listen = ["udp:127.0.9.201:{port}"]
admin = "127.0.0.1:{admin}"
[[gateways]]
name = "pa2-gw2"
site = "PA2"
listen = ["udp:127.0.9.202:{port}"]
[[gateways]]
name = "pa5-gw1"
site = "PA5"
listen = ["udp:127.0.9.203:{port}"]
[agents]
realm = "ubisip.test"
domains = ["ubisip.test"]
mirror = "off"
credentials = "file:users.csv"
[store]
soft = "{url}"
"""
HASH = "ubisip:test:PA2:pa2-gw1"


def free_port(kind: socket.SocketKind, host: str) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Site:
    """The configuration of two gateways in a folder, a Redis, a telephony server and phones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis = Redis()
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind(("127.0.9.221", 0))
        self.server.setblocking(False)
        self.port = free_port(socket.SOCK_DGRAM, "127.0.9.201")
        self.admin = free_port(socket.SOCK_STREAM, "127.0.0.1")
        self.path = folder / "platform.toml"
        server = self.server.getsockname()[1]
        self.path.write_text(PLATFORM.format(server=server, port=self.port, admin=self.admin, url=self.redis.url))
        (folder / "users.csv").write_text("alice;a\nbob;b\n")
        keys.create(str(folder / "cluster.key"))
        self._phones: list[Phone] = []
        self._children: list[Child] = []

    def gateway(self, name: str) -> Gateway:
        return Gateway(Config.load(self.path), node=name)

    def process(self, title: str) -> Child:
        """pa2-gw1 as a process of its own."""
        command = [sys.executable, "-m", "ubisip.proxy", "--config", str(self.path), "--node", "pa2-gw1"]
        child = Child(title, command, self.folder)
        self._children.append(child)
        wait_until(lambda: child.output.read_text().startswith("ubisip pa2-gw1 ready"), f"{title} to be ready")
        return child

    def phone(self, user: str, gateway: int) -> Phone:
        self._phones.append(Phone((f"127.0.9.20{gateway}", self.port), user))
        return self._phones[-1]

    def shown(self) -> dict[str, Any]:
        """What the process shows of its agents."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/api/v1/agents", timeout=10) as answer:
            shown: dict[str, Any] = json.loads(answer.read())
            return shown

    async def call(self, user: str, gateway: int, phone: Phone) -> int:
        """The final status of a server's call to *user* through a gateway, which his phone refuses with 486."""
        loop = asyncio.get_running_loop()
        host, port = self.server.getsockname()
        call_id = token_hex(8)
        lines = [
            f"INVITE sip:{user}@ubisip.test SIP/2.0", f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{token_hex(8)}",
            f"From: <sip:0155@{host}>;tag={token_hex(4)}", f"To: <sip:{user}@ubisip.test>",
            f"Call-ID: {call_id}", "CSeq: 1 INVITE", f"Contact: <sip:{host}:{port}>", "Max-Forwards: 70",
            "Content-Length: 0", "", "",
        ]  # fmt: skip
        await loop.sock_sendto(self.server, "\r\n".join(lines).encode(), (f"127.0.9.20{gateway}", self.port))
        refusing = loop.create_task(phone.refuse())
        try:
            async with asyncio.timeout(20):
                while True:  # what is repeated of earlier calls, which nobody acknowledged, is let pass
                    answer = Message(await loop.sock_recv(self.server, 65_536))
                    if answer.get("Call-ID") == call_id and answer.status >= 200:
                        return int(answer.status)
        finally:
            refusing.cancel()
            await asyncio.gather(refusing, return_exceptions=True)

    def close(self) -> None:
        for phone in self._phones:
            phone.close()
        for child in self._children:
            child.kill()
        self.server.close()
        self.redis.close()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(gateway_module, "SETTLE", 0.0)  # nobody's ACK is awaited when they stop
    one = Site(tmp_path)
    yield one
    one.close()


def facts(gateway: Gateway) -> dict[str, int]:
    return gateway.own_statistics()["sharing"]


async def knows(gateway: Gateway, number: int) -> None:
    await until(lambda: facts(gateway)["bindings"] == number, f"{gateway.name} to know {number} bindings of others")


@asynccontextmanager
async def both(site: Site) -> AsyncIterator[tuple[Gateway, Gateway]]:
    async with site.gateway("pa2-gw1") as first, site.gateway("pa2-gw2") as second:
        await until(lambda: facts(first)["up"] and facts(second)["up"], "both to share")
        yield first, second


async def test_a_call_through_either_gateway_reaches_the_agent(site: Site) -> None:
    async with both(site) as (first, second):
        alice, bob = site.phone("alice", 1), site.phone("bob", 2)
        assert await alice.register("a") == 200 and await bob.register("b") == 200
        await knows(second, 1)
        await knows(first, 1)
        assert await site.call("alice", 2, alice) == 486
        assert await site.call("bob", 1, bob) == 486
        page = await second.agents()
        assert [row["aor"] for row in page["bindings"]] == ["bob@ubisip.test"]
        assert page["sharing"] == {"away": None, "bindings": 1, "silent": []}
        assert await alice.register("a", expires=0) == 200
        await knows(second, 0)
        assert await site.call("alice", 2, alice) == 480


async def test_a_gateway_that_starts_later_learns_of_all(site: Site) -> None:
    async with site.gateway("pa2-gw1") as first:
        alice = site.phone("alice", 1)
        assert await alice.register("a") == 200
        await until(lambda: facts(first)["told"] == 1, "alice to be told")
        async with site.gateway("pa2-gw2") as second:
            await knows(second, 1)
            assert await site.call("alice", 2, alice) == 486


async def test_gateways_of_another_site_share_nothing_with_us(site: Site) -> None:
    async with site.gateway("pa2-gw1") as first, site.gateway("pa5-gw1") as far, site.gateway("pa2-gw2") as second:
        assert await site.phone("alice", 1).register("a") == 200
        await knows(second, 1)
        assert facts(far)["bindings"] == 0 and facts(first)["bindings"] == 0


async def test_a_gateway_is_killed_and_its_agents_are_called_directly(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sharing, "SILENCE", 3.0)
    caplog.set_level(logging.INFO)
    first = await asyncio.to_thread(site.process, "first")
    alice = site.phone("alice", 1)
    assert await alice.register("a") == 200
    async with site.gateway("pa2-gw2") as second:
        await knows(second, 1)
        first.kill()
        await until(lambda: "pa2-gw1 tells nothing" in caplog.text, "the gateway to be missed")
        assert await site.call("alice", 2, alice) == 486
        page = await second.agents()
        assert page["sharing"]["silent"] == ["pa2-gw1"]
        again = await asyncio.to_thread(site.process, "again")
        await until(lambda: "pa2-gw1 tells its bindings again" in caplog.text, "the gateway to be heard")
        assert await site.call("alice", 2, alice) == 486
        again.kill()


async def test_a_gateway_whose_disk_is_gone_has_its_bindings_from_redis(site: Site) -> None:
    first = await asyncio.to_thread(site.process, "first")
    assert await site.phone("alice", 1).register("a") == 200
    await until(lambda: redis.Redis.from_url(site.redis.url).hlen(HASH) == 1, "alice to be in Redis")
    before = (await asyncio.to_thread(site.shown))["bindings"]
    first.kill()
    shutil.rmtree(site.folder / "state")
    await asyncio.to_thread(site.process, "second")
    after = (await asyncio.to_thread(site.shown))["bindings"]
    assert [(row["aor"], row["address"], row["contact"]) for row in after] == [
        (row["aor"], row["address"], row["contact"]) for row in before
    ]
    assert after[0]["expires"] <= before[0]["expires"]


async def test_redis_dies_and_comes_back_empty(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Registrations and calls go on, the log says it once, and all is known again: what changed meanwhile as well."""
    caplog.set_level(logging.INFO)
    async with both(site) as (first, second):
        alice, bob = site.phone("alice", 1), site.phone("bob", 1)
        assert await alice.register("a") == 200
        await knows(second, 1)
        await asyncio.to_thread(site.redis.kill)
        await until(lambda: not facts(first)["up"] and not facts(second)["up"], "Redis to be missed")
        assert await bob.register("b") == 200
        assert await alice.register("a", expires=0) == 200
        assert await site.call("bob", 1, bob) == 486
        shown = (await first.agents())["sharing"]
        assert shown["away"] >= 0
        site.redis.start()
        await until(lambda: facts(first)["up"] and facts(second)["up"], "Redis to be used again")
        await until(lambda: facts(second)["bindings"] == 1, "the other gateway to know what changed")
        assert await site.call("bob", 2, bob) == 486
        assert await site.call("alice", 2, alice) == 480
    assert caplog.text.count("Redis is away") == 2, "a line of each gateway"


async def test_without_redis_a_gateway_starts_and_serves(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.to_thread(site.redis.kill)
    async with site.gateway("pa2-gw1") as first:
        assert await site.phone("alice", 1).register("a") == 200
        await until(lambda: "Redis cannot be used" in caplog.text, "the log to say so")
        assert not facts(first)["up"]
        site.redis.start()
        await until(lambda: facts(first)["up"], "Redis to be found")
        await until(lambda: redis.Redis.from_url(site.redis.url).hlen(HASH) == 1, "alice to be in Redis")


ROW: list[Any] = [
    "bob@ubisip.test", "sip:bob@127.0.9.200:5062", "", 0, 1000, "", "c", 1, 4e9, 1, "127.0.9.200", 5062, 0, 0, "", 0,
]  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        b"\xc1 no msgpack",
        msgpack.packb({"a": "map"}),
        msgpack.packb([]),
        msgpack.packb(ROW[:7]),
        msgpack.packb([*ROW[:1], "sip:bob@x\r\nVia: evil", *ROW[2:]]),
        msgpack.packb([*ROW[:10], "no address", *ROW[11:]]),
        msgpack.packb([*ROW[:3], 10**9, *ROW[4:]]),
        msgpack.packb(["x" * 5_000_000, *ROW[1:]]),
    ],
)
async def test_a_poisoned_row_is_refused_and_named(site: Site, row: bytes, caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis.from_url(site.redis.url)
    async with site.gateway("pa2-gw1"):
        assert await site.phone("alice", 1).register("a") == 200
        await until(lambda: client.hlen(HASH) == 1, "alice to be in Redis")
        client.hset(HASH, "poison", row)
        async with site.gateway("pa2-gw2") as second:
            await knows(second, 1)
            assert facts(second)["refused"] == 1
            assert "a row of 'pa2-gw1' in Redis is refused" in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        b"\xc1",
        b"",
        msgpack.packb("text"),
        msgpack.packb(["pa2-gw9", [[1, *ROW]]]),
        msgpack.packb([7, []]),
        msgpack.packb(["pa2-gw1", {}]),
        msgpack.packb(["pa2-gw1", [[1, "a", "b"]]]),
        msgpack.packb(["pa2-gw1", [[0, "a"]]]),
        msgpack.packb(["pa2-gw1", ["text"]]),
        msgpack.packb(["pa2-gw1", [[9, *ROW]]]),
        msgpack.packb(["pa5-gw1", [[1, *ROW]]]),
        b"\x91" * 5_000,
    ],
)
async def test_a_poisoned_message_is_refused_and_what_follows_is_heard(site: Site, message: bytes) -> None:
    async with both(site) as (_, second):
        redis.Redis.from_url(site.redis.url).publish("ubisip:test:PA2", message)
        await until(lambda: facts(second)["refused"] == 1, "it to be refused")
        assert await site.phone("alice", 1).register("a") == 200
        await knows(second, 1)


async def test_more_changes_than_may_wait_are_made_good_by_writing_all(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "WAITING", 0)
    async with both(site) as (_, second):
        assert await site.phone("alice", 1).register("a") == 200
        await knows(second, 1)
        assert await site.phone("bob", 1).register("b") == 200
        await knows(second, 2)
