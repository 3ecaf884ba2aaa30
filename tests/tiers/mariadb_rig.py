# SPDX-License-Identifier: Apache-2.0
"""Four MariaDB servers as they should be set up: GTID, semi-sync with the other site, safe after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import Child

from ubisip.health.mariadb import session
from ubisip.health.probe import Target
from ubisip.health.probes.mariadb import read_facts

PORT = 3306
SERVER = "mariadbd"
USER, PASSWORD = "ubisip", "probe-secret"
APP, APP_PASSWORD = "app", "app-secret"
SITES = ("PA2", "PA2", "PA5", "PA5")
NAMES = ("db-pa2-1", "db-pa2-2", "db-pa5-1", "db-pa5-2")
PATIENCE = 30.0
RIGHTS = (
    "RELOAD, PROCESS, BINLOG MONITOR, BINLOG ADMIN, CONNECTION ADMIN, READ_ONLY ADMIN, REPLICATION SLAVE, "
    "REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, SLAVE MONITOR"
)
USERS = f"""
FLUSH PRIVILEGES;
CREATE DATABASE app;
CREATE TABLE app.ledger (n BIGINT AUTO_INCREMENT PRIMARY KEY, id BIGINT NOT NULL, server INT NOT NULL, KEY (id));
CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';
GRANT {RIGHTS} ON *.* TO '{USER}'@'%';
GRANT ALL ON ubisip.* TO '{USER}'@'%';
CREATE USER '{APP}'@'%' IDENTIFIED BY '{APP_PASSWORD}';
GRANT ALL ON app.* TO '{APP}'@'%';
CREATE USER 'admin'@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO 'admin'@'%';
DELETE FROM mysql.global_priv WHERE User = '';
"""
CONFIG = """
[mariadbd]
user = root
datadir = {data}
socket = {socket}
pid-file = {data}/pid
bind-address = {host}
port = {port}
skip-name-resolve
server-id = {number}
log-bin = log
log-slave-updates
binlog-format = ROW
gtid-strict-mode = 1
gtid-domain-id = 0
sync-binlog = 1
innodb-flush-log-at-trx-commit = 1
read-only = 1
init-rpl-role = SLAVE
slave-net-timeout = 4
slave-parallel-threads = 4
master-retry-count = 1000000
rpl-semi-sync-master-wait-point = AFTER_SYNC
rpl-semi-sync-master-timeout = 3600000000
rpl-semi-sync-master-enabled = 0
rpl-semi-sync-slave-enabled = {acker}
rpl-semi-sync-slave-kill-conn-timeout = 1
innodb-buffer-pool-size = 16M
innodb-log-file-size = 8M
innodb-log-buffer-size = 2M
key-buffer-size = 64K
aria-pagecache-buffer-size = 256K
performance-schema = 0
max-connections = 60
thread-cache-size = 16
"""
CONFIG_TLS = """
require-secure-transport = 1
ssl-cert = {certificate}
ssl-key = {key}
"""


def missing() -> str:
    """The program that these tests need and that is not here; empty: none."""
    for program in (SERVER, "mariadb-install-db"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            return program
    return ""


def free_hosts(network: str) -> list[str]:
    """Four addresses within *network* where nobody serves a database: tests of other processes may have the same."""
    for part in range(4, 250):
        hosts = [f"{network}.{part}.{number}" for number in range(1, 5)]
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for host in hosts:
                held.enter_context(socket.create_server((host, PORT)))
            return hosts
    raise OSError(f"no room for four databases in {network}")


def make_template(directory: Path) -> Path:
    """An empty data directory with the users and the ledger's table; a second to make, copied for each server."""
    data = directory / "template"
    common = ["--no-defaults", f"--datadir={data}", "--innodb-log-file-size=8M"]
    install = ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run([*install, "--user=root"], check=True, capture_output=True)
    server = [SERVER, *common, "--bootstrap", "--user=root"]
    subprocess.run(
        server, check=True, capture_output=True, input=USERS.replace("\n", " ").replace("; ", ";\n").encode()
    )
    return data


@dataclass
class Server:
    """One server: its process, and how to speak with it."""

    name: str
    site: str
    number: int
    host: str
    port: int
    directory: Path
    prefix: Sequence[str] = ()
    child: Child | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """``tls`` and ``ca_file``, where it wants that."""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def target(self) -> Target:
        return Target("database", self.name, self.site, self.address, USER, PASSWORD, self.parameters)

    @property
    def admin(self) -> Target:
        return Target("database", self.name, self.site, self.address, "admin", PASSWORD, self.parameters)

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.running

    def launch(self) -> None:
        """Begin to start it, as its supervisor would: by its file, nothing else."""
        program = shutil.which(SERVER, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or SERVER
        command = [*self.prefix, program, f"--defaults-file={self.directory / 'my.cnf'}"]
        self.child = Child(self.name, command, self.directory)

    def kill(self) -> None:
        """SIGKILL: its sockets are closed when this returns."""
        assert self.child is not None
        self.child.kill()

    def signal(self, number: signal.Signals) -> None:
        assert self.child is not None
        self.child.signal(number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    async def sql(self, *statements: str, timeout: float = 20.0) -> list[dict[str, Any]]:
        """Run *statements* as administrator; the rows of the last one."""
        async with session(self.admin, timeout) as opened:
            rows: list[dict[str, Any]] = []
            for statement in statements:
                rows = await opened.rows(statement)
            return rows

    async def facts(self) -> dict[str, Any]:
        """What the probe would read."""
        async with session(self.admin, 10.0) as opened:
            return await read_facts(opened)

    async def answers(self) -> bool:
        with contextlib.suppress(Exception):
            await self.sql("SELECT 1", timeout=1.0)
            return True
        return False

    def words(self) -> str:
        return self.child.words() if self.child else ""


class Databases:
    """The database tier of the platform: the first server is its primary."""

    def __init__(
        self,
        directory: Path,
        template: Path,
        hosts: Sequence[str],
        prefixes: Sequence[Sequence[str]] = (),
        tls: tuple[str, str, str] | None = None,
    ) -> None:
        """*prefixes*: what is put before the command of each; *tls*: files of certificate, key and authority, where
        they take no connection in the clear."""
        self._tls = tls
        self.directory = directory
        self._sockets = Path(tempfile.mkdtemp(prefix="db-"))
        self.servers = [
            Server(name, site, number, host, PORT, directory / name)
            for number, (name, site, host) in enumerate(zip(NAMES, SITES, hosts, strict=True), 1)
        ]
        for one in self.servers:
            self._prepare(one, template)
        for one, prefix in zip(self.servers, prefixes, strict=False):
            one.prefix = prefix

    def _prepare(self, one: Server, template: Path) -> None:
        one.directory.mkdir(parents=True)
        data = one.directory / "data"
        shutil.copytree(template, data)
        values = {"data": data, "socket": self._sockets / f"{one.number}", "host": one.host, "port": one.port}
        text = CONFIG.format(**values, number=one.number, acker=int(one.site != SITES[0]))
        if self._tls is not None:
            certificate, key, ca_file = self._tls
            text += CONFIG_TLS.format(certificate=certificate, key=key)
            one.parameters = {"tls": "on", "ca_file": ca_file}
        (one.directory / "my.cnf").write_text(text)

    def __getitem__(self, name: str) -> Server:
        return next(one for one in self.servers if one.name == name)

    def keep(self, names: Sequence[str]) -> None:
        """There are these only, if any are named."""
        self.servers = [one for one in self.servers if one.name in (names or NAMES)]

    @property
    def primary(self) -> Server:
        return self.servers[0]

    async def start(self) -> None:
        """Start all, set up replication, make the first one writable."""
        for one in self.servers:
            one.launch()
        for one in self.servers:
            await self.until_answers(one)
        await self.primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=1, GLOBAL read_only=0")
        await asyncio.gather(*(self.follow(one, self.primary) for one in self.servers[1:]))
        far = sum(one.site != self.primary.site for one in self.servers)
        await self.until_facts(self.primary, lambda facts: facts["ackers"] == far, "all ackers to be attached")

    async def follow(self, one: Server, source: Server) -> None:
        """Make *one* a replica of *source*."""
        tls = f", MASTER_SSL=1, MASTER_SSL_CA='{self._tls[2]}'" if self._tls is not None else ""
        await one.sql(
            "SET SESSION sql_notes = 0",
            "STOP SLAVE",
            f"CHANGE MASTER TO MASTER_HOST='{source.host}', MASTER_PORT={source.port}, MASTER_USER='{USER}', "
            f"MASTER_PASSWORD='{PASSWORD}', MASTER_USE_GTID=slave_pos, MASTER_HEARTBEAT_PERIOD=0.5, "
            f"MASTER_CONNECT_RETRY=1{tls}",
            "START SLAVE",
        )

    async def until_answers(self, one: Server) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not await one.answers():
            assert one.running, f"{one.name} ended: {one.words()}"
            assert asyncio.get_running_loop().time() < deadline, f"{one.name} does not answer: {one.words()}"
            await asyncio.sleep(0.02)

    @staticmethod
    async def until_facts(one: Server, condition: Any, what: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """The facts of *one* as soon as *condition* holds of them."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            facts: dict[str, Any] = {}
            with contextlib.suppress(Exception):
                facts = await one.facts()
                if condition(facts):
                    return facts
            assert asyncio.get_running_loop().time() < deadline, f"waited {timeout:.0f} s for {what}: {facts}"
            await asyncio.sleep(0.05)

    def close(self) -> None:
        for one in self.servers:
            if one.child is not None:
                one.child.kill()
        shutil.rmtree(self._sockets, ignore_errors=True)
