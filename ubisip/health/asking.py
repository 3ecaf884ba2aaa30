# SPDX-License-Identifier: Apache-2.0
"""What a question to a member brought, as a finding: shared by all probes, so that reasons mean the same everywhere.

A failure is the member's; what hangs on us (no route, no more descriptors, a name that does not resolve, a password
that it does not take) is inconclusive and tells people what to do.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Any

from ubisip.health.machine import Sample, Verdict
from ubisip.health.probe import NO_FACTS, Finding

REFUSED = "refused"
TIMEOUT = "timeout"
RESET = "reset"
"""The connection was closed before the answer was whole."""
UNREACHABLE = "unreachable"
PROTOCOL = "protocol"
"""The answer is none of the protocol that was asked in."""

MAX_TEXT = 300
"""Characters of a foreign text that a fact or a problem repeats."""

_FAR = frozenset({errno.EHOSTUNREACH, errno.EHOSTDOWN})
_REFUSED_ALL = f"[Errno {errno.ECONNREFUSED}]"


async def ask(question: Awaitable[Finding], timeout: float) -> Finding:
    """What *question* finds, with its latency and the time it was sent; any error becomes a finding.

    It is cancelled after *timeout* seconds, and must then throw away its connection.
    """
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            finding = await question
    except Exception as error:  # whatever a driver raises for what a peer does must not end the prober
        finding = of_error(error)
    sample = finding.sample if finding.sample.sent_at is not None else replace(finding.sample, sent_at=began)
    return replace(finding, sample=sample, latency=time.monotonic() - began)


def passed(facts: Mapping[str, Any] = NO_FACTS, reason: str = "ok") -> Finding:
    return Finding(Sample(Verdict.PASS, reason, answered=True), facts=facts)


def warned(reason: str, facts: Mapping[str, Any] = NO_FACTS, problem: str = "") -> Finding:
    return Finding(Sample(Verdict.WARN, reason, answered=True), facts=facts, problem=problem)


def failed(reason: str, facts: Mapping[str, Any] = NO_FACTS, problem: str = "") -> Finding:
    """The member answered, and what it says is that it does not serve."""
    return Finding(Sample(Verdict.FAIL, reason, answered=True), facts=facts, problem=problem)


def silent(reason: str, *, hard: bool = False) -> Finding:
    """Nothing came from the member itself; *hard*: the network said so."""
    return Finding(Sample(Verdict.FAIL, reason, hard=hard))


def unclear(reason: str, problem: str, facts: Mapping[str, Any] = NO_FACTS) -> Finding:
    """Nothing can be said; *problem* tells people why."""
    return Finding(Sample(Verdict.INCONCLUSIVE, reason), facts=facts, problem=problem)


def of_age(age: float, fail_after: float, warn_after: float, facts: Mapping[str, Any]) -> Finding:
    """The finding for a success that is *age* seconds old; *warn_after* 0: it does not warn."""
    told = f"the newest success is {age:.0f} s old"
    if age > fail_after:
        return failed("old", facts, told)
    return warned("old", facts, told) if 0 < warn_after < age else passed(facts)


def of_error(error: BaseException) -> Finding:
    """The finding that an exception stands for: of the socket layer, or of a driver that we do not know better."""
    match error:
        case TimeoutError():
            return silent(TIMEOUT)
        case ConnectionRefusedError():
            return silent(REFUSED, hard=True)
        case ConnectionError() | EOFError():
            return silent(RESET)
        case socket.gaierror():
            return unclear("name", f"the name does not resolve: {short(error)}")
        case FileNotFoundError():
            return silent(REFUSED, hard=True)  # a Unix socket that nobody has made
        case PermissionError():
            return unclear("denied", f"we may not: {short(error)}")
        case OSError(errno=number) if number in _FAR:
            return silent(UNREACHABLE, hard=True)
        case OSError(errno=None) if _REFUSED_ALL in str(error):
            return silent(REFUSED, hard=True)  # asyncio's sum of several addresses of one name
        case OSError():
            return unclear("local", f"we cannot ask: {short(error)}")
    return unclear("error", f"{type(error).__name__}: {short(error)}")


def short(text: object) -> str:
    """The first line of a foreign text, cut, with nothing that a terminal would obey."""
    line = (str(text).strip().splitlines() or [""])[0][:MAX_TEXT]
    return "".join(char if char.isprintable() else "?" for char in line)
