# SPDX-License-Identifier: Apache-2.0
"""The registrar's helper within a gateway: credentials, bindings over a restart, events, what a reload changes."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from agent_parts import row
from fake_worker import FakeSnapshot, FakeWorker, until, write_platform

from ubisip.agents.secret import Secret, digests_of
from ubisip.config import Config
from ubisip.errors import UsageError
from ubisip.proxy import registrations
from ubisip.proxy.events import (
    AgentEvent,
    AgentExpired,
    AgentRefreshed,
    AgentRegistered,
    AgentReplaced,
    AgentUnregistered,
    FlowLost,
    GatewayEvent,
    ServerInStep,
    ServerOutOfStep,
    Subscription,
)
from ubisip.proxy.gateway import Gateway
from ubisip.store.bindings import Row, packed

REALM = "ubisip.test"
AGENTS = '[agents]\nrealm = "ubisip.test"\ndomains = ["ubisip.test"]\n'


@pytest.fixture(autouse=True)
def fake_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("ubisip.proxy.gateway.Worker", FakeWorker)
    monkeypatch.setattr("ubisip.proxy.control.Snapshot", FakeSnapshot)
    monkeypatch.setattr("ubisip.proxy.gateway.SETTLE", 0.0)
    monkeypatch.setattr(registrations, "POLL", 0.02)
    FakeWorker.made.clear()
    yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.9.11", 0))
        port = int(probe.getsockname()[1])
    write_platform(tmp_path, port=port, more=AGENTS + 'credentials = "file:users.csv"')
    (tmp_path / "users.csv").write_text("alice;a\nbob;b\n")
    return tmp_path


def gateway_in(folder: Path, **more: Any) -> Gateway:
    return Gateway(Config.load(folder / "platform.toml"), node="pa2-gw1", **more)


def by_hook(folder: Path) -> None:
    path = folder / "platform.toml"
    path.write_text(path.read_text().replace('credentials = "file:users.csv"', ""))


def worker() -> FakeWorker:
    return FakeWorker.made[-1]


def known(user: str, password: str, lifetime: float = math.inf) -> tuple[Any, ...]:
    return (*digests_of(Secret(password), user, REALM), True, lifetime)


def unknown(lifetime: float = registrations.UNKNOWN_LIFETIME) -> tuple[Any, ...]:
    return (b"", b"", b"", False, lifetime)


class Directory:
    """A hook that knows carol."""

    async def credentials(self, user: str, realm: str) -> Secret | None:
        if user == "broken":
            raise ConnectionError("the directory is gone")
        return Secret("c") if (user, realm) == ("carol", REALM) else None


# Credentials


async def test_the_users_of_a_file_are_told_before_the_start_and_what_changes_after_it(folder: Path) -> None:
    async with gateway_in(folder):
        assert worker().users == {("alice", REALM): known("alice", "a"), ("bob", REALM): known("bob", "b")}
        (folder / "users.csv").write_text("alice;new\ncarol;c\n")
        await until(lambda: len(worker().users) == 3)
        assert worker().users == {
            ("alice", REALM): known("alice", "new"),
            ("bob", REALM): unknown(),
            ("carol", REALM): known("carol", "c"),
        }


async def test_a_mailbox_that_is_full_gets_the_users_later(folder: Path) -> None:
    async with gateway_in(folder) as gateway:
        worker().full = True
        (folder / "users.csv").write_text("alice;new\nbob;b\n")
        await until(lambda: gateway.own_statistics()["control_errors"]["mailbox"] > 1)
        assert worker().users["alice", REALM] == known("alice", "a")
        worker().full = False
        await until(lambda: worker().users["alice", REALM] == known("alice", "new"))


async def test_a_hook_is_asked_for_whom_the_core_does_not_know(folder: Path) -> None:
    by_hook(folder)
    async with gateway_in(folder, hooks=[Directory()]) as gateway:
        for user in ("carol", "mallory", "broken"):
            worker().hear("credentials", handle=7, data=f"{user}\0{REALM}".encode())
        await until(lambda: len(worker().users) == 3)
        assert worker().users == {
            ("carol", REALM): known("carol", "c", 60.0),
            ("mallory", REALM): unknown(),
            ("broken", REALM): (),
        }
        results = gateway.own_statistics()["credentials"]
        assert results == {"found": 1, "unknown": 1, "cached": 0, "failed": 1, "full": 0}


@pytest.mark.parametrize("hooks", [[], [object()]])
def test_without_credentials_there_is_no_registrar(folder: Path, hooks: list[object]) -> None:
    by_hook(folder)
    with pytest.raises(UsageError, match="credentials"):
        gateway_in(folder, hooks=hooks)


async def test_a_file_of_credentials_that_is_missing_is_told_at_the_start(folder: Path) -> None:
    (folder / "users.csv").unlink()
    with pytest.raises(UsageError, match=r"agents.credentials: .*users.csv"):
        async with gateway_in(folder):
            pass


async def test_a_reload_takes_another_file_and_tells_the_difference(folder: Path) -> None:
    async with gateway_in(folder) as gateway:
        (folder / "others.csv").write_text("alice;a\ncarol;c\n")
        worker().users.clear()
        path = folder / "platform.toml"
        path.write_text(path.read_text().replace("users.csv", "others.csv"))
        await gateway.reload()
        await until(lambda: len(worker().users) == 2)
        assert worker().users == {("bob", REALM): unknown(), ("carol", REALM): known("carol", "c")}


async def test_a_reload_from_a_hook_to_a_file_and_back(folder: Path) -> None:
    """The core asks until it has been told all users, and again once nobody can list them."""
    path = folder / "platform.toml"
    by_file = path.read_text()
    by_hook(folder)
    async with gateway_in(folder, hooks=[Directory()]) as gateway:
        assert not worker().snapshots[-1].credentials_complete
        path.write_text(by_file)
        await gateway.reload()
        await until(lambda: worker().snapshots[-1].credentials_complete)
        assert worker().users["alice", REALM] == known("alice", "a")
        by_hook(folder)
        await gateway.reload()
        await until(lambda: not worker().snapshots[-1].credentials_complete)


async def test_a_registrar_comes_and_goes_by_a_restart_only(folder: Path) -> None:
    async with gateway_in(folder) as gateway:
        path = folder / "platform.toml"
        path.write_text(path.read_text().partition("[agents]")[0])
        with pytest.raises(UsageError, match=r"\[agents\] of pa2-gw1 changed: this needs a restart"):
            await gateway.reload()


async def test_mistakes_of_the_file_are_named_in_the_log(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "users.csv").write_text("alice;a\n" + "nonsense\n" * 20)
    async with gateway_in(folder):
        assert ("alice", REALM) in worker().users
    assert "users.csv: line 2: expected name;password" in caplog.text
    assert "and 10 more such mistakes" in caplog.text


# Bindings


def here(name: str, **more: Any) -> Row:
    return row(name, expires_at=time.time() + 3600, **more)


async def test_bindings_outlive_the_process(folder: Path) -> None:
    async with gateway_in(folder):
        worker().journal = packed([here("alice"), here("bob")])
        await until(lambda: not worker().journal)
        worker().journal = packed([moved := here("alice")._replace(ip="192.0.2.9")])
    async with gateway_in(folder):
        assert [one[0] for one in worker().restored] == ["alice", "bob"]
        assert worker().restored[0] == moved


async def test_a_gateway_that_is_killed_loses_at_most_what_the_last_tick_had_not_taken(folder: Path) -> None:
    async with gateway_in(folder) as gateway:
        worker().journal = packed([here("alice")])
        journal = folder / "state" / "pa2-gw1.bindings.journal"
        await until(lambda: journal.exists() and journal.stat().st_size)
        kept = journal.read_bytes()
        assert gateway.own_statistics()["bindings_kept"]["journal"] == len(kept)
    assert journal.read_bytes() == kept  # the stop had nothing to add


async def test_what_the_core_cannot_hold_is_told_and_the_rest_taken_over(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_in(folder):
        worker().journal = packed([here("alice")._replace(ip=""), here("bob")])
    async with gateway_in(folder):
        assert [one[0] for one in worker().restored] == ["bob"]
    assert "1 bindings are none that the core can hold" in caplog.text


async def test_damage_is_mended_by_a_new_snapshot(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "state").mkdir()
    journal = folder / "state" / "pa2-gw1.bindings.journal"
    journal.write_bytes(b"nonsense")
    async with gateway_in(folder):
        worker().table = [(*here(f"agent{number}"), 0, -1, True) for number in range(600)]
        await until(lambda: not journal.exists())
        await until((folder / "state" / "pa2-gw1.bindings").exists)
    assert "damaged and passed over" in caplog.text
    async with gateway_in(folder):
        assert len(worker().restored) == 600


async def test_records_that_were_lost_are_made_good_by_a_new_snapshot(folder: Path) -> None:
    snapshot = folder / "state" / "pa2-gw1.bindings"
    async with gateway_in(folder):
        worker().journal = packed([here("alice")])
        worker().table = [(*here(name), 0, -1, True) for name in ("alice", "bob")]
        worker().lost = 1
        await until(snapshot.exists)
    async with gateway_in(folder):
        assert [one[0] for one in worker().restored] == ["alice", "bob"]


async def test_a_disk_that_cannot_be_written_stops_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "state").mkdir()
    (folder / "state" / "pa2-gw1.bindings.journal").mkdir()
    async with gateway_in(folder) as gateway:
        worker().journal = packed([here("alice")])
        await until(lambda: gateway.own_statistics()["bindings_kept"]["errors"])
        worker().hear("probe", 0, status=200, value=0.001)
        assert gateway.ready() == ""
    assert "may not survive a restart" in caplog.text


# Events


def ended(one: Row, why: int) -> bytes:
    return bytes(msgpack.packb([0, one.aor, one.contact, one.instance, one.reg_id, why]))


async def about_agents(events: Subscription) -> AsyncIterator[GatewayEvent]:
    """Health, which changes as well, left out."""
    async for event in events:
        if isinstance(event, AgentEvent | ServerInStep | ServerOutOfStep):
            yield event


async def test_events_tell_what_became_of_each_binding(folder: Path) -> None:
    alice = here("alice")
    refreshed = bytes(msgpack.packb([2, *alice._replace(ip="2001:db8::1")]))
    ends = {1: AgentUnregistered, 2: AgentExpired, 3: FlowLost, 4: AgentReplaced}
    async with gateway_in(folder) as gateway:
        events = about_agents(gateway.events())
        strange = bytes(msgpack.packb([9]) + msgpack.packb([0, "a", "b", "c", 1, 99]))
        worker().journal = packed([alice]) + refreshed + strange + b"".join(ended(alice, why) for why in ends)
        binding = (alice.aor, alice.contact, alice.instance, 1)
        first = await anext(events)
        assert first == AgentRegistered(
            first.time, *binding, "192.0.2.1:5062", alice.expires_at, "Phone/1.0"
        )  # fmt: skip
        second = await anext(events)
        assert isinstance(second, AgentRefreshed) and second.address == "[2001:db8::1]:5062"
        for kind in ends.values():
            event = await anext(events)
            assert event == kind(event.time, *binding)
        worker().hear("out_of_step", 1)
        worker().hear("in_step", 1, value=2.5)
        assert isinstance(out := await anext(events), ServerOutOfStep) and out.server
        assert isinstance(back := await anext(events), ServerInStep) and (back.server, back.after) == (out.server, 2.5)


async def test_nobody_listens_and_no_record_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrations, "records", lambda journal: pytest.fail("read for nobody"))
    async with gateway_in(folder) as gateway:
        worker().journal = packed([here("alice")])
        await until(lambda: gateway.own_statistics()["bindings_kept"]["journal"])
        assert not gateway.own_statistics()["control_errors"]


async def test_a_fault_of_the_helper_does_not_end_the_control_loop(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_in(folder) as gateway:
        worker().take_journal = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        await until(lambda: gateway.own_statistics()["control_errors"]["registrations"] > 1)
        del worker().take_journal
    assert caplog.text.count("registrations failed; it goes on") == 1
