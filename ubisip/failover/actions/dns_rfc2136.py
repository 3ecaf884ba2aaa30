# SPDX-License-Identifier: Apache-2.0
"""Action ``dns-rfc2136``: the records of a name are replaced by a dynamic update (RFC 2136), signed (TSIG, RFC 8945).

The prerequisites list the whole set of records as it was read, and the epoch beside it (a TXT record at
``_ubisip.NAME``): the server does the update only if nobody changed either meanwhile. One message replaces the set, so
that it is never empty. Done is what every name server of the zone answers.
"""

from __future__ import annotations

import asyncio
import binascii
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.tsigkeyring
import dns.update

from ubisip.address import split_address
from ubisip.failover.action import ActionError, Check, Context, Refusal, Situation, Step
from ubisip.failover.actions.records import (
    RecordParameters,
    epoch_text,
    plan_records,
    previous_values,
    refuse_if_overtaken,
    wanted_values,
)
from ubisip.health.probes.dns import DNS_PORT, ask_name_server, is_newer, serial_of
from ubisip.parameters import read_parameters, read_secret
from ubisip.schema import REQUIRED, Between

FENCE = "_ubisip"
"""The label before a name under which the TXT record with the epoch stands."""
_CHANGED_MEANWHILE = frozenset({dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN})
"""How a server says that a prerequisite does not hold."""


@dataclass(frozen=True, slots=True)
class Rfc2136Parameters(RecordParameters):
    """Where and how the zone is updated."""

    server: Annotated[str, REQUIRED] = ""
    """The primary name server of the zone: ``host`` or ``host:port``."""
    zone: Annotated[str, REQUIRED] = ""
    """The zone that all `names` are in."""
    name_servers: tuple[str, ...] = ()
    """The other name servers of the zone, each of which must follow: ``host`` or ``host:port``."""
    key_name: Annotated[str, REQUIRED] = ""
    """The name of the TSIG key."""
    key_file: Annotated[str, REQUIRED] = ""
    """The file that holds its secret in base64."""
    algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"] = "hmac-sha256"
    """The algorithm of the key."""
    timeout: Annotated[float, Between(0.1, 60)] = 2.0
    """Seconds that one name server may take for one answer."""


class Rfc2136Action:
    """Sets the records of each of `names`."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        """:raises ValueError: a parameter is wrong, or the secret cannot be read."""
        given = read_parameters(Rfc2136Parameters, parameters)
        try:
            self._zone = dns.name.from_text(given.zone)
            self._type = dns.rdatatype.from_text(given.type)
            values = {member: self._as_read(values) for member, values in given.values.items()}
            self._parameters = replace(given, values=values)
            secret = {self._parameters.key_name: read_secret(self._parameters.key_file)}
            self._keyring = dns.tsigkeyring.from_text(secret)
            outside = [name for name in self._parameters.names if not dns.name.from_text(name).is_subdomain(self._zone)]
        except (dns.exception.DNSException, binascii.Error) as error:
            raise ValueError(f"zone, type, names, key_file: {error}") from None
        if outside:
            raise ValueError(f"names: expected names in the zone {self._parameters.zone}, found {', '.join(outside)}")
        self._servers = (self._parameters.server, *self._parameters.name_servers)

    def _as_read(self, values: Sequence[str]) -> tuple[str, ...]:
        """Values in the form in which a name server gives them."""
        rrset = dns.rrset.from_text_list(
            dns.name.root, 0, dns.rdataclass.IN, self._type, values, origin=dns.name.root, relativize=False
        )
        return tuple(rdata.to_text() for rdata in rrset)

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        return plan_records(situation, before, self._parameters, deadline=10.0)

    async def precheck(self, step: Step, context: Context) -> Check:
        fence = await self._read(self._parameters.server, _fence(step.target), dns.rdatatype.TXT)
        refuse_if_overtaken(step.target, fence, context)
        wanted_values(step, context, self._parameters, await self._values(step))
        return Check(True)

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        now = await self._values(step)
        wanted = wanted_values(step, context, self._parameters, now)
        if sorted(now) == wanted:
            return {"changed": False, "values": wanted, "previous": now}
        await self._replace(step, context, now, wanted)
        return {"changed": True, "values": wanted, "previous": now}

    async def verify(self, step: Step, context: Context) -> Check:
        """What every name server answers; the newest serial must be everywhere."""
        answers = await asyncio.gather(*(self._serves(one, step) for one in self._servers), return_exceptions=True)
        now = answers[0]
        if isinstance(now, BaseException):
            return Check(False, f"{self._servers[0]}: {_text(now)}")
        serial, values = now
        if values != wanted_values(step, context, self._parameters, values):
            return Check(False, f"{step.target} has the values {', '.join(values) or 'none'}")
        behind = [
            f"{one}: {_text(it)}" if isinstance(it, BaseException) else f"{one}: serial {it[0]}, not yet {serial}"
            for one, it in zip(self._servers[1:], answers[1:], strict=True)
            if isinstance(it, BaseException) or is_newer(serial, it[0]) or it[1] != values
        ]
        return Check(not behind, "; ".join(behind))

    async def compensate(self, step: Step, context: Context) -> None:
        previous = sorted(previous_values(step, context))
        now = await self._values(step)
        if previous and sorted(now) != previous:
            await self._replace(step, context, now, previous)

    async def close(self) -> None:
        """It keeps no connections."""

    async def _values(self, step: Step) -> list[str]:
        """The values that the name has on the primary server now."""
        return await self._read(self._parameters.server, dns.name.from_text(step.target), self._type)

    async def _serves(self, server: str, step: Step) -> tuple[int, list[str]]:
        """The serial of the zone and the values of the name on one name server."""
        answer = await self._ask(server, self._zone, dns.rdatatype.SOA)
        serial = serial_of(answer, self._zone)
        if serial is None:
            raise ActionError("no SOA record of the zone")
        return serial, await self._read(server, dns.name.from_text(step.target), self._type)

    async def _read(self, server: str, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> list[str]:
        """The values of one set of records, in order; none when there is none."""
        answer = await self._ask(server, name, kind)
        found = answer.get_rrset(answer.answer, name, dns.rdataclass.IN, kind)
        return sorted(rdata.to_text() for rdata in found or ())

    async def _ask(self, server: str, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.message.Message:
        """
        :raises ActionError: no answer, or one that says no.
        """
        try:
            answer = await ask_name_server(server, dns.message.make_query(name, kind), self._parameters.timeout)
        except (OSError, dns.exception.DNSException) as error:
            raise ActionError(f"{server} does not answer: {_text(error)}", retry=True) from error
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise ActionError(f"{server} answers {dns.rcode.to_text(answer.rcode())} for {name}", retry=True)
        return answer

    async def _replace(self, step: Step, context: Context, now: Sequence[str], wanted: Sequence[str]) -> None:
        """Replace *now* by *wanted*, if it still is so and nobody has a higher epoch.

        :raises ActionError: it was not done.
        """
        fence = await self._read(self._parameters.server, _fence(step.target), dns.rdatatype.TXT)
        refuse_if_overtaken(step.target, fence, context)
        update = dns.update.UpdateMessage(
            self._zone,
            keyring=self._keyring,
            keyname=dns.name.from_text(self._parameters.key_name),
            keyalgorithm=self._parameters.algorithm,
        )
        ttl = self._parameters.ttl
        for name, kind, old, new in (
            (dns.name.from_text(step.target), self._type, now, wanted),
            (_fence(step.target), dns.rdatatype.TXT, fence, [f'"{epoch_text(context)}"']),
        ):
            if old:  # the whole set: a prerequisite that names a part of it never holds
                update.present(name, *(dns.rrset.from_text(name, ttl, dns.rdataclass.IN, kind, it)[0] for it in old))
            else:
                update.absent(name, kind)
            update.replace(name, dns.rrset.from_text(name, ttl, dns.rdataclass.IN, kind, *new).to_rdataset())
        await self._send(update)

    async def _send(self, update: dns.update.UpdateMessage) -> None:
        host, port = split_address(self._parameters.server, DNS_PORT)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            # Over TCP: an update that is sent twice would find its own prerequisite broken.
            answer = await dns.asyncquery.tcp(update, str(found[0][4][0]), self._parameters.timeout, port)
        except dns.tsig.PeerError as error:
            raise ActionError(f"{self._parameters.server} does not take the key: {_text(error)}") from error
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise ActionError(f"{self._parameters.server}: the update failed: {_text(error)}", retry=True) from error
        code = answer.rcode()
        if code in _CHANGED_MEANWHILE:
            raise ActionError("somebody has changed the records meanwhile", retry=True)
        if code is not dns.rcode.NOERROR:
            text = dns.rcode.to_text(code)
            raise ActionError(f"{self._parameters.server} refuses the update: {text}", retry=True)


def _fence(name: str) -> dns.name.Name:
    return dns.name.from_text(f"{FENCE}.{name}")


def _text(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
