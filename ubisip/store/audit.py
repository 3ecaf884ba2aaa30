# SPDX-License-Identifier: Apache-2.0
"""The audit log: one msgpack map for each change that an operator or a plan made, only ever appended to."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it has no stubs

JSON_BEGINS = ord("{")
"""Older versions wrote a JSON object a line; no msgpack map begins like that."""


class AuditLog:
    """Appends who did what, when, and how it ended, to *path*; gateways that share a directory may share the file."""

    def __init__(self, path: Path, node: str) -> None:
        self.path = path
        self._node = node

    def write(self, who: str, what: str, result: str, **details: Any) -> None:
        """Add an entry: *what* was asked by *who* (a peer's address, a token's or a signal's name), and its *result*.

        :raises OSError: it cannot be written.
        """
        moment = round(time.time(), 3)
        entry = {"time": moment, "node": self._node, "who": who, "what": what, "result": result, **details}
        data = msgpack.packb(entry, unicode_errors="surrogateescape")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.write(file, data)  # one write: entries of several gateways do not mix
        finally:
            os.close(file)

    def entries(self, limit: int = 0) -> list[dict[str, Any]]:
        """The newest *limit* entries, 0: all, the oldest of them first.

        :raises OSError: the log cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return list(read_entries(data))[-limit:]


def read_entries(data: bytes) -> Iterator[dict[str, Any]]:
    """The entries of a log; one that says so stands for what cannot be read, at the end of a log that was cut."""
    at = 0
    try:
        while at < len(data):
            read = _json_lines if data[at] == JSON_BEGINS else _maps
            for entry, end in read(data, at):
                yield entry
                at = end
    except ValueError:
        yield {"time": 0.0, "node": "", "who": "", "what": f"octets {at} to {len(data)}", "result": "not readable"}


def _json_lines(data: bytes, at: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Entries as JSON from *at* on, each with where it ends."""
    while at < len(data) and data[at] == JSON_BEGINS:
        end = data.find(b"\n", at)
        if end < 0:
            raise ValueError("a line without an end")
        yield dict(json.loads(data[at:end])), end + 1
        at = end + 1


def _maps(data: bytes, at: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Entries as msgpack from *at* on, each with where it ends."""
    unpacker = msgpack.Unpacker(unicode_errors="surrogateescape", max_buffer_size=0)
    unpacker.feed(data[at:])
    end = at
    while end < len(data) and data[end] != JSON_BEGINS:
        try:
            entry = unpacker.unpack()
        except msgpack.exceptions.UnpackException as error:
            raise ValueError(str(error)) from error
        if not isinstance(entry, dict):
            raise ValueError("no entry")
        end = at + unpacker.tell()
        yield entry, end
