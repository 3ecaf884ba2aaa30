# SPDX-License-Identifier: Apache-2.0
"""What a good configuration file becomes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from ubisip.config import Config
from ubisip.errors import ConfigError, UsageError
from ubisip.platform import Endpoint, Kind, Source

EXAMPLE = Path(__file__).parents[1] / "examples" / "platform.toml"

EVERYTHING = """\
[platform]
name = "ubicentrex"
environment = "production"        # shown wherever people look: production, preproduction...
key_file = "cluster.key"          # made by `ubisip key`; required as soon as there are two gateways
state_dir = "state"               # what the node keeps on disk

[sites.PA2]
[sites.PA5]

[[carriers]]                      # one SBC
name = "sbc-1"
centre = "montsouris"             # its carrier centre
site = "PA2"                      # the data centre that the centre is linked to
uri = "sip:192.0.2.1:5060"
sources = ["192.0.2.1"]           # who may send as this SBC: address, address:port or network; default: the URI's host

[[gateways]]
name = "pa2-gw1"
site = "PA2"
listen = ["udp:127.0.0.1:5060"]   # udp: tcp: tls: ws: wss:
advertise = "sip.pa2.example.net" # default: the listening address
admin = "127.0.0.1:8080"

[[servers]]                       # one telephony server
name = "pa2-tel1"
site = "PA2"
uri = "sip:127.0.0.1:5071"
sources = ["127.0.0.1:5071"]
weight = 100
max_calls = 0                     # 0: no limit
max_cps = 0

[routing]
policy = "hash"
first_response_timeout = 1.0      # seconds without any response before the next server is tried
t1 = 0.1                          # seconds, towards our own servers; 0.5 towards carriers and agents
failover_on = [500, 502, 503, 504]
coalesce = 0.5                    # milliseconds

[health.sip]                      # OPTIONS to carriers and servers
interval = 2.0
fast_interval = 0.5
down_interval = 2.0
timeout = 1.0
fall = 2
rise = 3
slow_start = 10.0

[agents]                          # present: this gateway is a registrar (section 8)
realm = "ubisip.test"
domains = ["ubisip.test"]
credentials = "file:users.csv"    # name;password or name;realm;ha1 a line; sqlite: mariadb: postgresql: ldap: likewise; or a hook
mirror = "site"                   # site | platform | off (off: calls to agents are looked up here)
mirror_quorum = 1
min_expires = 60
default_expires = 3600
max_expires = 7200
max_contacts = 10

[store]                           # section 9
url = "sqlite:"                   # or "etcd:http://127.0.0.1:2379,http://127.0.0.1:2479,..."
soft = ""                         # "redis://127.0.0.1:6379/0" where several gateways share a site

[tiers.database]                  # one tier; any name
kind = "mariadb"                  # mariadb | postgresql | galera | http | dns | ... (a probe's name)
mode = "automatic"                # automatic | ask | observe
user = "ubisip"
password_file = "db.password"
members = [
  { name = "db-pa2-1", site = "PA2", address = "127.0.0.1:3311" },
  { name = "db-pa5-1", site = "PA5", address = "127.0.0.1:3313" },
]
on_dead_primary = ["mariadb-promote", "haproxy", "dns-rfc2136", "alert"]

[actions.haproxy]                 # parameters of an action, by its name
sockets = ["/run/haproxy/admin.sock"]
backend = "database"

[sinks.alert]
alertmanagers = ["http://127.0.0.1:9093"]
"""  # noqa: E501


@pytest.fixture(scope="module")
def everything() -> Config:
    """A file that has every section."""
    return Config.parse(EVERYTHING, "/etc/ubisip")


def small(**replaced: str) -> str:
    """A file with nothing that could be left out; *replaced* are values to put in by key."""
    values = {"listen": '["udp:127.0.0.1:5060"]', "uri": '"sip:127.0.0.2"', "more": ""} | replaced
    return f"""
[platform]
name = "small"
[sites.A]
[[gateways]]
name = "gw"
site = "A"
listen = {values["listen"]}
[[servers]]
name = "tel"
site = "A"
uri = {values["uri"]}
{values["more"]}
"""


def test_platform(everything: Config) -> None:
    platform = everything.platform
    assert (platform.name, platform.environment) == ("ubicentrex", "production")
    assert platform.key_file == "/etc/ubisip/cluster.key"
    assert platform.state_dir == "/etc/ubisip/state"
    assert everything.sites == ("PA2", "PA5")


def test_carriers_and_servers_are_peers(everything: Config) -> None:
    (carrier,) = everything.carriers
    (server,) = everything.servers
    assert everything.peers == (carrier, server)
    assert (carrier.kind, carrier.name, carrier.centre, carrier.site) == (Kind.CARRIER, "sbc-1", "montsouris", "PA2")
    assert carrier.uri == "sip:192.0.2.1:5060"
    assert carrier.endpoint == Endpoint("udp", "192.0.2.1", 5060)
    assert carrier.sources == (Source(ip_network("192.0.2.1")),)
    assert (server.kind, server.weight, server.max_calls, server.max_cps) == (Kind.SERVER, 100, 0, 0)
    assert server.sources == (Source(ip_network("127.0.0.1"), 5071),)


def test_gateways(everything: Config) -> None:
    (gateway,) = everything.gateways
    assert gateway.listen == (Endpoint("udp", "127.0.0.1", 5060),)
    assert gateway.advertise == "sip.pa2.example.net"
    assert gateway.admin == Endpoint("tcp", "127.0.0.1", 8080)
    assert everything.gateway("pa2-gw1") is gateway


def test_an_unknown_gateway_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(UsageError, match=r"no gateway is named 'pa2-gw9'.* pa2-gw1, pa2-gw2.* pa5-gw4"):
        Config.load(EXAMPLE).gateway("pa2-gw9")


def test_other_sections(everything: Config) -> None:
    assert everything.agents is not None
    assert everything.agents.credentials == "file:/etc/ubisip/users.csv"
    assert everything.agents.domains == ("ubisip.test",)
    assert everything.store.url == "sqlite:"
    tier = everything.tiers["database"]
    assert (tier.kind, tier.mode, tier.password_file) == ("mariadb", "automatic", "/etc/ubisip/db.password")
    assert [member.name for member in tier.members] == ["db-pa2-1", "db-pa5-1"]
    assert tier.on["dead_primary"] == ("mariadb-promote", "haproxy", "alert"), "what lacks its parameters is left out"
    assert everything.actions["haproxy"]["sockets"] == ("/run/haproxy/admin.sock",)
    (warning,) = everything.warnings
    assert "tiers.database.on_dead_primary[2]: dns-rfc2136 is left out" in warning
    assert everything.sinks["alert"] == {"alertmanagers": ("http://127.0.0.1:9093",)}


def test_defaults() -> None:
    config = Config.parse(small())
    assert config.routing.policy == "hash"
    assert (config.routing.first_response_timeout, config.routing.t1, config.routing.coalesce) == (1.0, 0.1, 0.5)
    assert (config.routing.timer_c, config.routing.hook_timeout) == (185.0, 0.25)
    assert config.routing.failover_on == (500, 502, 503, 504)
    assert config.routing.emergency == ("15", "17", "18", "112", "114", "115", "119", "191", "196", "197")
    assert dataclasses.astuple(config.health.sip) == (2.0, 0.5, 2.0, 1.0, 2, 3, 10.0)
    limits = config.limits
    assert (limits.transactions, limits.source_cps, limits.refusals) == (400_000, 0.0, 100.0)
    assert (limits.calls, limits.memory) == (200_000, 1024)
    assert (config.agents, config.carriers, config.platform.key_file, config.path) == (None, (), "", "")
    assert not (config.tiers or config.actions or config.sinks)
    assert (config.gateways[0].advertise, config.gateways[0].admin, config.gateways[0].admin_token_file) == (
        "",
        None,
        "",
    )


def test_the_design_defaults_are_the_ones_written_in_the_design_file(everything: Config) -> None:
    config = Config.parse(small())
    assert (everything.routing, everything.health, everything.store) == (config.routing, config.health, config.store)


@pytest.mark.parametrize(
    ("uri", "endpoint"),
    [
        ("sip:127.0.0.2", "udp:127.0.0.2:5060"),
        ("SIP:127.0.0.2:5071", "udp:127.0.0.2:5071"),
        ("sip:127.0.0.2;transport=TCP", "tcp:127.0.0.2:5060"),
        ("sip:127.0.0.2;lr;transport=tls", "tls:127.0.0.2:5061"),
        ("sip:127.0.0.2:5070;transport=tls;lr", "tls:127.0.0.2:5070"),
        ("sips:127.0.0.2", "tls:127.0.0.2:5061"),
        ("sips:127.0.0.2:5070;transport=tcp;lr", "tls:127.0.0.2:5070"),
        ("sip:[2001:DB8:0::1]", "udp:[2001:db8::1]:5060"),
        ("sip:[::1]:5071;transport=udp", "udp:[::1]:5071"),
    ],
)
def test_where_a_uri_leads(uri: str, endpoint: str) -> None:
    listen = '["udp:127.0.0.1:5060", "tcp:127.0.0.1:5060", "tls:127.0.0.1:5061", "udp:[::1]:5060"]'
    tls = '[tls]\ncertificate = "sip.pem"\n'
    (server,) = Config.parse(small(uri=f'"{uri}"', listen=listen, more=tls)).servers
    assert str(server.endpoint) == endpoint
    assert server.uri == uri
    assert server.sources == (Source(ip_network(server.endpoint.host)),)


def test_a_host_name_is_kept_for_the_resolver() -> None:
    more = 'sources = ["10.0.0.0/8", "[::1]:5060", "::2"]'
    (server,) = Config.parse(small(uri='"sip:Tel1.pa2.example.net:5070"', more=more)).servers
    assert server.endpoint == Endpoint("udp", "Tel1.pa2.example.net", 5070)
    assert server.sources == (
        Source(ip_network("10.0.0.0/8")),
        Source(ip_network("::1"), 5060),
        Source(ip_network("::2")),
    )


def test_a_listener_key_is_written_like_the_listening_address_it_names() -> None:
    listen = '["udp:127.0.0.1:5060", "udp:[0:0::1]:5060"]'
    (server,) = Config.parse(small(uri='"sip:[::2]"', listen=listen, more='listener = "udp:[::1]:5060"')).servers
    assert server.listener == "udp:[::1]:5060"
    assert server.listener in map(str, Config.parse(small(listen=listen)).gateways[0].listen)


@pytest.mark.parametrize(
    "accepted",
    [
        small(more="weight = 0\n[[servers]]\nname = 'b'\nsite = 'A'\nuri = 'sip:127.0.0.3'"),
        small(more="[sites.B]"),
        small(more="[limits]\nsource_cps = 5"),
        small(more="[routing]\nfailover_on = []\ntimer_c = 180.5"),
        small(more="[[carriers]]\nname = 'c'\nsite = 'A'\nuri = 'sip:127.0.0.2:5080'\nsources = ['127.0.0.2:5080']"),
        small(more="[[servers]]\nname = 'b'\nsite = 'A'\nuri = 'sip:127.0.0.3'\nsources = ['127.0.0.0/8']"),
        small(listen='["udp:127.0.0.1:5060", "tcp:127.0.0.1:5060", "ws:127.0.0.1:80"]'),
        small()
        .replace('"udp:127.0.0.1:5060"', '"udp:0.0.0.0:5060"')
        .replace("listen", "advertise = 'a.example:5062'\nlisten"),
        small().replace("listen", "admin = '192.0.2.1:80'\nadmin_token_file = 'token'\nlisten"),
        small().replace("\n", "\r\n"),
    ],
)
def test_what_is_allowed(accepted: str) -> None:
    assert Config.parse(accepted).platform.name == "small"


def test_two_gateways_may_both_listen_on_every_address_of_their_machines() -> None:
    text = small(listen='["udp:0.0.0.0:5060"]\nadvertise = "a.example"')
    text = text.replace("[platform]", "[platform]\nkey_file = 'ring'")
    text += '[[gateways]]\nname = "gw2"\nsite = "A"\nlisten = ["udp:0.0.0.0:5060"]\nadvertise = "a.example"'
    assert [gateway.name for gateway in Config.parse(text).gateways] == ["gw", "gw2"]


def test_the_example_is_the_platform_of_the_design() -> None:
    config = Config.load(EXAMPLE)
    assert (len(config.carriers), len(config.gateways), len(config.servers)) == (4, 8, 6)
    assert {carrier.centre for carrier in config.carriers} == {"montsouris", "aubervilliers"}
    assert config.sites == ("PA2", "PA5")
    for site in config.sites:
        assert [gateway.site for gateway in config.gateways].count(site) == 4
        assert [server.site for server in config.servers].count(site) == 3
    assert all(ip_network("127.0.0.0/8").supernet_of(peer.sources[0].network) for peer in config.peers)  # type: ignore[arg-type]


def test_load_tells_path_and_digest_and_reads_files_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "platform.toml").write_text(EVERYTHING)
    monkeypatch.chdir(tmp_path)
    config = Config.load("platform.toml")
    assert config.path == "platform.toml"
    assert config.digest == hashlib.sha256(EVERYTHING.encode()).hexdigest()
    assert config.platform.key_file == str(tmp_path / "cluster.key")
    assert config.digest != Config.parse(EVERYTHING + "#").digest


def test_absolute_file_names_and_what_is_no_file_stay() -> None:
    text = EVERYTHING.replace('"cluster.key"', '"/run/keys"').replace('"sqlite:"', '"sqlite::memory:"')
    config = Config.parse(text.replace("file:users.csv", "ldap://ldap.test/ou=users"), "/etc")
    assert config.platform.key_file == "/run/keys"
    assert config.store.url == "sqlite::memory:"
    assert config.agents is not None
    assert config.agents.credentials == "ldap://ldap.test/ou=users"


def test_nothing_of_it_can_be_changed(everything: Config) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        everything.routing.t1 = 2.0  # type: ignore[misc]
    for mapping in (
        everything.tiers,
        everything.tiers["database"].on,
        everything.actions,
        everything.actions["haproxy"],
    ):
        with pytest.raises(TypeError):
            mapping["x"] = ()  # type: ignore[index]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(tmp_path / "none.toml")
    missing = os.fspath(tmp_path / "none.toml")
    assert str(caught.value) == f"{missing}: expected a file that can be read, found No such file or directory"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"[platform]\nname = '\xe9t\xe9'\n")
    with pytest.raises(ConfigError, match=r"latin\.toml:2: expected UTF-8, found octet 0xe9"):
        Config.load(tmp_path / "latin.toml")
