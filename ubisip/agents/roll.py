# SPDX-License-Identifier: Apache-2.0
"""Users and their secrets, in some 45 octets each with a password: a file of a hundred thousand is no burden."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from ubisip.agents.secret import ALGORITHMS, Secret, merged

_HEAD = struct.Struct("<IIIB")
"""Before each record: octets of the name, of name and realm, and of the secret; flags."""
_PASSWORD, _OUTDATED = 0x40, 0x80
"""Flags beside a bit for each algorithm whose HA1 there is: a password follows the HA1s; a later record says more."""


class User(NamedTuple):
    """Who a secret is of."""

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
        """The places of all users, in the order they came or were last added to."""
        at = 0
        while at < len(self._records):
            _, key, secret, flags = _HEAD.unpack_from(self._records, at)
            if not flags & _OUTDATED:
                yield at
            at += _HEAD.size + key + secret

    def put(self, user: str, realm: str, secret: Secret) -> None:
        """A user, or more of the secret of one who is there; a password takes the place of all that came before."""
        key, length = _key(user, realm)
        slot, at = self._find(key, length)
        if at >= 0:
            secret = merged(self.secret(at), secret) if secret.password is None else secret
            self._records[at + _HEAD.size - 1] |= _OUTDATED
        else:
            self._count += 1
        self._table[slot] = len(self._records) + 1
        flags, octets = _packed(secret)
        self._records += _HEAD.pack(length, len(key), len(octets), flags) + key + octets
        if self._count * 3 > len(self._table) * 2:
            self._grow()

    def place(self, user: str, realm: str) -> int:
        """Where a user stands; -1: nowhere."""
        return self._find(*_key(user, realm))[1]

    def user(self, at: int) -> User:
        """Who stands at a place."""
        length, size, _, _ = _HEAD.unpack_from(self._records, at)
        key = self._records[at + _HEAD.size : at + _HEAD.size + size]
        return User(_text(key[:length]), _text(key[length:]))

    def secret(self, at: int) -> Secret:
        """What he must know."""
        _, key, size, flags = _HEAD.unpack_from(self._records, at)
        at += _HEAD.size + key
        return _unpacked(flags, self._records[at : at + size])

    def _find(self, key: bytes, length: int) -> tuple[int, int]:
        """The slot of a user and his place; -1 and the slot that he would have."""
        mask = len(self._table) - 1
        slot = hash(key) & mask
        while at := self._table[slot]:
            known, size, _, _ = _HEAD.unpack_from(self._records, at - 1)
            start = at - 1 + _HEAD.size
            if known == length and self._records[start : start + size] == key:
                return slot, at - 1
            slot = (slot + 1) & mask
        return slot, -1

    def _grow(self) -> None:
        self._table = array("I", bytes(8 * len(self._table)))
        for at in self:
            length, size, _, _ = _HEAD.unpack_from(self._records, at)
            slot, _ = self._find(bytes(self._records[at + _HEAD.size : at + _HEAD.size + size]), length)
            self._table[slot] = at + 1


def _key(user: str, realm: str) -> tuple[bytes, int]:
    """Both names as octets, and how many are the user's."""
    name = _octets(user)
    return name + _octets(realm), len(name)


def _packed(secret: Secret) -> tuple[int, bytes]:
    """Flags, and HA1s and password one after the other."""
    flags, octets = 0, b""
    for number, algorithm in enumerate(ALGORITHMS):
        if digits := secret.ha1.get(algorithm):
            flags |= 1 << number
            octets += bytes.fromhex(digits)
    if secret.password is not None:
        flags |= _PASSWORD
        octets += _octets(secret.password)
    return flags, octets


def _unpacked(flags: int, octets: bytearray) -> Secret:
    ha1, at = {}, 0
    for number, (algorithm, size) in enumerate(ALGORITHMS.items()):
        if flags >> number & 1:
            ha1[algorithm] = octets[at : at + size].hex()
            at += size
    return Secret(_text(octets[at:]) if flags & _PASSWORD else None, ha1)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(octets: bytearray) -> str:
    return octets.decode("utf-8", "surrogateescape")
