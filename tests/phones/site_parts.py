# SPDX-License-Identifier: Apache-2.0
"""Both sites with real parts: a gateway in each, six Kamailios as telephony servers, agents' phones."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from certificates import write_certificate
from processes import ADMIN_PORT, Child, Gateway, Place, is_bound, wait_until
from wire import entry

from ubisip import keys

HERE = Path(__file__).parent
REALM = "ubisip.test"
RPC_PORT = 8090
USERS = {"1001": "first", "1002": "second", "1003": "third"}
SERVERS = range(1, 7)
"""The first three stand in PA2, the others in PA5."""


class Server:
    """A Kamailio in the place of a telephony server; it keeps its registrations in memory only."""

    def __init__(self, place: Place, number: int) -> None:
        self.number = number
        self.address = place.server(number)
        self._place = place
        self._child: Child | None = None
        host, port = self.address
        text = (HERE / "kamailio-server.cfg").read_text()
        text = text.replace("LISTEN", f"{host}:{port}").replace("RPC", f"{host}:{RPC_PORT}")
        self._config = place.directory / f"tel{number}.cfg"
        self._config.write_text(text.replace("GATEWAYS", f"{place.network}.2.".replace(".", "\\.")))

    def launch(self) -> None:
        """Begin to start it; :attr:`ready` tells when it is done."""
        work = str(self._place.directory)
        options = ["-DD", "-f", str(self._config), "-m", "32", "-Y", work, "-w", work]
        self._child = self._place.run(f"tel{self.number}", ["kamailio", *options])

    @property
    def ready(self) -> bool:
        """It listens.

        :raises AssertionError: it has ended instead.
        """
        assert self._child is not None, "not started"
        assert self._child.running, self._child.words()
        return is_bound(self.address) and is_bound((self.address[0], RPC_PORT))

    def start(self) -> None:
        """Start it, empty, and wait until it listens."""
        self.launch()
        wait_until(lambda: self.ready, f"server {self.number} to listen")

    def kill(self) -> None:
        """SIGKILL: what was registered is forgotten."""
        assert self._child is not None, "not started"
        self._child.kill()

    def words(self) -> str:
        """What it wrote, to explain a failure."""
        return self._child.words() if self._child else ""

    def rpc(self, method: str, *parameters: str) -> Any:
        """The result of a command, None when there is none."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(5)
            one.connect((self.address[0], RPC_PORT))
            request = {"jsonrpc": "2.0", "method": method, "params": parameters, "id": 1}
            one.send(json.dumps(request).encode())
            return json.loads(one.recv(65535)).get("result")

    def contacts(self, user: str) -> list[dict[str, Any]]:
        """What is registered for *user*, as ``ul.lookup`` gives it, by reg-id."""
        found = self.rpc("ul.lookup", "location", user) or {"Contacts": []}
        return sorted((row["Contact"] for row in found["Contacts"]), key=lambda contact: int(contact["Reg-Id"]))

    def count(self, statistic: str) -> int:
        """One of its statistics, such as ``location_contacts``."""
        (line,) = self.rpc("stats.get_statistics", statistic)
        return int(line.partition("=")[2])

    def knows(self, user: str, flows: int) -> bool:
        """Whether it has so many contacts of *user*."""
        return len(self.contacts(user)) == flows


class Sites:
    """A platform of two sites: gateway ``gw1`` in PA2, ``gw2`` in PA5, and its servers."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.pa2 = self._gateway(1)
        self.pa5 = self._gateway(2)
        self.servers: list[Server] = []
        self.users = place.directory / "users.csv"

    def _gateway(self, number: int) -> Gateway:
        return Gateway(self.place, f"gw{number}", f"{self.place.gateway(number)[0]}:{ADMIN_PORT}")

    @property
    def gateways(self) -> tuple[Gateway, Gateway]:
        return self.pa2, self.pa5

    def proxies(self, transport: str = "udp") -> list[str]:
        """The outbound proxy of each site."""
        hosts = [self.place.gateway(number)[0] for number in (1, 2)]
        return [f"sip:{host}:{5061 if transport == 'tls' else 5060};transport={transport};lr" for host in hosts]

    def set_passwords(self, users: Mapping[str, str]) -> None:
        """Replace the file of credentials, as an editor does."""
        new = self.users.with_suffix(".new")
        new.write_text("".join(f"{name};{password}\n" for name, password in users.items()))
        new.rename(self.users)

    def write(
        self,
        *listeners: str,
        servers: Sequence[int] = SERVERS,
        interval: float = 0.5,
        second: str = "PA5",
        soft: str = "",
        **agents: object,
    ) -> None:
        """Write the configuration: *listeners* stand beside UDP and TCP, *agents* are keys of the table of that name.

        ``HOST`` in a listener is the address of its gateway, as in ``tls:HOST:5061``. Servers that are up are probed
        every *interval* seconds. *second* is the site of the second gateway, *soft* the Redis that a site shares.
        """
        place = self.place
        self.servers = [Server(place, number) for number in servers]
        self.set_passwords(USERS)
        tables = [entry("[platform]", {"name": "test", "key_file": "cluster.key", "state_dir": "state"})]
        tables.append("[sites.PA2]\n[sites.PA5]\n")
        for number, site in (1, "PA2"), (2, "PA5"):
            host, port = place.carrier(number)
            carrier = {"name": f"sbc{number}", "centre": f"centre{number}", "site": site, "uri": f"sip:{host}:{port}"}
            tables.append(entry("[[carriers]]", carrier))
            host, port = place.gateway(number)
            listen = [f"udp:{host}:{port}", f"tcp:{host}:{port}", *(text.replace("HOST", host) for text in listeners)]
            stands = site if number == 1 else second
            values = {"name": f"gw{number}", "site": stands, "listen": listen, "admin": f"{host}:{ADMIN_PORT}"}
            tables.append(entry("[[gateways]]", values))
        for number in servers:
            host, port = place.server(number)
            site = "PA2" if number <= 3 else "PA5"
            tables.append(entry("[[servers]]", {"name": f"tel{number}", "site": site, "uri": f"sip:{host}:{port}"}))
        times = {"interval": interval, "fast_interval": 0.1, "down_interval": 0.2, "timeout": 0.5, "slow_start": 0.0}
        tables.append(entry("[health.sip]", {**times, "rise": 1, "fall": 2}))
        tables.append(entry("[store]", {"soft": soft}))
        values = {"realm": REALM, "domains": [REALM], "credentials": "file:users.csv", "mirror": "platform", **agents}
        tables.append(entry("[agents]", values))
        if any(text.startswith(("tls:", "wss:")) for text in listeners):
            certificate, key = self.write_certificate()
            tables.append(entry("[tls]", {"certificate": certificate, "key": key}))
        place.config.write_text("\n".join(tables))
        if not (place.directory / "cluster.key").exists():
            keys.create(place.directory / "cluster.key")

    def write_certificate(self) -> tuple[str, str]:
        """A new certificate of both gateways and its key, in the place of those there were."""
        hosts = [self.place.gateway(number)[0] for number in (1, 2)]
        return write_certificate(self.place.directory, "gateway", *hosts)

    def start(self) -> None:
        """Start the servers and both gateways; wait until the gateways see the servers up."""
        for part in (*self.servers, *self.gateways):
            part.launch()
        wait_until(lambda: all(part.ready for part in (*self.servers, *self.gateways)), "all parts to be ready")
        names = [f"tel{server.number}" for server in self.servers]
        wait_until(lambda: all(gateway.sees("up", *names) for gateway in self.gateways), "servers to be seen up")

    def knows(self, user: str, flows: int, servers: Sequence[Server] | None = None) -> bool:
        """Whether each server (default: all) has so many contacts of *user*."""
        return all(server.knows(user, flows) for server in servers or self.servers)

    def words(self) -> str:
        """What gateways and servers wrote, to explain a failure."""
        return "\n".join([gateway.log()[-2000:] for gateway in self.gateways] + [one.words() for one in self.servers])
