# SPDX-License-Identifier: Apache-2.0
"""Streams within a gateway whose worker carries no calls: what the core sends leaves, what comes reaches it."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fake_worker import FakeSnapshot, FakeWorker, until, write_platform

from ubisip.config import Config
from ubisip.proxy.gateway import Gateway
from ubisip.proxy.sockets import allow_connections

HOST = "127.0.9.11"
OPTIONS = b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 0\r\n\r\n"
OK = b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(autouse=True)
def fake_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("ubisip.proxy.gateway.Worker", FakeWorker)
    monkeypatch.setattr("ubisip.proxy.control.Snapshot", FakeSnapshot)
    FakeWorker.made.clear()
    yield
    assert not any(worker.running for worker in FakeWorker.made)


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HOST, 0))
        number: int = free.getsockname()[1]
    return number


@pytest.fixture
def path(tmp_path: Path, port: int) -> Path:
    file = write_platform(tmp_path, port=port, platform=f'state_dir = "{tmp_path}"')
    file.write_text(file.read_text().replace("listen = [", f'listen = ["tcp:{HOST}:{port}", '))
    return file


@pytest.fixture
async def gateway(path: Path) -> AsyncIterator[Gateway]:
    async with Gateway(Config.load(str(path)), node="pa2-gw1") as it:
        yield it


def worker() -> FakeWorker:
    return FakeWorker.made[-1]


async def connect(gateway: Gateway, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that the gateway has accepted."""
    ends = await asyncio.open_connection(HOST, port)
    await until(lambda: gateway.own_statistics()["connections"]["accepted"] == 1)
    return ends


async def read(reader: asyncio.StreamReader, data: bytes) -> None:
    async with asyncio.timeout(10):
        assert await reader.readexactly(len(data)) == data


async def test_requests_reach_the_core_and_responses_go_back(gateway: Gateway, port: int) -> None:
    reader, writer = await connect(gateway, port)
    writer.write(OPTIONS)
    await until(lambda: worker().received)
    ((data, stream, peer, listener),) = worker().received
    assert (data, peer, listener) == (OPTIONS, writer.get_extra_info("sockname"), 0)
    worker().send_stream(OK, peer, listener, stream)
    await read(reader, OK)
    assert gateway.own_statistics()["connections"] == {"accepted": 1, "opened": 0}
    assert gateway.own_statistics()["streams"] == {"accepted": 1, "messages_received": 1, "messages_sent": 1}
    writer.close()


async def test_messages_whose_call_was_taken_by_another_turn_leave_too(gateway: Gateway, port: int) -> None:
    reader, writer = await connect(gateway, port)
    worker().send_stream(OK, writer.get_extra_info("sockname"))
    worker().events()
    await read(reader, OK)
    writer.close()


async def test_a_fault_in_the_news_does_not_hold_messages_up(
    gateway: Gateway, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[object]:
        raise RuntimeError("no news")

    reader, writer = await connect(gateway, port)
    monkeypatch.setattr(worker(), "events", broken)
    worker().send_stream(OK, writer.get_extra_info("sockname"))
    await read(reader, OK)
    assert gateway.own_statistics()["control_errors"]["events"] >= 1
    monkeypatch.undo()
    writer.close()


async def test_the_core_is_told_what_could_not_be_sent(gateway: Gateway) -> None:
    with socket.create_server((HOST, 0)) as refusing:
        address = refusing.getsockname()
    worker().send_stream(OPTIONS, address)
    await until(lambda: worker().stream_failures)
    assert worker().stream_failures == [(OPTIONS, address)]


class Parting(FakeWorker):
    """A worker that answers at the last moment."""

    def stop(self) -> None:
        super().stop()
        _, stream, peer, listener = self.received[-1]
        self.send_stream(OK, peer, listener, stream)


async def test_what_the_worker_leaves_at_its_stop_is_sent(
    path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ubisip.proxy.gateway.Worker", Parting)
    async with Gateway(Config.load(str(path)), node="pa2-gw1") as gateway:
        reader, writer = await connect(gateway, port)
        writer.write(OPTIONS)
        await until(lambda: worker().received)
    await read(reader, OK)
    assert await reader.read() == b""
    writer.close()


def test_the_process_may_have_as_many_files_as_connections_need(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append((which, limits)))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, 524_288))
    allow_connections()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4_096, 4_096))
    allow_connections()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, resource.RLIM_INFINITY))
    allow_connections()
    assert asked == [
        (resource.RLIMIT_NOFILE, (65_536, 524_288)),
        (resource.RLIMIT_NOFILE, (65_536, resource.RLIM_INFINITY)),
    ]
