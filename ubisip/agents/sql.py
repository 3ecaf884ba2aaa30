# SPDX-License-Identifier: Apache-2.0
"""What the SQL sources have in common: the query with its two parameters, and what its rows mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ubisip.agents.secret import Secret, merged, read_ha1

DEFAULT_QUERY = "SELECT password FROM users WHERE name = :user"
MAX_ROWS = 8
"""Rows that one user's query may bring: one for each algorithm and a few realms' worth of mistakes."""
COLUMNS = ("password", "ha1")
_PARAMETER = re.compile(r"(?<![:\w]):(user|realm)\b")


def numbered(query: str, mark: Callable[[int], str]) -> tuple[str, tuple[str, ...]]:
    """*query* with ``:user`` and ``:realm`` replaced by *mark* (of 1, 2...), and their names in that order."""
    names: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        names.append(match[1])
        return mark(len(names))

    return _PARAMETER.sub(replaced, query), tuple(names)


def secret_of_rows(rows: Sequence[Mapping[str, Any]]) -> Secret | None:
    """The secret in *rows*, whose columns are ``password`` and ``ha1``; NULL is nothing. None: there is none.

    :raises ValueError: they have neither column, or an HA1 is none.
    """
    found = Secret()
    for row in rows:
        values = {name: row[name] for name in COLUMNS if name in row}
        if not values:
            raise ValueError("expected columns named password or ha1 (SELECT ... AS password)")
        found = merged(found, _secret(values))
    return None if found == Secret() else found


def _secret(values: Mapping[str, Any]) -> Secret:
    password, ha1 = (_text(values.get(name)) for name in COLUMNS)
    return Secret(password, dict([read_ha1(ha1)]) if ha1 else {})


def _text(value: Any) -> str | None:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "surrogateescape")
    return None if value is None else str(value)
