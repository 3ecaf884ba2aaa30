# SPDX-License-Identifier: Apache-2.0
"""Where credentials are looked up, as the file writes it: ``file:users.csv``, ``mariadb://user@db1,db2:3307/sip``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

EXAMPLE = 'a source such as "file:users.csv", "sqlite:users.db" or "mariadb://user@db1,db2/sip" (or postgresql: ldap:)'
PORTS = {"mariadb": 3306, "postgresql": 5432, "ldap": 389}
"""Schemes that name servers, and their usual ports."""
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Host:
    """One server of a source."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """A source of credentials, taken apart."""

    scheme: str
    """``file``, ``sqlite``, ``mariadb``, ``postgresql`` or ``ldap``."""
    path: str
    """The file; the database; the base of an LDAP search."""
    hosts: tuple[Host, ...] = ()
    """In the order in which they are tried; empty for ``file`` and ``sqlite``."""
    user: str = ""
    password: str = field(default="", repr=False)
    attributes: tuple[str, ...] = ()
    """Of an LDAP entry, as RFC 4516 has them after the base."""


def parse(text: str) -> SourceUrl:
    """*text* taken apart.

    :raises ValueError: it is no such source; the error's text is what was expected.
    """
    scheme, colon, rest = text.partition(":")
    if colon and rest and scheme in ("file", "sqlite"):
        return SourceUrl(scheme, rest)
    if scheme not in PORTS or not rest.startswith("//"):
        raise ValueError(EXAMPLE)
    authority, _, path = rest[2:].partition("/")
    login, _, hosts = authority.rpartition("@")
    user, _, password = login.partition(":")
    path, _, attributes = path.partition("?")
    if not path or (attributes and scheme != "ldap"):
        raise ValueError(EXAMPLE)
    return SourceUrl(
        scheme,
        unquote(path),
        tuple(_host(one, PORTS[scheme]) for one in hosts.split(",")),
        unquote(user),
        unquote(password),
        tuple(unquote(name) for name in attributes.split(",") if name),
    )


def checked(text: str) -> str:
    """*text*, when it is such a source.

    :raises ValueError: it is none; the error's text is what was expected.
    """
    parse(text)
    return text


def _host(text: str, usual: int) -> Host:
    match = _HOST.fullmatch(text)
    port = int(match["port"] or usual) if match else 0
    if match is None or not 0 < port < 65_536:
        raise ValueError(EXAMPLE)
    return Host(match["v6"] or match["name"], port)
