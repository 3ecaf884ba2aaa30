# SPDX-License-Identifier: Apache-2.0
"""Redis, PostgreSQL, etcd, slapd and a Galera node as daemons of the tests."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path

from processes import Child
from tiers.daemons_common import Yard, find, free_port, listens, require

PASSWORD = "secret"
QUICK = ("--repl-diskless-sync-delay", "0")
"""A primary would wait 5 s for more replicas before it fills the first."""


def redis(yard: Yard, *options: str) -> tuple[str, Child]:
    """A Redis that wants PASSWORD; its address. *options* as on the command line."""
    require("redis-server")
    port = free_port()
    folder = yard.folder(f"redis-{port}")
    command = yard.command("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder))
    child = yard.run(
        "redis", [*command, "--requirepass", PASSWORD, "--masterauth", PASSWORD, "--save", "", *QUICK, *options]
    )
    yard.until(child, lambda: listens(port))
    return f"127.0.0.1:{port}", child


class Postgresql:
    """A PostgreSQL server with the user ``watch``, who may read statistics; *primary*: the one that it follows."""

    def __init__(self, yard: Yard, primary: Postgresql | None = None, tls: tuple[str, str] | None = None) -> None:
        """*tls*: files of certificate and key; connections in the clear are taken all the same."""
        require("initdb", "postgres", "pg_basebackup", "psql")
        self._yard = yard
        self._tls = tls
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.data = yard.directory / f"postgresql-{self.port}"
        self._fill(primary)
        self.child = self.start()
        if primary is None:
            self.sql(f"CREATE ROLE watch LOGIN PASSWORD '{PASSWORD}'; GRANT pg_monitor TO watch")
            self.sql("CREATE ROLE blind LOGIN PASSWORD 'secret'; REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
            self.sql("GRANT CONNECT ON DATABASE postgres TO watch")

    def _fill(self, primary: Postgresql | None) -> None:
        if primary is None:
            secret = self._yard.write("postgresql.password", PASSWORD)
            self._once(
                "initdb", "-D", str(self.data), "-U", "admin", "--auth=scram-sha-256", f"--pwfile={secret}", "-N"
            )
        else:
            source = f"host=127.0.0.1 port={primary.port} user=admin password={PASSWORD}"
            self._once("pg_basebackup", "-D", str(self.data), "-R", "-d", source, "-c", "fast")

    def start(self) -> Child:
        """Start it, or start it again after a kill."""
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "fsync": "off", "max_connections": 8}
        options |= {"superuser_reserved_connections": 1, "max_wal_senders": 3, "hot_standby": "on"}
        if self._tls is not None:
            options |= {"ssl": "on", "ssl_cert_file": self._tls[0], "ssl_key_file": self._tls[1]}
        words = [f"-c{name}={value}" for name, value in options.items()]
        command = self._yard.command("postgres", "-D", str(self.data), "-k", str(self._yard.directory), *words)
        self.child = self._yard.run("postgresql", command)
        return self._yard.until(self.child, self._answers)

    def _answers(self) -> bool:
        with suppress(subprocess.CalledProcessError):
            return self.sql("SELECT 1") == "1"
        return False

    def sql(self, statement: str) -> str:
        """What psql prints for it."""
        path = find("psql")
        assert path
        where = f"host=127.0.0.1 port={self.port} user=admin password={PASSWORD} dbname=postgres connect_timeout=5"
        done = subprocess.run([path, "-XAtqc", statement, where], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def _once(self, program: str, *arguments: str) -> None:
        subprocess.run(
            self._yard.command(program, *arguments), check=True, capture_output=True, cwd=self._yard.directory
        )


class Etcd:
    """One member that is a cluster of its own."""

    def __init__(self, yard: Yard) -> None:
        require("etcd")
        client, peer = free_port(), free_port()
        self.url = f"http://127.0.0.1:{client}"
        peers = f"http://127.0.0.1:{peer}"
        command = yard.command(
            "etcd", "--name", "m1", "--data-dir", str(yard.directory / f"etcd-{client}"),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", f"m1={peers}", "--quota-backend-bytes", "16777216",
        )  # fmt: skip
        self.child = yard.run("etcd", command)
        yard.until(self.child, self._is_healthy)

    def _is_healthy(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
            return bool(json.load(answer)["health"] == "true")
        return False

    def call(self, path: str, **body: object) -> None:
        """A call of its JSON gateway."""
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=5):
            pass


SLAPD = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
pidfile {directory}/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
maxsize 10485760
suffix "dc=example,dc=test"
rootdn "cn=admin,dc=example,dc=test"
rootpw secret
directory {directory}
access to dn.base="" by * read
access to * by users read by anonymous auth
"""
SLAPD_TLS = """
TLSCertificateFile {0}
TLSCertificateKeyFile {1}
security simple_bind=128
"""
ENTRIES = """
dn: dc=example,dc=test
objectClass: dcObject
objectClass: organization
o: example
dc: example
"""


def slapd(yard: Yard, tls: tuple[str, str] | None = None, secure: int = 0) -> tuple[str, Child]:
    """An OpenLDAP server with one entry; its address. *tls*: files of certificate and key: then it binds nobody in the
    clear, and on the port *secure* speaks TLS from the first octet on."""
    require("slapd", "slapadd")
    port = free_port()
    folder = yard.folder(f"slapd-{port}")
    config = yard.write(f"slapd-{port}.conf", (SLAPD_TLS.format(*tls) if tls else "") + SLAPD.format(directory=folder))
    entries = yard.write("entries.ldif", ENTRIES)
    subprocess.run(yard.command("slapadd", "-f", str(config), "-l", str(entries)), check=True, capture_output=True)
    where = f"ldap://127.0.0.1:{port}/" + (f" ldaps://127.0.0.1:{secure}/" if tls else "")
    command = yard.command("slapd", "-h", where, "-f", str(config), "-d", "0")
    child = yard.run("slapd", command)
    yard.until(child, lambda: listens(port))
    return f"127.0.0.1:{port}", child


class Galera:
    """A MariaDB server that is a Galera cluster of its own, with the users ``watch``; or none at all."""

    LIBRARY = Path("/usr/lib/galera/libgalera_smm.so")

    def __init__(self, yard: Yard, tls: tuple[str, str] | None = None) -> None:
        """*tls*: files of certificate and key: then it takes no connection in the clear."""
        require("mariadbd", "mariadb-install-db")
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        data = yard.folder(f"galera-{self.port}")
        common = ["--no-defaults", f"--datadir={data}"]
        install = yard.command(
            "mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"
        )
        subprocess.run(install, check=True, capture_output=True, cwd=yard.directory)
        users = yard.write(f"users-{self.port}.sql", "CREATE USER watch@'%' IDENTIFIED BY 'secret';\n")
        listen = free_port()
        secure = [f"--ssl-cert={tls[0]}", f"--ssl-key={tls[1]}", "--require-secure-transport=1"] if tls else []
        command = yard.command(
            "mariadbd", *common, *secure, f"--port={self.port}", "--bind-address=127.0.0.1",
            "--socket", f"{data}/mysqld.sock", f"--pid-file={data}/pid",
            "--wsrep-on=ON", f"--wsrep-provider={self.LIBRARY}", "--binlog-format=ROW",
            "--wsrep-cluster-address=gcomm://", "--wsrep-new-cluster", "--innodb-autoinc-lock-mode=2",
            f"--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{listen};ist.recv_addr=127.0.0.1:{free_port()}",
            "--wsrep-node-address=127.0.0.1", f"--init-file={users}", "--innodb-buffer-pool-size=16M",
        )  # fmt: skip
        self._socket = f"{data}/mysqld.sock"
        self.child = yard.run("galera", command)
        yard.until(self.child, lambda: listens(self.port))

    def sql(self, statements: str) -> None:
        """As the administrator."""
        command = ["mariadb", "--no-defaults", "-u", "root", "--socket", self._socket, "-e", statements]
        subprocess.run(command, check=True, capture_output=True)
