# SPDX-License-Identifier: Apache-2.0
"""Probe ``exec``: a program of yours, understood by the exit codes of Nagios plug-ins or of OCF resource agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ubisip.address import split_address
from ubisip.health.asking import ask, failed, passed, short, unclear, warned
from ubisip.health.command import Outcome, run
from ubisip.health.probe import Finding, Target
from ubisip.parameters import read_parameters
from ubisip.schema import AT_LEAST_ONE, REQUIRED


@dataclass(frozen=True, slots=True)
class ExecParameters:
    """The program and how it answers."""

    command: Annotated[tuple[str, ...], AT_LEAST_ONE, REQUIRED] = ()
    """Program and arguments; ``{address}``, ``{host}``, ``{port}``, ``{name}`` and ``{site}`` are the member's."""
    codes: Literal["nagios", "ocf"] = "nagios"
    """What its exit code means."""


class ExecProbe:
    """Runs `command`; the member is in its environment: UBISIP_TIER, _MEMBER, _SITE, _ADDRESS, _USER, _PASSWORD."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(ExecParameters, parameters)

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target, timeout), timeout)

    async def _check(self, target: Target, timeout: float) -> Finding:
        command = _filled(self._parameters.command, target)
        try:
            # A little less than what we have ourselves: so it is we who end it, and know that it was too slow.
            outcome = await run(command, environment_of(target), b"", timeout * 0.95)
        except (FileNotFoundError, PermissionError) as error:
            return unclear("exec.missing", f"{command[0]} cannot be started: {error.strerror}")
        return _of_nagios(outcome) if self._parameters.codes == "nagios" else _of_ocf(outcome)

    async def close(self) -> None:
        """Each program has ended before its answer was given."""


def environment_of(target: Target) -> Mapping[str, str]:
    """What a program is told of a member."""
    return {
        "UBISIP_TIER": target.tier,
        "UBISIP_MEMBER": target.name,
        "UBISIP_SITE": target.site,
        "UBISIP_ADDRESS": target.address,
        "UBISIP_USER": target.user,
        "UBISIP_PASSWORD": target.password,
    }


def _filled(command: Sequence[str], target: Target) -> list[str]:
    values = {"address": target.address, "name": target.name, "site": target.site, **_parts(target.address)}
    for key, value in values.items():
        command = [part.replace(f"{{{key}}}", value) for part in command]
    return list(command)


def _parts(address: str) -> Mapping[str, str]:
    """Host and port, where the address has them."""
    try:
        host, port = split_address(address, 0)
    except ValueError:
        return {}
    return {"host": host, "port": str(port)}


def _said(outcome: Outcome) -> Mapping[str, Any]:
    text, _, figures = outcome.output.partition("|")
    return {"code": outcome.code, "output": short(text), "figures": short(figures)}


def _of_nagios(outcome: Outcome) -> Finding:
    """By the guidelines of Nagios plug-ins: 0 ok, 1 warning, 2 critical, 3 unknown."""
    facts = _said(outcome)
    match outcome.code:
        case 0:
            return passed(facts)
        case 1:
            return warned("exec.1", facts, facts["output"])
        case 2:
            return failed("exec.2", facts, facts["output"])
    return _unclear(outcome, facts)


def _of_ocf(outcome: Outcome) -> Finding:
    """By the OCF resource agent API: 0 runs, 8 runs promoted, 7 does not run, 9 promoted but failed, 1 broken."""
    facts = _said(outcome)
    match outcome.code:
        case 0:
            return passed(facts)
        case 8:
            return passed({**facts, "role": "primary"})
        case 1 | 7 | 9:
            return failed(f"exec.{outcome.code}", facts, short(outcome.errors or outcome.output))
    return _unclear(outcome, facts)


def _unclear(outcome: Outcome, facts: Mapping[str, Any]) -> Finding:
    """The program could not find out: wrong arguments, missing right, killed by somebody."""
    text = short(outcome.errors or outcome.output)
    return unclear(f"exec.{outcome.code}", f"the check ended with {outcome.code}: {text}", facts)
