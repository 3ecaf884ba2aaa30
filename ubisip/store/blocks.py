# SPDX-License-Identifier: Apache-2.0
"""A file of checksummed blocks: what is sound can be read whatever has become of the rest."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MARK = b"\xffUBI\x001\r\n"
"""Begins each block: the form's version is in it. After a damaged block the next is found by it."""
_HEAD = struct.Struct("<8sII")


@dataclass(frozen=True, slots=True)
class Damage:
    """Octets of a file that are no sound block."""

    at: int
    length: int


def block(payload: bytes) -> bytes:
    """*payload* (under 4 GiB) as one block."""
    return _HEAD.pack(MARK, len(payload), zlib.crc32(payload)) + payload


def read_blocks(data: bytes) -> Iterator[bytes | Damage]:
    """The payloads of the sound blocks in *data*, in order, with the damage between them."""
    at = damaged = 0
    while at < len(data):
        payload = _payload_at(data, at)
        if payload is None:
            following = data.find(MARK, at + 1)
            at = len(data) if following < 0 else following
            continue
        if damaged < at:
            yield Damage(damaged, at - damaged)
        yield payload
        at = damaged = at + _HEAD.size + len(payload)
    if damaged < len(data):
        yield Damage(damaged, len(data) - damaged)


def _payload_at(data: bytes, at: int) -> bytes | None:
    """The payload of the block that begins at *at*; None: no sound one does."""
    if len(data) - at < _HEAD.size:
        return None
    mark, length, checksum = _HEAD.unpack_from(data, at)
    if mark != MARK:
        return None
    payload = data[at + _HEAD.size : at + _HEAD.size + length]
    return payload if len(payload) == length and zlib.crc32(payload) == checksum else None
