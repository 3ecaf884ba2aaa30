# SPDX-License-Identifier: Apache-2.0
"""A configuration as one gateway takes it into force: its own part, its keys, its token; or why it cannot."""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from ubisip import keys
from ubisip.admin.access import read_token
from ubisip.config import Config
from ubisip.errors import ConfigError, UsageError
from ubisip.health.observer import Group
from ubisip.platform import GatewayNode, Peer
from ubisip.transport.tcp import SECURE
from ubisip.transport.tls import CertificateError, Certificates, problems_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """What one gateway runs by; a reload makes a new one."""

    config: Config
    gateway: GatewayNode
    peers: Mapping[str, Peer]
    """Carriers and servers by name, in the order of the file."""
    keys: tuple[bytes, ...] = field(repr=False)
    """The key ring: the first signs, all verify."""
    certificates: Certificates | None = field(repr=False)
    """What TLS is spoken with; None: no listener of this gateway speaks it."""
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

    :raises ConfigError: a certificate, key or CA file cannot be used.
    :raises UsageError: there is no such gateway, or its key ring or token cannot be read.
    """
    gateway = config.gateway(name)
    peers = MappingProxyType({peer.name: peer for peer in config.peers})
    return Node(config, gateway, peers, tuple(_keys(config, gateway)), _certificates(config, gateway), _token(gateway))


def warn(node: Node) -> None:
    """Tell, once for each configuration, what it asks for that will not be done."""
    gateway = node.gateway
    for warning in node.config.warnings:
        log.warning("%s", warning)
    for problem in [] if node.certificates is None else problems_of(node.certificates.config, time.time()):
        log.warning("%s", problem)
    admin = gateway.admin
    if admin is not None and not node.token and not ipaddress.ip_address(admin.host).is_loopback:
        log.warning("HTTP on %s answers loopback peers only, as no admin_token_file is configured", admin)


def _certificates(config: Config, gateway: GatewayNode) -> Certificates | None:
    if config.tls is None or not any(endpoint.transport in SECURE for endpoint in gateway.listen):
        return None
    try:
        return Certificates.read(config.tls)
    except CertificateError as error:
        raise ConfigError([replace(error.mistake, file=config.path)]) from error


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
