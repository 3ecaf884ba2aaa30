# SPDX-License-Identifier: Apache-2.0
"""A source of credentials by its scheme: entry points ``ubisip.credentials``, so that only its own driver is loaded."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ubisip.agents.credentials import Credentials
from ubisip.agents.secret import Digests
from ubisip.errors import UsageError
from ubisip.sections import Agents
from ubisip.source_url import SourceUrl, parse

GROUP = "ubisip.credentials"


class Source(Credentials, Protocol):
    """Shipped sources also end what they hold open."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Change:
    """One user of a source that can list all."""

    user: str
    realm: str
    digests: Digests | None
    """None: the user is gone."""


class Changes(Protocol):
    """Some users, made one by one as they are asked for; a list of them is one, too."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Change]: ...


@runtime_checkable
class Listing(Protocol):
    """A source that can list all users, so that the core need not ask."""

    mistakes: list[str]
    """What was passed over at the last reading, one line of text each."""

    async def changes(self) -> Changes:
        """All users at the first call, later those that changed since.

        :raises OSError: the list cannot be read; what it said before stands.
        :raises ValueError: it makes no sense, likewise.
        """

    def follow(self, other: Listing) -> None:
        """The core has heard of all users of *other*: what differs is a change."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a source is made from."""

    url: SourceUrl
    realm: str
    query: str
    """Empty: the source's default."""
    password: str = field(repr=False)
    ca_file: str
    """Not empty: connections are encrypted, and the server's certificate and name verified by the CAs in it."""
    tls: ssl.SSLContext | None
    """The same as a context for drivers that take one; None: ``ca_file`` is empty."""


def open_source(agents: Agents) -> Source:
    """The source that ``agents.credentials`` names.

    :raises UsageError: a file that it needs cannot be read, or its driver is not installed.
    """
    url = parse(agents.credentials)
    password = _first_line(agents.credentials_password_file) or url.password
    ca_file = agents.credentials_ca_file
    options = Options(url, agents.realm, agents.credentials_query, password, ca_file, _tls(ca_file))
    source: Source = _opener(url.scheme)(options)
    return source


def _opener(scheme: str) -> Any:
    for entry in entry_points(group=GROUP, name=scheme):
        try:
            return entry.load()
        except ImportError as error:
            wanted = f"`pip install 'ubisip[{scheme}]'`"
            raise UsageError(f"agents.credentials: {scheme}: needs {wanted} ({error})") from error
    raise UsageError(f"agents.credentials: no installed package offers {scheme}: as an entry point of {GROUP}")


def _first_line(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text("utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, ValueError) as error:
        raise UsageError(f"agents.credentials_password_file: {error}") from error


def _tls(path: str) -> ssl.SSLContext | None:
    if not path:
        return None
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"agents.credentials_ca_file: {path}: {error}") from error
