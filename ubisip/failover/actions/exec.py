# SPDX-License-Identifier: Apache-2.0
"""Action ``exec``: programs of yours, each in a process group; what they are told is in UBISIP_... and on stdin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from ubisip.failover.action import ActionError, Check, Context, Refusal, Situation, Step
from ubisip.failover.actions.order import Class, environment_of, order_of, plan_order
from ubisip.health.asking import short
from ubisip.health.command import Outcome, run
from ubisip.parameters import read_parameters
from ubisip.schema import AT_LEAST_ONE, REQUIRED, Between

TRY_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h: it may work in a moment."""
MAX_RESULT = 4096
"""Characters of an output that are read as the result."""


@dataclass(frozen=True, slots=True)
class ExecParameters:
    """The programs, with their arguments."""

    command: Annotated[tuple[str, ...], AT_LEAST_ONE, REQUIRED] = ()
    """Does it. It may run twice with the same UBISIP_KEY and must then have the effect of once. Exit code 0: done;
    75: try again; any other: failed. A JSON object as its output is told to the steps after it."""
    check: tuple[str, ...] = ()
    """Asked before: any exit code but 0 is a veto."""
    verify: tuple[str, ...] = ()
    """Asked after, until it exits with 0."""
    undo: tuple[str, ...] = ()
    """Undoes it, be it done or failed midway; without it, what was done cannot be undone."""
    proof: Class = "G"
    """What must be proven before it runs: R (local and reversible), G (global and reversible), S (stateful)."""
    timeout: Annotated[float, Between(0.1, 3600)] = 10.0
    """Seconds that all of it may take; then the process group is killed."""


class ExecAction:
    """Runs `command` once for each plan."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(ExecParameters, parameters)

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        return plan_order(situation, before, "run", self._parameters.proof, self._parameters.timeout)

    async def precheck(self, step: Step, context: Context) -> Check:
        return await self._asked(self._parameters.check, step, context)

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        outcome = await self._run(self._parameters.command, step, context)
        if outcome.code != 0:
            raise ActionError(_told(self._parameters.command, outcome), retry=outcome.code == TRY_AGAIN)
        return _result(outcome.output)

    async def verify(self, step: Step, context: Context) -> Check:
        return await self._asked(self._parameters.verify, step, context)

    async def compensate(self, step: Step, context: Context) -> None:
        if not self._parameters.undo:
            if context.results.get(str(step)):
                raise ActionError("there is no command `undo`")
            return  # it failed by itself, and has left things as it wanted to
        outcome = await self._run(self._parameters.undo, step, context)
        if outcome.code != 0:
            raise ActionError(_told(self._parameters.undo, outcome))

    async def close(self) -> None:
        """Each program has ended."""

    async def _asked(self, command: Sequence[str], step: Step, context: Context) -> Check:
        if not command:
            return Check(True)
        outcome = await self._run(command, step, context)
        return Check(outcome.code == 0, "" if outcome.code == 0 else _told(command, outcome))

    async def _run(self, command: Sequence[str], step: Step, context: Context) -> Outcome:
        """
        :raises ActionError: it cannot be started, or does not end.
        """
        order = order_of(step, context)
        try:
            given = json.dumps(order).encode()
            return await run(command, environment_of(order), given, self._parameters.timeout)
        except TimeoutError as error:
            raise ActionError(f"{command[0]} did not end in {self._parameters.timeout:g} s and was killed") from error
        except OSError as error:
            raise ActionError(f"{command[0]} cannot be started: {error.strerror}") from error


def _told(command: Sequence[str], outcome: Outcome) -> str:
    return f"{command[0]} ended with {outcome.code}: {short(outcome.errors or outcome.output)}"


def _result(output: str) -> Mapping[str, Any]:
    """What the program wants to be known: an object of JSON, else its first line as ``output``."""
    try:
        found = json.loads(output[:MAX_RESULT])
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"output": short(output)}
