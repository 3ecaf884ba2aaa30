# SPDX-License-Identifier: Apache-2.0
"""Credentials from real MariaDB, PostgreSQL, OpenLDAP and SQLite; servers that die, return, and move."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon, Mariadb, Postgresql, Slapd, free_port, program

from ubisip.agents.credentials import Lookups, Unavailable
from ubisip.agents.secret import Secret
from ubisip.agents.source import Source, open_source
from ubisip.sections import Agents

REALM = "ubisip.test"
MD5, SHA512 = "ab" * 16, "ef" * 32
USERS = {
    "alice": "wonder;land",
    "o'brien": "it's",
    'back\\slash"': "\\",
    "dédé": "l'œil",
    "100%": "%s",
    "a*)(b": "star",
}
EVIL = [
    "' OR '1'='1",
    "x' UNION SELECT 'pw' -- ",
    "\\' OR 1=1 -- ",
    "*",
    "alice)(uid=*",
    "%",
    "{0}",
    ":realm",
    "a" * 5_000,
]

TABLE = "CREATE TABLE users (name VARCHAR(100) PRIMARY KEY, password VARCHAR(100), ha1 VARCHAR(100));"
LITERALS = TABLE + "".join(
    f"INSERT INTO users VALUES ('{name}', '{password}', NULL);"
    for name, password in (
        (name.replace("'", "''"), password.replace("'", "''")) for name, password in USERS.items()
    )
)  # fmt: skip
LDIF = """\
dn: dc=ubisip,dc=test
objectClass: domain
dc: ubisip

dn: cn=reader,dc=ubisip,dc=test
objectClass: person
cn: reader
sn: reader
userPassword: s;ecret

""" + "".join(
    f"dn: cn=agent{number},dc=ubisip,dc=test\nobjectClass: inetOrgPerson\ncn: agent{number}\nsn: agent\n"
    f"uid: {name}\nuserPassword: {password}\n\n"
    for number, (name, password) in enumerate(USERS.items())
)


def agents(url: str, **keys: Any) -> Agents:
    return Agents(realm=REALM, domains=(REALM,), credentials=url, **keys)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[Mariadb]:
    # Written with backslashes doubled, or not, as the server's sql_mode has it; see the test with the other one.
    one = Mariadb("SET sql_mode = 'NO_BACKSLASH_ESCAPES';" + LITERALS)
    yield one
    one.close()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Postgresql]:
    one = Postgresql(LITERALS)
    yield one
    one.close()


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    one = Slapd(LDIF)
    yield one
    one.close()


def url_of(*daemons: Daemon) -> str:
    hosts = ",".join(one.address for one in daemons)
    if isinstance(daemons[0], Slapd):
        return f"ldap://cn=reader,dc=ubisip,dc=test:s;ecret@{hosts}/dc=ubisip,dc=test"
    return f"{'mariadb' if isinstance(daemons[0], Mariadb) else 'postgresql'}://reader:s;ecret@{hosts}/sip"


@pytest.fixture(params=["mariadb", "postgresql", "slapd"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    one: Daemon = request.getfixturevalue(request.param)
    yield one


async def asked(source: Source, user: str) -> Secret | None:
    return await source.credentials(user, REALM)


async def check_all_users(source: Source) -> None:
    for name, password in USERS.items():
        assert await asked(source, name) == Secret(password), name
    for name in EVIL:
        assert await asked(source, name) is None, name


async def test_each_user_is_found_and_no_name_is_more_than_a_name(daemon: Daemon) -> None:
    source = open_source(agents(url_of(daemon)))
    await check_all_users(source)
    await source.close()


async def test_many_at_a_time(daemon: Daemon) -> None:
    source = open_source(agents(url_of(daemon)))
    names = ["alice", "nobody"] * 50
    answers = await asyncio.gather(*(asked(source, name) for name in names))
    assert answers == [Secret("wonder;land"), None] * 50
    await source.close()


async def test_a_server_that_restarts_is_used_again_without_a_restart_of_ours(daemon: Daemon) -> None:
    source = open_source(agents(url_of(daemon)))
    await asyncio.gather(*(asked(source, "alice") for _ in range(5)))
    daemon.kill()
    with pytest.raises(Unavailable, match=daemon.address):
        await asked(source, "alice")
    daemon.start()
    assert await until_answered(source) == Secret("wonder;land")
    await source.close()


async def until_answered(source: Source) -> Secret | None:
    """A server that listens may still be reading its journal."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await asked(source, "alice")
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_wrong_password_for_the_source_is_told_without_it(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter2\n")
    source = open_source(agents(url_of(daemon), credentials_password_file=str(tmp_path / "pw")))
    with pytest.raises(Unavailable) as caught:
        await asked(source, "alice")
    assert daemon.address in str(caught.value)
    assert "hunter2" not in str(caught.value) and "s;ecret" not in str(caught.value)
    await source.close()


async def test_a_server_that_says_nothing_is_passed_over_for_the_next(daemon: Daemon) -> None:
    """As a primary whose machine hangs: connections are accepted by its kernel, nobody answers."""
    async with Silence() as silent:
        url = url_of(daemon).replace(daemon.address, f"{silent.address},{daemon.address}")
        source = open_source(agents(url))
        assert await asked(source, "alice") == Secret("wonder;land")
        assert await asyncio.gather(*(asked(source, "alice") for _ in range(3))) == [Secret("wonder;land")] * 3
        assert silent.connections == 1  # not tried again for each session
        await source.close()


class Silence:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self.address = ""
        self._held: list[asyncio.StreamWriter] = []

    @property
    def connections(self) -> int:
        return len(self._held)

    async def __aenter__(self) -> Silence:
        self._server = await asyncio.start_server(lambda _reader, writer: self._held.append(writer), "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._server.close()
        for writer in self._held:
            writer.close()


async def test_the_second_server_takes_over_when_the_first_dies_and_a_change_there_is_seen(
    daemon: Daemon, request: pytest.FixtureRequest
) -> None:
    """The database moves to a new primary: nothing is restarted, and its data counts."""
    make: Callable[[], Daemon] = {
        Mariadb: lambda: Mariadb(TABLE + "INSERT INTO users VALUES ('alice', 'changed', NULL)"),
        Postgresql: lambda: Postgresql(TABLE + "INSERT INTO users VALUES ('alice', 'changed', NULL)"),
        Slapd: lambda: Slapd(LDIF.replace("wonder;land", "changed")),
    }[type(daemon)]
    second = make()
    request.addfinalizer(second.close)
    source = open_source(agents(url_of(daemon, second)))
    assert await asked(source, "alice") == Secret("wonder;land")
    daemon.kill()
    assert await asked(source, "alice") == Secret("changed")
    daemon.start()
    await source.close()


async def test_a_changed_password_is_seen_by_the_next_look_up(mariadb: Mariadb) -> None:
    source = open_source(agents(url_of(mariadb)))
    lookups = Lookups(source, 60, 600, lambda cause, text: None)
    before = await lookups.answer("alice", REALM)
    mariadb.execute("UPDATE users SET password = 'new' WHERE name = 'alice'")
    after = await lookups.answer("alice", REALM)
    mariadb.execute("UPDATE users SET password = 'wonder;land' WHERE name = 'alice'")
    assert before is not None and after is not None
    assert before.digests != after.digests
    assert await lookups.answer("alice", REALM) == before
    await source.close()


async def test_no_name_is_more_than_a_name_whatever_the_sql_mode(mariadb: Mariadb) -> None:
    for mode in ("NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", ""):
        mariadb.execute(f"SET GLOBAL sql_mode = '{mode}'")
        source = open_source(agents(url_of(mariadb)))
        await check_all_users(source)
        await source.close()


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
async def test_a_query_of_ones_own_with_ha1s(kind: str, request: pytest.FixtureRequest) -> None:
    daemon = request.getfixturevalue(kind)
    daemon.execute(
        "CREATE TABLE digests (login VARCHAR(20), domain VARCHAR(20), hash VARCHAR(100));"
        f"INSERT INTO digests VALUES ('bob', '{REALM}', '{MD5}'), ('bob', '{REALM}', 'SHA-512-256:{SHA512}'),"
        f" ('bob', 'other', '{'0' * 32}')"
    )
    query = "SELECT hash AS ha1 FROM digests WHERE domain = :realm AND login = :user AND login LIKE '%b%'"
    source = open_source(agents(url_of(daemon), credentials_query=query))
    assert await asked(source, "bob") == Secret(ha1={"MD5": MD5, "SHA-512-256": SHA512})
    assert await asked(source, "alice") is None
    await source.close()


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
@pytest.mark.parametrize(
    ("query", "says"),
    [("SELECT nothing FROM users", "nothing"), ("SELECT name FROM users", "columns named password or ha1")],
)
async def test_a_query_that_cannot_be_is_told(kind: str, query: str, says: str, request: pytest.FixtureRequest) -> None:
    source = open_source(agents(url_of(request.getfixturevalue(kind)), credentials_query=query))
    with pytest.raises(Unavailable, match=says):
        await asked(source, "alice")
    await source.close()


async def test_ldap_filters_attributes_and_values(slapd: Slapd) -> None:
    slapd.modify(
        "dn: cn=carol,dc=ubisip,dc=test\nchangetype: add\nobjectClass: inetOrgPerson\ncn: carol\nsn: Carol\n"
        f"uid: carol\nemployeeNumber: 7\ndescription: SHA-512-256:{SHA512}\ndescription: MD5:{MD5}\n"
        "userPassword: {SSHA}AAAA\n\n"
        "dn: cn=dave,dc=ubisip,dc=test\nchangetype: add\nobjectClass: inetOrgPerson\ncn: dave\nsn: Dave\n"
        "uid: dave\nemployeeNumber: 7\nuserPassword: {CLEARTEXT}open\n\n"
    )
    source = open_source(agents(url_of(slapd)))
    assert await asked(source, "carol") is None  # a salted hash is of no use to digest authentication
    assert await asked(source, "dave") == Secret("open")
    await source.close()
    query = "(&(objectClass=inetOrgPerson)(cn=:user))"
    source = open_source(agents(url_of(slapd) + "?description", credentials_query=query))
    assert await asked(source, "carol") == Secret(ha1={"MD5": MD5, "SHA-512-256": SHA512})
    await source.close()
    source = open_source(agents(url_of(slapd), credentials_query="(employeeNumber=7)"))
    with pytest.raises(Unavailable, match="several entries"):
        await asked(source, "carol")
    await source.close()


async def test_ldap_over_tls_with_a_name_that_is_verified(tmp_path: Path) -> None:
    openssl = program("openssl", "openssl")
    files = {name: tmp_path / name for name in ("cert.pem", "key.pem")}
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    process = await asyncio.create_subprocess_exec(
        *command, "-keyout", files["key.pem"], "-out", files["cert.pem"], stderr=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    tls = f"TLSCertificateFile {files['cert.pem']}\nTLSCertificateKeyFile {files['key.pem']}\nsecurity tls=1"
    one = Slapd(LDIF, tls)
    try:
        plain = open_source(agents(url_of(one)))
        with pytest.raises(Unavailable):
            await asked(plain, "alice")
        by_address = open_source(agents(url_of(one), credentials_ca_file=str(files["cert.pem"])))
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):  # that is not in the certificate
            await asked(by_address, "alice")
        url = url_of(one).replace("127.0.0.1", "localhost")
        by_name = open_source(agents(url, credentials_ca_file=str(files["cert.pem"])))
        assert await asked(by_name, "alice") == Secret("wonder;land")
        for source in (plain, by_address, by_name):
            await source.close()
    finally:
        one.close()


async def test_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "users #1.db"
    source = open_source(agents(f"sqlite:{path}"))
    with pytest.raises(Unavailable, match="unable to open"):
        await asked(source, "alice")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(LITERALS)
    await check_all_users(source)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE users SET password = 'new' WHERE name = 'alice'")
        connection.commit()
    assert await asked(source, "alice") == Secret("new")
    await source.close()


async def test_nobody_listens() -> None:
    port = free_port("127.0.0.1")
    source = open_source(agents(f"postgresql://reader@127.0.0.1:{port}/sip"))
    with pytest.raises(Unavailable, match=str(port)):
        await asked(source, "alice")
    await source.close()
