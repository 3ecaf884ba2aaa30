# SPDX-License-Identifier: Apache-2.0
"""The configuration of the whole platform, checked and frozen (DESIGN section 10)."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ubisip import sections
from ubisip.configcheck import check, sources_of
from ubisip.errors import ConfigError, Mistake, UsageError
from ubisip.platform import GatewayNode, Kind, Peer
from ubisip.schema import Report, listed, printable, read_table
from ubisip.sections import Agents, Health, Limits, Parameters, Platform, Routing, Store, Tier, Tls
from ubisip.tiercheck import usable_rules
from ubisip.toml_lines import key_lines

_POSITION = re.compile(r" \((?:at line (?P<line>\d+), column \d+|at end of document)\)$")


@dataclass(frozen=True, slots=True)
class Config:
    """One TOML file for the whole platform, the same on every gateway; file names in it are absolute here.

    `peers` are its carriers, then its servers; `gateway(name)` is the gateway of that name.
    """

    platform: Platform
    """Name, environment, key ring and state folder."""
    sites: tuple[str, ...]
    """Names of the data centres, in the order of the file."""
    carriers: tuple[Peer, ...]
    """The carrier's SBCs."""
    servers: tuple[Peer, ...]
    """The telephony servers."""
    gateways: tuple[GatewayNode, ...]
    """The gateways; `gateway(name)` finds one."""
    routing: Routing
    """How a destination is chosen."""
    health: Health
    """How destinations are probed."""
    limits: Limits
    """What strangers and overload can take."""
    tls: Tls | None
    """Certificates; None: no listener needs any."""
    agents: Agents | None
    """The registrar; None: the gateways are none."""
    store: Store
    """Where shared and lasting state is kept."""
    tiers: Mapping[str, Tier]
    """The other tiers by name."""
    actions: Mapping[str, Parameters]
    """Parameters of actions by name."""
    sinks: Mapping[str, Parameters]
    """Parameters of event sinks by name."""
    path: str
    """The file, as it was given to `load`; empty when a text was parsed."""
    digest: str
    """SHA-256 of the text in hex: two gateways that show the same one run the same configuration."""
    warnings: tuple[str, ...]
    """What is odd in it and no mistake, a line each."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Config:
        """The configuration in the file *path*.

        :raises ConfigError: the file cannot be read, or has mistakes: all of them.
        """
        name = os.fspath(path)
        try:
            with open(name, "rb") as file:
                data = file.read()
        except (OSError, ValueError) as error:
            raise ConfigError([Mistake(0, "", "a file that can be read", _reason(error), name)]) from None
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ConfigError([Mistake(line, "", "UTF-8", f"octet 0x{data[error.start]:02x}", name)]) from None
        return cls.parse(text, os.path.dirname(name), file=name)

    @classmethod
    def parse(cls, text: str, base_dir: str | os.PathLike[str] = "", *, file: str = "") -> Config:
        """The configuration that *text* is; file names in it are relative to *base_dir*.

        *file* is what the mistakes are said to be in.

        :raises ConfigError: it has mistakes: all of them.
        """
        tables = _toml(text, file)
        report = Report(file, key_lines(text))
        whole = read_table(sections.Sections, tables, (), report)
        whole = _with_plugins(whole, os.path.abspath(base_dir))
        check(whole, report)
        if report.mistakes:
            raise ConfigError(sorted(report.mistakes, key=lambda mistake: mistake.line))
        config = _config(whole, os.path.abspath(base_dir), file, text)
        return replace(config, warnings=tuple(report.warnings))

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Carriers, then servers: every destination of calls."""
        return self.carriers + self.servers

    def gateway(self, name: str) -> GatewayNode:
        """The gateway *name*.

        :raises UsageError: there is none of that name; the text says which there are.
        """
        for node in self.gateways:
            if node.name == name:
                return node
        names = listed(node.name for node in self.gateways)
        raise UsageError(f"no gateway is named {name!r}; {self.path or 'the configuration'} has: {names}")


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _toml(text: str, file: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError([Mistake(0, "", "TOML", "values nested too deep", file)]) from None
    except ValueError as error:  # TOMLDecodeError, or a number of more digits than Python reads
        message = str(error)
        match = _POSITION.search(message)
        line = 0
        if match is not None:
            message = message[: match.start()]
            line = int(match["line"]) if match["line"] else text.rstrip("\n").count("\n") + 1
        raise ConfigError([Mistake(line, "", "TOML", printable(message), file)]) from None


def _config(whole: sections.Sections, base_dir: str, file: str, text: str) -> Config:
    return Config(
        platform=replace(
            whole.platform,
            key_file=_absolute(base_dir, whole.platform.key_file),
            state_dir=_absolute(base_dir, whole.platform.state_dir),
        ),
        sites=tuple(whole.sites),
        carriers=tuple(_peer(Kind.CARRIER, carrier, carrier.centre) for carrier in whole.carriers),
        servers=tuple(_peer(Kind.SERVER, server) for server in whole.servers),
        gateways=tuple(_node(gateway, base_dir) for gateway in whole.gateways),
        routing=whole.routing,
        health=whole.health,
        limits=whole.limits,
        tls=_tls(whole.tls, base_dir),
        agents=_agents(whole.agents, base_dir),
        store=_store(whole.store, base_dir),
        tiers=MappingProxyType({
            name: replace(tier, on=MappingProxyType(usable_rules(tier, whole))) for name, tier in whole.tiers.items()
        }),
        actions=whole.actions,
        sinks=whole.sinks,
        path=file,
        digest=hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest(),
        warnings=(),
    )


def _peer(kind: Kind, row: sections.PeerTable, centre: str = "") -> Peer:
    return Peer(
        kind=kind,
        name=row.name,
        site=row.site,
        uri=row.uri.text,
        endpoint=row.uri.endpoint,
        sources=sources_of(row),
        centre=centre,
        weight=row.weight,
        max_calls=row.max_calls,
        max_cps=row.max_cps,
        listener="" if row.listener is None else str(row.listener),
        tcp=row.tcp,
    )


def _node(row: sections.Gateway, base_dir: str) -> GatewayNode:
    return GatewayNode(
        name=row.name,
        site=row.site,
        listen=row.listen,
        advertise=row.advertise,
        admin=row.admin,
        agent_check=row.agent_check,
        admin_token_file=_absolute(base_dir, row.admin_token_file),
    )


def _agents(agents: Agents | None, base_dir: str) -> Agents | None:
    if agents is None:
        return None
    return replace(
        agents,
        credentials=_absolute_url(base_dir, agents.credentials),
        credentials_password_file=_absolute(base_dir, agents.credentials_password_file),
        credentials_ca_file=_absolute(base_dir, agents.credentials_ca_file),
    )


def _tls(tls: Tls | None, base_dir: str) -> Tls | None:
    if tls is None:
        return None
    hosts = {
        name: replace(host, certificate=_absolute(base_dir, host.certificate), key=_absolute(base_dir, host.key))
        for name, host in tls.hosts.items()
    }
    return replace(
        tls,
        certificate=_absolute(base_dir, tls.certificate),
        key=_absolute(base_dir, tls.key),
        hosts=MappingProxyType(hosts),
        client_ca=_absolute(base_dir, tls.client_ca),
        server_ca=_absolute(base_dir, tls.server_ca),
    )


def _store(store: Store, base_dir: str) -> Store:
    return replace(
        store,
        url=_absolute_url(base_dir, store.url),
        ca_file=_absolute(base_dir, store.ca_file),
        certificate_file=_absolute(base_dir, store.certificate_file),
        key_file=_absolute(base_dir, store.key_file),
        password_file=_absolute(base_dir, store.password_file),
    )


def _with_plugins(whole: sections.Sections, base_dir: str) -> sections.Sections:
    """*whole* with the file names that its plug-ins will read made absolute."""
    tiers = {name: _tier(tier, base_dir) for name, tier in whole.tiers.items()}
    actions = {name: _absolute_files(base_dir, parameters) for name, parameters in whole.actions.items()}
    sinks = {name: _absolute_files(base_dir, parameters) for name, parameters in whole.sinks.items()}
    return replace(
        whole,
        tiers=MappingProxyType(tiers),
        actions=MappingProxyType(actions),
        sinks=MappingProxyType(sinks),
    )


def _tier(tier: Tier, base_dir: str) -> Tier:
    return replace(
        tier,
        password_file=_absolute(base_dir, tier.password_file),
        parameters=_absolute_files(base_dir, tier.parameters),
    )


def _absolute_files(base_dir: str, value: Any) -> Any:
    """Free parameters in which every key that ends in ``_file`` names a file seen from anywhere."""
    if isinstance(value, tuple):
        return tuple(_absolute_files(base_dir, item) for item in value)
    if not isinstance(value, Mapping):
        return value
    return MappingProxyType(
        {
            key: _absolute(base_dir, item)
            if key.endswith("_file") and isinstance(item, str)
            else _absolute_files(base_dir, item)
            for key, item in value.items()
        }
    )


def _absolute(base_dir: str, name: str) -> str:
    """The file *name* seen from *base_dir*; empty stays empty."""
    return os.path.join(base_dir, name) if name else ""


def _absolute_url(base_dir: str, url: str) -> str:
    """*url* with the name of the file made absolute where it names one."""
    scheme, _, name = url.partition(":")
    if scheme in ("file", "sqlite") and name and not name.startswith(":"):  # sqlite::memory: is no file
        return f"{scheme}:{os.path.join(base_dir, name)}"
    return url
