# SPDX-License-Identifier: Apache-2.0
"""MariaDB's global transaction ids: ``domain-server-sequence``, lists of them, and what such lists contain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

State = Mapping[tuple[int, int], int]
"""The highest sequence by (domain, server) that wrote it: ``@@gtid_binlog_state``."""
Position = Mapping[int, int]
"""The highest sequence by domain: how far one has got in each stream."""


def parse_state(text: str) -> dict[tuple[int, int], int]:
    """The highest sequence of each (domain, server) in a list of ids; empty text: none.

    :raises ValueError: it is no such list.
    """
    state: dict[tuple[int, int], int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        domain, server, sequence = (int(number) for number in part.split("-"))
        key = (domain, server)
        state[key] = max(sequence, state.get(key, 0))
    return state


def merge(states: Iterable[State]) -> dict[tuple[int, int], int]:
    """What any of *states* contains."""
    merged: dict[tuple[int, int], int] = {}
    for state in states:
        for key, sequence in state.items():
            merged[key] = max(sequence, merged.get(key, 0))
    return merged


def position(state: State) -> dict[int, int]:
    """How far each domain has got."""
    reached: dict[int, int] = {}
    for (domain, _), sequence in state.items():
        reached[domain] = max(sequence, reached.get(domain, 0))
    return reached


def behind(one: Position, other: Position) -> int:
    """Transactions that *other* has and *one* lacks, by their numbers."""
    return sum(max(0, sequence - one.get(domain, 0)) for domain, sequence in other.items())


def surplus(one: State, other: State, ignore: int = 0) -> dict[tuple[int, int], int]:
    """What *one* contains and *other* does not, transactions of the server *ignore* aside."""
    return {
        (domain, server): sequence
        for (domain, server), sequence in one.items()
        if server != ignore and sequence > other.get((domain, server), 0)
    }


def holes(one: State, other: State) -> dict[tuple[int, int], int]:
    """What *other* has of servers that *one* knows and has gone past without it."""
    reached = position(one)
    return {
        (domain, server): sequence
        for (domain, server), sequence in other.items()
        if 0 < one.get((domain, server), 0) < sequence < reached[domain]
    }


def text(state: State) -> str:
    """As MariaDB writes it."""
    return ",".join(f"{domain}-{server}-{sequence}" for (domain, server), sequence in sorted(state.items()))
