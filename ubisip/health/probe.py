# SPDX-License-Identifier: Apache-2.0
"""What a probe is: one question to one member of a tier, and what came of it (DESIGN sections 7 and 9).

Probes are found by the entry-point group ``ubisip.probes``: the name is a tier's ``kind``, the object a factory
``(parameters: Mapping[str, Any]) -> Probe``, which raises ValueError for a parameter it does not know. Here as for
actions and sinks a parameter that ends in ``_file`` is a path: whoever reads the configuration makes relative ones
absolute, from the folder of that file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from ubisip.health.machine import Sample

NO_FACTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a probe asks."""

    tier: str
    name: str
    site: str
    address: str
    """As in the file: ``host:port``, a URL, a path: what the kind of the tier understands."""
    user: str = ""
    password: str = field(default="", repr=False)
    parameters: Mapping[str, Any] = field(default_factory=lambda: NO_FACTS, repr=False, compare=False)
    """Of the tier, as in the file: who acts at a member connects by the same ones as its probe."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found."""

    sample: Sample
    """The evidence for the health machine. Its ``reason`` is a stable code: ``refused``, ``timeout``, ``sql.1045``,
    ``http.500``, ``lag``... INCONCLUSIVE when the answer says nothing of the target's life: a wrong password, an
    observer that is itself sick."""
    latency: float = 0.0
    """Seconds from the question to the answer."""
    facts: Mapping[str, Any] = field(default_factory=lambda: NO_FACTS)
    """What was learnt, by stable names, in plain values (str, int, float, bool, None, tuples and mappings of these)."""
    problem: str = ""
    """One sentence for people when an operator must act (wrong password, missing right, unexpected version)."""


class Probe(Protocol):
    """One kind of probe. One instance serves all members of a tier, several at a time."""

    async def check(self, target: Target, timeout: float) -> Finding:
        """Ask *target*; answers within *timeout* seconds. Never raises for what the target does."""

    async def close(self) -> None:
        """Give back connections."""
