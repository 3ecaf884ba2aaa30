# SPDX-License-Identifier: Apache-2.0
"""Probes and sinks over TLS, on real daemons: trusted by our authority, not by a strange one, never in the clear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certificates
import pytest
from tiers.asked import FAIL, INCONCLUSIVE, PASS, ask, brief
from tiers.daemons_common import Yard, free_port, require
from tiers.daemons_messages import Mailbox, Rabbitmq
from tiers.daemons_stores import PASSWORD, Galera, Postgresql, redis, slapd

from ubisip.failover.action import ActionError, Notice
from ubisip.failover.sinks.amqp import AmqpSink
from ubisip.failover.sinks.mail import MailSink
from ubisip.health.probe import Probe
from ubisip.health.probes.amqp import AmqpProbe
from ubisip.health.probes.galera import GaleraProbe
from ubisip.health.probes.ldap import LdapProbe
from ubisip.health.probes.postgresql import PostgresqlProbe
from ubisip.health.probes.redis import RedisProbe

NOTICE = Notice("plan/db/dead-primary", "critical", "a title", "a text", {"tier": "db"}, 1_700_000_000.0)
ADMIN = "cn=admin,dc=example,dc=test"


class Files:
    """A certificate for this machine that the daemons of *yard* may read, its authority, and a strange one."""

    def __init__(self, yard: Yard, *names: str) -> None:
        folder = yard.directory
        self.ca_file = certificates.write_authority(folder)
        self.strange = certificates.write_authority(folder, "strange")
        self.certificate, self.key = certificates.write_certificate(folder, "daemon", *names)
        for path in (self.certificate, self.key, self.ca_file):
            yard.own(Path(path))
        Path(self.key).chmod(0o600)

    @property
    def pair(self) -> tuple[str, str]:
        return self.certificate, self.key


@pytest.fixture
def new_yard() -> Iterator[Callable[..., tuple[Yard, Files]]]:
    yards: list[Yard] = []

    def make(user: str = "", name: str = "127.0.0.1") -> tuple[Yard, Files]:
        yards.append(Yard(user))
        return yards[-1], Files(yards[-1], name)

    yield make
    for yard in yards:
        yard.close()


NewYard = Callable[..., tuple[Yard, Files]]


async def speaks(probe: Probe, address: str, user: str = "", password: str = "") -> bool:
    """Whether *probe* gets an answer."""
    return (await ask(probe, address, user, password)).sample.verdict is PASS


async def test_redis(new_yard: NewYard) -> None:
    require("redis-server")
    yard, files = new_yard()
    secure = free_port()
    options = ("--tls-port", str(secure), "--tls-cert-file", files.certificate, "--tls-key-file", files.key)
    redis(yard, *options, "--tls-ca-cert-file", files.ca_file, "--tls-auth-clients", "no")
    address = f"127.0.0.1:{secure}"
    assert await speaks(RedisProbe({"tls": True, "ca_file": files.ca_file}), address, "", PASSWORD)
    assert not await speaks(RedisProbe({"tls": True, "ca_file": files.strange}), address, "", PASSWORD)
    assert not await speaks(RedisProbe({}), address, "", PASSWORD)


async def test_postgresql(new_yard: NewYard) -> None:
    yard, files = new_yard("postgres")
    server = Postgresql(yard, tls=files.pair)
    hba = server.data / "pg_hba.conf"
    hba.write_text("hostnossl all watch 127.0.0.1/32 reject\nhost all all 127.0.0.1/32 scram-sha-256\n")
    server.sql("SELECT pg_reload_conf()")
    address = server.address
    assert await speaks(PostgresqlProbe({"tls": "on", "ca_file": files.ca_file}), address, "watch", PASSWORD)
    assert await speaks(PostgresqlProbe({"tls": "unverified"}), address, "watch", PASSWORD)
    assert not await speaks(PostgresqlProbe({"tls": "on", "ca_file": files.strange}), address, "watch", PASSWORD)
    assert not await speaks(PostgresqlProbe({}), address, "watch", PASSWORD), "the server rejects it"


@pytest.mark.parametrize("tls", ["on", "starttls"])
async def test_ldap(new_yard: NewYard, tls: str) -> None:
    yard, files = new_yard("openldap", "localhost")
    secure = free_port()
    plain, _ = slapd(yard, files.pair, secure)
    address = f"localhost:{secure if tls == 'on' else plain.rpartition(':')[2]}"
    assert await speaks(LdapProbe({"tls": tls, "ca_file": files.ca_file}), address, ADMIN, PASSWORD)
    assert await speaks(LdapProbe({"tls": tls}), address, ADMIN, PASSWORD), "unverified"
    strange = await ask(LdapProbe({"tls": tls, "ca_file": files.strange}), address, ADMIN, PASSWORD)
    assert brief(strange) == (FAIL, "tls.untrusted"), strange
    misnamed = await ask(LdapProbe({"tls": tls, "ca_file": files.ca_file}), address.replace("localhost", "127.0.0.1"))
    assert brief(misnamed) == (FAIL, "tls.untrusted"), misnamed
    clear = await ask(LdapProbe({}), plain, ADMIN, PASSWORD)
    assert brief(clear) == (INCONCLUSIVE, "ldap.13"), "it wants confidentiality"


@pytest.mark.skipif(not Galera.LIBRARY.exists(), reason="Galera is not installed")
async def test_galera(new_yard: NewYard) -> None:
    yard, files = new_yard("mysql")
    node = Galera(yard, files.pair)
    assert await speaks(GaleraProbe({"tls": "on", "ca_file": files.ca_file}), node.address, "watch", PASSWORD)
    assert not await speaks(GaleraProbe({"tls": "on", "ca_file": files.strange}), node.address, "watch", PASSWORD)
    assert not await speaks(GaleraProbe({}), node.address, "watch", PASSWORD)


async def test_mail(new_yard: NewYard, tmp_path: Path) -> None:
    _, files = new_yard()
    mailbox = Mailbox(certificates.server_context(files.pair))
    where: dict[str, Any] = {"server": mailbox.address, "sender": "a@example.test", "recipients": ["b@example.test"]}
    try:
        await MailSink({**where, "ca_file": files.ca_file}, tmp_path).send(NOTICE)
        assert len(mailbox.messages) == 1
        for parameters in ({"ca_file": files.strange}, {"tls": "off"}):
            with pytest.raises(ActionError):
                await MailSink({**where, **parameters}, tmp_path).send(NOTICE)
        assert len(mailbox.messages) == 1
    finally:
        mailbox.close()


async def test_amqp(new_yard: NewYard, tmp_path: Path) -> None:
    yard, files = new_yard()
    broker = Rabbitmq(yard, files.pair)
    address = f"127.0.0.1:{broker.secure}"
    assert await speaks(AmqpProbe({"tls": True, "ca_file": files.ca_file}), address)
    assert not await speaks(AmqpProbe({"tls": True, "ca_file": files.strange}), address)
    for ca_file, left in ((files.ca_file, 0), (files.strange, 1)):
        sink = AmqpSink({"url": f"amqps://{address}/", "ca_file": ca_file}, tmp_path)
        await sink.send(NOTICE)
        assert len(sink._outbox.letters) == left, "sent, or kept"
        await sink.close()
