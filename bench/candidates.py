# SPDX-License-Identifier: Apache-2.0
"""The programs compared: each is built or configured in a directory and is then one command to start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import sipp

PEERS = Path(__file__).resolve().parent / "peers"


@dataclass(frozen=True)
class Place:
    """Where a candidate stands: what it is told of the others."""

    directory: Path
    listen: str = f"{sipp.GATEWAY}:{sipp.PORT}"
    caller: str = f"{sipp.CALLER}:{sipp.PORT}"
    servers: Sequence[str] = tuple(f"{host}:{sipp.PORT}" for host in sipp.server_addresses(6))


Prepare = Callable[[Place], list[str]]
"""Builds and configures a candidate in its place and returns the command that runs it in the foreground."""


def relay(place: Place) -> list[str]:
    """A bare UDP relay that parses nothing: the floor."""
    binary = place.directory / "relay"
    subprocess.run(["cc", "-O2", "-o", str(binary), str(PEERS / "relay.c")], check=True)
    return [str(binary), place.listen, place.caller, *place.servers]


def kamailio(place: Place, allocator: str = "tlsf") -> list[str]:
    """Kamailio, stateful, one worker, next server on failure."""
    servers = place.directory / "servers.list"
    servers.write_text("".join(f"1 sip:{server}\n" for server in place.servers))
    text = (PEERS / "kamailio.cfg").read_text()
    words = {"LISTEN": place.listen, "CHILDREN": "1", "SERVERS": str(servers), "MODULES": kamailio_modules()}
    for word, value in words.items():
        text = text.replace(f"={word}", f"={value}").replace(f'"{word}"', f'"{value}"').replace(f":{word}", f":{value}")
    config = place.directory / "kamailio.cfg"
    config.write_text(text)
    memory = ["-m", "1024", "-M", "64", "-x", allocator, "-X", allocator]
    return ["kamailio", "-DD", "-f", str(config), *memory, "-Y", str(place.directory), "-w", str(place.directory)]


def kamailio_qm(place: Place) -> list[str]:
    """Kamailio as Debian starts it, with its debugging allocator."""
    return kamailio(place, "qm")


def kamailio_modules() -> str:
    """The directory of Kamailio's modules.

    :raises RuntimeError: they are in none of the usual places.
    """
    for pattern in ("lib/*/kamailio/modules", "lib64/kamailio/modules", "local/lib*/kamailio/modules"):
        for found in Path("/usr").glob(pattern):
            return f"{found}/"
    raise RuntimeError("Kamailio's modules are not under /usr/lib/*/kamailio/modules; is it installed?")


def ubisip(place: Place) -> list[str]:
    """This project, one gateway with one worker and the default configuration."""
    return [sys.executable, "-m", "ubisip.proxy", "--config", str(platform_file(place)), "--node", "bench"]


def platform_file(place: Place, extra: str = "") -> Path:
    """The configuration file of :func:`ubisip`; *extra* is added at its end."""
    text = PLATFORM.format(listen=place.listen, caller=place.caller, state=place.directory / "state")
    for number, server in enumerate(place.servers):
        text += SERVER.format(number=number + 1, address=server)
    config = place.directory / "platform.toml"
    config.write_text(text + extra)
    return config


PLATFORM = """[platform]
name = "bench"
environment = "bench"
state_dir = "{state}"

[sites.PA2]

[[carriers]]
name = "sbc-1"
centre = "montsouris"
site = "PA2"
uri = "sip:{caller}"

[[gateways]]
name = "bench"
site = "PA2"
listen = ["udp:{listen}"]
"""

SERVER = """
[[servers]]
name = "tel{number}"
site = "PA2"
uri = "sip:{address}"
"""

CANDIDATES: dict[str, Prepare] = {
    "relay": relay,
    "kamailio": kamailio,
    "kamailio-qm": kamailio_qm,
    "ubisip": ubisip,
}
