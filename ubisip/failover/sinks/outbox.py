# SPDX-License-Identifier: Apache-2.0
"""Messages that wait on disk for a broker: appended one by one, a line each, on disk before they count."""

from __future__ import annotations

import base64
import json
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MAX_LETTERS = 10_000
"""Messages that are kept while there is no broker; then the oldest go: the newest say how things are."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that waits."""

    id: str
    routing_key: str
    body: bytes


class Outbox:
    """The letters of one file, in their order. What was sent is taken out of the file at the next :meth:`settle`."""

    def __init__(self, file: Path, limit: int = MAX_LETTERS) -> None:
        """:raises ValueError: the file is none of ours, or cannot be read."""
        self._file = file
        self._limit = limit
        self.letters = deque(_read(file))
        self.lost = 0
        """Letters that went because there were too many."""

    def add(self, letter: Letter) -> None:
        """Keep *letter*.

        :raises OSError: it is not on disk.
        """
        self.letters.append(letter)
        if len(self.letters) > self._limit:
            self.letters.popleft()
            self.lost += 1
            self.settle()
            return
        with self._file.open("a") as opened:
            opened.write(_line(letter))
            opened.flush()
            os.fsync(opened.fileno())

    def settle(self) -> None:
        """Make the file hold what waits, and nothing else; it is replaced whole.

        :raises OSError: it was not done: what was sent would be sent again after a restart.
        """
        if not self.letters:
            self._file.unlink(missing_ok=True)
            return
        new = self._file.with_name(f"{self._file.name}.new")
        with new.open("w") as opened:
            opened.writelines(map(_line, self.letters))
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(self._file)


def _line(letter: Letter) -> str:
    return json.dumps([letter.id, letter.routing_key, base64.b64encode(letter.body).decode()]) + "\n"


def _read(file: Path) -> Iterable[Letter]:
    """The letters of *file*; a last line that is not whole is what a crash left of one that did not count yet."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the outbox {file} cannot be read: {error}") from None
    whole, _, _ = text.rpartition("\n")
    try:
        return [_letter(line) for line in whole.splitlines()]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is no outbox: {error}") from None


def _letter(line: str) -> Letter:
    identity, routing_key, body = json.loads(line)
    return Letter(identity, routing_key, base64.b64decode(body))
