# SPDX-License-Identifier: Apache-2.0
"""A whole platform on 127.0.0.0/8: its parts, its configuration file, its key ring."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ubisip import keys
from ubisip.lab.udp import Address

SIP_PORT = 5060
ADMIN_PORT = 8080
SITES = {"PA2": "montsouris", "PA5": "aubervilliers"}
"""Each site and the carrier centre that is linked to it."""
SBCS = 2
"""SBCs of a centre."""
SERVERS = 3
"""Telephony servers of a site."""
DOMAIN = "ubisip.lab"
"""Realm and domain of the agents."""
PASSWORD = "lab"
HEALTH = """\
interval = 1.0
fast_interval = 0.5
down_interval = 1.0
timeout = 0.5
rise = 2
slow_start = 5.0
"""
"""Quicker than the defaults: the demo lasts a minute."""


@dataclass(frozen=True, slots=True)
class Part:
    """An SBC, a gateway or a telephony server."""

    name: str
    site: str
    address: Address

    @property
    def host(self) -> str:
        """Its IPv4 address."""
        return self.address[0]

    @property
    def sip(self) -> str:
        """``address:port`` of its SIP."""
        return f"{self.host}:{self.address[1]}"

    @property
    def admin(self) -> str:
        """``address:port`` of a gateway's HTTP."""
        return f"{self.host}:{ADMIN_PORT}"


@dataclass(frozen=True, slots=True)
class LabPlatform:
    """Four SBCs, the gateways of both sites, six servers, and agents' phones: each has an address of its own."""

    sbcs: tuple[Part, ...]
    gateways: tuple[Part, ...]
    servers: tuple[Part, ...]
    phones: tuple[Part, ...] = ()

    @classmethod
    def build(cls, gateways: int = 2, network: str = "127.0", phones: int = 0) -> LabPlatform:
        """*gateways* a site, on the addresses *network*.1.x (SBCs), .2.x (gateways), .3.x (servers), .4.x (phones)."""
        return cls(
            sbcs=_parts(f"{network}.1", SBCS, "sbc-{number}"),
            gateways=_parts(f"{network}.2", gateways, "{site}-gw{position}"),
            servers=_parts(f"{network}.3", SERVERS, "{site}-tel{position}"),
            phones=tuple(
                Part(f"agent{number}", list(SITES)[number % len(SITES)], (f"{network}.4.{number}", SIP_PORT))
                for number in range(1, phones + 1)
            ),
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every part."""
        return self.sbcs + self.gateways + self.servers + self.phones

    def near(self, parts: Iterable[Part], site: str) -> tuple[list[Address], list[Address]]:
        """The addresses of those of *parts* that stand in *site*, and of the others."""
        parts = list(parts)
        return [p.address for p in parts if p.site == site], [p.address for p in parts if p.site != site]

    def text(self) -> str:
        """The configuration file (DESIGN section 10)."""
        tables = ['[platform]\nname = "demo"\nenvironment = "lab"\nkey_file = "cluster.key"\nstate_dir = "state"\n']
        tables += [f"[sites.{site}]\n" for site in SITES]
        tables += [
            f'[[carriers]]\nname = "{sbc.name}"\ncentre = "{SITES[sbc.site]}"\n'
            f'site = "{sbc.site}"\nuri = "sip:{sbc.sip}"\n'
            for sbc in self.sbcs
        ]
        tables += [
            f'[[gateways]]\nname = "{gateway.name}"\nsite = "{gateway.site}"\n'
            f'listen = ["udp:{gateway.sip}"]\nadmin = "{gateway.admin}"\n'
            for gateway in self.gateways
        ]
        tables += [
            f'[[servers]]\nname = "{server.name}"\nsite = "{server.site}"\nuri = "sip:{server.sip}"\n'
            for server in self.servers
        ]
        if self.phones:
            tables.append(
                f'[agents]\nrealm = "{DOMAIN}"\ndomains = ["{DOMAIN}"]\n'
                'credentials = "file:users.csv"\nmirror = "platform"\n'
            )
        tables.append(f"[health.sip]\n{HEALTH}")
        return "\n".join(tables)

    def write(self, folder: Path) -> Path:
        """Write ``platform.toml`` and its key ring into *folder*; returns the former.

        :raises OSError: the folder cannot be written.
        """
        file = folder / "platform.toml"
        file.write_text(self.text())
        keys.create(folder / "cluster.key")
        if self.phones:
            (folder / "users.csv").write_text("".join(f"{phone.name};{PASSWORD}\n" for phone in self.phones))
        return file

    def is_free(self) -> bool:
        """Whether all addresses can be bound now."""
        return all(_is_free(part.address) for part in self.parts) and all(
            _is_free((gateway.host, ADMIN_PORT), socket.SOCK_STREAM) for gateway in self.gateways
        )


def free_platform(gateways: int = 2, phones: int = 0) -> LabPlatform:
    """A platform on the first network of 127.0, 127.1 ... 127.254 whose addresses are all free.

    :raises OSError: there is none.
    """
    for number in range(255):
        platform = LabPlatform.build(gateways, f"127.{number}", phones)
        if platform.is_free():
            return platform
    raise OSError("no network in 127.0.0.0/8 has all the addresses of the platform free")


def _parts(network: str, per_site: int, name: str) -> tuple[Part, ...]:
    """The parts of each site in turn, named by site, position in it and number over all."""
    places = [(site, position) for site in SITES for position in range(1, per_site + 1)]
    return tuple(
        Part(name.format(site=site.lower(), position=position, number=number), site, (f"{network}.{number}", SIP_PORT))
        for number, (site, position) in enumerate(places, 1)
    )


def _is_free(address: Address, kind: socket.SocketKind = socket.SOCK_DGRAM) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            return False
    return True
