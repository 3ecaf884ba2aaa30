# SPDX-License-Identifier: Apache-2.0
"""Bindings shared with the other gateways: which way leads to an agent, and what is told and believed when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import msgpack
import pytest
from agent_parts import row
from fake_worker import write_platform
from processes import until
from rich.console import Console

from ubisip import keys
from ubisip.admin.tables import agents_view
from ubisip.config import Config
from ubisip.platform import Endpoint, GatewayNode
from ubisip.proxy import sharing
from ubisip.proxy.node import node_of
from ubisip.proxy.sharing import Sharing, hop_to, is_open
from ubisip.store.bindings import Row, key_of
from ubisip.store.soft import News, Record, SoftStoreError


def endpoints(*texts: str) -> list[Endpoint]:
    parts = [text.split(" ") for text in texts]
    return [Endpoint(transport, host, int(port)) for transport, host, port in parts]


OURS = endpoints("udp 10.1.0.12 5060", "udp 10.2.0.12 5060", "tls 10.1.0.12 5061", "udp fd00::12 5060")


@pytest.mark.parametrize(
    ("listen", "advertise", "expected"),
    [
        (["udp 10.2.0.11 5060"], "", "10.2.0.11:5060"),
        (["udp 192.0.2.1 5060", "udp 10.2.0.11 5080"], "", "10.2.0.11:5080"),
        (["tls 10.1.0.11 5061", "udp 192.0.2.1 5060"], "", "192.0.2.1:5060"),
        (["tls 10.1.0.11 5061"], "", "10.1.0.11:5061;transport=tls"),
        (["tcp 10.1.0.11 5060"], "", ""),
        (["wss 10.1.0.11 443"], "", ""),
        (["udp fd00::11 5060"], "", "[fd00::11]:5060"),
        (["udp 0.0.0.0 5060"], "10.2.0.11", "10.2.0.11:5060"),
        (["udp 0.0.0.0 5060"], "sip.pa2.example.net", ""),
        ([], "", ""),
    ],
)
def test_the_way_to_a_gateway(listen: list[str], advertise: str, expected: str) -> None:
    gateway = GatewayNode("pa2-gw1", "PA2", endpoints(*listen), advertise)
    assert hop_to(gateway, OURS) == expected


@pytest.mark.parametrize(
    ("contact", "changes", "expected"),
    [
        ("sip:1001@192.0.2.1:5062", {}, True),
        ("sip:192.0.2.1:5062;ob", {}, True),
        ("sip:1001@192.0.2.1", {"port": 5060}, True),
        ("sip:1001@192.0.2.1", {}, False),
        ("sip:1001@10.0.0.7:5062", {}, False),
        ("sip:1001@10.0.0.7:5062", {"flags": 4}, True),
        ("sip:1001@[2001:db8::1]:5062", {"ip": "2001:db8::1"}, True),
        ("sip:1001@192.0.2.1:5062", {"stream": 3}, False),
        ("sip:1001@192.0.2.1:5062", {"path": "<sip:edge.example.net;lr>"}, False),
    ],
)
def test_which_phones_can_be_called_without_their_gateway(
    contact: str, changes: dict[str, object], expected: bool
) -> None:
    one = row("1001", contact=contact)._replace(stream=0, path="", flags=0)
    assert is_open(one._replace(**changes)) is expected  # type: ignore[arg-type]


class Memory:
    """A soft store in memory, which can be told to fail."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[Any, Record]] = {}
        self.news_of: asyncio.Queue[tuple[str, Sequence[Record] | None]] = asyncio.Queue()
        self.written: list[tuple[int, int, int]] = []
        """Of each write the rows, those deleted, and the news."""
        self.away = False

    def _answer(self) -> None:
        if self.away:
            raise SoftStoreError("away")

    async def write(
        self, gateway: str, rows: Mapping[Any, Record], gone: Sequence[Any], news: Sequence[Record], lifetime: float
    ) -> None:
        self._answer()
        self.hashes.setdefault(gateway, {}).update(rows)
        for key in gone:
            self.hashes[gateway].pop(key, None)
        self.written.append((len(rows), len(gone), len(news)))

    async def clear(self, gateway: str) -> None:
        self._answer()
        self.hashes.pop(gateway, None)

    async def announce(self, gateway: str) -> None:
        self._answer()

    async def rows(self, gateway: str) -> AsyncIterator[Sequence[Record]]:
        self._answer()
        yield list(self.hashes.get(gateway, {}).values())

    @asynccontextmanager
    async def news(self) -> AsyncIterator[News]:
        self._answer()
        yield self  # type: ignore[misc]  # it is both

    async def next(self, patience: float) -> tuple[str, Sequence[Record] | None] | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                return await self.news_of.get()
        self._answer()
        return None

    async def close(self) -> None:
        return None


class Core:
    """The worker's table: our own bindings, and those of the other gateways by their keys."""

    def __init__(self) -> None:
        self.own: list[Row] = []
        self.others: dict[Any, tuple[Row, str]] = {}
        self.full = 0
        """So often is the mailbox full."""

    def bindings(self, after: int, limit: int, home: int = 0) -> tuple[int, list[tuple[Any, ...]]]:
        rows = [one for one, _ in self.others.values()] if home else self.own
        return 0, [(*one, 0, -1, True) for one in rows]

    def share(self, row: Sequence[Any], home: int, hop: str) -> None:
        if self.full:
            self.full -= 1
            raise BufferError("full")
        self.others[key_of(*row[:4])] = (Row(*row), hop)

    def end_shared(self, aor: str, contact: str, instance: str, reg_id: int, home: int) -> None:
        self.others.pop(key_of(aor, contact, instance, reg_id), None)

    def statistics(self) -> dict[str, Any]:
        return {"shared_bindings": len(self.others)}


class Setting:
    """One gateway's sharing, between a core and a store; ``other`` is the other gateway of its site."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.core, self.store = Core(), Memory()
        other = '[[gateways]]\nname = "other"\nsite = "PA2"\nlisten = ["udp:127.0.9.9:5060"]\n'
        path = write_platform(folder, port=5060, platform='key_file = "cluster.key"', more=other)
        keys.create(folder / "cluster.key")
        monkeypatch.setattr(sharing, "opened", lambda node: self.store)
        monkeypatch.setattr(sharing, "FIRST_PAUSE", 0.01)
        monkeypatch.setattr(sharing, "BEAT", 0.05)
        self.sharing = Sharing(node_of(Config.load(path), "pa2-gw1"))

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[None]:
        self.sharing.start(self.core)
        try:
            await self.shares()
            yield
        finally:
            await self.sharing.stop()
            await self.sharing.close()

    async def shares(self) -> None:
        await until(lambda: self.sharing.statistics()["up"], "bindings to be shared")

    def known(self) -> set[str]:
        return {one.aor for one, _ in self.core.others.values()}

    def there(self, *rows: Row) -> None:
        """What the other gateway has written."""
        self.store.hashes["other"] = {key_of(*one[:4]): one for one in rows}

    async def says(self, *records: Record) -> None:
        await self.store.news_of.put(("other", records))


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    return Setting(tmp_path, monkeypatch)


async def test_when_redis_comes_back_empty_what_was_known_stays_until_it_is_written_anew(setting: Setting) -> None:
    setting.there(row("a"), row("b"))
    async with setting.runs():
        assert setting.known() == {"a", "b"}
        setting.store.away = True
        await until(lambda: len(setting.sharing._down) == 2, "the store to be missed")
        setting.there()
        setting.store.away = False
        await setting.shares()
        assert setting.known() == {"a", "b"}
        setting.there(row("b"), row("c"))
        await setting.store.news_of.put(("other", None))
        await until(lambda: setting.known() == {"b", "c"}, "what was written anew to be read")
        setting.there()
        await setting.store.news_of.put(("other", None))
        await until(lambda: not setting.known(), "an empty table to be believed when it is said to be complete")


async def test_a_full_mailbox_holds_up_but_loses_nothing(setting: Setting) -> None:
    async with setting.runs():
        setting.core.full = 5
        await setting.says((1, *row("a")), (1, *row("b")))
        await until(lambda: setting.known() == {"a", "b"}, "both to be told")


async def test_of_one_binding_the_last_change_is_told(setting: Setting) -> None:
    async with setting.runs():
        setting.store.written.clear()
        one = row("a")
        records = [(1, *one), (2, *one), (0, *one[:4], 1), (1, *one), (1, *row("b")), (0, *row("b")[:4], 2)]
        setting.sharing.tell(b"".join(msgpack.packb(record) for record in records))
        await until(lambda: (1, 1, 2) in setting.store.written, "both changes to be written at once")
        assert [one.aor for one in map(Row._make, setting.store.hashes["pa2-gw1"].values())] == ["a"]


async def test_everything_is_written_when_there_was_a_gap(setting: Setting) -> None:
    async with setting.runs():
        setting.core.own = [row("a"), row("b")]
        setting.sharing.note_gap()
        await until(lambda: len(setting.store.hashes.get("pa2-gw1", {})) == 2, "both to be written")


async def test_a_gateway_that_falls_silent_and_is_heard_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "SILENCE", 0.1)
    near = row("a", contact="sip:a@192.0.2.1:5062")._replace(stream=0, path="", flags=0)
    setting.there(near, row("b"))
    async with setting.runs():
        await until(lambda: setting.sharing.status()["silent"] == ["other"], "the silence to be noticed")
        await until(
            lambda: {one.aor: hop for one, hop in setting.core.others.values()} == {"a": "", "b": "127.0.9.9:5060"},
            "the phone without NAT to be reached directly",
        )
        monkeypatch.setattr(sharing, "SILENCE", 60.0)
        await setting.says()
        await until(
            lambda: {hop for _, hop in setting.core.others.values()} == {"127.0.9.9:5060"},
            "both to be reached through their gateway",
        )


def test_what_people_are_shown() -> None:
    totals = {"bindings": 2, "agents": 2}
    answer = {"gateway": "pa2-gw1", "site": "PA2", "totals": totals, "more": False}
    states = [
        (None, "pa2-gw1 at PA2: 2 bindings of 2 agents"),
        ({"away": None, "bindings": 7, "silent": []}, "2 agents, 7 of other gateways"),
        ({"away": 65.0, "bindings": 7, "silent": ["pa2-gw2"]}, "not shared for 1 min 5 s, silent: pa2-gw2"),
    ]
    for state, expected in states:
        console = Console(width=200, record=True, file=StringIO())
        console.print(agents_view([], [{**answer, "sharing": state}]))
        assert expected in console.export_text()
