# SPDX-License-Identifier: Apache-2.0
"""HAProxy as a daemon of the tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence

from processes import Child
from tiers.daemons_common import Yard, free_port, require

from ubisip.health.haproxy import Server, servers_of, statistics

HEAD = """
global
    stats socket {socket} mode 600 level admin
    maxconn 500
defaults
    mode {mode}
    retries 0
    timeout connect 500ms
    timeout client 5s
    timeout server 5s
    timeout check 500ms
frontend front
    bind 127.0.0.1:{port}
    default_backend {backend}
backend {backend}
    balance roundrobin
"""


class Haproxy:
    """One HAProxy with one backend; *servers* are its lines, whole, without the word ``server``."""

    def __init__(self, yard: Yard, backend: str, servers: Sequence[str], mode: str = "tcp", more: str = "") -> None:
        require("haproxy")
        self.port = free_port()
        self.backend = backend
        self._yard = yard
        self.socket = str(yard.directory / f"haproxy-{self.port}.sock")
        text = HEAD.format(socket=self.socket, mode=mode, port=self.port, backend=backend)
        lines = "".join(f"    server {one}\n" for one in servers)
        self._config = yard.write(f"haproxy-{self.port}.cfg", text + more + lines)
        self.child = self.start()

    def start(self) -> Child:
        """Start it, or start it again after a kill."""
        command = self._yard.command("haproxy", "-db", "-f", str(self._config))
        self.child = self._yard.run("haproxy", command)
        return self._yard.until(self.child, self._answers)

    def _answers(self) -> bool:
        """It takes commands. A connection to its port would already be a session with one of its servers."""
        with socket.socket(socket.AF_UNIX) as one:
            return one.connect_ex(self.socket) == 0

    def states(self) -> dict[str, str]:
        """Each server's state by the operator's word."""
        found = asyncio.run(servers_of(self.socket, self.backend, 2))
        return {name: one.state for name, one in found.items()}

    def servers(self) -> Mapping[str, Server]:
        return asyncio.run(servers_of(self.socket, self.backend, 2))

    def status(self) -> dict[str, str]:
        """Each server's status as ``show stat`` has it."""
        return {name: row["status"] for name, row in self._rows().items()}

    def usable(self) -> int:
        """Servers that get new connections."""
        return int(self._rows()["BACKEND"]["act"])

    def effective_weights(self) -> dict[str, int]:
        """What each server weighs now, a ramp included."""
        return {name: int(row["weight"]) for name, row in self._rows().items()}

    def _rows(self) -> dict[str, Mapping[str, str]]:
        rows = asyncio.run(statistics(self.socket, 2))
        return {row["svname"]: row for row in rows if row["pxname"] == self.backend}
