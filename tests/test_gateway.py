# SPDX-License-Identifier: Apache-2.0
"""The gateway around its worker: health, probes, hooks, events, switches, reload, drain."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_worker import FakeSnapshot, FakeWorker, until, write_platform

from ubisip import keys
from ubisip.admin.face import UnknownDestination
from ubisip.config import Config
from ubisip.core.message import Message
from ubisip.errors import ConfigError, UsageError
from ubisip.platform import Switch
from ubisip.proxy import gateway as gateway_module
from ubisip.proxy.addresses import Addresses
from ubisip.proxy.events import (
    Answered,
    CallEvent,
    Draining,
    Ended,
    Failed,
    FailedOver,
    HealthChanged,
    Reloaded,
    Ringing,
    SetUp,
    SwitchChanged,
)
from ubisip.proxy.gateway import Gateway
from ubisip.proxy.hooks import NewCall
from ubisip.proxy.sockets import ListenError
from ubisip.store.audit import AuditLog

TIER = '[tiers.db]\nkind = "mariadb"\nmembers = [{ name = "db1", site = "PA2", address = "127.0.9.1:3306" }]'
INVITE = (
    b"INVITE sip:0123456789@127.0.9.11 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 127.0.9.1:5060;branch=z9hG4bKask\r\n"
    b"From: <sip:0612345678@127.0.9.1>;tag=1\r\nTo: <sip:0123456789@127.0.9.11>\r\n"
    b"Call-ID: ask-1\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)


@pytest.fixture(autouse=True)
def fake_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("ubisip.proxy.gateway.Worker", FakeWorker)
    monkeypatch.setattr("ubisip.proxy.control.Snapshot", FakeSnapshot)
    monkeypatch.setattr(gateway_module, "SETTLE", 0.0)
    FakeWorker.made.clear()
    yield
    assert not any(worker.running for worker in FakeWorker.made)


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.9.11", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def path(tmp_path: Path, port: int) -> Path:
    return write_platform(tmp_path, port=port)


def gateway_of(path: Path, **more: Any) -> Gateway:
    return Gateway(Config.load(path), node="pa2-gw1", **more)


def worker() -> FakeWorker:
    return FakeWorker.made[-1]


def row(gateway: Gateway, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in gateway.status()["destinations"] if row["name"] == name)
    return found


def slot(name: str) -> int:
    number: int = worker().snapshots[0].slots.slot(name)
    return number


# Start and stop


async def test_it_listens_while_its_block_runs(path: Path, port: int) -> None:
    gateway = gateway_of(path)
    assert gateway.state == "stopped"
    async with gateway:
        assert (gateway.state, gateway.ready()) == ("ready", "")
        assert worker().sockets[0].getsockname() == ("127.0.9.11", port)
        assert worker().coalesce == 0.0005
    assert gateway.state == "stopped"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.9.11", port))


async def test_a_taken_port_leaves_nothing_behind(path: Path, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.9.11", port))
        with pytest.raises(ListenError, match=f"udp:127.0.9.11:{port}: Address already in use"):
            async with gateway_of(path):
                pytest.fail("it must not start")
    assert not FakeWorker.made


async def test_a_taken_admin_port_stops_the_worker_again(tmp_path: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        admin = f'admin = "127.0.0.1:{other.getsockname()[1]}"'
        with pytest.raises(UsageError, match=r"cannot serve HTTP on tcp:127.0.0.1:\d+: "):
            async with gateway_of(write_platform(tmp_path, port=port, gateway=admin)):
                pytest.fail("it must not start")
    assert len(FakeWorker.made) == 1  # and the fixture sees that it does not run


async def test_what_the_core_cannot_hold_is_told_before_anything_is_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_many(*_: Any, **__: Any) -> None:
        raise OverflowError("more than 64 carriers and servers")

    monkeypatch.setattr("ubisip.proxy.control.Snapshot", too_many)
    with pytest.raises(UsageError, match=r"platform.toml: more than 64"):
        gateway_of(path)


async def test_an_unknown_node_is_told_with_those_that_exist(path: Path) -> None:
    with pytest.raises(UsageError, match=r"no gateway is named 'pa9-gw1'.*pa2-gw1"):
        Gateway(Config.load(path), node="pa9-gw1")


async def test_a_lone_gateway_keeps_a_key_of_its_own_across_restarts(path: Path) -> None:
    async with gateway_of(path):
        first = worker().keys
    async with gateway_of(path):
        assert worker().keys == first and len(first[0]) == 16


async def test_a_missing_key_ring_is_told_with_the_command_that_makes_one(tmp_path: Path, port: int) -> None:
    with pytest.raises(UsageError, match=r"cluster.key: No such file.*`ubisip key` makes one"):
        gateway_of(write_platform(tmp_path, port=port, platform='key_file = "cluster.key"'))


async def test_a_certificate_that_cannot_be_used_is_a_mistake(tmp_path: Path, port: int) -> None:
    path = write_platform(tmp_path, port=port, more='[tls]\ncertificate = "gw.pem"')
    path.write_text(path.read_text().replace("listen = [", 'listen = ["tls:127.0.9.11:5061", '))
    with pytest.raises(ConfigError, match=r"tls\.certificate: expected a file that can be read, found .*gw\.pem"):
        gateway_of(path)


async def test_certificates_are_not_looked_at_where_no_listener_needs_them(tmp_path: Path, port: int) -> None:
    gateway_of(write_platform(tmp_path, port=port, more='[tls]\ncertificate = "gw.pem"'))


async def test_what_this_version_does_not_serve_is_warned_of_once(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_platform(tmp_path, port=port, more=TIER)
    async with gateway_of(path):
        pass
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
    ]


async def test_a_tcp_listener_may_share_the_port_of_a_udp_one(path: Path, port: int) -> None:
    path.write_text(path.read_text().replace("listen = [", f'listen = ["tcp:127.0.9.11:{port}", '))
    async with gateway_of(path) as gateway:
        assert gateway.status()["listeners"] == [f"tcp:127.0.9.11:{port}", f"udp:127.0.9.11:{port}"]
        assert [one is None for one in worker().sockets] == [True, False]
        socket.create_connection(("127.0.9.11", port)).close()


# Health


async def test_every_destination_is_probed_from_the_listener(path: Path, port: int) -> None:
    async with gateway_of(path) as gateway:
        await until(lambda: all(one["state"] == "up" for one in gateway.status()["destinations"]))
        assert {probe[0] for probe in worker().probes} == {slot(name) for name in ("sbc-1", "pa2-tel1", "pa5-tel1")}
        request = Message(next(data for number, data, _ in worker().probes if number == slot("pa2-tel1")))
        assert (request.method, request.uri) == ("OPTIONS", "sip:127.0.9.21:5071")
        assert (request.get("via") or "").startswith(f"SIP/2.0/UDP 127.0.9.11:{port};branch=z9hG4bKp")
        branches = [Message(data).branch for _, data, _ in worker().probes]
        assert len(set(branches)) == len(branches)


async def test_a_silent_server_goes_down_and_the_core_is_told(path: Path) -> None:
    async with gateway_of(path) as gateway:
        await until(lambda: row(gateway, "pa2-tel1")["state"] == "up")
        events = gateway.events()
        dead = slot("pa2-tel1")
        worker().answering = lambda destination: (0, 0.0) if destination == dead else (200, 0.001)
        await until(lambda: row(gateway, "pa2-tel1")["state"] == "down")
        assert not row(gateway, "pa2-tel1")["usable"]
        assert not worker().snapshots[-1].states["pa2-tel1"].usable
        assert worker().snapshots[-1].states["pa5-tel1"].usable
        told = [await anext(events) for _ in range(2)]
        assert [(one.before, one.after) for one in told if isinstance(one, HealthChanged)] == [
            ("up", "falling"),
            ("falling", "down"),
        ]


async def test_a_suspicion_that_passes_is_no_news_for_the_log(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with gateway_of(path) as gateway:
            await until(lambda: all(one["state"] == "up" for one in gateway.status()["destinations"]))
            caplog.clear()
            events = gateway.events()
            worker().hear("silent", slot("pa2-tel1"))
            changes = [await anext(events) for _ in range(2)]
            assert [one.after for one in changes if isinstance(one, HealthChanged)] == ["falling", "up"]
            assert not caplog.records


async def test_refused_calls_are_evidence_at_once(path: Path) -> None:
    async with gateway_of(path) as gateway:
        await until(lambda: all(one["state"] == "up" for one in gateway.status()["destinations"]))
        dead = slot("pa2-tel1")
        worker().answering = lambda destination: None
        for _ in range(2):
            worker().hear("refused", dead)
        await until(lambda: not worker().snapshots[-1].states["pa2-tel1"].usable)
        assert row(gateway, "pa2-tel1")["reason"] == "icmp"


async def test_a_server_that_asks_for_a_rest_gets_it_and_stays_up(path: Path) -> None:
    async with gateway_of(path) as gateway:
        await until(lambda: row(gateway, "pa2-tel1")["state"] == "up")
        worker().hear("busy", slot("pa2-tel1"), status=503, value=20.0)
        await until(lambda: not worker().snapshots[-1].states["pa2-tel1"].usable)
        assert row(gateway, "pa2-tel1")["state"] == "up"


async def test_served_calls_clear_a_suspicion(path: Path) -> None:
    async with gateway_of(path) as gateway:
        await until(lambda: row(gateway, "pa2-tel1")["state"] == "up")
        worker().answering = lambda destination: None
        worker().hear("silent", slot("pa2-tel1"))
        await until(lambda: row(gateway, "pa2-tel1")["state"] == "falling")
        worker().counters["destinations"] = {slot("pa2-tel1"): {"successes": 4}}
        await until(lambda: row(gateway, "pa2-tel1")["state"] == "up")


async def test_the_core_gets_no_snapshot_while_nothing_changes(path: Path) -> None:
    async with gateway_of(path) as gateway:
        await until(lambda: all(one["state"] == "up" for one in gateway.status()["destinations"]))
        await until(lambda: worker().snapshots[-1].states["pa5-tel1"].usable)
        before, probes = len(worker().snapshots), len(worker().probes)
        await until(lambda: len(worker().probes) > probes + 3)
        assert len(worker().snapshots) == before


async def test_a_fault_of_the_loop_is_counted_logged_once_and_does_not_end_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_of(path) as gateway:
        with monkeypatch.context() as broken:
            broken.setattr(worker(), "successes", list)
            await until(lambda: gateway.own_statistics()["control_errors"].get("tick", 0) >= 3)
        probes = len(worker().probes)
        await until(lambda: len(worker().probes) > probes)
    assert [record.getMessage() for record in caplog.records].count("the control loop's tick failed; it goes on") == 1


async def test_a_named_destination_is_looked_up_and_the_core_told_its_address(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(
        path.read_text().replace('"sip:127.0.9.51:5071"', '"sip:tel1.pa5.test:5071"\nsources = ["127.0.9.51"]')
    )

    async def look_up(self: Addresses, endpoint: Any, families: Any) -> str | None:
        return {"tel1.pa5.test": "127.0.9.51"}[endpoint.host]

    monkeypatch.setattr(Addresses, "_look_up", look_up)
    async with gateway_of(path) as gateway:
        assert worker().snapshots[0].addresses == {"pa5-tel1": "127.0.9.51"}
        await until(lambda: row(gateway, "pa5-tel1")["state"] == "up")


async def test_what_found_the_mailbox_full_is_told_again(path: Path) -> None:
    async with gateway_of(path) as gateway:
        worker().full = True
        gateway.switch("pa2-tel1", "drain")
        await until(lambda: gateway.own_statistics()["control_errors"].get("mailbox", 0) >= 2)
        assert worker().snapshots[-1].states["pa2-tel1"].switch is Switch.READY
        worker().full = False
        await until(lambda: worker().snapshots[-1].states["pa2-tel1"].switch is Switch.DRAIN)


# Hooks and events


class Always:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls: list[NewCall] = []

    def choose(self, call: NewCall) -> Any:
        self.calls.append(call)
        return self.answer


async def test_a_hook_decides_on_a_parked_call(path: Path) -> None:
    hook = Always("pa5-tel1")
    async with gateway_of(path, hooks=[hook]):
        assert worker().snapshots[0].hook
        worker().hear("ask", slot("sbc-1"), handle=41, data=INVITE)
        await until(lambda: worker().decisions)
        assert worker().decisions == {41: slot("pa5-tel1")}
    call = hook.calls[0]
    assert (call.call_id, call.caller, call.called, call.peer) == ("ask-1", "0612345678", "0123456789", "sbc-1")


async def test_without_a_usable_answer_the_default_policy_decides(path: Path) -> None:
    async with gateway_of(path, hooks=[Always("pa9-tel1")]) as gateway:
        worker().hear("ask", slot("sbc-1"), handle=7, data=INVITE)
        await until(lambda: worker().decisions)
        assert worker().decisions == {7: -1}
        assert gateway.own_statistics()["hook_failures"] == {"nonsense": 1}


async def test_without_hooks_calls_are_not_parked(path: Path) -> None:
    async with gateway_of(path):
        assert not worker().snapshots[0].hook


async def test_call_events_reach_who_listens_and_are_recorded_only_then(path: Path) -> None:
    async with gateway_of(path) as gateway:
        assert not worker().snapshots[-1].record
        events = gateway.events()
        await until(lambda: worker().snapshots[-1].record)
        server = slot("pa2-tel1")
        worker().hear("setup", server, data=b"c1")
        worker().hear("failover", server, data=b"c1", value=0.01)
        worker().hear("ringing", server, data=b"c1", value=0.02)
        worker().hear("answered", server, data=b"c1", value=0.02)
        worker().hear("ended", server, data=b"c1")
        worker().hear("failed", data=b"c\xff", status=404, value=0.03)
        told = []
        while len(told) < 6:
            event = await anext(events)
            if isinstance(event, CallEvent):
                told.append(event)
        assert [type(event) for event in told] == [SetUp, FailedOver, Ringing, Answered, Ended, Failed]
        assert {(event.call_id, event.destination) for event in told[:5]} == {("c1", "pa2-tel1")}
        assert told[5] == Failed(told[5].time, "c\ufffd", "", 404, 0.03)
        assert isinstance(told[3], Answered) and told[3].delay == 0.02
        assert told[0].time > 1.7e9
        del events, event
        await until(lambda: not worker().snapshots[-1].record)


async def test_listening_ends_when_the_gateway_stops(path: Path) -> None:
    async with gateway_of(path) as gateway:
        events = gateway.events()
    assert isinstance([event async for event in events][-1], Draining)


# Switches


async def test_a_switch_is_in_force_at_once_audited_and_survives_a_restart(path: Path, tmp_path: Path) -> None:
    async with gateway_of(path) as gateway:
        events = gateway.events()
        gateway.switch("pa2-tel1", "drain", "alice")
        assert worker().snapshots[-1].states["pa2-tel1"].switch is Switch.DRAIN
        async for event in events:
            if isinstance(event, SwitchChanged):
                assert (event.destination, event.switch, event.who) == ("pa2-tel1", "drain", "alice")
                break
    async with gateway_of(path) as gateway:
        assert worker().snapshots[0].states["pa2-tel1"].switch is Switch.DRAIN
        assert row(gateway, "pa2-tel1")["switch"] == "drain"
        gateway.switch("pa2-tel1", Switch.READY, "bob")
    entries = AuditLog(tmp_path / "state" / "audit.log", "").entries()
    assert [(entry["who"], entry["what"], entry["result"], entry["before"]) for entry in entries] == [
        ("alice", "switch pa2-tel1 to drain", "done", "ready"),
        ("bob", "switch pa2-tel1 to ready", "done", "drain"),
    ]


async def test_a_switch_for_nobody_or_to_nothing_is_refused(path: Path) -> None:
    async with gateway_of(path) as gateway:
        with pytest.raises(UnknownDestination, match="sbc-1, pa2-tel1, pa5-tel1"):
            gateway.switch("pa9-tel1", "drain")
        with pytest.raises(ValueError):
            gateway.switch("pa2-tel1", "off")


async def test_a_broken_switch_record_does_not_keep_the_gateway_from_starting(path: Path, tmp_path: Path) -> None:
    for broken in (b"\xc1", b"\x07", b"\x81\xa8switches\x81\xa8pa2-tel1\xa3off"):
        (tmp_path / "state").mkdir(exist_ok=True)
        (tmp_path / "state" / "pa2-gw1.switches").write_bytes(broken)
        async with gateway_of(path) as gateway:
            assert row(gateway, "pa2-tel1")["switch"] == "ready"


# Reload


async def test_a_reload_takes_the_new_file_and_keeps_health_and_switches(path: Path) -> None:
    async with gateway_of(path) as gateway:
        await until(lambda: row(gateway, "pa2-tel1")["state"] == "up")
        gateway.switch("pa2-tel1", "drain")
        events = gateway.events()
        added = '\n[[servers]]\nname = "pa2-tel2"\nsite = "PA2"\nuri = "sip:127.0.9.22:5071"\n'
        path.write_text(path.read_text().replace('name = "pa5-tel1"', 'name = "pa5-tel9"') + added)
        digest = await gateway.reload()
        assert digest == gateway.config.digest == Config.load(path).digest
        assert [one["name"] for one in gateway.status()["destinations"]] == [
            "sbc-1",
            "pa2-tel1",
            "pa5-tel9",
            "pa2-tel2",
        ]
        assert (row(gateway, "pa2-tel1")["state"], row(gateway, "pa2-tel1")["switch"]) == ("up", "drain")
        assert set(worker().snapshots[-1].states) == {"sbc-1", "pa2-tel1", "pa5-tel9", "pa2-tel2"}
        assert await anext(event async for event in events if isinstance(event, Reloaded))
        await until(lambda: row(gateway, "pa2-tel2")["state"] == "up")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("weight = 50", 'weight = "heavy"', r"servers\[1\].weight"),
        ('name = "pa2-gw1"', 'name = "pa2-gw7"', "no gateway is named 'pa2-gw1'"),
        ("udp:127.0.9.11:", "udp:127.0.9.12:", "listen of pa2-gw1 changed: this needs a restart"),
        ("[platform]", '[platform]\nkey_file = "absent.key"', "absent.key: No such file"),
        ("[sites.PA5]", "[sites.PA5", "TOML"),
    ],
)
async def test_a_reload_with_a_mistake_changes_nothing(
    path: Path, old: str, new: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_of(path) as gateway:
        before, snapshots = gateway.config, len(worker().snapshots)
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(UsageError, match=told):
            await gateway.reload()
        assert gateway.config is before
        assert worker().snapshots[-1].config is before and snapshots
    assert any(re.search(told, record.getMessage()) for record in caplog.records if record.levelno == logging.ERROR)


async def test_a_reload_that_the_core_cannot_hold_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(*_: Any, **__: Any) -> None:
        raise OverflowError("more than 64 carriers and servers")

    async with gateway_of(path) as gateway:
        before = gateway.config
        path.write_text(path.read_text() + "# another\n")
        with monkeypatch.context() as full:
            full.setattr("ubisip.proxy.control.Snapshot", too_many)
            with pytest.raises(UsageError, match="more than 64"):
                await gateway.reload()
        assert gateway.config is before


async def test_what_a_reload_takes_over_at_the_next_start_only_is_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_of(path) as gateway:
        path.write_text(path.read_text() + "[routing]\ncoalesce = 0\n[limits]\ncalls = 10\n")
        await gateway.reload()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "routing.coalesce changed: it is taken over at the next start",
        "limits.calls changed: it is taken over at the next start",
    ]


async def test_a_reload_rolls_the_keys(tmp_path: Path, port: int) -> None:
    ring = tmp_path / "cluster.key"
    keys.create(ring)
    async with gateway_of(write_platform(tmp_path, port=port, platform='key_file = "cluster.key"')) as gateway:
        old = worker().keys
        keys.add(ring)
        await gateway.reload()
        assert worker().keys[1:] == old and len(worker().keys) == 2


# Drain


async def test_draining_refuses_new_calls_and_waits_for_those_in_set_up(path: Path) -> None:
    async with gateway_of(path) as gateway:
        worker().counters["pending"] = 2
        draining = asyncio.ensure_future(gateway.drain())
        await until(lambda: worker().snapshots[-1].draining)
        assert gateway.ready() == "draining"
        assert not draining.done()
        worker().counters["pending"] = 0
        assert await draining == 0


async def test_draining_gives_up_after_its_limit_and_tells_how_many_are_left(path: Path) -> None:
    async with gateway_of(path) as gateway:
        worker().counters["pending"] = 3
        assert await gateway.drain(limit=0.05) == 3
        worker().counters["pending"] = 0


async def test_leaving_by_an_error_does_not_wait(path: Path) -> None:
    gateway = gateway_of(path)
    with pytest.raises(RuntimeError, match="mine"):
        async with gateway:
            worker().counters["pending"] = 3
            raise RuntimeError("mine")
    assert not worker().snapshots[-1].draining and gateway.state == "stopped"


async def test_a_stopped_gateway_says_so(path: Path) -> None:
    gateway = gateway_of(path)
    for question in (gateway.status, gateway.statistics, gateway.silent_for, gateway.events):
        with pytest.raises(UsageError, match="does not run"):
            question()
