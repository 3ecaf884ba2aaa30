# SPDX-License-Identifier: Apache-2.0
"""Parameters of probes, actions and sinks: free tables of the configuration, read as the dataclass of the plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from ubisip.schema import Report, read_table

MAX_SECRET = 65_536
"""Octets. A path that leads to something else than a secret (a log, /dev/zero) must not fill the memory."""

_T = TypeVar("_T")


class SecretError(ValueError):
    """A file that should hold a secret does not: a mistake of this machine, not of the configuration."""


def read_parameters(table: type[_T], values: Mapping[str, Any]) -> _T:
    """*values* as the dataclass *table*.

    :raises ValueError: each mistake with what was expected, one a line.
    """
    report, top = Report("", {}), "it"  # a key of a table, not a section of a file
    parameters = read_table(table, thaw(values), (top,), report)
    if report.mistakes:
        lines = (f"{one.path[len(top) + 1 :]}: expected {one.expected}, found {one.found}" for one in report.mistakes)
        raise ValueError("\n".join(lines))
    return parameters


def nothing() -> Mapping[str, Any]:
    """The default of a table that may be left out."""
    return MappingProxyType({})


def thaw(value: Any) -> Any:
    """A value with its mappings as dicts and its tuples as lists, all the way down: what JSON and TOML know."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [thaw(item) for item in value]
    return value


def read_secret(path: str) -> str:
    """What the file *path* holds, without the white space around it; nothing when no file is named.

    :raises SecretError: it cannot be read, is empty or no text.
    """
    if not path:
        return ""
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_SECRET).decode().strip()
    except OSError as error:
        raise SecretError(f"{path}: expected a file that holds the secret, found: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretError(f"{path}: expected a secret as text, found octets that are none") from None
    if not text:
        raise SecretError(f"{path}: expected a file that holds the secret, found it empty")
    return text
