# SPDX-License-Identifier: Apache-2.0
"""The sections of the configuration file as frozen dataclasses (DESIGN section 10).

The docstring under each field is its entry in docs/configuration.md; the annotation says what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from ubisip import address, source_url
from ubisip.address import SipUri
from ubisip.platform import Endpoint, Source
from ubisip.schema import AT_LEAST_ONE, REQUIRED, Between, Expected, From, Matching, Prefixed

Name = Annotated[
    str,
    Matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "a name of at most 64 letters, digits, dots, dashes and underscores"),
]
_HostName = Annotated[str, Matching(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}", "a host name")]
_Text = Matching(r"[^\x00-\x1f\x7f]+", "a string that is not empty")
_RequiredName = Annotated[Name, REQUIRED]
_RequiredText = Annotated[str, _Text, REQUIRED]
_File = Annotated[str, Matching(r"[^\x00]+", "the name of a file")]

_LISTEN = From(address.parse_listen, address.LISTEN_EXAMPLE)
_SOURCE = From(address.parse_source, address.SOURCE_EXAMPLE)
_CREDENTIALS = From(source_url.checked, source_url.EXAMPLE)
_MEMBERS = Expected("at least one { name, site, address }")
_SOFT = '"" or a URL such as "redis://127.0.0.1:6379/0"'
_STORE = 'a store such as "sqlite:" or "etcd:http://127.0.0.1:2379"'


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Platform:
    """The platform as a whole."""

    name: _RequiredText = ""
    """What the platform is called wherever it is shown."""
    environment: Annotated[str, _Text] = "production"
    """Shown wherever people look: production, preproduction..."""
    key_file: _File = ""
    """The key ring made by `ubisip key`, the same on every gateway; required as soon as there are two gateways."""
    state_dir: _File = "state"
    """Folder of what the gateway keeps on disk."""


@dataclass(frozen=True, slots=True)
class Site:
    """A data centre; its name is all there is to say. At least one."""


@dataclass(frozen=True, slots=True)
class PeerTable:
    """What carriers and servers have in common."""

    name: _RequiredName = ""
    """No other carrier, server or gateway has it: `ubisip switch NAME` finds all three by it."""
    site: _RequiredName = ""
    """The data centre it stands in or is linked to."""
    uri: Annotated[SipUri, From(address.parse_uri, address.URI_EXAMPLE), REQUIRED] = address.NO_URI
    """Where its requests go: host name or address, port (5060; tls 5061), `;transport=` udp (default), tcp or tls;
    `sips:` is tls."""
    sources: Annotated[tuple[Annotated[Source, _SOURCE], ...], AT_LEAST_ONE] = ()
    """Who may send as this peer: address, address:port or network. Default: the URI's host, which then must be an
    address. Where two peers claim the same, address:port comes before address and network."""
    weight: Annotated[int, Between(0, 10_000)] = 100
    """Share of the calls compared with the others of its site; 0: none."""
    max_calls: Annotated[int, Between(0, 10_000_000)] = 0
    """Calls at a time; 0: no limit."""
    max_cps: Annotated[float, Between(0, 1_000_000)] = 0.0
    """New calls per second; 0: no limit."""
    listener: Annotated[Endpoint | None, _LISTEN] = None
    """The gateway listener it is reached from, written as in `listen`. Default: the first whose network and transport
    fit."""
    tcp: bool = False
    """A udp peer that listens on TCP too, at the same port: requests above 1,300 octets go there, and by datagram if it
    refuses them (RFC 3261 section 18.1.1). Where this is false they go by datagram, in fragments."""


@dataclass(frozen=True, slots=True)
class Carrier(PeerTable):
    """One SBC of the carrier. `site` is the data centre that its centre is linked to."""

    centre: Annotated[str, _Text] = ""
    """The carrier centre it belongs to."""


@dataclass(frozen=True, slots=True)
class Server(PeerTable):
    """One telephony server. At least one."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway; the option `--node` says which of them a process is. At least one."""

    name: _RequiredName = ""
    """No other carrier, server or gateway has it."""
    site: _RequiredName = ""
    """The data centre it stands in."""
    listen: Annotated[tuple[Annotated[Endpoint, _LISTEN], ...], AT_LEAST_ONE, REQUIRED] = ()
    """Where it hears SIP: `udp:` `tcp:` `tls:` `ws:` `wss:`, address, port. One in each network that it joins."""
    advertise: Annotated[str, From(address.parse_advertise, address.ADVERTISE_EXAMPLE)] = ""
    """`host` or `host:port` that it writes into Record-Route; the port is that of udp and tcp. Default: the listening
    address."""
    admin: Annotated[Endpoint | None, From(address.parse_socket, address.SOCKET_EXAMPLE)] = None
    """Where it answers HTTP. Default: nowhere. Beyond loopback only with `admin_token_file`."""
    agent_check: Annotated[Endpoint | None, From(address.parse_socket, address.SOCKET_EXAMPLE)] = None
    """Where it answers HAProxy's `agent-check`: for itself and for members of the tiers. Default: nowhere."""
    admin_token_file: _File = ""
    """File with the bearer token that HTTP clients must show."""


@dataclass(frozen=True, slots=True)
class Routing:
    """How a destination is chosen and when the next is tried."""

    policy: Literal["hash", "least-calls", "round-robin", "weighted"] = "hash"
    """`hash` (on Call-ID, so that gateways agree without talking), `least-calls`, `round-robin`, `weighted`."""
    first_response_timeout: Annotated[float, Between(0.05, 32)] = 1.0
    """Seconds without any response before the next server is tried."""
    t1: Annotated[float, Between(0.01, 4)] = 0.1
    """Seconds: T1 of RFC 3261 section 17.1.1.1 towards our own servers; towards carriers and agents it is 0.5."""
    failover_on: tuple[Annotated[int, Between(300, 699)], ...] = (500, 502, 503, 504)
    """Final responses upon which the next destination is tried."""
    coalesce: Annotated[float, Between(0, 20)] = 0.5
    """Milliseconds that datagrams may gather under load before they are handled together."""
    timer_c: Annotated[float, Between(180, 86_400, above=True)] = 185.0
    """Seconds a call may ring: Timer C of RFC 3261 section 16.6."""
    emergency: tuple[Annotated[str, Matching(r"\+?[0-9*#]{1,32}", 'a number in quotes such as "112"')], ...] = (
        "15", "17", "18", "112", "114", "115", "119", "191", "196", "197",
    )  # fmt: skip
    """Numbers whose calls are never shed, queued or rate-limited."""
    hook_timeout: Annotated[float, Between(0.001, 10)] = 0.25
    """Seconds a hook has to decide on a call before the policy does."""


@dataclass(frozen=True, slots=True)
class SipHealth:
    """OPTIONS to carriers and servers."""

    interval: Annotated[float, Between(0.05, 3_600)] = 2.0
    """Seconds between probes of a destination that is up."""
    fast_interval: Annotated[float, Between(0.05, 3_600)] = 0.5
    """Seconds between probes while its state changes."""
    down_interval: Annotated[float, Between(0.05, 3_600)] = 2.0
    """Seconds between probes of a destination that is down."""
    timeout: Annotated[float, Between(0.05, 60)] = 1.0
    """Seconds a probe waits for its answer."""
    fall: Annotated[int, Between(1, 100)] = 2
    """Failures in a row that take it down."""
    rise: Annotated[int, Between(1, 100)] = 3
    """Successes in a row that bring it up."""
    slow_start: Annotated[float, Between(0, 3_600)] = 10.0
    """Seconds over which its weight grows back to the full one; 0: at once."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is probed, and how."""

    sip: SipHealth = SipHealth()
    """OPTIONS to carriers and servers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what strangers and overload can take from one gateway."""

    transactions: Annotated[int, Between(1, 100_000_000)] = 400_000
    """Transactions in memory at once; beyond, new requests get 503."""
    source_cps: Annotated[float, Between(0, 1_000_000)] = 0.0
    """New calls per second from one source; 0: no limit."""
    refusals: Annotated[float, Between(0, 1_000_000)] = 100.0
    """403 replies per second to strangers; beyond: silence."""
    calls: Annotated[int, Between(1, 100_000_000)] = 200_000
    """Calls tracked at once."""
    memory: Annotated[int, Between(1, 1_048_576)] = 1024
    """MiB of message buffers."""
    bindings: Annotated[int, Between(1, 10_000_000)] = 250_000
    """Contacts of agents registered at once; beyond, new ones get 503."""


@dataclass(frozen=True, slots=True)
class HostCertificate:
    """The certificate for one host name."""

    certificate: Annotated[_File, REQUIRED] = ""
    """PEM file of the certificate and those between it and the root, its own first."""
    key: _File = ""
    """PEM file of its private key. Default: it is in the same file."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates; needed by `tls:` and `wss:` listeners. Renewed files are taken into use by themselves."""

    certificate: Annotated[_File, REQUIRED] = ""
    """PEM file of the certificate that is shown where no other fits, and those between it and the root, its own
    first."""
    key: _File = ""
    """PEM file of its private key. Default: it is in the same file."""
    hosts: Mapping[_HostName, HostCertificate] = field(default_factory=_nothing)
    """Other certificates, by the host name that a client asks for (SNI): `[tls.hosts."phones.example.net"]` with
    `certificate` and `key` each."""
    client_ca: _File = ""
    """PEM file of the authorities whose certificates clients may show. Default: they are not asked for any."""
    client_certificates: Literal["optional", "required"] = "optional"
    """With `client_ca`: whether clients that show none are refused. One that does not hold always is."""
    server_ca: _File = ""
    """PEM file of the authorities that must have signed the certificates of servers we connect to. Default: those of
    the system."""


@dataclass(frozen=True, slots=True)
class Agents:
    """Present: the gateways are registrars."""

    realm: _RequiredText = ""
    """Realm of digest authentication (RFC 8760)."""
    domains: Annotated[tuple[Annotated[str, _Text], ...], AT_LEAST_ONE, REQUIRED] = ()
    """Domains whose agents register here."""
    credentials: Annotated[str, _CREDENTIALS] = ""
    """Where passwords are looked up: `file:` (name;password or name;realm;ha1 a line, or TOML), `sqlite:` and a file;
    `mariadb:` `postgresql:` `ldap:` and `//user:password@host:port,host:port/database` (of LDAP: base of the search,
    then `?attribute`). Default: a hook is asked. See [agents](agents.md)."""
    credentials_query: Annotated[str, _Text] = ""
    """SQL whose columns are `password` or `ha1`, or an LDAP filter; `:user` and `:realm` stand for what is looked up.
    Default: `SELECT password FROM users WHERE name = :user`, of LDAP `(uid=:user)`."""
    credentials_password_file: _File = ""
    """File whose first line is the password for the source, instead of one in `credentials`."""
    credentials_ca_file: _File = ""
    """CA certificates: connections to the source are encrypted and its name is verified. Default: in the clear
    (PostgreSQL: encrypted, not verified, where the server can)."""
    credentials_refresh: Annotated[float, Between(1, 86_400)] = 60.0
    """Seconds that a looked-up password holds; after so long a change in the source is seen."""
    credentials_cache: Annotated[float, Between(0, 604_800)] = 3600.0
    """Seconds that agents who were looked up before stay known while the source is down."""
    algorithms: Annotated[tuple[Literal["SHA-256", "SHA-512-256", "MD5"], ...], AT_LEAST_ONE] = (
        "SHA-256",
        "SHA-512-256",
        "MD5",
    )
    """What phones are challenged by, in this order (RFC 8760); MD5, if it is there, comes last. Phones that know
    nothing but MD5, and give up when they are offered anything else, want `["MD5"]`."""
    service_route: bool = False
    """Whether phones are told to send all their requests through the gateway they register with (RFC 3608)."""
    mirror: Literal["site", "platform", "off"] = "site"
    """Servers that a registration is passed on to: those of the site, all, or none (calls are looked up here)."""
    mirror_quorum: Annotated[int, Between(1, 1_000)] = 1
    """Servers that must accept before the agent gets its 200."""
    min_expires: Annotated[int, Between(1, 604_800)] = 60
    """Seconds: shorter registrations get 423."""
    default_expires: Annotated[int, Between(1, 604_800)] = 3600
    """Seconds, when the agent asks for none."""
    max_expires: Annotated[int, Between(1, 604_800)] = 7200
    """Seconds: longer registrations are cut to it."""
    max_contacts: Annotated[int, Between(1, 1_000)] = 10
    """Contacts of one agent at once."""


@dataclass(frozen=True, slots=True)
class Store:
    """What must outlive or be seen beyond one process."""

    url: Annotated[str, Matching(r"sqlite:.*|etcd:https?://[^,\s]+(?:,https?://[^,\s]+)*", _STORE)] = "sqlite:"
    """Lease, journal and configuration: `sqlite:` (a file in `state_dir`) or `etcd:` with its members' URLs."""
    ca_file: _File = ""
    """PEM file of the authorities that have signed the certificates of etcd's members (`https`). Default: those of the
    system."""
    certificate_file: _File = ""
    """PEM file of a certificate that etcd's members ask for (`--client-cert-auth`). Default: they ask for none."""
    key_file: _File = ""
    """PEM file of its private key. Default: it is in the same file."""
    user: Annotated[str, _Text] = ""
    """User of etcd, where it has users: with the right to read and write all below `/ubisip/PLATFORM/`."""
    password_file: _File = ""
    """File with the password for `user`."""
    soft: Annotated[str, Matching(r"(?:(?:rediss?|unix)://\S+)?", _SOFT)] = ""
    """A Redis of the site, such as `redis://:password@10.2.0.30:6379/0` (also `rediss:` and `unix:`): in it the
    gateways of the site show each other their registrations. Default: each knows its own. See [agents](agents.md)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One machine of a tier."""

    name: _RequiredName = ""
    """No other member of the tier has it."""
    site: _RequiredName = ""
    """The data centre it stands in."""
    address: _RequiredText = ""
    """Where the probe reaches it, such as `127.0.0.1:3311`."""


Parameters = Mapping[str, Any]
"""Free parameters: tables are read-only mappings, arrays are tuples."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Another tier that is watched and repaired: databases, web servers and the like."""

    kind: _RequiredName = ""
    """Name of its probe: mariadb, postgresql, galera, http, dns..."""
    mode: Literal["automatic", "ask", "observe"] = "observe"
    """What happens when it fails: the actions run, they wait for a person's yes, or it is only told."""
    user: Annotated[str, _Text] = ""
    """Name under which it is probed."""
    password_file: _File = ""
    """File with the password for `user`."""
    members: Annotated[tuple[Member, ...], AT_LEAST_ONE, REQUIRED, _MEMBERS] = ()
    """Its machines: `{ name, site, address }` each; `name` is unique within the tier."""
    interval: Annotated[float, Between(0.05, 86_400)] = 0.5
    """Seconds between probes of a member while all is well."""
    fast_interval: Annotated[float, Between(0.05, 86_400)] = 0.2
    """Seconds between probes while a member's state changes: then all of the tier are asked."""
    down_interval: Annotated[float, Between(0.05, 86_400)] = 1.0
    """Seconds between probes of a member that is down."""
    timeout: Annotated[float, Between(0.05, 300)] = 0.5
    """Seconds a probe waits for its answer."""
    fall: Annotated[int, Between(1, 100)] = 2
    """Failures in a row that take a member down."""
    rise: Annotated[int, Between(1, 100)] = 3
    """Successes in a row that bring it up."""
    slow_start: Annotated[float, Between(0, 3_600)] = 10.0
    """Seconds over which a member's weight grows back after a recovery; 0: at once."""
    parameters: Parameters = field(default_factory=_nothing)
    """What the probe of its kind wants to know besides, such as the path of an HTTP request."""
    on: Annotated[Mapping[Name, tuple[Name, ...]], Prefixed("on_")] = field(default_factory=_nothing)
    """Actions and sinks to take upon EVENT, in this order: a verdict, as in `on_dead_primary`, or an operator's wish,
    `on_switchover` and `on_failback`."""


@dataclass(frozen=True, slots=True)
class Sections:
    """The whole file."""

    platform: Annotated[Platform, REQUIRED] = Platform()
    sites: Annotated[Mapping[Name, Site], REQUIRED, Expected("at least one section such as [sites.PA2]")] = field(
        default_factory=_nothing
    )
    carriers: Annotated[tuple[Carrier, ...], Expected("tables headed [[carriers]]")] = ()
    gateways: Annotated[tuple[Gateway, ...], AT_LEAST_ONE, REQUIRED, Expected("at least one table [[gateways]]")] = ()
    servers: Annotated[tuple[Server, ...], AT_LEAST_ONE, REQUIRED, Expected("at least one table [[servers]]")] = ()
    routing: Routing = Routing()
    health: Health = Health()
    limits: Limits = Limits()
    tls: Tls | None = None
    agents: Agents | None = None
    store: Store = Store()
    tiers: Mapping[Name, Tier] = field(default_factory=_nothing)
    actions: Mapping[Name, Parameters] = field(default_factory=_nothing)
    """Parameters of an action, by its name in the rules; `type` names the action where the two differ."""
    sinks: Mapping[Name, Parameters] = field(default_factory=_nothing)
    """Parameters of a sink of notices, by its name; `type` names the sink where the two differ."""
