# SPDX-License-Identifier: Apache-2.0
"""Real MariaDB, PostgreSQL and OpenLDAP servers on 127.0.0.0/8, in folders of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from processes import Child, wait_until

NOBODY = 65_534
PATHS = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:" + ":".join(map(str, Path("/usr/lib/postgresql").glob("*/bin")))


def program(name: str, package: str) -> str:
    """Where a program is; the test is skipped when it is nowhere."""
    path = shutil.which(name, path=PATHS)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return path


def free_port(host: str) -> int:
    """A TCP port of *host* that nobody listens on."""
    with socket.socket() as one:
        one.bind((host, 0))
        port: int = one.getsockname()[1]
        return port


def accepts(host: str, port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((host, port)) == 0


class Daemon(ABC):
    """A server that is started, killed and started again on the same address, with its data kept.

    Start it in the main thread: it dies with the one that did. Some refuse to run as root: then *nobody* runs them. The
    folder's name is short, as Unix sockets stand in it.
    """

    def __init__(self, kind: str, *, as_nobody: bool = False) -> None:
        self.host = "127.0.0.1"
        self.port = free_port(self.host)
        self.folder = Path(tempfile.mkdtemp(prefix=f"ubisip-{kind}-"))
        self._kind = kind
        self._child: Child | None = None
        self._number = 0
        self._prefix: list[str] = []
        if as_nobody and os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
            user = f"--reuid={NOBODY}"
            self._prefix = [
                program("setpriv", "util-linux"),
                "--pdeathsig=KILL",
                user,
                f"--regid={NOBODY}",
                "--clear-groups",
            ]

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def set_up(self, command: Sequence[str], text: str = "") -> None:
        """Run *command* to its end, with *text* as its input."""
        done = subprocess.run(
            [*self._prefix, *command],
            input=text,
            text=True,
            capture_output=True,
            cwd=self.folder,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    def run(self, command: Sequence[str]) -> None:
        """Start it with *command* and wait until it takes connections."""
        self._number += 1
        self._child = child = Child(f"{self._kind}-{self._number}", [*self._prefix, *command], self.folder)
        wait_until(lambda: accepts(self.host, self.port) or not child.running, f"{self._kind} to listen")
        assert child.running, child.words()

    def kill(self) -> None:
        """SIGKILL; when this returns nothing of it runs any more: PostgreSQL's helpers have groups of their own."""
        if self._child is not None:
            self._child.kill()
        wait_until(lambda: not any(map(self._is_inside, Path("/proc").glob("[0-9]*"))), f"{self._kind} to be gone")

    def _is_inside(self, process: Path) -> bool:
        """Whether a process stands in our folder."""
        with suppress(OSError):  # it has ended meanwhile, or is somebody else's
            return Path(os.readlink(process / "cwd")).is_relative_to(self.folder)
        return False

    @abstractmethod
    def start(self) -> None:
        """Run it with its own command; when this returns it takes connections."""

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)


class Mariadb(Daemon):
    """A MariaDB with a user ``reader``, password ``s;ecret``, and an empty database ``sip``."""

    def __init__(self, sql: str) -> None:
        super().__init__("mariadb")
        self._program = program("mariadbd", "mariadb-server")
        client = program("mariadb-install-db", "mariadb-server")
        root = ["--user=root"] if os.geteuid() == 0 else []
        self._options = ["--no-defaults", f"--datadir={self.folder}/data", *root]
        self.set_up(
            [
                client,
                *self._options,
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ]
        )
        self.start()
        grants = "CREATE USER reader@'127.0.0.1' IDENTIFIED BY 's;ecret'; GRANT SELECT ON sip.* TO reader@'127.0.0.1';"
        self.execute(f"CREATE DATABASE sip; {grants} USE sip; {sql}", "mysql")

    def start(self) -> None:
        self.run(
            [
                self._program, *self._options, f"--bind-address={self.host}", f"--port={self.port}",
                f"--socket={self.folder}/s", f"--pid-file={self.folder}/pid", "--skip-name-resolve",
                "--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=2",
            ]
        )  # fmt: skip

    def execute(self, sql: str, database: str = "sip") -> None:
        client = program("mariadb", "mariadb-client")
        self.set_up([client, "--no-defaults", f"--socket={self.folder}/s", "-uroot", database], sql)


class Postgresql(Daemon):
    """A PostgreSQL with a user ``reader``, password ``s;ecret``, and its database ``sip``."""

    def __init__(self, sql: str) -> None:
        super().__init__("postgresql", as_nobody=True)
        self._program = program("postgres", "postgresql")
        self._psql = program("psql", "postgresql-client")
        initdb = program("initdb", "postgresql")
        trust = ["-A", "scram-sha-256", "--auth-local=trust", "--pwfile", str(self._password_file())]
        self.set_up([initdb, "-D", "data", "-U", "owner", "--no-sync", "--no-locale", "-E", "UTF8", *trust])
        self.start()
        self.execute("CREATE ROLE reader LOGIN PASSWORD 's;ecret';\nCREATE DATABASE sip;", "postgres")
        self.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader; {sql}")

    def _password_file(self) -> Path:
        file = self.folder / "password"
        file.write_text("owner\n")
        file.chmod(0o644)
        return file

    def start(self) -> None:
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        self.run(
            [
                self._program, "-D", "data", "-h", self.host, "-p", str(self.port), "-k", str(self.folder),
                "-c", "fsync=off", "-c", "shared_buffers=16MB",
            ]
        )  # fmt: skip

    def execute(self, sql: str, database: str = "sip") -> None:
        self.set_up(
            [
                self._psql,
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                str(self.folder),
                "-p",
                str(self.port),
                "-U",
                "owner",
                database,
            ],
            sql,
        )


class Redis(Daemon):
    """A Redis that keeps nothing: killed and started again it is empty."""

    def __init__(self) -> None:
        super().__init__("redis")
        self._program = program("redis-server", "redis-server")
        self.start()

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def start(self) -> None:
        where = ["--bind", self.host, "--port", str(self.port), "--dir", str(self.folder)]
        self.run([self._program, *where, "--save", "", "--appendonly", "no"])


SLAPD = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {folder}/pid
modulepath /usr/lib/ldap
moduleload back_mdb
{tls}
database mdb
suffix "dc=ubisip,dc=test"
rootdn "cn=admin,dc=ubisip,dc=test"
rootpw s;ecret
directory {folder}/data
access to attrs=userPassword by dn.exact="cn=reader,dc=ubisip,dc=test" read by anonymous auth
access to * by * read
"""


class Slapd(Daemon):
    """An OpenLDAP whose directory holds *ldif*; *tls*: certificate, key and CA lines of its configuration."""

    def __init__(self, ldif: str, tls: str = "") -> None:
        super().__init__("slapd")
        self._program = program("slapd", "slapd")
        (self.folder / "data").mkdir()
        self._configuration = self.folder / "slapd.conf"
        self._configuration.write_text(SLAPD.format(folder=self.folder, tls=tls))
        self.set_up([program("slapadd", "slapd"), "-f", str(self._configuration)], ldif)
        self.start()

    def start(self) -> None:
        self.run([self._program, "-d", "0", "-f", str(self._configuration), "-h", f"ldap://{self.address}"])

    def modify(self, ldif: str) -> None:
        login = ["-x", "-D", "cn=admin,dc=ubisip,dc=test", "-w", "s;ecret"]
        self.set_up([program("ldapmodify", "ldap-utils"), "-H", f"ldap://{self.address}", *login], ldif)
