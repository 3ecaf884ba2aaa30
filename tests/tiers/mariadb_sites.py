# SPDX-License-Identifier: Apache-2.0
"""The database tier over three sites in network namespaces: two data centres, a witness, and the applications."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from namespaces import Ethernet
from processes import Address, Gateway, Place
from tiers.mariadb_world import World

NETWORK = "198.18.4"
SITES = ("PA2", "PA5", "W")
GATEWAYS = {"PA2": 1, "PA5": 2, "W": 3}
"""The last octet of the gateway of each site, and of its etcd."""
DATABASES = {"PA2": (11, 12), "PA5": (13, 14), "W": ()}
MACHINES = {"PA2": (1,), "PA2-db": (11, 12), "PA5": (2,), "PA5-db": (13, 14), "W": (3,)}
PROXY = 21
HUB = 254
ETCD = 2379


def at(octet: int) -> str:
    return f"{NETWORK}.{octet}"


class Sites(Place):
    """Two machines a site, gateway and databases, all on one Ethernet; we stand at its hub, as the applications do."""

    def __init__(self, directory: Path, network: Ethernet) -> None:
        super().__init__(directory, NETWORK)
        self.ethernet = network
        network.give(at(HUB))
        network.give(at(PROXY))
        for machine, octets in MACHINES.items():
            network.join(machine)
            for octet in octets:
                network.give(at(octet), machine)

    @staticmethod
    def octets(site: str) -> tuple[int, ...]:
        return (GATEWAYS[site], *DATABASES[site])

    def gateway(self, number: int = 1) -> Address:
        return at(number), 5060

    def server(self, number: int = 1) -> Address:
        return at(200 + number), 5060

    def admin(self, number: int = 1) -> str:
        return "127.0.0.1:8080"

    def cut(self, site: str, other: str) -> None:
        """Nothing passes between two sites, in silence."""
        far = ", ".join(map(at, self.octets(other)))
        self._rules(site, f"ip saddr {{ {far} }} drop", f"ip daddr {{ {far} }} drop")

    def isolate(self, site: str) -> None:
        """Nothing passes between *site* and anybody, the applications included."""
        own = ", ".join(["127.0.0.0/8", *map(at, self.octets(site))])
        self._rules(site, f"ip saddr != {{ {own} }} drop", f"ip daddr != {{ {own} }} drop")

    def hide(self, site: str, address: str, others: Sequence[str]) -> None:
        """Nothing passes between one *address* of *site* and those *others*."""
        far = ", ".join(others)
        self._rules(
            site, f"ip daddr {address} ip saddr {{ {far} }} drop", f"ip saddr {address} ip daddr {{ {far} }} drop"
        )

    def heal(self, site: str) -> None:
        """Everything passes again."""
        for machine in machines(site):
            self._nft(machine, "delete table inet cut")

    def _rules(self, site: str, into: str, out: str) -> None:
        for machine in machines(site):
            self._nft(machine, "add table inet cut")
            for hook, rule in (("input", into), ("output", out)):
                self._nft(machine, f"add chain inet cut {hook} {{ type filter hook {hook} priority 0; }}")
                self._nft(machine, f"add rule inet cut {hook} {rule}")

    def _nft(self, machine: str, rule: str) -> None:
        subprocess.run([*self.ethernet.prefix(machine), "nft", rule], check=True, capture_output=True)


def machines(site: str) -> list[str]:
    """The machines of a site."""
    return [name for name in MACHINES if name.split("-")[0] == site]


class Etcd:
    """Three members, one a site."""

    def __init__(self, place: Sites) -> None:
        self.place = place
        self.url = "etcd:" + ",".join(f"http://{at(GATEWAYS[site])}:{ETCD}" for site in SITES)
        self._commands = {site: self._command(site) for site in SITES}
        self.children = {site: place.run(f"etcd-{site}", command) for site, command in self._commands.items()}

    def _command(self, site: str) -> list[str]:
        peers = ",".join(f"{it}=http://{at(GATEWAYS[it])}:{ETCD + 1}" for it in SITES)
        client, peer = f"http://{at(GATEWAYS[site])}:{ETCD}", f"http://{at(GATEWAYS[site])}:{ETCD + 1}"
        return [
            *self.place.ethernet.prefix(site), "etcd", "--name", site, "--pre-vote",
            "--data-dir", str(self.place.directory / f"etcd-{site}"),
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", peers, "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "warn",
        ]  # fmt: skip

    async def until_led_by(self, site: str) -> None:
        """Wait for a leader, and make it the member of *site*."""
        deadline = asyncio.get_running_loop().time() + 30
        while asyncio.get_running_loop().time() < deadline:
            try:
                leader, wanted = await asyncio.to_thread(self._leader, site)
            except OSError:
                leader, wanted = "0", ""
            if leader == wanted:
                return
            for it in SITES:
                try:
                    await asyncio.to_thread(self._ask, it, "maintenance/transfer-leadership", {"targetID": wanted})
                except OSError:
                    continue
            await asyncio.sleep(0.2)
        raise AssertionError(f"the etcd of {site} does not lead")

    def _leader(self, site: str) -> tuple[str, str]:
        status = self._ask(site, "maintenance/status", {})
        return str(status.get("leader", "0")), str(status["header"]["member_id"])

    @staticmethod
    def _ask(site: str, path: str, body: dict[str, object]) -> dict[str, dict[str, str]]:
        request = urllib.request.Request(
            f"http://{at(GATEWAYS[site])}:{ETCD}/v3/{path}", json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=2) as answer:
            found: dict[str, dict[str, str]] = json.loads(answer.read())
            return found

    def kill(self) -> None:
        """All of them, at once."""
        for child in self.children.values():
            child.kill()

    def launch(self) -> None:
        """Start all again, with what they had."""
        for site, command in self._commands.items():
            self.children[site] = self.place.run(f"etcd-{site}-again", command)


async def platform(place: Sites, template: Path, *, leader: str = "W", etcd_leader: str = "") -> tuple[World, Etcd]:
    """The whole, healthy; the gateway of *leader* leads, and the etcd of that site or of *etcd_leader*."""
    etcd = Etcd(place)
    hosts = [at(octet) for site in ("PA2", "PA5") for octet in DATABASES[site]]
    prefixes = [place.ethernet.prefix(site) for site in ("PA2-db", "PA2-db", "PA5-db", "PA5-db")]
    world = World(
        place, template, gateways=SITES, sites=("W",), store=etcd.url, fence=True, hosts=hosts, prefixes=prefixes,
        proxy=at(PROXY),
    )  # fmt: skip
    world.gateways = [SiteGateway(place, site) for site in SITES]
    await etcd.until_led_by(etcd_leader or leader)
    await world.start(first=SITES.index(leader))
    told = await world.tiers(SITES.index(leader))
    assert told["leads"], f"{told['leader']} leads"
    return world, etcd


class SiteGateway(Gateway):
    """A gateway whose HTTP is on the loopback of its own machine."""

    def __init__(self, place: Sites, site: str) -> None:
        super().__init__(place, f"gw{GATEWAYS[site]}", place.admin(), place.ethernet.prefix(site))
        self._ethernet, self._site = place.ethernet, site

    def get(self, path: str) -> str:
        with self._ethernet.inside(self._site):
            return super().get(path)
