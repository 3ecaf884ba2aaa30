# SPDX-License-Identifier: Apache-2.0
"""The database tier of a small platform in real processes: four servers, HAProxy, gateways that watch over them,
applications that write, and the ledger that all is held against."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import certificates
from processes import Place
from tiers.mariadb_ledger import Ledger, Proxy, Writers, check_everywhere
from tiers.mariadb_rig import PASSWORD, USER, Databases, Server, free_hosts

PLATFORM = """
[platform]
name = "test"
key_file = "cluster.key"
state_dir = "{state}"
[sites.PA2]
[sites.PA5]
{sites}
{gateways}
[[servers]]
name = "tel1"
site = "PA2"
uri = "sip:{server}:5060"
[store]
url = "{store}"
[tiers.database]
kind = "mariadb"
mode = "automatic"
user = "{user}"
password_file = "db.password"
members = [
{members}
]
on_dead_primary = ["mariadb-promote", "haproxy"]
{more}
[actions.haproxy]
sockets = {sockets}
backend = "database"
"""
TLS = """
[tiers.database.parameters]
tls = "on"
ca_file = "{ca_file}"
[actions.mariadb-promote]
replication_tls = true
replication_ca = "{ca_file}"
[actions.mariadb-rejoin]
replication_tls = true
replication_ca = "{ca_file}"
"""
FENCE = """#!/bin/sh
# fence NAME: SIGKILL its process. What hangs (a file of its name says so) is not reached.
[ ! -e "{directory}/hung-$1" ] || exit 1
pid=$(cat "{directory}/databases/$1/data/pid") && kill -KILL "$pid" 2>/dev/null
exit 0
"""


class World:
    """All of it, in one network of its own within 127.0.0.0/8."""

    def __init__(
        self,
        place: Place,
        template: Path,
        *,
        more: str = "",
        gateways: Sequence[str] = ("PA2",),
        sites: Sequence[str] = (),
        store: str = "",
        fence: bool = False,
        hosts: Sequence[str] = (),
        prefixes: Sequence[Sequence[str]] = (),
        proxy: str = "",
        only: Sequence[str] = (),
        tls: bool = False,
    ) -> None:
        """*only*: the databases that there are; else all four. *tls*: they take no connection in the clear."""
        self.place = place
        self.directory = place.directory
        hosts = hosts or free_hosts(place.network)
        proxy = proxy or f"{hosts[0].rpartition('.')[0]}.9"
        files = self._certificates(*hosts, proxy) if tls else None
        self.databases = Databases(place.directory / "databases", template, hosts, prefixes, files)
        self.databases.keep(only)
        self.proxy = Proxy(place.directory, proxy, self.databases)
        more += TLS.format(ca_file=files[2]) if files else ""
        self.ledger = Ledger()
        self.gateways = [place.new_gateway(number) for number in range(1, len(gateways) + 1)]
        self.watches: list[asyncio.Task[None]] = []
        store = store or f"sqlite:{place.directory / 'store.db'}"
        self._configure(more + (self._fence() if fence else ""), gateways, sites, store)

    def _certificates(self, *hosts: str) -> tuple[str, str, str]:
        files = certificates.write_certificate(self.directory, "database", *hosts)
        return (*files, certificates.write_authority(self.directory))

    def _configure(self, more: str, gateways: Sequence[str], sites: Sequence[str], store: str) -> None:
        place = self.place
        place.write()
        (place.directory / "db.password").write_text(PASSWORD)
        members = "\n".join(
            f'  {{ name = "{one.name}", site = "{one.site}", address = "{one.address}" }},'
            for one in self.databases.servers
        )
        tables = "\n".join(
            f'[[gateways]]\nname = "gw{number}"\nsite = "{site}"\nlisten = ["udp:{place.gateway(number)[0]}:5060"]\n'
            f'admin = "{place.admin(number)}"'
            for number, site in enumerate(gateways, 1)
        )
        place.config.write_text(
            PLATFORM.format(
                state=place.directory / "state", sites="\n".join(f"[sites.{site}]" for site in sites), gateways=tables,
                server=place.server()[0], store=store, user=USER, members=members, more=more,
                sockets=json.dumps([self.proxy.socket]),
            )
        )  # fmt: skip

    def _fence(self) -> str:
        script = self.directory / "fence"
        script.write_text(FENCE.format(directory=self.directory))
        script.chmod(0o755)
        command = json.dumps([str(script), "{name}"])
        return "\n".join(f"[actions.mariadb-{name}]\nfence = {command}" for name in ("promote", "rejoin"))

    def hang(self, name: str, hangs: bool = True) -> None:
        """The machine of *name* cannot be reached by the fence command, or can again."""
        mark = self.directory / f"hung-{name}"
        mark.touch() if hangs else mark.unlink(missing_ok=True)

    async def start(self, first: int = 0) -> None:
        """Start all, the gateway *first* so that it leads, and wait until they find the tier healthy."""
        await self.databases.start()
        self.proxy.start()
        for gateway in sorted(self.gateways, key=lambda it: it is not self.gateways[first]):
            await asyncio.to_thread(gateway.start)
            await self.until_verdict("healthy", number=self.gateways.index(gateway))

    def supervise(self, *servers: Server, delay: float = 0.5) -> None:
        """Start these again *delay* seconds after each of their deaths, as systemd would."""
        self.watches += [asyncio.create_task(self._supervise(one, delay)) for one in servers]

    @staticmethod
    async def _supervise(one: Server, delay: float) -> None:
        while True:
            if not one.running:
                await asyncio.sleep(delay)
                one.launch()
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Writers]:
        """Applications write through HAProxy meanwhile."""
        parameters = self.databases.primary.parameters
        async with Writers(self.proxy.address, self.ledger, parameters=parameters) as writers:
            yield writers

    # What the gateways say

    async def tiers(self, number: int = 0) -> Mapping[str, Any]:
        """All that a gateway tells of its tiers."""
        text = await asyncio.to_thread(self.gateways[number].get, "/api/v1/tiers")
        found: Mapping[str, Any] = json.loads(text)
        return found

    async def row(self, number: int = 0) -> Mapping[str, Any]:
        """What a gateway tells of the database tier."""
        row: Mapping[str, Any] = (await self.tiers(number))["tiers"][0]
        return row

    async def until_row(
        self, condition: Callable[[Mapping[str, Any]], bool], what: str, timeout: float = 30.0, number: int = 0
    ) -> Mapping[str, Any]:
        deadline = time.monotonic() + timeout
        while not condition(row := await self.row(number)):
            assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {what}: {row['verdict']} {row['why']}"
            await asyncio.sleep(0.05)
        return row

    async def until_verdict(self, *codes: str, timeout: float = 30.0, number: int = 0) -> Mapping[str, Any]:
        return await self.until_row(lambda row: row["verdict"] in codes, " or ".join(codes), timeout, number)

    async def plans(self, number: int = 0) -> list[tuple[str, str]]:
        """Cause and end of every plan, the first first."""
        found = [(it["cause"], it["progress"]) for it in (await self.tiers(number))["plans"]]
        return found

    async def primary(self) -> Server:
        """The one server that is writable."""
        found = [one for one in self.databases.servers if one.running and not (await one.facts())["read_only"]]
        assert len(found) == 1, [one.name for one in found]
        return found[0]

    def index(self, name: str) -> int:
        """Which member of the file it is."""
        return [one.name for one in self.databases.servers].index(name)

    async def check_rows(self) -> Server:
        """Hold the rows of every server against the ledger: nothing acknowledged is lost or there twice."""
        primary = await self.primary()
        await check_everywhere(self.ledger, self.databases, primary)
        return primary

    async def check(self) -> Server:
        """:meth:`check_rows`, and no server acknowledged after another had begun to."""
        primary = await self.check_rows()
        order = self.ledger.handovers()
        assert len(order) == len(set(order)), f"servers acknowledged in turns: {order}"
        return primary

    def told(self) -> str:
        """What the gateways logged, to explain a failure."""
        return "\n".join(gateway.log()[-60000:] for gateway in self.gateways if gateway.child is not None)

    async def close(self) -> None:
        for watch in self.watches:
            watch.cancel()
        await asyncio.gather(*self.watches, return_exceptions=True)
        self.proxy.close()
        self.databases.close()
