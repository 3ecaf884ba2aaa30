# SPDX-License-Identifier: Apache-2.0
"""Probe ``dns``: the answer of a name server, and the serial of its zone beside those of the others.

A secondary that stays behind is found by comparing serials (RFC 1982) with the name servers of the same zone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from ubisip.address import split_address
from ubisip.health.asking import PROTOCOL, ask, failed, passed, short, unclear, warned
from ubisip.health.exchange import connected, exchange
from ubisip.health.probe import Finding, Target
from ubisip.parameters import read_parameters
from ubisip.schema import REQUIRED, Between

DNS_PORT = 53
_HALF = 2**31


@dataclass(frozen=True, slots=True)
class DnsParameters:
    """What is asked of each name server."""

    name: Annotated[str, REQUIRED] = ""
    """The name that is looked up."""
    type: str = "A"
    """The type of its records."""
    expect: tuple[str, ...] = ()
    """All values that the answer must have, in any order; empty: any but none."""
    zone: str = ""
    """The zone whose serial is read; empty: none is."""
    name_servers: tuple[str, ...] = ()
    """The other name servers of `zone`, ``host:port`` each: the members need not be named again when they are all."""
    stale_after: Annotated[float, Between(0, 86_400)] = 60.0
    """Seconds for which a serial may stay behind the highest seen before it is a warning."""
    authoritative: bool = True
    """Whether an answer out of a cache is a failure."""


class DnsProbe:
    """Questions to the name server at ``host`` or ``host:port``."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(DnsParameters, parameters)
        try:
            self._name = dns.name.from_text(self._parameters.name)
            self._zone = dns.name.from_text(self._parameters.zone) if self._parameters.zone else None
            self._type = dns.rdatatype.from_text(self._parameters.type)
        except dns.exception.DNSException as error:
            raise ValueError(f"name, zone, type: expected names and a type of DNS, found: {short(error)}") from None
        self._serials: dict[str, int] = {}
        """The newest serial of each name server that was asked."""
        self._behind: dict[str, float] = {}
        """Since when a name server is behind: seconds of the monotonic clock."""

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target, timeout), timeout)

    async def _check(self, target: Target, timeout: float) -> Finding:
        try:
            answer = await self._query(target.address, self._name, self._type, timeout)
            facts = {"rcode": dns.rcode.to_text(answer.rcode()).lower(), **self._answers(answer)}
            fault = self._fault(answer, facts)
            if fault is not None or self._zone is None:
                return fault or passed(facts)
            return await self._compared(target.address, facts, timeout)
        except dns.exception.DNSException as error:
            return failed(PROTOCOL, problem=short(error))

    def _answers(self, answer: dns.message.Message) -> dict[str, Any]:
        found = answer.get_rrset(answer.answer, self._name, dns.rdataclass.IN, self._type)
        return {"answer": tuple(sorted(rdata.to_text() for rdata in found or ())), "ttl": found.ttl if found else 0}

    def _fault(self, answer: dns.message.Message, facts: Mapping[str, Any]) -> Finding | None:
        rcode = answer.rcode()
        if rcode is dns.rcode.REFUSED:
            return unclear("dns.refused", "the name server refuses to answer us", facts)
        if rcode is not dns.rcode.NOERROR:
            return failed(f"dns.{facts['rcode']}", facts)
        if self._parameters.authoritative and not answer.flags & dns.flags.AA:
            return failed("dns.lame", facts, "the name server has no authority for the name")
        if not facts["answer"]:
            return failed("dns.empty", facts)
        if self._parameters.expect and sorted(self._parameters.expect) != list(facts["answer"]):
            return failed("dns.answer", facts)
        return None

    async def _compared(self, address: str, facts: Mapping[str, Any], timeout: float) -> Finding:
        asked = {address, *self._parameters.name_servers}
        found = await asyncio.gather(*(self._serial(one, timeout) for one in asked), return_exceptions=True)
        self._serials.update({one: it for one, it in zip(asked, found, strict=True) if isinstance(it, int)})
        own = self._serials.get(address)
        if own is None:
            return failed("dns.no-soa", facts, "the name server has no SOA record of the zone")
        facts = {**facts, "serial": own, "serials": {one: self._serials[one] for one in sorted(self._serials)}}
        if all(not is_newer(other, own) for other in self._serials.values()):
            self._behind.pop(address, None)
            return passed(facts)
        since = self._behind.setdefault(address, time.monotonic())
        if time.monotonic() - since < self._parameters.stale_after:
            return passed(facts)
        return warned("dns.stale", facts, f"serial {own} stays behind: {facts['serials']}")

    async def _serial(self, address: str, timeout: float) -> int | None:
        """The serial that *address* has; None when it does not say."""
        assert self._zone is not None
        return serial_of(await self._query(address, self._zone, dns.rdatatype.SOA, timeout), self._zone)

    async def _query(
        self, address: str, name: dns.name.Name, kind: dns.rdatatype.RdataType, timeout: float
    ) -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        query.flags &= ~dns.flags.RD
        return await ask_name_server(address, query, timeout)

    async def close(self) -> None:
        """It keeps no connections."""


async def ask_name_server(address: str, query: dns.message.Message, timeout: float) -> dns.message.Message:
    """The answer of the name server at *address*, over TCP where it does not fit a datagram.

    :raises OSError: no answer; dns.exception.DNSException: it is none.
    """
    host, port = split_address(address, DNS_PORT)
    wire = query.to_wire()
    with await connected(host, port) as one:
        data = await exchange(one, wire, lambda answer: answer[:2] == wire[:2], timeout)
        where = one.getpeername()[0]
    answer = dns.message.from_wire(data, ignore_trailing=True)
    if answer.flags & dns.flags.TC:
        answer = await dns.asyncquery.tcp(query, where, timeout, port)
    return answer


def serial_of(answer: dns.message.Message, zone: dns.name.Name) -> int | None:
    """The serial in an answer to a question for the SOA record of *zone*; None when there is none."""
    found = answer.get_rrset(answer.answer, zone, dns.rdataclass.IN, dns.rdatatype.SOA)
    return int(found[0].serial) if found else None


def is_newer(serial: int, other: int) -> bool:
    """Whether *serial* comes after *other* (RFC 1982 section 3.2)."""
    return 0 < (serial - other) % 2**32 < _HALF
