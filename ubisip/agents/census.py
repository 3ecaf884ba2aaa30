# SPDX-License-Identifier: Apache-2.0
"""Counting agents: how many there are, and which phones are reached through one flow only."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

MARK_OCTETS = 8
"""Of a phone's mark: among a million phones two share one with a chance of 1 in 37 million."""

PARTS = 16
"""In which agents are counted."""


def mark_of(aor: str, instance: str) -> bytes:
    """What stands for one agent's phone when sites compare whom they reach."""
    text = f"{aor}\0{instance}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=MARK_OCTETS).digest()


@dataclass(slots=True)
class Census:
    """What one pass over a gateway's bindings found; ``add`` each row."""

    bindings: int = 0
    alive: int = 0
    """Bindings whose flow is not known to be gone."""
    in_step: dict[int, int] = field(default_factory=dict)
    """By slot of a server: the bindings that it has as they stand."""
    _aors: array[int] = field(default_factory=lambda: array("q"))
    """Hashes; of an agent with two bindings there are two."""
    _marks: bytearray = field(default_factory=bytearray)
    """One after the other: a set of them would take ten times as much."""
    _agents: int = 0

    def add(self, row: Sequence[Any]) -> None:
        """Count a row of ``worker.bindings``."""
        aor, instance, (in_step, alive) = row[0], row[2], (row[-3], row[-1])
        self.bindings += 1
        self._aors.append(hash(aor))
        for slot in _bits(in_step):
            self.in_step[slot] = self.in_step.get(slot, 0) + 1
        if alive:
            self.alive += 1
            if instance:
                self._marks += mark_of(aor, instance)

    def settle(self) -> None:
        """All rows were added: keep what is asked for. It takes some 100 ms for 100,000 of them.

        They are counted part by part: one set of all would take 10 MB, which the process would keep.
        """
        for part in range(PARTS):
            self._agents += len({aor for aor in self._aors if aor % PARTS == part})
        self._aors = array("q")

    @property
    def agents(self) -> int:
        """Addresses of record with at least one binding; known when it has settled."""
        return self._agents

    @property
    def phones(self) -> frozenset[bytes]:
        """Marks of the phones with an instance that can be reached from here."""
        return frozenset(marks_from(self.marks()))

    def marks(self) -> bytes:
        """The same as octets, for another site; of a phone with two flows there are two."""
        return bytes(self._marks)


def marks_from(data: bytes | bytearray) -> Iterator[bytes]:
    """The marks in what another gateway's :meth:`Census.marks` gave.

    :raises ValueError: it is no such thing.
    """
    if len(data) % MARK_OCTETS:
        raise ValueError(f"expected marks of {MARK_OCTETS} octets each, found {len(data)} octets")
    return (bytes(data[at : at + MARK_OCTETS]) for at in range(0, len(data), MARK_OCTETS))


def only_here(here: Iterable[bytes], elsewhere: Iterable[Iterable[bytes]]) -> set[bytes]:
    """The phones *here* that are at none of the other sites."""
    return set(here).difference(*elsewhere)


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
