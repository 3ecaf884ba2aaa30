# SPDX-License-Identifier: Apache-2.0
"""The store's contract, kept by each implementation: in memory (the tests' own), in SQLite, in a real etcd."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ubisip.failover.coordination import TIMEOUT, Compare, LeaseLost, Put, Store, StoreError
from ubisip.failover.lease import Keys, Leadership, Member
from ubisip.store.etcd import EtcdStore
from ubisip.store.sqlite import SqliteStore

PATIENCE = 60.0

needs_etcd = pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed")


class Clock:
    """Set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Etcd:
    """Members of a cluster on this machine, gone at the end."""

    def __init__(self, folder: Path, members: int = 3) -> None:
        self.folder = folder
        ports = free_ports(2 * members)
        self.urls = [f"http://127.0.0.1:{port}" for port in ports[:members]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[members:]]
        cluster = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
        self._commands = [
            [
                *("etcd", "--name", f"m{number}", "--data-dir", str(folder / f"m{number}")),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", cluster, "--heartbeat-interval", "100", "--election-timeout", "1000"),
            ]
            for number, (url, peer) in enumerate(zip(self.urls, peers, strict=True))
        ]
        self.processes: list[subprocess.Popen[bytes]] = []
        for number in range(members):
            self.start(number)

    def start(self, number: int) -> None:
        log = (self.folder / f"m{number}.log").open("ab")
        process = subprocess.Popen(self._commands[number], stdout=log, stderr=log, start_new_session=True)
        log.close()
        if number < len(self.processes):
            self.processes[number] = process
        else:
            self.processes.append(process)

    def signal(self, number: int, what: signal.Signals) -> None:
        self.processes[number].send_signal(what)

    def stop(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    async def leader(self) -> int:
        """The number of the member that leads."""

        def status(url: str) -> tuple[str, str]:
            request = urllib.request.Request(f"{url}/v3/maintenance/status", b"{}")
            with urllib.request.urlopen(request, timeout=2) as answer:
                told = json.load(answer)
            return told["header"]["member_id"], told.get("leader", "0")

        for number, url in enumerate(self.urls):
            with suppress(OSError):
                member, leader = await asyncio.to_thread(status, url)
                if member == leader:
                    return number
        raise AssertionError("no member of etcd leads")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


async def answers(store: Store) -> None:
    """Wait until *store* does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await store.get("/")
            return
        except StoreError:
            assert time.monotonic() < deadline, "the store never answered"
            await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed")
    cluster = Etcd(tmp_path_factory.mktemp("etcd"))
    yield cluster
    cluster.stop()


@pytest.fixture(params=["sqlite", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    it: Store
    if request.param == "sqlite":
        it = SqliteStore(str(tmp_path / "state" / "store.db"))
    else:
        it = EtcdStore(request.getfixturevalue("etcd").urls)
        await answers(it)
        await it.commit([], [], [entry.key for entry in await it.range("/")])
    yield it
    await it.close()


async def test_what_is_put_is_read_back_with_its_revisions(store: Store) -> None:
    assert await store.get("/a") is None
    first = await store.commit([], [Put("/a", b"1"), Put("/b", b"\x00\xff")])
    second = await store.commit([], [Put("/a", b"2")])
    assert 0 < first < second
    entry = await store.get("/a")
    assert entry is not None and (entry.value, entry.created, entry.modified) == (b"2", first, second)
    assert [(entry.key, entry.value) for entry in await store.range("/")] == [("/a", b"2"), ("/b", b"\x00\xff")]


async def test_a_range_has_what_begins_with_the_prefix_and_nothing_else(store: Store) -> None:
    await store.commit([], [Put(key, b"") for key in ("/p/a", "/p/b", "/p", "/q/a", "/p0", "/p/%_")])
    assert [entry.key for entry in await store.range("/p/")] == ["/p/%_", "/p/a", "/p/b"]


async def test_values_may_be_as_large_as_those_of_a_platform(store: Store) -> None:
    values = {f"/p/{number:02}": os.urandom(50_000) for number in range(20)}
    for key, value in values.items():
        await store.commit([], [Put(key, value)])
    assert {entry.key: entry.value for entry in await store.range("/p/")} == values


async def test_a_transaction_is_done_whole_or_not_at_all(store: Store) -> None:
    created = await store.commit([Compare("/a", created=0)], [Put("/a", b"1")])
    assert created and not await store.commit([Compare("/a", created=0)], [Put("/a", b"2"), Put("/b", b"2")])
    assert await store.get("/b") is None
    assert await store.commit([Compare("/a", created=created), Compare("/b", modified=0)], [Put("/b", b"3")], ["/a"])
    assert await store.get("/a") is None
    assert not await store.commit([Compare("/a", created=created)], [Put("/c", b"4")])


async def test_a_key_made_anew_has_a_higher_epoch(store: Store) -> None:
    first = await store.commit([Compare("/l", created=0)], [Put("/l", b"")])
    await store.commit([], [], ["/l"])
    assert await store.commit([Compare("/l", created=0)], [Put("/l", b"")]) > first


async def test_a_lease_takes_its_keys_along(store: Store) -> None:
    lease = await store.grant(60)
    await store.renew(lease)
    await store.commit([], [Put("/under", b"", lease), Put("/free", b"")])
    await store.revoke(lease)
    assert [entry.key for entry in await store.range("/")] == ["/free"]
    with pytest.raises(LeaseLost):
        await store.renew(lease)
    with pytest.raises(LeaseLost):
        await store.commit([], [Put("/under", b"", lease)])
    assert await store.get("/under") is None


async def test_of_many_who_want_a_key_one_gets_it(store: Store) -> None:
    leases = [await store.grant(60) for _ in range(20)]
    won = await asyncio.gather(
        *(store.commit([Compare("/l", created=0)], [Put("/l", str(lease).encode(), lease)]) for lease in leases)
    )
    assert sum(map(bool, won)) == 1
    await store.tidy()


# SQLite


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Clock, SqliteStore, SqliteStore]]:
    clock, path = Clock(), str(tmp_path / "store.db")
    one, other = SqliteStore(path, clock), SqliteStore(path, clock)
    yield clock, one, other
    await one.close()
    await other.close()


async def test_a_lease_ends_by_itself_and_lives_by_being_renewed(two: tuple[Clock, SqliteStore, SqliteStore]) -> None:
    clock, one, other = two
    lease = await one.grant(6)
    await one.commit([], [Put("/l", b"", lease)])
    for _ in range(5):
        clock.now += 5
        await one.renew(lease)
    assert await other.get("/l") is not None
    clock.now += 6
    assert await other.get("/l") is None
    with pytest.raises(LeaseLost):
        await one.renew(lease)


async def test_a_reboot_ends_every_lease(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    before = SqliteStore(path, Clock(), boot="one")
    await before.commit([], [Put("/l", b"", await before.grant(60)), Put("/kept", b"")])
    await before.close()
    after = SqliteStore(path, Clock(), boot="two")
    assert [entry.key for entry in await after.range("/")] == ["/kept"]
    await after.close()


async def test_a_file_that_cannot_be_had_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    store = SqliteStore(str(tmp_path / "store.db"))
    with pytest.raises(StoreError, match=r"store\.db"):
        await store.get("/a")
    await store.close()


async def test_a_writer_that_holds_the_file_is_a_store_that_does_not_answer_in_time(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    store = SqliteStore(path)
    await store.commit([], [Put("/a", b"1")])
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN EXCLUSIVE');"
        "print(1, flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    await asyncio.to_thread(holder.stdout.readline)
    with pytest.raises(StoreError):
        await store.commit([], [Put("/a", b"2")])
    holder.kill()
    holder.communicate()
    entry = await store.get("/a")
    assert entry is not None and entry.value == b"1"
    await store.close()


# etcd, with faults


def leaderships(urls: list[str], *names: str) -> list[Leadership]:
    return [Leadership(EtcdStore(urls), Keys("p"), Member(name, "PA2", len(names), {})) for name in names]


async def awaited(condition: Callable[[], object], what: str, limit: float = PATIENCE) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.05)


@pytest.mark.long
@needs_etcd
async def test_the_lease_outlives_any_member_of_etcd_and_is_given_up_without_a_majority(tmp_path: Path) -> None:
    """Leader killed, a member paused, all of them paused; nobody ever sees two holders."""
    cluster = Etcd(tmp_path)
    one, other = them = leaderships(cluster.urls, "one", "other")
    stores = [it._store for it in them]
    both: list[float] = []

    async def look() -> None:
        while True:
            if one.epoch and other.epoch:
                both.append(time.monotonic())
            await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(it.run()) for it in them] + [asyncio.create_task(look())]
    try:
        await answers(stores[0])
        await awaited(lambda: one.epoch or other.epoch, "a leader")
        holder = one if one.epoch else other
        epoch = holder.epoch

        first = await cluster.leader()
        cluster.signal(first, signal.SIGKILL)
        cluster.processes[first].wait()
        await answers(stores[0])
        await awaited(lambda: one.epoch or other.epoch, "a leader after that of etcd was killed")
        cluster.start(first)
        await asyncio.sleep(2)
        await awaited(lambda: one.epoch or other.epoch, "a leader")
        holder = one if one.epoch else other
        assert holder.epoch >= epoch
        epoch = holder.epoch

        frozen = await cluster.leader()
        cluster.signal(frozen, signal.SIGSTOP)
        await asyncio.sleep(3)
        await awaited(lambda: one.epoch or other.epoch, "a leader while a member hangs")
        cluster.signal(frozen, signal.SIGCONT)
        await awaited(lambda: one.epoch or other.epoch, "a leader after it goes on")

        for number in range(3):
            cluster.signal(number, signal.SIGSTOP)
        await awaited(lambda: not one.epoch and not other.epoch, "both to stop without a majority", 10.0)
        await awaited(lambda: one.alone and other.alone, "both to say that nobody leads", 10.0)
        for number in range(3):
            cluster.signal(number, signal.SIGCONT)
        await awaited(lambda: one.epoch or other.epoch, "a leader again")
        assert max(one.epoch, other.epoch) >= epoch
        assert not both, "two held the lease at once"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for store in stores:
            await store.close()
        cluster.stop()


async def test_members_that_are_none_are_a_store_that_does_not_answer_in_time() -> None:
    store = EtcdStore([f"http://127.0.0.1:{port}" for port in free_ports(3)])
    began = time.monotonic()
    with pytest.raises(StoreError, match="no member of etcd answers"):
        await store.get("/a")
    assert time.monotonic() - began < TIMEOUT + 2
    await store.close()
