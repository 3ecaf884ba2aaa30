# SPDX-License-Identifier: Apache-2.0
"""Bindings shared by the gateways of a site (DESIGN section 9): each tells its own, and the core knows those of all.

Two tasks: one writes what changes here, one follows what changes elsewhere. Whatever either missed, because Redis was
away or there was too much of it, is made good by reading or writing everything anew. Calls and registrations wait for
neither.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, Protocol

from ubisip import plugins
from ubisip.address import as_address
from ubisip.core.snapshot import split_advertise
from ubisip.platform import Endpoint, GatewayNode
from ubisip.proxy.logs import Brake
from ubisip.proxy.node import Node
from ubisip.store.bindings import GONE, MADE, REFRESHED, Row, are_end, are_row, key_of, records
from ubisip.store.soft import Record, SoftStore, SoftStoreError

log = logging.getLogger(__name__)

BEAT = 2.0
"""Seconds between two signs of life of a gateway when nothing changes."""
SILENCE = 7.0
"""Seconds without any, after which a gateway counts as gone: its agents are reached directly where that can be."""
DEAF = 15.0
"""Seconds without even our own signs of life, after which the subscription is taken for dead."""
SLICE = 100
"""Bindings told to Redis or to the core in one turn: some 2 ms."""
PAUSE = 0.002
WAITING = 50_000
"""Changes that wait for Redis: some 40 MB. Beyond, they are dropped, and everything is written anew."""
RECALL_LIMIT = 5.0
"""Seconds that the start waits for our own bindings, when the disk has none."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds before Redis is tried again: twice as long each time, give or take a half."""
LAST_LIMIT = 1.0
"""Seconds for what is told last, when the gateway stops."""
OUTLIVE = 60.0
"""Seconds that rows stay in Redis beyond the longest registration."""
TRANSPORTS = {"udp": "", "tcp": ";transport=tcp", "tls": ";transport=tls"}
"""What gateways can speak with each other, the best first, and what says so in a URI."""
BY_CONTACT = 4
"""A row's flag: no address translation stands between (BindingFlag in ext/ubisip/core/bindings.pxd)."""


class Table(Protocol):
    """The worker, as bindings are shared by it."""

    def bindings(self, after: int, limit: int, home: int = 0) -> tuple[int, list[tuple[Any, ...]]]: ...
    def share(self, row: Sequence[Any], home: int, hop: str) -> None: ...
    def end_shared(self, aor: str, contact: str, instance: str, reg_id: int, home: int) -> None: ...
    def statistics(self) -> dict[str, Any]: ...


class Sharing:
    """Lives as ubisip.proxy.registrations does; without ``store.soft`` there is none.

    :raises UsageError: what Redis is spoken to with is not installed.
    """

    def __init__(self, node: Node) -> None:
        self.counts = Counter({"told": 0, "heard": 0, "refused": 0, "lost": 0})
        self._node = node
        self._brake = Brake()
        self._table: Table | None = None
        self._waiting: dict[Any, Record] = {}
        self._changed = asyncio.Event()
        self._overrun = self._filling = False
        self._homes: list[str] = []
        """The gateways that were ever followed; one more than its place is what stands for each in the core."""
        self._heard: dict[str, float] = {}
        self._silent: set[str] = set()
        self._down = dict.fromkeys(("written", "followed"), time.monotonic())
        """By what does not work, since when."""
        self._tasks: list[asyncio.Task[None]] = []
        self._store = opened(node)

    # Life

    async def own_rows(self) -> list[Row]:
        """What Redis knows of our own bindings, for a gateway that has lost its disk; nothing if it does not answer."""
        found: list[Row] = []
        try:
            async with asyncio.timeout(RECALL_LIMIT):
                async for page in self._store.rows(self._node.gateway.name):
                    found += [Row(*row) for row in page if are_row(row)]
        except (SoftStoreError, TimeoutError) as error:
            log.warning("our own bindings are not looked up in Redis: %s", str(error) or "no answer in time")
        alive = [row for row in found if row.expires_at > time.time()]
        if alive:
            log.info("%d bindings taken over from Redis, as there are none on the disk", len(alive))
        return alive

    def start(self, table: Table) -> None:
        """The worker runs."""
        self._table = table
        self._begin()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._down = dict.fromkeys(("written", "followed"), time.monotonic())
        self._tasks = [
            loop.create_task(self._kept_up("written", lambda: self._write(self._running()))),
            loop.create_task(self._kept_up("followed", lambda: self._follow(self._running()))),
        ]

    async def stop(self) -> None:
        """The worker is about to stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def close(self) -> None:
        """What still waits is told, if that can be: others know at once what was unregistered last."""
        self._table = None
        try:
            async with asyncio.timeout(LAST_LIMIT):
                if not self._down:
                    await self._flush()
                await self._store.close()
        except (SoftStoreError, TimeoutError) as error:
            log.warning("what changed last is not told to the other gateways: %s", str(error) or "no answer in time")

    async def take(self, node: Node) -> None:
        """Run by *node* from now on; another store is taken at the next start."""
        before, self._node = self._node, node
        if before.config.gateways != node.config.gateways and self._tasks:
            await self.stop()
            self._begin()

    def _running(self) -> Table:
        assert self._table is not None
        return self._table

    async def _kept_up(self, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do *work*, which never ends by itself, for ever, with a pause after each failure that is longer each time."""
        pause = FIRST_PAUSE
        while True:
            try:
                await work()
            except SoftStoreError as error:
                if what not in self._down:
                    pause = FIRST_PAUSE
                    self._fell(what, str(error))
                elif pause == FIRST_PAUSE:
                    self._tell("away", f"bindings are not shared, Redis cannot be used: {error}")
            except Exception:
                self._fell(what, "an error of ours")
                if self._brake.passes(what) is not None:
                    log.exception("bindings are not %s; it goes on", what)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _fell(self, what: str, why: str) -> None:
        if not self._down:
            self._tell("away", f"bindings are not shared any more, Redis is away: {why}")
        self._down.setdefault(what, time.monotonic())
        self.counts["lost"] += 1

    def _rose(self, what: str) -> None:
        since = self._down.pop(what, None)
        if since is not None and not self._down:
            away = time.monotonic() - since
            log.info("bindings are shared with the other gateways of %s (%.1f s)", self._node.gateway.site, away)

    def _tell(self, cause: str, text: str) -> None:
        held = self._brake.passes(cause)
        if held is not None:
            log.warning("%s%s", text, f" ({held} more since the last such line)" if held else "")

    # What changes here

    def tell(self, journal: bytes) -> None:
        """Records that the core has just given: they are written soon, and of one binding the last only."""
        if "written" in self._down and not self._filling:
            return  # all is written anew once that can be
        for record in records(journal):
            if record[0] in (MADE, REFRESHED) and are_row(record[1:]):
                row = Row(*record[1:])
                self._waiting[key_of(row.aor, row.contact, row.instance, row.reg_id)] = record
            elif record[0] == GONE and are_end(record[1:]):
                self._waiting[key_of(*record[1:5])] = record
        if len(self._waiting) > WAITING:
            self.note_gap()
        self._changed.set()

    def note_gap(self) -> None:
        """Changes were not told: everything is written anew."""
        self._waiting.clear()
        self._overrun = True
        self._changed.set()

    async def _write(self, table: Table) -> None:
        """Everything, then what changes; a sign of life when nothing does."""
        while True:
            await self._write_all(table)
            self._rose("written")
            while not self._overrun:
                await self._flush()
                try:
                    async with asyncio.timeout(BEAT):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def _write_all(self, table: Table) -> None:
        """Meanwhile changes gather, to be written afterwards: they are as new as the rows, or newer."""
        self._waiting.clear()
        self._overrun, self._filling = False, True
        name, after = self._node.gateway.name, 0
        try:
            await self._store.clear(name)
            while True:
                after, rows = table.bindings(after, SLICE)
                kept = {key_of(*row[:4]): row[: len(Row._fields)] for row in rows}
                await self._store.write(name, kept, (), (), self._lifetime)
                if not after:
                    break
                await asyncio.sleep(PAUSE)
            await self._store.announce(name)
        finally:
            self._filling = False

    async def _flush(self) -> None:
        """What waits, in one piece or several; nothing: a sign of life."""
        self._changed.clear()
        while True:
            some = {key: self._waiting.pop(key) for key in list(islice(self._waiting, SLICE))}
            rows = {key: record[1:] for key, record in some.items() if record[0] != GONE}
            gone = [key for key in some if key not in rows]
            await self._store.write(self._node.gateway.name, rows, gone, list(some.values()), self._lifetime)
            self.counts["told"] += len(some)
            if not self._waiting:
                return

    @property
    def _lifetime(self) -> float:
        agents = self._node.config.agents
        return OUTLIVE + (0 if agents is None else agents.max_expires)

    # What changes elsewhere

    async def _follow(self, table: Table) -> None:
        async with self._store.news() as news:
            now = last = time.monotonic()
            self._heard = dict.fromkeys((one.name for one in self._others()), now)
            self._silent.clear()
            for name in {*self._homes, *self._heard}:
                await self._read_all(table, name)
            self._rose("followed")
            while True:
                said = await news.next(BEAT / 2)
                now = time.monotonic()
                if said is not None:
                    last = now
                    await self._hear(table, *said)
                elif now - last > DEAF:
                    raise SoftStoreError("nothing is heard")
                await self._look_for_silence(table, now)
                if time.monotonic() - now > BEAT:  # what came meanwhile is still to be heard
                    self._heard = dict.fromkeys(self._heard, time.monotonic())

    async def _hear(self, table: Table, name: str, news: Sequence[Record] | None) -> None:
        if name == self._node.gateway.name:
            return
        if name not in self._heard:
            self._refuse(name, "no other gateway of this site has this name")
            return
        self._heard[name] = time.monotonic()
        if name in self._silent:
            self._silent.discard(name)
            await self._read_all(table, name)
            log.info("%s tells its bindings again", name)
        elif news is None:
            await self._read_all(table, name, complete=True)
        for number, record in enumerate(news or ()):
            await self._take(table, name, record)
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(PAUSE)

    async def _look_for_silence(self, table: Table, now: float) -> None:
        for name, heard in self._heard.items():
            if now - heard > SILENCE and name not in self._silent:
                self._silent.add(name)
                await self._read_all(table, name)
                log.warning("%s tells nothing of its bindings: its agents are called directly where that can be", name)

    async def _read_all(self, table: Table, name: str, *, complete: bool = False) -> None:
        """All bindings of one gateway as the store has them, in place of those that the core has.

        Unless the gateway has said that they are *complete*, none at all means that Redis has lost them: those that we
        know stay until it has written them anew.
        """
        fresh = set()
        if name in self._heard:
            async for page in self._store.rows(name):
                for row in page:
                    if await self._take(table, name, (MADE, *row)):
                        fresh.add(hash(key_of(*row[:4])))
                await asyncio.sleep(PAUSE)
        after = 0
        if name in self._heard and not fresh and not complete:
            return
        while True:
            after, rows = table.bindings(after, SLICE, self._home(name))
            for row in rows:
                if hash(key_of(*row[:4])) not in fresh:
                    await self._posted(table.end_shared, *row[:4], self._home(name))
            if not after:
                return
            await asyncio.sleep(PAUSE)

    async def _take(self, table: Table, name: str, record: Record) -> bool:
        """One record of a gateway; False: it cannot be trusted, its binding has ended, or there is no way to it."""
        kind, *fields = record
        home = self._home(name)
        try:
            if kind in (MADE, REFRESHED) and are_row(fields):
                row = Row(*fields)
                hop = self._hop(name, row)
                if hop is None:
                    return False
                await self._posted(table.share, row, home, hop)
            elif kind == GONE and are_end(fields):
                await self._posted(table.end_shared, *fields[:4], home)
            else:
                raise ValueError("it has another form than ours")
        except (ValueError, OverflowError, TypeError) as error:
            self._refuse(name, str(error))
            return False
        self.counts["heard"] += 1
        return bool(kind != GONE)

    async def _posted(self, letter: Callable[..., None], *content: Any) -> None:
        """Wait while the worker's mailbox is full: what waits then waits in Redis."""
        while True:
            try:
                return letter(*content)
            except BufferError:
                await asyncio.sleep(PAUSE)

    def _refuse(self, name: str, why: str) -> None:
        self.counts["refused"] += 1
        self._tell(f"refused {name}", f"a row of {name[:80]!r} in Redis is refused: {why}")

    def _others(self) -> Iterable[GatewayNode]:
        own = self._node.gateway
        return (one for one in self._node.config.gateways if one.site == own.site and one.name != own.name)

    def _home(self, name: str) -> int:
        if name not in self._homes:
            self._homes.append(name)
        return 1 + self._homes.index(name)

    def _hop(self, name: str, row: Row) -> str | None:
        """Where the core sends what is for *row*: to its gateway, or to the phone itself ("") while that one is gone.

        None: there is no way.
        """
        hop = hop_to(self._node.config.gateway(name), self._node.gateway.listen)
        if is_open(row) and (name in self._silent or not hop):
            return ""
        return hop or None

    # What is shown

    def status(self) -> dict[str, Any]:
        """As ``GET /api/v1/agents`` shows it: see docs/agents.md."""
        since = min(self._down.values(), default=None)
        return {
            "away": None if since is None else round(time.monotonic() - since, 1),
            "bindings": self._known(),
            "silent": sorted(self._silent),
        }

    def statistics(self) -> dict[str, int]:
        """For the metrics."""
        return {"up": not self._down, "bindings": self._known(), **self.counts}

    def _known(self) -> int:
        """Bindings of other gateways."""
        return 0 if self._table is None else int(self._table.statistics()["shared_bindings"])


def opened(node: Node) -> SoftStore:
    """The store that *node* shares its bindings in.

    :raises UsageError: what it is spoken to with is not installed.
    """
    url, config = node.config.store.soft, node.config
    store: SoftStore = plugins.load(plugins.SOFT, url.partition(":")[0])(url, config.platform.name, node.gateway.site)
    return store


def is_open(row: Row) -> bool:
    """Whether the phone can be reached by datagrams from anywhere in its network: what it calls itself is what it was
    seen as."""
    if row.stream or row.path:
        return False
    host = f"[{row.ip}]" if ":" in row.ip else row.ip
    where = row.contact.removeprefix("sip:").rpartition("@")[2].partition(";")[0].partition("?")[0]
    return bool(row.flags & BY_CONTACT) or where == f"{host}:{row.port}" or (where == host and row.port == 5060)


def hop_to(gateway: GatewayNode, ours: Sequence[Endpoint]) -> str:
    """Where *gateway* is reached from our listeners, as a URI has it: by the best transport, in the nearest network.

    Empty: nowhere, for there is no transport that both speak at an address that is known.
    """
    ways = [
        (tuple(TRANSPORTS).index(here.transport), _distance(here.host, host), f"{host}:{there.port}")
        for there in gateway.listen
        if there.transport in TRANSPORTS and (host := _host_of(gateway, there))
        for here in ours
        if here.transport == there.transport and (":" in here.host) == (":" in host)
    ]
    if not ways:
        return ""
    transport, _, hostport = min(ways)
    return hostport + list(TRANSPORTS.values())[transport]


def _host_of(gateway: GatewayNode, there: Endpoint) -> str:
    """The address of a listener as a URI has it; behind a wildcard the advertised one, if that is an address."""
    host = there.host
    if ipaddress.ip_address(host).is_unspecified:
        address = as_address(split_advertise(gateway.advertise)[0])
        if address is None:
            return ""
        host = str(address)
    return f"[{host}]" if ":" in host else host


def _distance(here: str, there: str) -> int:
    """In how many bits at the end two addresses of one family differ."""
    one, other = (int(ipaddress.ip_address(host.strip("[]"))) for host in (here, there))
    return (one ^ other).bit_length()
