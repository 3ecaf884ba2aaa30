# SPDX-License-Identifier: Apache-2.0
"""Probe ``sip``: OPTIONS over UDP (RFC 3261 section 11). Any final response but 408 and 503 shows a living peer."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ubisip.address import parse_uri, split_address
from ubisip.health import evidence
from ubisip.health.asking import ask
from ubisip.health.exchange import connected, exchange
from ubisip.health.options import Branches, Origin, options
from ubisip.health.probe import Finding, Target
from ubisip.parameters import read_parameters

SIP_PORT = 5060
_STATUS = re.compile(rb"SIP/2\.0 ([2-6][0-9][0-9])[ \r]")
_RETRY_AFTER = re.compile(rb"^retry-after[ \t]*:[ \t]*([0-9]{1,10})", re.IGNORECASE | re.MULTILINE)
_SERVER = re.compile(rb"^(?:server|user-agent)[ \t]*:[ \t]*([\x20-\x7e]{1,200})", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SipParameters:
    """It has none."""


class SipProbe:
    """OPTIONS to a member: ``host``, ``host:port`` or ``sip:host:port``."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        read_parameters(SipParameters, parameters)
        self._branches = Branches(secrets.randbits(64))

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target, timeout), timeout)

    async def _check(self, target: Target, timeout: float) -> Finding:
        host, port = _where(target.address)
        branch = next(self._branches)
        began = time.monotonic()
        with await connected(host, port) as one:
            own, own_port = one.getsockname()[:2]
            shown = f"[{own}]" if ":" in own else own
            uri = f"sip:[{host}]:{port}" if ":" in host else f"sip:{host}:{port}"
            request = options(uri, Origin(f"{shown}:{own_port}"), branch)
            answer = await exchange(one, request, lambda data: _is_answer(data, branch.encode()), timeout)
        return _finding(answer, time.monotonic() - began, timeout)

    async def close(self) -> None:
        """It keeps no connections."""


def _where(address: str) -> tuple[str, int]:
    if address.startswith("sip:"):
        endpoint = parse_uri(address).endpoint
        return endpoint.host, endpoint.port
    return split_address(address, SIP_PORT)


def _is_answer(data: bytes, branch: bytes) -> bool:
    """A final response to this very request; provisional ones, and those to an earlier one, are passed over."""
    return _STATUS.match(data) is not None and branch in data


def _finding(answer: bytes, round_trip: float, timeout: float) -> Finding:
    match, rest, server = _STATUS.match(answer), _RETRY_AFTER.search(answer), _SERVER.search(answer)
    status = int(match[1]) if match else evidence.NO_ANSWER
    sample = evidence.probe(status, round_trip, timeout, retry_after=float(rest[1]) if rest else 0.0)
    return Finding(sample, facts={"status": status, "server": server[1].decode() if server else ""})
