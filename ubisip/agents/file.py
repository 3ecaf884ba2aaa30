# SPDX-License-Identifier: Apache-2.0
"""Credentials from a CSV or TOML file, read whole and again when it changes."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import tomllib
from array import array
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from ubisip.agents.credentials import Unavailable
from ubisip.agents.roll import Roll
from ubisip.agents.secret import Secret, digests_of, read_ha1, secret_of_ha1s
from ubisip.agents.source import Change, Changes, Listing, Options

MAX_FILE = 64 * 1024 * 1024
"""Octets; a million users with HA1s."""
SLICE = 250
"""Users between two turns of the loop: some 2 ms."""
_T = TypeVar("_T")
_Row = tuple[str, str, Secret]
"""Name, realm, secret."""


class FileSource:
    """Knows every user; ``changes()`` tells what is new."""

    def __init__(self, options: Options) -> None:
        self.mistakes: list[str] = []
        self._path = options.url.path
        self._realm = options.realm
        self._users = Roll()
        self._read: tuple[int, ...] = ()
        self._seen: tuple[int, ...] = ()

    async def credentials(self, user: str, realm: str) -> Secret | None:
        """What the file said of *user* when it was last read.

        :raises Unavailable: it was not yet.
        """
        if not self._read:
            raise Unavailable(f"{self._path} is about to be read")
        at = self._users.place(user, realm)
        return None if at < 0 else self._users.secret(at)

    async def changes(self) -> Changes:
        """All users at the first call, then those that changed; who still writes has the time between two calls to end.

        :raises OSError: the file cannot be read, or is too large.
        :raises ValueError: it is no such file, or has lost all its users: what it said before stands.
        """
        now = _signature(self._path)
        settled, self._seen = now == self._seen or not self._read, now
        if now == self._read or not settled:
            return ()
        users, mistakes = await self._users_of_file()
        if self._users and not users:
            raise ValueError(f"{self._path} has no users any more")
        changes = Differences(self._users, users)
        async for _ in _paced(changes.look()):
            pass
        self._users, self._read, self.mistakes = users, now, mistakes
        return changes

    def follow(self, other: Listing) -> None:
        """Tell only what differs from what *other* has told."""
        if isinstance(other, FileSource):
            self._users = other._users

    async def close(self) -> None:
        """There is nothing to end."""

    async def _users_of_file(self) -> tuple[Roll, list[str]]:
        text = await asyncio.to_thread(_text, self._path)
        is_toml = self._path.endswith(".toml")
        rows = _toml_rows(_toml_users(text), self._realm) if is_toml else _csv_rows(text, self._realm)
        users = Roll(text.count("\n") + 1)
        mistakes: list[str] = []
        async for row in _paced(rows):
            if isinstance(row, str):
                mistakes.append(f"{self._path}: {row}")
                continue
            users.put(*row)
        return users, mistakes


async def _paced(items: Iterator[_T]) -> AsyncIterator[_T]:
    """*items*, with a turn of the loop after each slice of them."""
    for number, item in enumerate(items, 1):
        yield item
        if number % SLICE == 0:
            await asyncio.sleep(0)


class Differences:
    """What changed from one roll to the next; only places are kept, since they may be a hundred thousand."""

    def __init__(self, before: Roll, after: Roll) -> None:
        self._before = before
        self._after = after
        self._new = array("Q")
        self._gone = array("Q")

    def look(self) -> Iterator[None]:
        """Find them; a step for each user."""
        for at in self._after:
            old = self._before.place(*self._after.user(at)) if len(self._before) else -1
            if old < 0 or self._before.secret(old) != self._after.secret(at):
                self._new.append(at)
            yield
        for at in self._before:
            if self._after.place(*self._before.user(at)) < 0:
                self._gone.append(at)
            yield

    def __len__(self) -> int:
        return len(self._new) + len(self._gone)

    def __iter__(self) -> Iterator[Change]:
        for at in self._new:
            name, realm = self._after.user(at)
            yield Change(name, realm, digests_of(self._after.secret(at), name, realm))
        for at in self._gone:
            yield Change(*self._before.user(at), None)


def _signature(path: str) -> tuple[int, ...]:
    """What changes when the file does.

    :raises OSError: it is not there.
    """
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _text(path: str) -> str:
    with open(path, "rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise OSError(f"{path} has more than {MAX_FILE} octets")
    return data.decode("utf-8-sig", "surrogateescape")


def _csv_rows(text: str, realm: str) -> Iterator[_Row | str]:
    """The users of ``name;password`` and ``name;realm;ha1`` lines; a text: what is wrong with a line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";")
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"line {reader.line_num}: {error}"
            continue
        if fields and not fields[0].lstrip().startswith("#"):
            yield _csv_row(fields, realm) or f"line {reader.line_num}: expected name;password or name;realm;ha1"


def _csv_row(fields: list[str], realm: str) -> _Row | None:
    if not fields[0]:
        return None
    if len(fields) == 2:
        return fields[0], realm, Secret(fields[1])
    try:
        return (fields[0], fields[1], secret_of_ha1s([fields[2]])) if len(fields) == 3 else None
    except ValueError:
        return None


def _toml_users(text: str) -> dict[str, Any]:
    """The table ``[users]``.

    :raises ValueError: *text* is not TOML, or ``users`` is no table.
    """
    try:
        users = tomllib.loads(text).get("users", {})
    except RecursionError:
        raise ValueError("values nested too deep") from None
    if not isinstance(users, dict):
        raise ValueError("expected a table [users]")
    return users


def _toml_rows(users: dict[str, Any], realm: str) -> Iterator[_Row | str]:
    """name = "password", or name = { realm, password, ha1 = [...] }; a text: what is wrong with a user."""
    for name, value in users.items():
        try:
            yield _toml_row(name, value, realm)
        except (ValueError, TypeError, AttributeError):
            yield f'users.{name}: expected "password" or {{ realm, password, ha1 = ["..."] }}'


def _toml_row(name: str, value: Any, realm: str) -> _Row:
    if isinstance(value, str):
        return name, realm, Secret(value)
    unknown = set(value) - {"realm", "password", "ha1"}
    password = value.get("password")
    ha1s = value.get("ha1", [])
    if unknown or not isinstance(password, str | None) or not isinstance(ha1s, list) or not (password or ha1s):
        raise ValueError
    secret = Secret(password, dict(read_ha1(text) for text in ha1s))
    return name, str(value.get("realm", realm)), secret
