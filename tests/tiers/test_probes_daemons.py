# SPDX-License-Identifier: Apache-2.0
"""Probes on the real daemons: roles, lags, wrong passwords, missing rights, and what a broken one says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from processes import until
from tiers.asked import FAIL, INCONCLUSIVE, PASS, SHORT, WARN, ask, brief, frozen, until_brief
from tiers.daemons_common import Yard, free_port
from tiers.daemons_dns import ZONE, primary, secondary
from tiers.daemons_haproxy import Haproxy
from tiers.daemons_stores import PASSWORD, Etcd, Postgresql, redis, slapd
from tiers.fake_services import Listener, Service

from ubisip.health.probe import Finding
from ubisip.health.probes.dns import DnsProbe
from ubisip.health.probes.etcd import EtcdProbe
from ubisip.health.probes.haproxy import HaproxyProbe
from ubisip.health.probes.ldap import LdapProbe
from ubisip.health.probes.postgresql import PostgresqlProbe
from ubisip.health.probes.redis import RedisProbe

# Redis


@pytest.fixture(scope="module")
def redis_yard() -> Iterator[Yard]:
    yard = Yard("redis")
    yield yard
    yard.close()


async def test_redis_role_link_and_lag(redis_yard: Yard) -> None:
    address, child = redis(redis_yard)
    host, port = address.split(":")
    follower, _ = redis(redis_yard, "--replicaof", host, port)
    probe = RedisProbe({})

    async def follows() -> Finding:
        return await ask(probe, follower, "", PASSWORD)

    finding = await follows()
    while brief(finding) != (PASS, "ok"):
        assert brief(finding) == (WARN, "replication")
        finding = await follows()
    assert finding.facts["role"] == "replica" and finding.facts["link"] == "up"
    finding = await ask(RedisProbe({"min_replicas": 1}), address, "", PASSWORD)
    assert brief(finding) == (PASS, "ok") and finding.facts["role"] == "primary"
    assert brief(await ask(RedisProbe({"min_replicas": 2}), address, "", PASSWORD)) == (WARN, "redis.replicas")
    async with frozen(child):
        assert brief(await ask(probe, address, "", PASSWORD, SHORT)) == (FAIL, "timeout")
    child.kill()
    assert brief(await ask(probe, address, "", PASSWORD)) == (FAIL, "refused")
    await until_brief(follows, (WARN, "replication"))


@pytest.mark.parametrize(("user", "password"), [("", ""), ("", "wrong"), ("nobody", PASSWORD)])
async def test_redis_a_wrong_password_is_inconclusive(redis_yard: Yard, user: str, password: str) -> None:
    address, _ = redis(redis_yard)
    finding = await ask(RedisProbe({}), address, user, password)
    assert brief(finding) == (INCONCLUSIVE, "redis.auth")
    assert "does not let us look" in finding.problem


# PostgreSQL


@pytest.fixture(scope="module")
def postgresql() -> Iterator[tuple[Postgresql, Postgresql]]:
    yard = Yard("postgres")
    try:
        first = Postgresql(yard)
        yield first, Postgresql(yard, first)
    finally:
        yard.close()


async def test_postgresql_role_lag_and_who_is_in_step(postgresql: tuple[Postgresql, Postgresql]) -> None:
    first, second = postgresql
    probe = PostgresqlProbe({})
    finding = await ask(probe, first.address, "watch", PASSWORD)
    assert brief(finding) == (PASS, "ok")
    assert finding.facts["role"] == "primary" and finding.facts["timeline"] == 1
    assert [(one["state"], one["sync_state"]) for one in finding.facts["replicas"]] == [("streaming", "async")]
    finding = await ask(probe, second.address, "watch", PASSWORD)
    assert brief(finding) == (PASS, "ok")
    assert (finding.facts["role"], finding.facts["receiver"]) == ("replica", "streaming")
    assert finding.facts["lag"] < 10


@pytest.mark.parametrize(
    ("user", "password", "database", "reason"),
    [
        ("watch", "wrong", "postgres", "sql.28P01"),
        ("watch", "secret", "nowhere", "sql.3D000"),
        ("blind", "secret", "postgres", "sql.42501"),
    ],
)
async def test_postgresql_what_it_does_not_let_us_see_is_inconclusive(
    postgresql: tuple[Postgresql, Postgresql], user: str, password: str, database: str, reason: str
) -> None:
    finding = await ask(PostgresqlProbe({"database": database}), postgresql[0].address, user, password)
    assert brief(finding) == (INCONCLUSIVE, reason)


async def test_postgresql_too_many_connections_is_its_own_word(postgresql: tuple[Postgresql, Postgresql]) -> None:
    first = postgresql[0]
    taken = []
    try:
        with pytest.raises(asyncpg.PostgresError):
            while True:
                taken.append(await _connect(first))
        finding = await ask(PostgresqlProbe({}), first.address, "watch", PASSWORD)
        assert brief(finding) == (FAIL, "sql.53300") and finding.sample.answered
    finally:
        for one in taken:
            one.terminate()

    async def look() -> Finding:
        return await ask(PostgresqlProbe({}), first.address, "watch", PASSWORD)

    await until_brief(look, (PASS, "ok"))


async def _connect(server: Postgresql) -> Any:
    return await asyncpg.connect(
        host="127.0.0.1", port=server.port, user="watch", password=PASSWORD, database="postgres"
    )


async def test_postgresql_questions_that_are_given_up_leave_no_sessions_behind(
    postgresql: tuple[Postgresql, Postgresql],
) -> None:
    first = postgresql[0]
    for _ in range(10):
        async with frozen(first.child):
            finding = await ask(PostgresqlProbe({}), first.address, "watch", PASSWORD, 0.1)
            assert finding.sample.verdict is FAIL
    count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'watch'"
    await until(lambda: first.sql(count) == "0", "all sessions to have ended")


# etcd


async def test_etcd_health_leader_and_space() -> None:
    yard = Yard()
    try:
        member = Etcd(yard)
        probe = EtcdProbe({})
        finding = await ask(probe, member.url)
        assert brief(finding) == (PASS, "ok")
        assert finding.facts["role"] == "leader" and finding.facts["version"].startswith("3.")
        member.call("/v3/maintenance/alarm", action="ACTIVATE", alarm="NOSPACE", memberID=finding.facts["member"])
        finding = await ask(probe, member.url)
        assert brief(finding) == (FAIL, "etcd.no-space")
        member.call("/v3/maintenance/alarm", action="DEACTIVATE", alarm="NOSPACE", memberID=finding.facts["member"])
        member.call("/v3/auth/user/add", name="root", password=PASSWORD)
        member.call("/v3/auth/user/grant", user="root", role="root")
        member.call("/v3/auth/enable")
        assert brief(await ask(probe, member.url, "root", "wrong")) == (INCONCLUSIVE, "etcd.auth")
        assert brief(await ask(probe, member.url, "root", PASSWORD)) == (PASS, "ok")
        async with frozen(member.child):
            assert brief(await ask(probe, member.url, timeout=SHORT)) == (FAIL, "timeout")
        member.child.kill()
        assert brief(await ask(probe, member.url)) == (FAIL, "refused")
    finally:
        yard.close()


# LDAP


async def test_ldap_bind_and_search() -> None:
    yard = Yard("openldap")
    try:
        address, child = slapd(yard)
        admin = "cn=admin,dc=example,dc=test"
        assert brief(await ask(LdapProbe({}), address)) == (PASS, "ok")
        probe = LdapProbe({"base": "dc=example,dc=test"})
        assert brief(await ask(probe, address, admin, PASSWORD)) == (PASS, "ok")
        assert brief(await ask(probe, address, admin, "wrong")) == (INCONCLUSIVE, "ldap.49")
        assert (await ask(probe, address)).sample.verdict in (FAIL, INCONCLUSIVE), "the anonymous may not see it"
        missing = LdapProbe({"base": "ou=none,dc=example,dc=test"})
        assert brief(await ask(missing, address, admin, PASSWORD)) == (FAIL, "ldap.missing")
        async with frozen(child):
            assert brief(await ask(probe, address, admin, PASSWORD, SHORT)) == (FAIL, "timeout")
    finally:
        yard.close()


# HAProxy


async def test_haproxy_and_its_view_of_its_servers() -> None:
    yard = Yard()
    try:
        async with Service(Listener()) as service:
            dead = f"127.0.0.1:{free_port()}"
            checked = "check inter 100ms rise 1 fall 1"
            proxy = Haproxy(yard, "web", [f"web1 127.0.0.1:{service.port} {checked}", f"web2 {dead} {checked}"])

            async def look() -> Finding:
                return await ask(HaproxyProbe({"backend": "web"}), proxy.socket)

            await until_brief(look, (WARN, "haproxy.server-down"))
            facts = (await look()).facts
            assert facts["servers"]["web/web1"] == "UP" and facts["servers"]["web/web2"].startswith("DOWN")
        await until_brief(look, (FAIL, "haproxy.no-server"))
        assert brief(await ask(HaproxyProbe({"backend": "mail"}), proxy.socket)) == (INCONCLUSIVE, "haproxy.backend")
        async with frozen(proxy.child):
            assert brief(await ask(HaproxyProbe({}), proxy.socket, timeout=SHORT)) == (FAIL, "timeout")
        proxy.child.kill()
        assert brief(await ask(HaproxyProbe({}), proxy.socket)) == (FAIL, "refused")
        assert brief(await ask(HaproxyProbe({}), "/nowhere/haproxy.sock")) == (FAIL, "refused")
    finally:
        yard.close()


# BIND


async def test_dns_of_a_zone_with_a_secondary() -> None:
    yard = Yard("bind")
    try:
        port = free_port()
        first = primary(yard, port)
        second = secondary(yard, first.port, port)
        both = [first.address, second.address]
        probe = DnsProbe({"name": f"www.{ZONE}", "zone": ZONE, "expect": ["192.0.2.1"], "name_servers": both})
        for one in both:
            finding = await ask(probe, one)
            assert brief(finding) == (PASS, "ok") and finding.facts["serials"] == {both[0]: 1, both[1]: 1}
        elsewhere = DnsProbe({"name": "www.other.test"})
        assert brief(await ask(elsewhere, both[0])) == (INCONCLUSIVE, "dns.refused")
    finally:
        yard.close()
