# SPDX-License-Identifier: Apache-2.0
"""The gateway's parts one by one: subscriptions, log lines, sd_notify, sockets, records, the audit log."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import socket
from pathlib import Path

import pytest

from ubisip.platform import Endpoint
from ubisip.proxy import events
from ubisip.proxy.events import Ended, Subscribers
from ubisip.proxy.logs import Brake, JsonFormatter, configure_logging
from ubisip.proxy.notify import notify, notify_reloading
from ubisip.proxy.sockets import ListenError, open_listeners
from ubisip.store.audit import AuditLog
from ubisip.store.record import read_record, write_record


def ended(number: int) -> Ended:
    return Ended(0.0, f"call-{number}", "")


async def test_a_subscription_hands_out_events_in_order_and_ends_when_closed() -> None:
    subscribers = Subscribers()
    subscription = subscribers.subscribe()
    for number in range(3):
        subscribers.publish(ended(number))
    subscribers.close()
    assert [event async for event in subscription] == [ended(0), ended(1), ended(2)]


async def test_a_waiting_subscriber_is_woken_by_an_event() -> None:
    subscribers = Subscribers()
    subscription = subscribers.subscribe()
    first = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    subscribers.publish(ended(7))
    assert await first == ended(7)


async def test_a_slow_subscriber_loses_the_newest_events_and_knows_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SUBSCRIPTION_BOUND", 2)
    subscribers = Subscribers()
    slow, quick = subscribers.subscribe(), subscribers.subscribe()
    for number in range(5):
        subscribers.publish(ended(number))
        assert await anext(quick) == ended(number)
    subscribers.close()
    assert [event async for event in slow] == [ended(0), ended(1)]
    assert (slow.lost, quick.lost, subscribers.lost) == (3, 0, 3)


async def test_nobody_subscribes_once_a_subscription_is_dropped_or_closed() -> None:
    subscribers = Subscribers()
    kept, dropped = subscribers.subscribe(), subscribers.subscribe()
    kept.close()
    assert subscribers
    del dropped
    gc.collect()
    assert not subscribers


def test_json_log_lines_hold_the_message_the_node_and_the_traceback() -> None:
    try:
        raise ValueError("wrong")
    except ValueError as error:
        raised = (ValueError, error, None)
        record = logging.LogRecord("ubisip.x", logging.ERROR, "x.py", 1, "it %s", ("broke\nagain",), raised)
    line = JsonFormatter("pa2-gw1").format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["message"], entry["node"], entry["level"]) == ("it broke\nagain", "pa2-gw1", "error")
    assert "ValueError: wrong" in entry["traceback"]
    assert entry["time"].endswith("Z")


@pytest.fixture
def root_logger() -> object:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield root
    root.handlers[:] = before[1]
    root.setLevel(before[0])


def test_the_level_decides_what_is_logged(root_logger: object) -> None:
    stream = io.StringIO()
    configure_logging("human", "warning", "pa2-gw1", stream)
    logging.getLogger("ubisip.x").info("quiet")
    logging.getLogger("ubisip.x").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert stream.getvalue().endswith("WARNING ubisip.x: loud\n")


def test_a_brake_lets_a_cause_through_once_a_minute_and_tells_how_often_it_did_not() -> None:
    now = 0.0
    brake = Brake(60.0, lambda: now)
    assert brake.passes("a") == 0
    assert [brake.passes("a"), brake.passes("a"), brake.passes("b")] == [None, None, 0]
    now = 60.0
    assert brake.passes("a") == 2
    assert brake.passes("a") is None


def test_systemd_is_told_over_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert notify("READY=1")
        assert systemd.recv(200) == b"READY=1"
        assert notify_reloading()
        assert systemd.recv(200).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


def test_without_systemd_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    assert not notify("READY=1")


def test_listeners_are_bound_in_order_with_room_for_a_burst() -> None:
    listeners = open_listeners([Endpoint("udp", "127.0.0.9", 0), Endpoint("tcp", "127.0.0.9", 0)])
    listener, none = listeners
    assert listener is not None and none is None
    with listener:
        assert listener.getsockname()[0] == "127.0.0.9"
        assert not listener.getblocking()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            usual = plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > usual


def test_a_taken_port_is_named_and_the_others_are_let_go() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.9", 0))
        taken = other.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.9", 0))
            wanted = free.getsockname()[1]
        with pytest.raises(ListenError, match=rf"^cannot listen on udp:127.0.0.9:{taken}: Address already in use$"):
            open_listeners([Endpoint("udp", "127.0.0.9", wanted), Endpoint("udp", "127.0.0.9", taken)])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.9", wanted))


def test_a_record_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pa2-gw1.health"
    assert read_record(path) is None
    write_record(path, {"a": [1, 2.5]})
    write_record(path, {"b": "two"})
    assert read_record(path) == {"b": "two"}
    assert [file.name for file in path.parent.iterdir()] == ["pa2-gw1.health"]


@pytest.mark.parametrize("broken", [b"", b"\x82\xa1", b"\x01\x02", b"\xc1"])
def test_a_broken_record_is_told(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "record"
    path.write_bytes(broken)
    with pytest.raises(ValueError):
        read_record(path)


def test_the_audit_log_only_grows(tmp_path: Path) -> None:
    path = tmp_path / "state" / "audit.log"
    AuditLog(path, "pa2-gw1").write("127.0.0.1", "switch pa2-tel1 to drain", "done", before="ready")
    AuditLog(path, "pa2-gw2").write("SIGHUP", "reload\n", "refused")
    first, second = AuditLog(path, "").entries()
    assert (first["who"], first["what"], first["result"]) == ("127.0.0.1", "switch pa2-tel1 to drain", "done")
    assert first["before"] == "ready" and first["time"] > 1.7e9
    assert (second["node"], second["what"]) == ("pa2-gw2", "reload\n")
    assert AuditLog(path, "").entries(limit=1) == [second]


def test_a_log_of_an_older_version_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog(path, "new")
    path.write_bytes(b'{"node": "old", "what": "one"}\n{"node": "old", "what": "two"}\n')
    log.write("me", "three", "done", to="caf\udce9")
    with path.open("ab") as file:
        file.write(b'{"node": "old", "what": "four"}\n')
    log.write("me", "five", "done")
    assert [entry["what"] for entry in log.entries()] == ["one", "two", "three", "four", "five"]
    assert AuditLog(tmp_path / "none", "").entries() == []


@pytest.mark.parametrize("rest", [b"\x86\xa4time", b'{"node": ', b"\xc1", b"\x05"], ids=["cut", "line", "byte", "5"])
def test_a_log_that_was_cut_says_so_at_its_end(tmp_path: Path, rest: bytes) -> None:
    log = AuditLog(tmp_path / "audit.log", "gw")
    log.write("me", "one", "done")
    with log.path.open("ab") as file:
        file.write(rest)
    assert [(entry["what"] == "one", entry["result"]) for entry in log.entries()] == [
        (True, "done"),
        (False, "not readable"),
    ]
