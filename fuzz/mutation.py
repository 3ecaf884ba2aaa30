# SPDX-License-Identifier: Apache-2.0
"""Faults to put into messages: octets, tokens of a dictionary, lines twice, lines swapped."""

from __future__ import annotations

import random
import re
from pathlib import Path

DICTIONARY_FILE = Path(__file__).with_name("sip.dict")
LONGEST = 65_000
"""Octets: what UDP can bring, with room for a header of the gateway's."""


def read_dictionary(path: Path = DICTIONARY_FILE) -> list[bytes]:
    """The tokens of a dictionary in libFuzzer's format: one quoted string a line, ``\\xHH`` and ``\\\\`` escaped."""
    quoted = [line[1:-1] for line in path.read_text("ascii").splitlines() if line.startswith('"')]
    escapes = re.compile(r'\\(x[0-9a-fA-F]{2}|\\|")')
    return [
        escapes.sub(lambda m: chr(int(m[1][1:], 16)) if m[1][0] == "x" else m[1], text).encode("latin-1")
        for text in quoted
    ]


DICTIONARY = read_dictionary()


class Reader:
    """The octets of an input, taken as decisions from its front; zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def more(self) -> bool:
        return self.at < len(self.data)

    def octet(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1."""
        return (self.octet() << 8 | self.octet()) % limit if limit > 256 else self.octet() % max(limit, 1)

    def chunk(self, most: int) -> bytes:
        taken = self.data[self.at : self.at + self.below(most + 1)]
        self.at += len(taken)
        return taken


def damage(data: bytes, reader: Reader) -> bytes:
    """One fault, chosen and placed by *reader*."""
    kind, place = reader.below(8), reader.below(len(data) + 1)
    token = DICTIONARY[reader.below(len(DICTIONARY))]
    if kind == 0:
        return data[:place] + bytes([reader.octet()]) + data[place + 1 :]
    if kind == 1:
        return data[:place] + token + data[place:]
    if kind == 2:
        return data[:place] + data[place + 1 + reader.octet() :]
    if kind == 3:
        return (data[:place] + token * (1 << reader.below(10)) + data[place:])[:LONGEST]
    if kind == 4:
        return data[:place] + reader.chunk(32) + data[place:]
    return damage_lines(data, kind, token, reader)


def damage_lines(data: bytes, kind: int, token: bytes, reader: Reader) -> bytes:
    """One fault of whole header lines: one twice, two swapped, or one with another value."""
    head, separator, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    one, other = reader.below(len(lines)), reader.below(len(lines))
    if kind == 5:
        lines.insert(other, lines[one])
    elif kind == 6:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        lines[one] = lines[one].partition(b":")[0] + b": " + token
    return b"\r\n".join(lines) + separator + body


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Some faults at random."""
    for _ in range(1 << dice.randrange(4)):
        data = damage(data, Reader(dice.randbytes(48)))
    return data[:LONGEST]
