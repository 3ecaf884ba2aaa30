# SPDX-License-Identifier: Apache-2.0
"""On which line of a TOML text each key and array item stands: what tomllib does not tell.

The text must be one that tomllib accepts: this pass follows its structure (TOML 1.0) and checks nothing.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Keys and array indexes from the top, such as ``("servers", 2, "uri")``."""

MAX_DEPTH = 16
"""Levels of a path that get a line: a key of ten thousand dots must not take memory by their square."""

_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_SCALAR = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3}"{0,2}'  # as many as two quotes may stand before the closing three
    r"|'''.*?'{3}'{0,2}"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'"
    r"|[^,\]}#\r\n]+",  # a number, true, a date (with a space in it)
    re.DOTALL,
)


def key_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every table header, key and array item of *text* down to MAX_DEPTH levels.

    A table that several headers or dotted keys fill stands where it is named first.
    """
    return _Pass(text).run()


@dataclass(slots=True)
class _Open:
    """An array or inline table that is not closed yet."""

    path: Path
    index: int | None
    """Of the current item; None: an inline table."""


class _Pass:
    def __init__(self, text: str) -> None:
        self.text = text + "\n"
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # arrays of tables: how many headers so far
        self.breaks = [match.start() for match in re.finditer("\n", text)]

    def run(self) -> dict[Path, int]:
        table: Path = ()
        self.skip(_GAP)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.value(self.key(table))
            self.skip(_GAP)
        return self.lines

    def skip(self, pattern: re.Pattern[str]) -> str:
        """Move past *pattern*, which matches here, and return what it matched."""
        match = pattern.match(self.text, self.at)
        assert match is not None, f"not TOML at offset {self.at}"
        self.at = match.end()
        return match[0]

    def mark(self, path: Path, at: int) -> None:
        if len(path) <= MAX_DEPTH:
            self.lines.setdefault(path, bisect_right(self.breaks, at - 1) + 1)

    def header(self) -> Path:
        """``[table]`` or ``[[array of tables]]``: the path of the table that it opens."""
        start = self.at
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        *parents, last = self.dotted()
        self.at += brackets
        path: Path = ()
        for key in parents:
            path = self.newest((*path, key), start)
        path = (*path, last)
        if brackets == 2:
            self.counts[path] = self.counts.get(path, 0) + 1
        return self.newest(path, start)

    def newest(self, path: Path, at: int) -> Path:
        """*path*, or the newest table of the array of tables that it names."""
        self.mark(path, at)
        if path in self.counts:
            path = (*path, self.counts[path] - 1)
            self.mark(path, at)
        return path

    def key(self, table: Path) -> Path:
        """``a.b.c =`` in *table*: the path of its value."""
        start = self.at
        path = table
        for key in self.dotted():
            path = (*path, key)
            self.mark(path, start)
        self.at += 1  # the equals sign
        self.skip(_BLANK)
        return path

    def dotted(self) -> list[str]:
        """A key, dotted or not, with the blanks around it."""
        keys = []
        while True:
            self.skip(_BLANK)
            keys.append(_unquoted(self.skip(_KEY)))
            self.skip(_BLANK)
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def value(self, path: Path) -> None:
        """The value of *path* with all that is nested in it."""
        stack: list[_Open] = []
        while True:
            if self.text[self.at] in "[{":
                stack.append(_Open(path, -1 if self.text[self.at] == "[" else None))
                self.at += 1
            else:
                self.skip(_SCALAR)
            following = self.following(stack)
            if following is None:
                return
            path = following

    def following(self, stack: list[_Open]) -> Path | None:
        """The path of the next value inside what is open; None when all is closed."""
        while stack:
            self.skip(_GAP)
            if self.text[self.at] == ",":
                self.at += 1
            elif self.text[self.at] in "]}":
                self.at += 1
                stack.pop()
            else:
                return self.item(stack[-1])
        return None

    def item(self, inside: _Open) -> Path:
        if inside.index is None:
            return self.key(inside.path)
        inside.index += 1
        path = (*inside.path, inside.index)
        self.mark(path, self.at)
        return path


def _unquoted(key: str) -> str:
    """A key as tomllib reads it."""
    if key[0] not in "\"'":
        return key
    return str(tomllib.loads(f"key = {key}")["key"])
