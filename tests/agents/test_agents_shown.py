# SPDX-License-Identifier: Apache-2.0
"""Agents as people and programs see them: HTTP, the command, metrics, who is at one site only."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from agent_parts import row
from aiohttp import ClientSession, web
from fake_worker import FakeSnapshot, FakeWorker, until
from prometheus_client.parser import text_string_to_metric_families

from ubisip import keys
from ubisip.admin.cli import app
from ubisip.config import Config
from ubisip.proxy import registrations
from ubisip.proxy.events import AgentsAtOneSite
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
uri = "sip:127.0.9.21:5071"
[[servers]]
name = "pa5-tel1"
site = "PA5"
uri = "sip:127.0.9.51:5071"
[[gateways]]
name = "pa2-gw1"
site = "PA2"
listen = ["udp:127.0.9.11:{0}"]
admin = "127.0.0.1:{1}"
[[gateways]]
name = "pa5-gw1"
site = "PA5"
listen = ["udp:127.0.9.12:{0}"]
admin = "127.0.0.1:{2}"
[agents]
realm = "ubisip.test"
domains = ["ubisip.test"]
mirror = "platform"
"""


class Nobody:
    """A hook that knows no user."""

    async def credentials(self, user: str, realm: str) -> None:
        return None


@pytest.fixture(autouse=True)
def fake_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("ubisip.proxy.gateway.Worker", FakeWorker)
    monkeypatch.setattr("ubisip.proxy.control.Snapshot", FakeSnapshot)
    monkeypatch.setattr("ubisip.proxy.gateway.SETTLE", 0.0)
    monkeypatch.setattr(registrations, "CENSUS_INTERVAL", 0.05)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    FakeWorker.made.clear()
    yield


def free_port(kind: socket.SocketKind, host: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Platform:
    """Two gateways, one at each site."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "platform.toml"
        self.ports = [free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)]
        self.path.write_text(PLATFORM.format(free_port(socket.SOCK_DGRAM, "127.0.9.11"), *self.ports))
        keys.create(folder / "cluster.key")

    def gateway(self, name: str) -> Gateway:
        return Gateway(Config.load(self.path), node=name, hooks=[Nobody()])

    def url(self, number: int = 0) -> str:
        return f"http://127.0.0.1:{self.ports[number]}"

    async def get(self, path: str, number: int = 0) -> tuple[int, Any]:
        async with ClientSession() as session, session.get(self.url(number) + path) as answer:
            return answer.status, await answer.json()


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def bound(name: str, *, in_step: int = 0b11, alive: bool = True, rtt: int = 12_000, **more: Any) -> tuple[Any, ...]:
    """A row of worker.bindings."""
    now = time.time()
    one = row(f"{name}@ubisip.test", expires_at=now + 600, **more)._replace(registered_at=now - 60)
    return (*one, in_step, rtt, alive)


@asynccontextmanager
async def both(platform: Platform) -> AsyncIterator[list[Gateway]]:
    async with AsyncExitStack() as opened:
        yield [await opened.enter_async_context(platform.gateway(name)) for name in ("pa2-gw1", "pa5-gw1")]


async def ubisip(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of the command."""

    def run() -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            app([str(one) for one in arguments], prog_name="ubisip")
        return int(ended.value.code or 0), out.getvalue(), err.getvalue()

    return await asyncio.to_thread(run)


# HTTP


async def test_a_binding_is_shown_whole(platform: Platform) -> None:
    async with platform.gateway("pa2-gw1"):
        slots = FakeWorker.made[0].snapshots[0].slots
        only_second = 1 << slots.slot("pa5-tel1")
        FakeWorker.made[0].table = [bound("alice", in_step=only_second), bound("bob", rtt=-1, alive=False)]
        status, answer = await platform.get("/api/v1/agents")
        assert status == 200 and (answer["gateway"], answer["site"], answer["after"]) == ("pa2-gw1", "PA2", 0)
        alice, bob = answer["bindings"]
        assert alice.pop("age") == pytest.approx(60, abs=30)
        assert alice.pop("expires") == pytest.approx(600, abs=30)
        assert alice.pop("listener").startswith("udp:127.0.9.11:")
        assert alice == {
            "aor": "alice@ubisip.test",
            "contact": "sip:alice@ubisip.test@192.0.2.1:5062;transport=tcp",
            "instance": "<urn:uuid:00000000-0000-1000-8000-alice@ubisip.test>",
            "reg_id": 1,
            "q": 1.0,
            "site": "PA2",
            "gateway": "pa2-gw1",
            "address": "192.0.2.1:5062",
            "connection": True,
            "alive": True,
            "round_trip": 0.012,
            "in_step": ["pa5-tel1"],
            "out_of_step": ["pa2-tel1"],
            "path": "<sip:token@pa2-gw1.example.net;lr;ob>",
            "user_agent": "Phone/1.0",
        }
        assert (bob["round_trip"], bob["alive"]) == (None, False)


async def test_pages_bring_every_binding_once(platform: Platform) -> None:
    async with platform.gateway("pa2-gw1"):
        FakeWorker.made[0].table = [bound(f"agent{number}") for number in range(25)]
        names, after = [], 0
        for _ in range(3):
            status, answer = await platform.get(f"/api/v1/agents?limit=10&after={after}")
            assert status == 200
            names += [one["aor"] for one in answer["bindings"]]
            after = answer["after"]
        assert after == 0
        assert names == [f"agent{number}@ubisip.test" for number in range(25)]


@pytest.mark.parametrize("aor", ["agent700@ubisip.test", "agent700", "sip:agent700@ubisip.test"])
async def test_one_agent_is_found_among_many(platform: Platform, aor: str) -> None:
    async with platform.gateway("pa2-gw1"):
        FakeWorker.made[0].table = [bound(f"agent{number}") for number in range(1_000)]
        _, answer = await platform.get(f"/api/v1/agents?aor={aor}")
        assert [one["aor"] for one in answer["bindings"]] == ["agent700@ubisip.test"]
        _, answer = await platform.get("/api/v1/agents?aor=agent700@other.test")
        assert answer["bindings"] == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "after=-1", "after=", "limit=٣", "one_site=2", "user=x", "after=" + "9" * 30],
)
async def test_a_question_that_makes_no_sense_is_refused(platform: Platform, query: str) -> None:
    async with platform.gateway("pa2-gw1"):
        status, answer = await platform.get(f"/api/v1/agents?{query}")
        assert status == 400 and "limit=1 to 1000" in answer["error"]


async def test_a_gateway_without_agents_says_so(platform: Platform) -> None:
    platform.path.write_text(platform.path.read_text().partition("[agents]")[0])
    async with platform.gateway("pa2-gw1"):
        for path in ("/api/v1/agents", "/api/v1/agents/marks"):
            status, answer = await platform.get(path)
            assert status == 404 and "no registrar" in answer["error"]


async def test_metrics(platform: Platform) -> None:
    async with platform.gateway("pa2-gw1"):
        worker = FakeWorker.made[0]
        slots = worker.snapshots[0].slots
        worker.table = [
            bound("alice", in_step=1 << slots.slot("pa2-tel1")),
            bound("alice", reg_id=2, in_step=0, alive=False),
        ]
        worker.counters["counters"] = {"registered": 3, "wrong_passwords": 2, "requests": 9}
        worker.hear("credentials", data=b"mallory\0ubisip.test")
        await until(lambda: worker.users)

        async def samples() -> dict[tuple[str, ...], float]:
            async with ClientSession() as session, session.get(platform.url() + "/metrics") as answer:
                families = text_string_to_metric_families(await answer.text())
                return {
                    (one.name, *one.labels.values()): one.value for family in families for one in family.samples
                }  # fmt: skip

        async with asyncio.timeout(10):
            while (found := await samples())["ubisip_bindings",] != 2:
                await asyncio.sleep(0.01)
        assert found["ubisip_agents",] == 1
        assert found["ubisip_bindings_alive",] == 1
        assert found["ubisip_bindings_in_step", "pa2-tel1"] == 1 and found["ubisip_bindings_in_step", "pa5-tel1"] == 0
        assert found["ubisip_registrations_total", "registered"] == 3
        assert found["ubisip_registrations_total", "wrong_passwords"] == 2
        assert ("ubisip_core_total", "registered") not in found
        assert found["ubisip_credentials_total", "unknown"] == 1
        assert found["ubisip_bindings_kept_bytes", "journal"] == 0
        assert found["ubisip_bindings_kept_errors_total",] == 0
        assert ("ubisip_agents_one_site",) not in found  # no other site has said whom it reaches


# Two sites


async def one_site(platform: Platform, number: int = 0) -> int | None:
    return (await platform.get("/api/v1/agents?limit=1", number))[1]["totals"].get("one_site")


async def at_one_site(platform: Platform, wanted: int, number: int = 0) -> None:
    async with asyncio.timeout(10):
        while await one_site(platform, number) != wanted:
            await asyncio.sleep(0.01)


async def test_phones_that_one_site_alone_reaches_are_counted_listed_and_told(platform: Platform) -> None:
    async with both(platform) as (first, _):
        here, there = FakeWorker.made
        await at_one_site(platform, 0)
        events = first.events()
        here.table = [bound("alice"), bound("bob"), bound("carol", instance="")]
        there.table = [bound("alice", reg_id=2), bound("dave", reg_id=2, alive=False)]
        await at_one_site(platform, 1)
        await at_one_site(platform, 0, 1)
        _, answer = await platform.get("/api/v1/agents?one_site=1")
        assert [one["aor"] for one in answer["bindings"]] == ["bob@ubisip.test"]
        event = await the_next(events)
        while event.count != 1:  # the sites are counted one after the other
            event = await the_next(events)
        assert event.instances == ("<urn:uuid:00000000-0000-1000-8000-bob@ubisip.test>",)
        there.table.append(bound("bob", reg_id=2))
        await at_one_site(platform, 0)
        assert (await the_next(events)).count == 0


async def the_next(events: Any) -> AgentsAtOneSite:
    async for event in events:
        if isinstance(event, AgentsAtOneSite):
            return event
    raise AssertionError("the events ended")


async def test_a_site_that_dies_leaves_all_its_phones_at_the_other(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    async with platform.gateway("pa2-gw1"):
        async with platform.gateway("pa5-gw1"):
            here, there = FakeWorker.made
            here.table, there.table = [bound("alice")], [bound("alice", reg_id=2)]
            await at_one_site(platform, 0)
        await at_one_site(platform, 1)
    assert "pa5-gw1 does not say which phones it reaches" in caplog.text
    assert "1 phones are reached through PA2 only" in caplog.text


async def test_whoever_else_answers_at_a_gateways_address_is_not_believed(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    async def marks(_request: web.Request) -> web.Response:
        return web.Response(body=b"8 octets" * 3)

    other = web.Application()
    other.router.add_get("/api/v1/agents/marks", marks)
    runner = web.AppRunner(other)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", platform.ports[1]).start()
    try:
        async with platform.gateway("pa2-gw1"):
            await until(lambda: "another gateway answers at its admin address" in caplog.text)
            assert await one_site(platform) is None
    finally:
        await runner.cleanup()


# The command


async def test_the_command_shows_both_sites_flows_of_an_agent(platform: Platform) -> None:
    async with both(platform):
        here, there = FakeWorker.made
        slots = here.snapshots[0].slots
        everywhere = 1 << slots.slot("pa2-tel1") | 1 << slots.slot("pa5-tel1")
        here.table = [bound("alice", in_step=everywhere), bound("bob", in_step=everywhere)]
        there.table = [bound("alice", reg_id=2, in_step=1 << slots.slot("pa2-tel1"), alive=False)]
        code, out, err = await ubisip("agents", "alice", "--config", platform.path)
        assert (code, err) == (0, "")
        lines = [line.split() for line in out.splitlines()]
        assert lines[1][:5] == ["alice@ubisip.test", "pa2-gw1", "(PA2)", "1", "udp:192.0.2.1:5062"]
        assert lines[1][-2:] == ["all", "2"]
        assert lines[2][:4] == ["pa5-gw1", "(PA5)", "2", "udp:192.0.2.1:5062"]
        assert lines[2][-2:] == ["not", "pa5-tel1"] and "(gone)" in lines[2]
        assert "bob" not in out

        code, out, _ = await ubisip("agents", "--admin", platform.url(), "--limit", "1", "--json")
        answer = json.loads(out)
        assert code == 0 and len(answer["bindings"]) == 1 and answer["errors"] == []
        assert answer["gateways"][0]["gateway"] == "pa2-gw1" and answer["gateways"][0]["more"] is True

        code, out, _ = await ubisip("agents", "mallory", "--config", platform.path, "--node", "pa5-gw1")
        assert code == 1


async def test_the_command_reads_all_pages(platform: Platform) -> None:
    async with platform.gateway("pa2-gw1"):
        FakeWorker.made[0].table = [bound(f"agent{number}") for number in range(2_500)]
        code, out, _ = await ubisip("agents", "--admin", platform.url(), "--limit", "2400", "--json")
        assert code == 0
        assert len({one["aor"] for one in json.loads(out)["bindings"]}) == 2_400


async def test_a_gateway_that_is_dead_is_named_and_the_others_shown(platform: Platform) -> None:
    async with platform.gateway("pa2-gw1"):
        FakeWorker.made[0].table = [bound("alice")]
        code, out, err = await ubisip("agents", "--config", platform.path)
        assert code == 0 and "alice@ubisip.test" in out
        assert err.startswith("pa5-gw1: cannot ask http://127.0.0.1:")
    code, out, err = await ubisip("agents", "--config", platform.path)
    assert (code, out) == (1, "") and err.count("cannot ask") == 2
