# SPDX-License-Identifier: Apache-2.0
"""The other tiers over HTTP and by the commands, of a running gateway whose plug-ins obey the test."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from fake_worker import FakeSnapshot, FakeWorker, write_platform
from prometheus_client.parser import text_string_to_metric_families
from tiers.virtual import World, fake_plugins

from ubisip import PlanEnded, PlanStarted, StepTaken, TierChanged
from ubisip.admin.cli import app
from ubisip.config import Config
from ubisip.proxy import gateway as gateway_module
from ubisip.proxy.gateway import Gateway

TIER = """
[tiers.db]
kind = "fake"
mode = "{mode}"
fast_interval = 0.05
interval = 0.1
members = [
  {{ name = "a", site = "PA2", address = "127.0.0.1:1" }},
  {{ name = "b", site = "PA5", address = "127.0.0.1:2" }},
]
on_member_down = ["promote"]
"""
COMMANDS = ["tiers", "plan", "failover", "failback", "pause", "resume", "acknowledge", "audit"]
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("ubisip.proxy.gateway.Worker", FakeWorker)
    monkeypatch.setattr("ubisip.proxy.control.Snapshot", FakeSnapshot)
    monkeypatch.setattr(gateway_module, "SETTLE", 0.0)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "dumb")
    with fake_plugins(monkeypatch) as it:
        yield it


@dataclass
class Result:
    exit_code: int
    stdout: str
    stderr: str


def ubisip(*arguments: str | Path) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        app([str(one) for one in arguments], prog_name="ubisip")
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())


class Site:
    """A running gateway and a client."""

    def __init__(self, gateway: Gateway, session: ClientSession, url: str, path: Path) -> None:
        self.gateway, self.session, self.url, self.path = gateway, session, url, path

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path) as response:
            return response.status, await response.json()

    async def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.session.post(self.url + path, json={} if body is None else body) as response:
            return response.status, await response.json()

    async def tier(self) -> dict[str, Any]:
        return dict((await self.get("/api/v1/tiers"))[1]["tiers"][0])

    async def until(self, verdict: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = (await self.get("/api/v1/tiers"))[1]
                if answer["leads"] and answer["tiers"][0]["verdict"] == verdict:
                    return
                await asyncio.sleep(0.05)

    async def ubisip(self, command: str, *arguments: str) -> Result:
        return await asyncio.to_thread(ubisip, command, *arguments, "--admin", self.url)


@asynccontextmanager
async def running(folder: Path, mode: str = "automatic", more: str = "", hooks: Any = ()) -> AsyncIterator[Site]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.9.11", 0))
        sip = probe.getsockname()[1]
    path = write_platform(folder, port=sip, gateway=f'admin = "127.0.0.1:{port}"', more=TIER.format(mode=mode) + more)
    async with Gateway(Config.load(path), node="pa2-gw1", hooks=hooks) as one, ClientSession() as session:
        site = Site(one, session, f"http://127.0.0.1:{port}", path)
        await site.until("healthy")
        yield site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as it:
        yield it


async def test_what_is_the_matter_is_told(site: Site, world: World) -> None:
    status, answer = await site.get("/api/v1/tiers")
    assert status == 200 and answer["leader"] == "pa2-gw1" and answer["domains"] == ["PA2"]
    (tier,) = answer["tiers"]
    assert (tier["name"], tier["kind"], tier["mode"], tier["healthy"]) == ("db", "fake", "automatic", True)
    assert [(one["name"], one["state"], one["votes"]) for one in tier["members"]] == [
        ("a", "up", {"PA2": "up"}),
        ("b", "up", {"PA2": "up"}),
    ]
    shown = await site.ubisip("tiers")
    assert shown.exit_code == 0
    for word in ("pa2-gw1 leads", "db (fake, automatic): healthy", "PA2:up", "name=a"):
        assert word in shown.stdout
    assert json.loads((await site.ubisip("tiers", "--json")).stdout)["leader"] == "pa2-gw1"


async def test_a_failover_by_itself_is_told_in_every_place(site: Site, world: World) -> None:
    events = site.gateway.events()
    world.down.add("a")
    await site.until("member-down")
    async with asyncio.timeout(PATIENCE):
        while len(world.done) < 3:
            await asyncio.sleep(0.02)
    heard = []
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            if isinstance(event, TierChanged | PlanStarted | StepTaken | PlanEnded):
                heard.append(event)
            if isinstance(event, PlanEnded):
                break
    assert isinstance(heard[0], TierChanged) and (heard[0].before, heard[0].after) == ("healthy", "member-down")
    assert heard[0].about == ("a",) and "a (PA2) is down: refused" in heard[0].why[0]
    assert isinstance(heard[1], PlanStarted) and heard[1].steps[0] == "promote fence b"
    assert [one.state for one in heard if isinstance(one, StepTaken)] == ["doing", "done"] * 3
    assert isinstance(heard[-1], PlanEnded) and heard[-1].result == "done"
    shown = await site.ubisip("tiers")
    assert "member-down" in shown.stdout and "no automatic plan for" in shown.stdout and "done" in shown.stdout
    log = (await site.get("/api/v1/audit?limit=100"))[1]["entries"]
    assert [entry["what"] for entry in log if entry["result"] == "done"] == [
        "promote fence b", "promote promote b", "promote follow b", "plan for db",
    ]  # fmt: skip
    read = await asyncio.to_thread(ubisip, "audit", site.path.parent / "state" / "audit.log", "--json")
    assert json.loads(read.stdout)["entries"] == log
    assert "promote fence b" in (await site.ubisip("audit")).stdout


async def test_plan_tells_fact_by_fact_and_does_nothing(site: Site, world: World) -> None:
    assert "nothing is called for" in (await site.ubisip("plan", "db")).stdout
    shown = await site.ubisip("plan", "db", "--to", "b")
    assert "rule: on_switchover = promote" in shown.stdout and "promote fence b" in shown.stdout
    assert "point of no return" in shown.stdout
    status, answer = await site.post("/api/v1/tiers/db/failover", {"to": "b", "dry_run": True})
    assert status == 200 and answer["permitted"] and len(answer["steps"]) == 3
    dry = await site.ubisip("failover", "db", "--to", "b", "--dry-run")
    assert dry.exit_code == 0 and "would be done:" in dry.stdout
    assert world.done == []


async def test_a_failover_by_command(site: Site, world: World) -> None:
    result = await site.ubisip("failover", "db", "--to", "b")
    assert result.exit_code == 0 and world.done == ["fence b", "promote b", "follow b"]
    assert "done" in result.stdout
    back = await site.ubisip("failback", "db", "--to", "a", "--json")
    assert back.exit_code == 0 and json.loads(back.stdout)["progress"] == "done"
    world.failing["fence"] = "no power"
    failed = await site.ubisip("failover", "db", "--to", "b")
    assert failed.exit_code == 1 and "no power" in failed.stdout


async def test_pause_and_resume(site: Site, world: World) -> None:
    assert (await site.ubisip("pause")).exit_code == 0
    world.down.add("a")
    await site.until("member-down")
    await asyncio.sleep(0.3)
    assert world.done == []
    assert "automatic action is paused by 127.0.0.1" in (await site.ubisip("plan", "db")).stdout
    assert (await site.ubisip("resume", "--json")).exit_code == 0
    async with asyncio.timeout(PATIENCE):
        while len(world.done) < 3:
            await asyncio.sleep(0.02)


async def test_a_notice_is_acknowledged(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, "observe", "[sinks.fake]\n") as site:
        world.down.add("a")
        async with asyncio.timeout(PATIENCE):
            while not (await site.get("/api/v1/tiers"))[1]["notices"]:
                await asyncio.sleep(0.05)
        (notice,) = (await site.get("/api/v1/tiers"))[1]["notices"]
        assert (await site.ubisip("acknowledge", notice["key"])).exit_code == 0
        (notice,) = (await site.get("/api/v1/tiers"))[1]["notices"]
        assert notice["acknowledged_by"] == "127.0.0.1"
        assert (await site.ubisip("acknowledge", "nothing")).exit_code == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/v1/tiers/web/failover", {}, 404, "no tier is named 'web'; there are: db"),
        ("/api/v1/tiers/db/failover", {"to": "z"}, 404, "no member of db is named 'z'; there are: a, b"),
        ("/api/v1/tiers/db/failover", {"to": 5}, 400, "the body must be"),
        ("/api/v1/tiers/db/failover", {"dry_run": "yes"}, 400, "the body must be"),
        ("/api/v1/tiers/db/failover", {"force": True}, 400, "the body must be"),
        ("/api/v1/tiers/db/failback", [], 400, "the body must be a JSON object"),
        ("/api/v1/notices/acknowledge", {}, 400, "the body must be"),
    ],
)
async def test_bad_requests(site: Site, world: World, path: str, body: Any, status: int, words: str) -> None:
    answer = await site.post(path, body)
    assert answer[0] == status and words in answer[1]["error"]
    assert world.done == []


@pytest.mark.parametrize("path", ["/api/v1/tiers/db/plan?request=x", "/api/v1/audit?limit=0", "/api/v1/audit?limit=x"])
async def test_bad_queries(site: Site, path: str) -> None:
    assert (await site.get(path))[0] == 400


async def test_what_may_not_be_done_is_said_with_every_reason(tmp_path: Path, world: World) -> None:
    async with running(tmp_path) as site:
        world.hanging.add("fence")
        world.down.add("a")
        await site.until("member-down")
        async with asyncio.timeout(PATIENCE):
            while not (await site.get("/api/v1/tiers"))[1]["running"]:
                await asyncio.sleep(0.02)
        status, answer = await site.post("/api/v1/tiers/db/failover", {"to": "b"})
        assert status == 409 and "is not finished" in answer["reasons"][0]
        result = await site.ubisip("failover", "db")
        assert result.exit_code == 1 and "is not finished" in result.stderr


async def test_without_tiers_there_are_none(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = write_platform(tmp_path, port=5999, gateway=f'admin = "127.0.0.1:{port}"')
    async with Gateway(Config.load(path), node="pa2-gw1") as gateway, ClientSession() as session:
        site = Site(gateway, session, f"http://127.0.0.1:{port}", path)
        assert "has no [tiers]" in (await site.ubisip("tiers")).stdout
        assert (await site.post("/api/v1/pause"))[0] == 404


async def test_metrics(site: Site, world: World) -> None:
    assert (await site.post("/api/v1/tiers/db/failover", {"to": "b"}))[0] == 200
    async with site.session.get(f"{site.url}/metrics") as response:
        text = await response.text()
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("ubisip_tier", "ubisip_lead", "ubisip_plans", "ubisip_store"))
    }
    assert samples["ubisip_leader",] == 1 and samples["ubisip_store_up",] == 1
    assert samples["ubisip_tier_verdict", "db", "healthy"] == 1
    assert samples["ubisip_tier_member_up", "PA2", "a", "db"] == 1
    assert samples["ubisip_plans_total", "db", "done"] == 1


async def test_hooks_are_told_in_order_whether_plain_or_async(tmp_path: Path, world: World) -> None:
    heard: list[str] = []

    class Plain:
        def on_transition(self, event: TierChanged) -> None:
            heard.append(f"plain {event.after}")

        def on_plan(self, event: PlanStarted | PlanEnded) -> None:
            raise ZeroDivisionError

    class Async:
        async def on_plan(self, event: PlanStarted | PlanEnded) -> None:
            heard.append(type(event).__name__)

        async def on_action(self, event: StepTaken) -> None:
            heard.append(f"{event.step} {event.state}")

    async with running(tmp_path, hooks=[Plain(), Async()]) as site:
        world.down.add("a")
        await site.until("member-down")
        async with asyncio.timeout(PATIENCE):
            while "PlanEnded" not in heard:
                await asyncio.sleep(0.02)
    assert heard[0] == "plain healthy" and heard[1:3] == ["plain member-down", "PlanStarted"]
    assert heard[3:5] == ["promote fence b doing", "promote fence b done"]


async def test_what_writes_to_a_database_follows_its_primary(site: Site, world: World) -> None:
    assert site.gateway.primary("db") == "127.0.0.1:1" and site.gateway.primary("web") == ""
    world.primary = "b"
    async with asyncio.timeout(PATIENCE):
        while site.gateway.primary("db") != "127.0.0.1:2":
            await asyncio.sleep(0.02)
    world.down.add("b")
    async with asyncio.timeout(PATIENCE):
        while site.gateway.primary("db"):
            await asyncio.sleep(0.02)


async def test_a_reload_takes_the_tiers_of_the_new_file(site: Site, world: World) -> None:
    text = site.path.read_text()
    site.path.write_text(text.replace('mode = "automatic"', 'mode = "observe"'))
    await site.gateway.reload()
    await site.until("healthy")
    assert (await site.tier())["mode"] == "observe"
    site.path.write_text(text.replace('kind = "fake"', 'kind = "nope"'))
    status, answer = await site.post("/api/v1/reload")
    assert status == 409 and "tiers.db.kind" in answer["mistakes"][0]
    assert (await site.tier())["mode"] == "observe"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_the_exit_codes(command: str) -> None:
    shown = " ".join(ubisip(command, "--help").stdout.split())
    assert f"Example: ubisip {command}" in shown and "Exit codes: 0 " in shown and "--json" in shown


def test_check_live_asks_each_member(tmp_path: Path, world: World) -> None:
    path = write_platform(tmp_path, port=5060, more=TIER.format(mode="observe"))
    assert ubisip("check", path, "--live").exit_code == 0
    world.wrong_password.add("a")
    refused = ubisip("check", path, "--live", "--json")
    assert refused.exit_code == 2
    assert "may not log in" in json.loads(refused.stdout)["members"][0]["misfits"][0]
    world.wrong_password.clear()
    world.down.add("b")
    gone = ubisip("check", path, "--live")
    assert gone.exit_code == 1 and "refused" in gone.stdout
