# SPDX-License-Identifier: Apache-2.0
"""Users and their digests, in some 110 octets each: a file of a hundred thousand is no burden."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from ubisip.agents.secret import ALGORITHMS, Digests

_HEAD = struct.Struct("<IIB")
"""Before each name and realm: octets of the name, of both, and a bit for each digest that there is."""
_SIZES = tuple(ALGORITHMS.values())
_DIGESTS = sum(_SIZES)
"""Octets kept for them after name and realm, whether there are all or not."""


class User(NamedTuple):
    """Who a digest is of."""

    name: str
    realm: str


class Roll:
    """Grows by ``put``, never shrinks; *room* is how many users are expected."""

    def __init__(self, room: int = 0) -> None:
        self._records = bytearray()
        self._table = array("I", bytes(4 << (room * 3 // 2 + 8).bit_length()))
        """Open addressing: where a record begins, plus 1; 0: free."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        """The places of all users, in the order they came."""
        at = 0
        while at < len(self._records):
            yield at
            at += _HEAD.size + _HEAD.unpack_from(self._records, at)[1] + _DIGESTS

    def put(self, user: str, realm: str, digests: Digests) -> None:
        """A user, or further digests of one who is there."""
        key, length = _key(user, realm)
        slot, at = self._find(key, length)
        if at < 0:
            self._add(slot, key, length, digests)
        else:
            self._set(at, Digests(*map(_newer, digests, self.digests(at))))

    def place(self, user: str, realm: str) -> int:
        """Where a user stands; -1: nowhere."""
        return self._find(*_key(user, realm))[1]

    def user(self, at: int) -> User:
        """Who stands at a place."""
        length, size, _ = _HEAD.unpack_from(self._records, at)
        key = self._records[at + _HEAD.size : at + _HEAD.size + size]
        return User(_text(key[:length]), _text(key[length:]))

    def digests(self, at: int) -> Digests:
        """His digests."""
        _, size, has = _HEAD.unpack_from(self._records, at)
        at += _HEAD.size + size
        found = []
        for number, octets in enumerate(_SIZES):
            found.append(bytes(self._records[at : at + octets]) if has >> number & 1 else b"")
            at += octets
        return Digests(*found)

    def _find(self, key: bytes, length: int) -> tuple[int, int]:
        """The slot of a user and his place; -1 and the slot that he would have."""
        mask = len(self._table) - 1
        slot = hash(key) & mask
        while at := self._table[slot]:
            known, size, _ = _HEAD.unpack_from(self._records, at - 1)
            start = at - 1 + _HEAD.size
            if known == length and self._records[start : start + size] == key:
                return slot, at - 1
            slot = (slot + 1) & mask
        return slot, -1

    def _add(self, slot: int, key: bytes, length: int, digests: Digests) -> None:
        at = len(self._records)
        self._records += _HEAD.pack(length, len(key), 0) + key + bytes(_DIGESTS)
        self._set(at, digests)
        self._table[slot] = at + 1
        self._count += 1
        if self._count * 3 > len(self._table) * 2:
            self._grow()

    def _set(self, at: int, digests: Digests) -> None:
        length, size, _ = _HEAD.unpack_from(self._records, at)
        has = sum(bool(digest) << number for number, digest in enumerate(digests))
        _HEAD.pack_into(self._records, at, length, size, has)
        at += _HEAD.size + size
        self._records[at : at + _DIGESTS] = b"".join(map(_padded, digests, _SIZES))

    def _grow(self) -> None:
        self._table = array("I", bytes(8 * len(self._table)))
        for at in self:
            length, size, _ = _HEAD.unpack_from(self._records, at)
            slot, _ = self._find(bytes(self._records[at + _HEAD.size : at + _HEAD.size + size]), length)
            self._table[slot] = at + 1


def _key(user: str, realm: str) -> tuple[bytes, int]:
    """Both names as octets, and how many are the user's."""
    name = user.encode("utf-8", "surrogateescape")
    return name + realm.encode("utf-8", "surrogateescape"), len(name)


def _text(octets: bytearray) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _newer(new: bytes, old: bytes) -> bytes:
    return new or old


def _padded(digest: bytes, octets: int) -> bytes:
    return digest.ljust(octets, b"\0")
