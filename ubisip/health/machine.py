# SPDX-License-Identifier: Apache-2.0
"""The health of one destination as a state machine: evidence in, a new value and a transition out (DESIGN section 7).

:data:`TABLE` is the machine; ``docs/health.md`` is drawn from it. Nothing here sends, arms a timer or logs.
Times are seconds on the caller's monotonic clock.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

PENALTY = 1000.0
"""Added at every crossing between usable and not usable (the shape of RFC 2439)."""
HALF_LIFE = 60.0
"""Seconds in which the penalty halves."""
SUPPRESS = 2500.0
"""A crossing that brings the penalty here holds the destination back."""
REUSE = 750.0
"""A held destination is free again once its penalty has decayed to this: at most 134 s after it was held."""
MOMENT = 0.1
"""Seconds. Silences and 503s within one moment are one failure: what loses 200 calls in 10 ms is one event, and one
event is not `fall` failures. Refusals are each counted: the peer's host made them."""
MAX_REST = 3600.0
"""Seconds. The longest Retry-After that is believed: a mistaken one must not retire a server for ever."""
DEGRADED_WEIGHT = 0.5
RAMP_STEPS = 10


class State(enum.Enum):
    """What is believed of a destination."""

    UNKNOWN = "unknown"
    UP = "up"
    DEGRADED = "degraded"
    FALLING = "falling"
    DOWN = "down"
    RISING = "rising"
    HELD = "held"


class Verdict(enum.Enum):
    """What one piece of evidence says: the first three come from probes, the next three from real traffic."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SERVED = "served"
    """An attempt brought a response."""
    LOST = "lost"
    """An attempt was refused, stayed without any response, or brought a 503 without Retry-After."""
    BUSY = "busy"
    """503 with Retry-After, to an attempt or to a probe."""
    INCONCLUSIVE = "inconclusive"


class Damping(enum.Enum):
    """What the flap penalty says: the two events that evidence does not bring."""

    SUPPRESS = "suppress"
    REUSE = "reuse"


class Count(enum.Enum):
    """What an event does to the two counters of consecutive evidence."""

    KEEP = "keep"
    CLEAR = "clear"
    RISE = "rise"
    """One more pass, no failure; ``Cell.reached`` applies at `rise` passes."""
    FALL = "fall"
    """One more failure, no pass; ``Cell.reached`` applies at `fall` failures."""


class Cell(NamedTuple):
    """One cell of the table: the next state while the counter is below its threshold, and when it gets there."""

    below: State
    reached: State
    counters: Count


Event = Verdict | Damping

UNKNOWN, UP, DEGRADED, FALLING, DOWN, RISING, HELD = State
PASS, WARN, FAIL, SERVED, LOST, BUSY, INCONCLUSIVE = Verdict
KEEP, CLEAR, RISE, FALL = Count

USABLE = frozenset({UNKNOWN, UP, DEGRADED, FALLING})
"""States in which new calls may be sent."""
FAILURES = frozenset({FAIL, LOST})

# Real traffic speaks only where calls are sent: in DOWN, RISING and HELD, probes alone decide.
TABLE: Mapping[tuple[State, Event], Cell] = {
    (UNKNOWN, PASS): Cell(UP, UP, RISE),
    (UNKNOWN, WARN): Cell(DEGRADED, DEGRADED, CLEAR),
    (UNKNOWN, FAIL): Cell(FALLING, DOWN, FALL),
    (UNKNOWN, SERVED): Cell(UP, UP, CLEAR),
    (UNKNOWN, LOST): Cell(FALLING, DOWN, FALL),
    (UNKNOWN, BUSY): Cell(UP, UP, CLEAR),
    (UNKNOWN, INCONCLUSIVE): Cell(UNKNOWN, UNKNOWN, KEEP),
    (UNKNOWN, Damping.SUPPRESS): Cell(UNKNOWN, UNKNOWN, KEEP),
    (UNKNOWN, Damping.REUSE): Cell(UNKNOWN, UNKNOWN, KEEP),
    (UP, PASS): Cell(UP, UP, RISE),
    (UP, WARN): Cell(DEGRADED, DEGRADED, CLEAR),
    (UP, FAIL): Cell(FALLING, DOWN, FALL),
    (UP, SERVED): Cell(UP, UP, KEEP),
    (UP, LOST): Cell(FALLING, DOWN, FALL),
    (UP, BUSY): Cell(UP, UP, KEEP),
    (UP, INCONCLUSIVE): Cell(UP, UP, KEEP),
    (UP, Damping.SUPPRESS): Cell(HELD, HELD, CLEAR),
    (UP, Damping.REUSE): Cell(UP, UP, KEEP),
    (DEGRADED, PASS): Cell(DEGRADED, UP, RISE),
    (DEGRADED, WARN): Cell(DEGRADED, DEGRADED, CLEAR),
    (DEGRADED, FAIL): Cell(FALLING, DOWN, FALL),
    (DEGRADED, SERVED): Cell(DEGRADED, DEGRADED, KEEP),
    (DEGRADED, LOST): Cell(FALLING, DOWN, FALL),
    (DEGRADED, BUSY): Cell(DEGRADED, DEGRADED, KEEP),
    (DEGRADED, INCONCLUSIVE): Cell(DEGRADED, DEGRADED, KEEP),
    (DEGRADED, Damping.SUPPRESS): Cell(HELD, HELD, CLEAR),
    (DEGRADED, Damping.REUSE): Cell(DEGRADED, DEGRADED, KEEP),
    (FALLING, PASS): Cell(UP, UP, RISE),
    (FALLING, WARN): Cell(DEGRADED, DEGRADED, CLEAR),
    (FALLING, FAIL): Cell(FALLING, DOWN, FALL),
    (FALLING, SERVED): Cell(UP, UP, CLEAR),
    (FALLING, LOST): Cell(FALLING, DOWN, FALL),
    (FALLING, BUSY): Cell(UP, UP, CLEAR),
    (FALLING, INCONCLUSIVE): Cell(FALLING, FALLING, KEEP),
    (FALLING, Damping.SUPPRESS): Cell(FALLING, FALLING, KEEP),
    (FALLING, Damping.REUSE): Cell(FALLING, FALLING, KEEP),
    (DOWN, PASS): Cell(RISING, UP, RISE),
    (DOWN, WARN): Cell(RISING, DEGRADED, RISE),
    (DOWN, FAIL): Cell(DOWN, DOWN, FALL),
    (DOWN, SERVED): Cell(DOWN, DOWN, KEEP),
    (DOWN, LOST): Cell(DOWN, DOWN, KEEP),
    (DOWN, BUSY): Cell(DOWN, DOWN, KEEP),
    (DOWN, INCONCLUSIVE): Cell(DOWN, DOWN, KEEP),
    (DOWN, Damping.SUPPRESS): Cell(HELD, HELD, CLEAR),
    (DOWN, Damping.REUSE): Cell(DOWN, DOWN, KEEP),
    (RISING, PASS): Cell(RISING, UP, RISE),
    (RISING, WARN): Cell(RISING, DEGRADED, RISE),
    (RISING, FAIL): Cell(DOWN, DOWN, FALL),
    (RISING, SERVED): Cell(RISING, RISING, KEEP),
    (RISING, LOST): Cell(RISING, RISING, KEEP),
    (RISING, BUSY): Cell(RISING, RISING, KEEP),
    (RISING, INCONCLUSIVE): Cell(RISING, RISING, KEEP),
    (RISING, Damping.SUPPRESS): Cell(RISING, RISING, KEEP),
    (RISING, Damping.REUSE): Cell(RISING, RISING, KEEP),
    (HELD, PASS): Cell(HELD, HELD, RISE),
    (HELD, WARN): Cell(HELD, HELD, RISE),
    (HELD, FAIL): Cell(HELD, HELD, FALL),
    (HELD, SERVED): Cell(HELD, HELD, KEEP),
    (HELD, LOST): Cell(HELD, HELD, KEEP),
    (HELD, BUSY): Cell(HELD, HELD, KEEP),
    (HELD, INCONCLUSIVE): Cell(HELD, HELD, KEEP),
    (HELD, Damping.SUPPRESS): Cell(HELD, HELD, KEEP),
    (HELD, Damping.REUSE): Cell(DOWN, DOWN, KEEP),
}


class Settings(Protocol):
    """What the health layer reads of ``[health.sip]``; all but the two counts are seconds."""

    @property
    def interval(self) -> float: ...
    @property
    def fast_interval(self) -> float: ...
    @property
    def down_interval(self) -> float: ...
    @property
    def timeout(self) -> float: ...
    @property
    def fall(self) -> int: ...
    @property
    def rise(self) -> int: ...
    @property
    def slow_start(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One piece of evidence about a destination."""

    verdict: Verdict
    reason: str = ""
    """A stable code: ``icmp``, ``silent``, ``timeout``, ``slow``, ``sip.503``..."""
    hard: bool = False
    """The network said so (ICMP, connection refused): it does not hang on our own clock."""
    answered: bool = False
    """The destination itself sent something back, if only a 503."""
    retry_after: float = 0.0
    """Seconds it asked to rest; with BUSY only."""
    sent_at: float | None = None
    """When the request left; None: not known. Silence about a request from before the last recovery, or from before
    other attempts were served, is a lost datagram: it says nothing of today."""


@dataclass(frozen=True, slots=True)
class Health:
    """All that is known of one destination; a new one is UNKNOWN."""

    state: State = UNKNOWN
    reason: str = ""
    """Of the evidence behind the last transition."""
    passes: int = 0
    """Consecutive passes."""
    failures: int = 0
    """Consecutive failures."""
    penalty: float = 0.0
    """Flap penalty as it was at ``penalty_at``."""
    penalty_at: float = 0.0
    failed_at: float = -math.inf
    """When the last failure was counted."""
    served_at: float = -math.inf
    """By when real traffic was last known to be served."""
    rest_until: float = -math.inf
    """Until when it asked to be left alone (503 with Retry-After)."""
    recovered_at: float | None = None
    """When it last came back from DOWN; None: not since it was first known, so it has no ramp."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A change worth telling: another state, or the begin of a rest (then *before* may equal *after*)."""

    before: State
    after: State
    reason: str
    at: float
    rest: float = 0.0
    """Seconds of rest that begin here."""

    @property
    def crossed(self) -> bool:
        """It changed whether the destination gets new calls (a rest aside)."""
        return (self.before in USABLE) != (self.after in USABLE)


def advance(health: Health, sample: Sample, settings: Settings, now: float) -> tuple[Health, Transition | None]:
    """The health after *sample*, and what changed by it, if anything."""
    if _says_nothing(health, sample, now):
        return health, None
    start = _reused(health, now)
    after = _stepped(start, sample, settings, now)
    if (start.state in USABLE) != (after.state in USABLE):
        after = _crossed(after, now)
    if after.state is not health.state:
        after = replace(after, reason=sample.reason)
    return after, _transition(health, after, sample, now)


def usable(health: Health, now: float) -> bool:
    """New calls may be sent: its state allows it and it does not rest."""
    return health.state in USABLE and now >= health.rest_until


def penalty(health: Health, now: float) -> float:
    """The flap penalty at *now*."""
    return health.penalty * math.exp2(-max(0.0, now - health.penalty_at) / HALF_LIFE)


def ramp(health: Health, settings: Settings, now: float) -> float:
    """Factor on the weight after a recovery: 0.1, 0.2 ... 1.0 in steps of a tenth of `slow_start`."""
    if health.recovered_at is None or settings.slow_start <= 0:
        return 1.0
    elapsed = max(0.0, now - health.recovered_at) / settings.slow_start
    return min(RAMP_STEPS, 1 + math.floor(elapsed * RAMP_STEPS)) / RAMP_STEPS


def weight(health: Health, settings: Settings, now: float) -> float:
    """Factor on the weight from all causes: the ramp, halved while DEGRADED."""
    return ramp(health, settings, now) * (DEGRADED_WEIGHT if health.state is DEGRADED else 1.0)


def pardon(health: Health) -> Health:
    """Forget the flapping and end the rest: what an operator who says `ready` means."""
    return replace(health, penalty=0.0, rest_until=-math.inf)


def _says_nothing(health: Health, sample: Sample, now: float) -> bool:
    if sample.verdict not in FAILURES:
        return sample.verdict is INCONCLUSIVE
    if not sample.hard and health.state in USABLE and now - health.failed_at < MOMENT:
        return True
    return sample.sent_at is not None and sample.sent_at < _newest_proof(health, sample)


def _newest_proof(health: Health, sample: Sample) -> float:
    """Requests sent before this moment prove nothing by failing.

    Passes do not count: who answers OPTIONS and is silent to calls is out of order. Successes are told up to a
    MOMENT after they happened. A refusal or a 503 is the peer's word, not a lost datagram.
    """
    recovered = -math.inf if health.recovered_at is None else health.recovered_at
    return recovered if sample.hard or sample.answered else max(recovered, health.served_at - MOMENT)


def _reused(health: Health, now: float) -> Health:
    if health.state is not HELD or penalty(health, now) > REUSE:
        return health
    return replace(health, state=TABLE[HELD, Damping.REUSE].below)


def _stepped(health: Health, sample: Sample, settings: Settings, now: float) -> Health:
    cell = TABLE[health.state, sample.verdict]
    passes, failures = _counted(health, cell.counters)
    reached = (cell.counters is RISE and passes >= settings.rise) or (
        cell.counters is FALL and failures >= settings.fall
    )
    return replace(
        health,
        state=cell.reached if reached else cell.below,
        passes=passes,
        failures=failures,
        failed_at=now if cell.counters is FALL else health.failed_at,
        served_at=now if sample.verdict is SERVED else health.served_at,
        rest_until=_rest_until(health, sample, now),
    )


def _counted(health: Health, count: Count) -> tuple[int, int]:
    match count:
        case Count.RISE:
            return health.passes + 1, 0
        case Count.FALL:
            return 0, health.failures + 1
        case Count.CLEAR:
            return 0, 0
        case Count.KEEP:
            return health.passes, health.failures


def _rest_until(health: Health, sample: Sample, now: float) -> float:
    """The longest wish stands: answers to calls already on their way must not shorten a rest."""
    if sample.verdict is not BUSY:
        return health.rest_until
    return max(health.rest_until, now + min(sample.retry_after, MAX_REST))


def _crossed(health: Health, now: float) -> Health:
    """Count the crossing; hold the destination back when it makes too many."""
    value = penalty(health, now) + PENALTY
    marked = replace(health, penalty=value, penalty_at=now, recovered_at=now if health.state in USABLE else None)
    if value < SUPPRESS:
        return marked
    cell = TABLE[health.state, Damping.SUPPRESS]
    return replace(marked, state=cell.below, passes=0, failures=0, recovered_at=None)


def _transition(before: Health, after: Health, sample: Sample, now: float) -> Transition | None:
    rests = before.rest_until <= now < after.rest_until
    if before.state is after.state and not rests:
        return None
    return Transition(before.state, after.state, sample.reason, now, after.rest_until - now if rests else 0.0)
