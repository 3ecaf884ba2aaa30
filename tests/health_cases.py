# SPDX-License-Identifier: Apache-2.0
"""What the tests of the health layer share: evidence as letters, and a platform with its monitor."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from ubisip.health.evidence import attempt
from ubisip.health.machine import Health, Sample, State, Verdict, advance
from ubisip.health.monitor import Monitor
from ubisip.health.observer import Group
from ubisip.platform import Kind


@dataclass(frozen=True)
class Settings:
    """The defaults of ``[health.sip]``."""

    interval: float = 2.0
    fast_interval: float = 0.5
    down_interval: float = 2.0
    timeout: float = 1.0
    fall: int = 2
    rise: int = 3
    slow_start: float = 10.0


DEFAULT = Settings()
LETTERS = {
    "p": Sample(Verdict.PASS, "sip.200", answered=True),
    "w": Sample(Verdict.WARN, "slow", answered=True),
    "f": Sample(Verdict.FAIL, "timeout"),
    "h": Sample(Verdict.FAIL, "icmp", hard=True),
    "s": Sample(Verdict.SERVED, "traffic", answered=True),
    "l": Sample(Verdict.LOST, "silent"),
    "r": Sample(Verdict.LOST, "icmp", hard=True),
    "b": Sample(Verdict.BUSY, "sip.503", answered=True, retry_after=5.0),
    "i": Sample(Verdict.INCONCLUSIVE, "lag"),
}
STATES = {
    "?": State.UNKNOWN,
    "U": State.UP,
    "G": State.DEGRADED,
    "F": State.FALLING,
    "D": State.DOWN,
    "R": State.RISING,
    "H": State.HELD,
}
SYMBOL = {state: symbol for symbol, state in STATES.items()}


def walk(evidence: str, settings: Settings = DEFAULT, step: float = 1.0, start: Health | None = None) -> list[Health]:
    """The health after each letter, *step* seconds apart."""
    moments = itertools.count(0.0, step)
    healths = [start or Health()]
    for letter, now in zip(evidence, moments, strict=False):
        healths.append(advance(healths[-1], LETTERS[letter], settings, now)[0])
    return healths[1:]


def states(healths: list[Health]) -> str:
    return "".join(SYMBOL[health.state] for health in healths)


PA2, PA5 = "PA2", "PA5"
PLATFORM: dict[str, Group] = {
    **{f"pa2-tel{i}": (Kind.SERVER, PA2) for i in (1, 2, 3)},
    **{f"pa5-tel{i}": (Kind.SERVER, PA5) for i in (1, 2, 3)},
    **{f"sbc-{i}": (Kind.CARRIER, PA2) for i in (1, 2)},
    **{f"sbc-{i}": (Kind.CARRIER, PA5) for i in (3, 4)},
}
SERVERS = [name for name in PLATFORM if "tel" in name]
ONE = "pa2-tel1"
REFUSED, SILENT = attempt("refused"), attempt("silent")


def monitor(settings: Settings = DEFAULT, targets: dict[str, Group] | None = None) -> Monitor:
    return Monitor(settings, PLATFORM if targets is None else targets, seed="pa2-gw1")


def all_pass(it: Monitor, now: float, names: list[str] | None = None) -> None:
    it.due(now)
    for name in names or list(PLATFORM):
        it.probed(name, 200, 0.001, now)


def state(it: Monitor, name: str = ONE) -> State:
    return it.health(name).state


def down(it: Monitor) -> set[str]:
    return {name for name in PLATFORM if state(it, name) in (State.DOWN, State.RISING, State.HELD)}


def lose(it: Monitor, names: list[str], sample: Sample, times: list[float]) -> None:
    for now in times:
        for name in names:
            it.observe(name, sample, now)
