# SPDX-License-Identifier: Apache-2.0
"""Whether the members of a tier are what the file says: asked once by ``ubisip check --live``, watched by a controller.

Known facts are compared by their names, whatever the kind: ``server_id``, ``domain_id``, ``version``, ``missing``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ubisip import plugins
from ubisip.config import Config
from ubisip.errors import UsageError
from ubisip.health.machine import Verdict
from ubisip.health.probe import Finding, Probe, Target
from ubisip.parameters import read_secret
from ubisip.sections import Tier

_RELEASE = re.compile(r"\d+(?:\.\d+)?")

TIMEOUT = 5.0
"""Seconds that a member has to answer the one question of an inspection."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What one member answered."""

    target: Target
    finding: Finding
    misfits: tuple[str, ...]
    """What is not as the file says, a sentence each."""

    @property
    def answered(self) -> bool:
        return self.finding.sample.verdict is not Verdict.FAIL


def targets_of(name: str, tier: Tier) -> list[Target]:
    """The members of the tier *name* as probes want them.

    :raises UsageError: its password cannot be read.
    """
    try:
        password = read_secret(tier.password_file)
    except ValueError as error:
        raise UsageError(f"tiers.{name}.password_file: {error}") from error
    return [
        Target(name, one.name, one.site, one.address, tier.user, password, tier.parameters) for one in tier.members
    ]


def probe_of(tier: Tier) -> Probe:
    """A probe of the tier's kind.

    :raises UsageError: it cannot be had, or does not take the tier's parameters.
    """
    probe: Probe = made(f"kind {tier.kind}", plugins.load(plugins.PROBES, tier.kind), tier.parameters)
    return probe


def made(what: str, make: Callable[..., Any], *values: Any) -> Any:
    """What the factory *make* makes of *values*.

    :raises UsageError: it does not take them; *what* says whose factory it is.
    """
    try:
        return make(*values)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from error


async def inspect(config: Config) -> list[Inspected]:
    """Ask every member of every tier once.

    :raises UsageError: a probe or a password cannot be had.
    """
    found: list[Inspected] = []
    for name, tier in config.tiers.items():
        targets, probe = targets_of(name, tier), probe_of(tier)
        try:
            findings = await asyncio.gather(*(_asked(probe, target, tier) for target in targets))
        finally:
            await probe.close()
        facts = {target.name: finding.facts for target, finding in zip(targets, findings, strict=True)}
        strange = misfits(facts) | {key: (*misfits(facts).get(key, ()), *text) for key, text in lacks(facts).items()}
        for target, finding in zip(targets, findings, strict=True):
            problem = (finding.problem,) if finding.problem else ()
            found.append(Inspected(target, finding, (*problem, *strange.get(target.name, ()))))
    return found


async def _asked(probe: Probe, target: Target, tier: Tier) -> Finding:
    async with asyncio.timeout(2 * TIMEOUT):
        return await probe.check(target, max(TIMEOUT, tier.timeout))


def misfits(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """By member, what makes it no member of this tier, from the facts of all by name."""
    found: dict[str, list[str]] = {}
    for fact, text in (("server_id", "server id"), ("domain_id", "replication domain")):
        by_value: dict[Any, list[str]] = {}
        for name, its in facts.items():
            if fact in its:
                by_value.setdefault(its[fact], []).append(name)
        twice = fact == "server_id"
        for value, names in _strange(by_value, twice=twice):
            others = "the same as another member" if twice else f"not that of the others ({_usual(by_value)})"
            for name in names:
                found.setdefault(name, []).append(f"{name} has {text} {value}, {others}")
    return {name: tuple(texts) for name, texts in found.items()}


def lacks(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """By member, what it should have and has not: rights, the version of the others."""
    releases = {name: release(str(its["version"])) for name, its in facts.items() if its.get("version")}
    found: dict[str, list[str]] = {}
    newest = max(releases.values(), default="", key=_numbers)
    for name, its in facts.items():
        if its.get("missing"):
            found.setdefault(name, []).append(f"its user on {name} lacks: {', '.join(map(str, its['missing']))}")
        if releases.get(name, newest) != newest:
            found.setdefault(name, []).append(f"{name} has version {its['version']}, another member {newest}")
    return {name: tuple(texts) for name, texts in found.items()}


def release(version: str) -> str:
    """``10.11`` of ``10.11.6-MariaDB-log``; empty: it has no number."""
    match = _RELEASE.match(version)
    return match[0] if match else ""


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(".") if part.isdigit()]


def _strange(by_value: Mapping[Any, Sequence[str]], *, twice: bool) -> list[tuple[Any, Sequence[str]]]:
    """The values that should not be: those that two have, or all but the most frequent one."""
    if twice:
        return [(value, names) for value, names in by_value.items() if len(names) > 1]
    usual = _usual(by_value)
    return [(value, names) for value, names in by_value.items() if value != usual]


def _usual(by_value: Mapping[Any, Sequence[str]]) -> Any:
    return max(by_value, key=lambda value: len(by_value[value]), default=None)
