# SPDX-License-Identifier: Apache-2.0
"""The gateway's HTTP side: what it answers, to whom, and what it writes down."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import make_mocked_request
from fake_worker import FakeSnapshot, FakeWorker, until, write_platform
from prometheus_client.parser import text_string_to_metric_families

from ubisip.admin import http
from ubisip.admin.access import guard, read_token
from ubisip.config import Config
from ubisip.proxy import gateway as gateway_module
from ubisip.proxy.gateway import Gateway
from ubisip.store.audit import AuditLog


@pytest.fixture(autouse=True)
def fake_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("ubisip.proxy.gateway.Worker", FakeWorker)
    monkeypatch.setattr("ubisip.proxy.control.Snapshot", FakeSnapshot)
    monkeypatch.setattr(gateway_module, "SETTLE", 0.0)
    FakeWorker.made.clear()
    yield


class Site:
    """A running gateway, and a client of its HTTP side."""

    def __init__(self, gateway: Gateway, session: ClientSession, url: str, path: Path) -> None:
        self.gateway, self.session, self.url, self.path = gateway, session, url, path
        self.worker = FakeWorker.made[-1]

    async def get(self, path: str, **more: Any) -> tuple[int, str]:
        async with self.session.get(self.url + path, **more) as response:
            return response.status, await response.text()

    async def post(self, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        async with self.session.post(self.url + path, json=body, **more) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text

    def audit(self) -> list[dict[str, Any]]:
        return AuditLog(self.path.parent / "state" / "audit.log", "").entries()


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running(folder: Path, gateway: str = "") -> AsyncIterator[Site]:
    port = free_port(socket.SOCK_STREAM)
    lines = f'admin = "127.0.0.1:{port}"\n{gateway}'
    path = write_platform(folder, port=free_port(socket.SOCK_DGRAM), gateway=lines)
    async with Gateway(Config.load(path), node="pa2-gw1") as one, ClientSession() as session:
        yield Site(one, session, f"http://127.0.0.1:{port}", path)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as it:
        yield it


# For machines


async def test_livez_is_about_the_workers_last_turn(site: Site) -> None:
    assert await site.get("/livez") == (200, "alive\n")
    site.worker.alive = time.monotonic() - 60
    status, text = await site.get("/livez")
    assert status == 503 and text.startswith("the worker has been silent for 6")
    assert (await site.get("/readyz"))[0] == 503


async def test_readyz_says_no_as_soon_as_the_gateway_drains(site: Site) -> None:
    assert await site.get("/readyz") == (200, "ready\n")
    site.worker.counters["pending"] = 1
    draining = asyncio.ensure_future(site.gateway.drain())
    await until(lambda: site.gateway.state == "draining")
    assert await site.get("/readyz") == (503, "draining\n")
    assert (await site.get("/livez"))[0] == 200
    site.worker.counters["pending"] = 0
    await draining


async def metrics(site: Site) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample by name and labels; the parser of the metrics' own ecosystem reads the text."""
    status, text = await site.get("/metrics")
    assert status == 200
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in samples.setdefault(sample.name, {}), f"{sample.name}{labels} twice"
            samples[sample.name][labels] = sample.value
    return samples


async def test_metrics_show_what_the_worker_counted(site: Site) -> None:
    slots = site.worker.snapshots[0].slots
    counted = {"calls": 2, "setup": 1, "attempts": 9, "answered": 7, "failed": 1, "failovers": 3, "successes": 8}
    site.worker.counters |= {
        "calls": 2,
        "transactions": 5,
        "memory": 1 << 20,
        "responses": {"1xx": 10, "2xx": 7, "5xx": 2},
        "pdd": {"buckets": [(0.01, 4), (0.1, 3), (float("inf"), 1)], "sum": 1.5, "count": 8},
        "destinations": {slots.slot("pa2-tel1"): counted},
    }
    counters = {
        "calls": 11,
        "strangers_dropped": 4,
        "bound_memory": 2,
        "shed_overload": 6,
        "events_lost": 3,
        "loops": 1,
    }
    site.worker.counters["counters"] = counters
    samples = await metrics(site)
    assert samples["ubisip_calls_total"] == {(): 11}
    assert samples["ubisip_dropped_total"] == {(("cause", "stranger"),): 4}
    assert samples["ubisip_bounds_hit_total"] == {(("bound", "memory"),): 2}
    assert samples["ubisip_shed_total"] == {(("reason", "overload"),): 6}
    assert samples["ubisip_core_total"] == {(("counter", "loops"),): 1}
    assert samples["ubisip_events_lost_total"] == {(("place", "subscription"),): 0, (("place", "ring"),): 3}
    tel1 = (("destination", "pa2-tel1"),)
    assert samples["ubisip_calls"] == {(): 2}
    assert samples["ubisip_transactions"] == {(): 5}
    assert samples["ubisip_memory_bytes"] == {(): 1 << 20}
    assert samples["ubisip_attempts_total"][tel1] == 9
    assert samples["ubisip_failovers_total"][tel1] == 3
    assert samples["ubisip_responses_total"][(("class", "5xx"),)] == 2
    buckets = samples["ubisip_post_dial_delay_seconds_bucket"]
    assert [buckets[(("le", upper),)] for upper in ("0.01", "0.1", "+Inf")] == [4, 7, 8]
    assert samples["ubisip_post_dial_delay_seconds_sum"] == {(): 1.5}
    assert samples["process_resident_memory_bytes"][()] > 1e6


async def test_metrics_show_the_health_of_each_destination(site: Site) -> None:
    await until(lambda: all(row["state"] == "up" for row in site.gateway.status()["destinations"]))
    site.gateway.switch("pa2-tel1", "maintenance")
    samples = await metrics(site)
    up = samples["ubisip_destination_up"]
    assert up[(("destination", "pa2-tel1"), ("kind", "server"), ("site", "PA2"))] == 0
    assert up[(("destination", "sbc-1"), ("kind", "carrier"), ("site", "PA2"))] == 1
    health = samples["ubisip_destination_health"]
    assert health[(("destination", "pa2-tel1"), ("state", "down"))] == 1
    assert health[(("destination", "pa5-tel1"), ("state", "up"))] == 1
    assert samples["ubisip_destination_switch"][(("destination", "pa2-tel1"), ("switch", "maintenance"))] == 1


# The platform


async def test_the_platform_is_shown_whole(site: Site) -> None:
    status, text = await site.get("/api/v1/platform")
    shown = json.loads(text)
    assert status == 200
    assert (shown["platform"], shown["environment"], shown["node"], shown["site"]) == (
        "test",
        "preproduction",
        "pa2-gw1",
        "PA2",
    )
    assert shown["state"] == "ready" and shown["uptime"] >= 0
    assert shown["configuration"] == Config.load(site.path).digest
    assert shown["sites"] == ["PA2", "PA5"]
    assert [row["name"] for row in shown["destinations"]] == ["sbc-1", "pa2-tel1", "pa5-tel1"]
    row = shown["destinations"][0]
    assert (row["kind"], row["centre"], row["uri"]) == ("carrier", "montsouris", "sip:127.0.9.1:5060")
    wanted = ["state", "switch", "usable", "weight", "ramp", "calls", "attempts", "answered", "failed", "failovers"]
    assert set(wanted) <= set(row)
    assert shown["totals"]["calls"] == 0


async def test_a_switch_answers_the_new_state_and_is_audited(site: Site) -> None:
    status, row = await site.post("/api/v1/destinations/pa2-tel1/switch", {"state": "drain"})
    assert (status, row["name"], row["switch"]) == (200, "pa2-tel1", "drain")
    entry = site.audit()[-1]
    assert (entry["who"], entry["what"], entry["result"]) == ("127.0.0.1", "switch pa2-tel1 to drain", "done")


async def test_a_switch_for_nobody_lists_who_there_is(site: Site) -> None:
    status, answer = await site.post("/api/v1/destinations/pa9%2Ftel1/switch", {"state": "drain"})
    assert status == 404
    assert answer["names"] == ["sbc-1", "pa2-tel1", "pa5-tel1"]
    assert site.audit()[-1]["result"] == "no such destination"


@pytest.mark.parametrize("body", [None, [], {}, {"state": "off"}, {"state": ["drain"]}, {"state": None}, "drain"])
async def test_a_switch_to_nothing_lists_the_states(site: Site, body: Any) -> None:
    status, answer = await site.post("/api/v1/destinations/pa2-tel1/switch", body)
    assert status == 400
    assert answer["states"] == ["ready", "drain", "maintenance"]


async def test_reload_answers_the_digest_or_every_mistake(site: Site) -> None:
    good = site.path.read_text()
    site.path.write_text(good + "# changed\n")
    status, answer = await site.post("/api/v1/reload")
    assert (status, answer) == (200, {"configuration": Config.load(site.path).digest})
    site.path.write_text(good.replace("weight = 50", "weight = -1").replace('site = "PA5"', 'site = "PA9"'))
    status, answer = await site.post("/api/v1/reload")
    assert status == 409
    assert len(answer["mistakes"]) == 2 and "servers[1].weight" in answer["mistakes"][1]
    assert [(entry["what"], entry["result"]) for entry in site.audit()] == [("reload", "done"), ("reload", "refused")]


# Bounds and access


async def test_a_large_body_is_refused(site: Site) -> None:
    status, _ = await site.post("/api/v1/destinations/pa2-tel1/switch", {"state": "x" * http.MAX_BODY})
    assert status == 413


async def test_a_large_header_is_refused(site: Site) -> None:
    assert (await site.get("/livez", headers={"X-Large": "x" * (http.MAX_HEADER + 1)}))[0] == 400


async def test_the_oldest_connection_makes_room_for_a_new_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 3)
    port = int(site.url.rpartition(":")[2])
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    assert (await site.get("/livez"))[0] == 200
    assert await idle[0][0].read() == b""
    for _, writer in idle:
        writer.close()


async def test_what_changes_something_is_a_post(site: Site) -> None:
    for path in ("/api/v1/reload", "/api/v1/destinations/pa2-tel1/switch"):
        assert (await site.get(path))[0] == 405


async def test_with_a_token_only_its_bearer_is_let_in(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("s3cret-token\nsecond line\n")
    async with running(tmp_path, 'admin_token_file = "admin.token"') as site:
        bearer = {"Authorization": "Bearer s3cret-token"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret-token"}):
            for path in ("/livez", "/metrics", "/api/v1/platform"):
                assert (await site.get(path, headers=headers))[0] == 401
            assert (await site.post("/api/v1/reload", headers=headers))[0] == 401
        assert (await site.get("/api/v1/platform", headers=bearer))[0] == 200
        assert (await site.post("/api/v1/destinations/pa2-tel1/switch", {"state": "drain"}, headers=bearer))[0] == 200
        assert [entry["who"] for entry in site.audit()] == ["token from 127.0.0.1"]
        (tmp_path / "admin.token").write_text("another\n")
        assert (await site.post("/api/v1/reload", headers=bearer))[0] == 200
        assert (await site.get("/livez", headers=bearer))[0] == 401
        assert (await site.get("/livez", headers={"Authorization": "bearer another"}))[0] == 200


async def guarded(token: str, peer: str, method: str = "GET", **headers: str) -> int:
    """The status that a request from *peer* gets."""

    async def fine(request: web.Request) -> web.Response:
        return web.Response()

    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return (peer, 40000) if name == "peername" else default

    request = make_mocked_request(method, "/x", headers={"Host": "127.0.0.1:8080"} | headers, transport=Transport())
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = fine
    try:
        return (await guard(lambda: token)(request, handler)).status
    except web.HTTPException as refused:
        return refused.status


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "0.0.0.0", "::ffff:192.0.2.1"])
async def test_other_machines_are_refused_without_a_token(peer: str) -> None:
    assert await guarded("", peer) == 403
    assert await guarded("t", peer, Authorization="Bearer t") == 200


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.0.2.11", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_is_let_in_without_a_token(peer: str) -> None:
    assert await guarded("", peer) == 200


async def test_a_web_page_cannot_speak_for_the_operator() -> None:
    assert await guarded("", "127.0.0.1", Host="evil.example:8080") == 403
    assert await guarded("", "127.0.0.1", "POST", Origin="http://evil.example") == 403
    assert await guarded("", "127.0.0.1", "POST", Origin="http://127.0.0.1:8080") == 200
    assert await guarded("", "127.0.0.1", Host="localhost:8080") == 200
    assert await guarded("", "127.0.0.1", Host="[::1]:8080") == 200


@pytest.mark.parametrize("text", ["", "\n", "  \nsecret\n"])
def test_an_empty_token_is_a_mistake(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(ValueError, match="first line"):
        read_token(tmp_path / "token")
