# SPDX-License-Identifier: Apache-2.0
"""What can go wrong by the user's hand: every error says what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class UsageError(Exception):
    """The caller or operator asked for what cannot be; the text is one line that says what would do."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake of a configuration file.

    Prints as ``platform.toml:17: servers[2].uri: expected a SIP URI such as "sip:127.0.0.1:5071", found 5071``.
    """

    line: int
    """Line of the file, from 1; 0: the file as a whole."""
    path: str
    """The key concerned, such as ``servers[2].uri``, counted from 0; empty: the file as a whole."""
    expected: str
    found: str
    file: str = ""
    """Name of the file as it was given; empty when a text was checked."""

    def __str__(self) -> str:
        line = f"{self.file}:{self.line}" if self.file else f"line {self.line}"
        place = line if self.line else self.file or "configuration"
        key = f"{self.path}: " if self.path else ""
        return f"{place}: {key}expected {self.expected}, found {self.found}"


class ConfigError(UsageError):
    """A configuration has mistakes: all of them, in the order of the file, one a line of the error's text."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = tuple(mistakes)
