# SPDX-License-Identifier: Apache-2.0
"""A configuration as one gateway takes it into force: its own part, its keys, its token; or why it cannot."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ubisip import keys
from ubisip.admin.access import read_token
from ubisip.config import Config
from ubisip.errors import ConfigError, Mistake, UsageError
from ubisip.health.observer import Group
from ubisip.platform import GatewayNode, Peer

log = logging.getLogger(__name__)

SERVED = ("udp", "tcp")
"""Transports of this version; tls, ws and wss are refused."""


@dataclass(frozen=True, slots=True)
class Node:
    """What one gateway runs by; a reload makes a new one."""

    config: Config
    gateway: GatewayNode
    peers: Mapping[str, Peer]
    """Carriers and servers by name, in the order of the file."""
    keys: tuple[bytes, ...] = field(repr=False)
    """The key ring: the first signs, all verify."""
    token: str = field(repr=False)
    """Bearer token of the admin side; empty: this machine only."""

    @property
    def targets(self) -> dict[str, Group]:
        """What the health monitor wants to know of each destination."""
        return {peer.name: (peer.kind, peer.site) for peer in self.peers.values()}

    def state_file(self, suffix: str) -> Path:
        """A file of this gateway's own in ``state_dir``."""
        return Path(self.config.platform.state_dir) / f"{self.gateway.name}.{suffix}"


def node_of(config: Config, name: str) -> Node:
    """What the gateway *name* runs by under *config*.

    :raises ConfigError: this version does not serve a transport that the configuration wants.
    :raises UsageError: there is no such gateway, or its key ring or token cannot be read.
    """
    gateway = config.gateway(name)
    if mistakes := [*_unserved_listeners(config, gateway), *_unserved_peers(config)]:
        raise ConfigError(mistakes)
    peers = MappingProxyType({peer.name: peer for peer in config.peers})
    return Node(config, gateway, peers, tuple(_keys(config, gateway)), _token(gateway))


def warn(node: Node) -> None:
    """Tell, once for each configuration, what it asks for that will not be done."""
    config, gateway = node.config, node.gateway
    if config.agents is not None:
        log.warning("this version does not serve [agents] yet: no registrations")
    admin = gateway.admin
    if admin is not None and not node.token and not ipaddress.ip_address(admin.host).is_loopback:
        log.warning("HTTP on %s answers loopback peers only, as no admin_token_file is configured", admin)


def _unserved_listeners(config: Config, gateway: GatewayNode) -> Iterator[Mistake]:
    place = f"gateways[{config.gateways.index(gateway)}].listen"
    for number, endpoint in enumerate(gateway.listen):
        if endpoint.transport not in SERVED:
            expected = "a udp: or tcp: listener (others are not served yet)"
            yield Mistake(0, f"{place}[{number}]", expected, str(endpoint), config.path)


def _unserved_peers(config: Config) -> Iterator[Mistake]:
    for place, peers in (("carriers", config.carriers), ("servers", config.servers)):
        for number, peer in enumerate(peers):
            if peer.endpoint.transport not in SERVED:
                expected = "a URI reached over udp or tcp (others are not served yet)"
                yield Mistake(0, f"{place}[{number}].uri", expected, peer.uri, config.path)


def _keys(config: Config, gateway: GatewayNode) -> list[bytes]:
    """The key ring; a gateway that is alone has its own in ``state_dir``, so that a restart continues its calls."""
    name = config.platform.key_file
    try:
        if not name:
            name = os.path.join(config.platform.state_dir, f"{gateway.name}.key")
            if not os.path.exists(name):
                os.makedirs(config.platform.state_dir, exist_ok=True)
                keys.create(name)
        return keys.load_keys(name)
    except OSError as error:
        hint = "; `ubisip key` makes one" if isinstance(error, FileNotFoundError) else ""
        raise UsageError(f"key ring {name}: {error.strerror}{hint}") from error


def _token(gateway: GatewayNode) -> str:
    if not gateway.admin_token_file:
        return ""
    try:
        return read_token(gateway.admin_token_file)
    except (OSError, ValueError) as error:
        raise UsageError(f"admin_token_file: {error}") from error
