# SPDX-License-Identifier: Apache-2.0
"""Probe ``push``: jobs that report by themselves (``POST /api/v1/push/TIER/MEMBER``), and how long ago they last did.

The HTTP side calls :meth:`PushProbe.mark`. With `record_file` the marks outlive a restart; without it nothing is known
after one until a job reports, or should have.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ubisip.health.asking import ask, failed, of_age, short, unclear, warned
from ubisip.health.machine import Verdict
from ubisip.health.probe import Finding, Target
from ubisip.parameters import read_parameters
from ubisip.schema import REQUIRED, Between

YEARS = 10 * 366 * 86_400.0
MAX_RECORD = 2**20
"""Octets of the file of marks; members are few and their texts short."""
Outcome = Literal["ok", "warning", "failed"]
OUTCOMES = ("ok", "warning", "failed")


@dataclass(frozen=True, slots=True)
class PushParameters:
    """How long ago is too long."""

    fail_after: Annotated[float, Between(1, YEARS), REQUIRED] = 1.0
    """Seconds without a success from which the job has failed."""
    warn_after: Annotated[float, Between(0, YEARS)] = 0.0
    """Seconds from which it is a warning; 0: none before it has failed."""
    record_file: str = ""
    """Where the marks are kept; empty: in memory only."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a job last reported."""

    outcome: Outcome
    text: str
    at: float
    """Seconds since the epoch."""


class PushProbe:
    """The member's address is not looked at: say there what the job is."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        """:raises ValueError: a parameter is wrong, or the record cannot be read."""
        self._parameters = read_parameters(PushParameters, parameters)
        self._file = Path(self._parameters.record_file) if self._parameters.record_file else None
        self._marks = _read(self._file) if self._file else {}
        self._since = time.time()

    def mark(self, member: str, outcome: Outcome = "ok", text: str = "") -> None:
        """A job has reported: note it, on disk too.

        :raises OSError: the record cannot be written; the mark counts all the same, until the next restart.
        """
        self._marks[member] = Mark(outcome, short(text), time.time())
        if self._file:
            _write(self._file, self._marks)

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target.name, time.time()), timeout)

    async def _check(self, member: str, now: float) -> Finding:
        mark = self._marks.get(member)
        if mark is None:
            if now - self._since > self._parameters.fail_after:
                return failed("push.never", problem="the job has never reported")
            return unclear("push.unknown", "the job has not reported since the start")
        return self._judged(mark, now)

    def _judged(self, mark: Mark, now: float) -> Finding:
        facts = {"outcome": mark.outcome, "text": mark.text, "age": round(max(0.0, now - mark.at), 1)}
        if mark.outcome == "failed":
            return failed("push.failed", facts, f"the job reports a failure: {mark.text}")
        by_age = of_age(now - mark.at, self._parameters.fail_after, self._parameters.warn_after, facts)
        if mark.outcome == "warning" and by_age.sample.verdict is Verdict.PASS:
            return warned("push.warning", facts, f"the job reports: {mark.text}")
        return by_age

    async def close(self) -> None:
        """All is on disk that is to be there."""


def _read(file: Path) -> dict[str, Mark]:
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(MAX_RECORD))
        return {member: Mark(*values) for member, values in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"record_file: expected a record of this probe in {file}, found: {error}") from None


def _write(file: Path, marks: Mapping[str, Mark]) -> None:
    """Replace the file whole: who dies meanwhile leaves the old one."""
    values = {member: (one.outcome, one.text, one.at) for member, one in marks.items()}
    new = file.with_name(f"{file.name}.new")
    with new.open("w") as opened:
        json.dump(values, opened)
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)
