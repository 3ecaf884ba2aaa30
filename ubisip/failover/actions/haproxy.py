# SPDX-License-Identifier: Apache-2.0
"""Action ``haproxy``: each HAProxy sends clients to those members that serve, by its run-time socket.

Who serves becomes ``ready``, the others ``maint`` (their sessions are shut down) or ``drain``; or one server of the
backend gets the primary's address. Each HAProxy keeps the epoch in a variable of its process: a lower one is refused.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar

from ubisip.address import split_address
from ubisip.failover.action import ActionError, Check, Context, Proof, Refusal, Situation, Step
from ubisip.failover.actions.serving import Serve, address_of, arguments_for, is_required, serving
from ubisip.health.haproxy import HaproxyError, Server, servers_of, statistics, talk, word
from ubisip.health.machine import State
from ubisip.parameters import nothing, read_parameters
from ubisip.schema import AT_LEAST_ONE, REQUIRED, Between

EPOCH = "proc.ubisip_epoch"
"""The variable of an HAProxy process that keeps the highest epoch seen; it goes with the process."""
BATCH = 40
"""Commands that are sent at once: HAProxy reads them into one buffer of 16 KiB."""
_T = TypeVar("_T")
_VALUE = re.compile(r"value=<(\d+)>")
_SHOWN = {"maint": "MAINT", "drain": "DRAIN"}
"""How ``show stat`` begins the status of a server."""


@dataclass(frozen=True, slots=True)
class HaproxyParameters:
    """Which HAProxy, and what of it."""

    sockets: Annotated[tuple[str, ...], AT_LEAST_ONE, REQUIRED] = ()
    """The run-time sockets, of level admin: a path or ``host:port`` each."""
    backend: Annotated[str, REQUIRED] = ""
    """The backend whose servers are the members."""
    servers: Mapping[str, str] = field(default_factory=nothing)
    """The server that each member is; default: the one of its name."""
    server: str = ""
    """The one server that gets the address of the member that serves; empty: each member is a server of its own."""
    addresses: Mapping[str, str] = field(default_factory=nothing)
    """With `server`: the ``address:port`` of a member for HAProxy; default: the one of the tier."""
    serve: Serve = "auto"
    """Who gets clients: `primary`, `first` (that can, in the order of the tier), `all` (that can), or by the kind."""
    failback: bool = False
    """With `first`: whether an earlier member takes over again when it can, instead of the one that serves staying."""
    remove: Literal["maint", "drain"] = "maint"
    """What becomes of who does not serve: `maint` shuts its sessions down, `drain` lets them end."""
    degraded_weight: Annotated[int, Between(1, 100)] = 50
    """With `all`: percent of its weight that a degraded member gets."""
    timeout: Annotated[float, Between(0.1, 60)] = 1.0
    """Seconds that one HAProxy may take for one request."""


@dataclass(frozen=True, slots=True)
class Want:
    """How one server is to be."""

    state: str
    """``ready``, ``drain`` or ``maint``."""
    percent: int | None = None
    """Of its initial weight; None: as it is."""
    address: tuple[str, int] | None = None
    """None: as it is."""


class HaproxyAction:
    """Turns the backend of every HAProxy to the members that serve."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(HaproxyParameters, parameters)
        for text in (self._parameters.backend, *self._parameters.servers.values()):
            word(text)

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        arguments = arguments_for(situation, before, self._parameters.serve)
        if isinstance(arguments, Refusal):
            return arguments
        if self._parameters.server and arguments["serve"] == "all":
            return Refusal(("one server can have the address of one member only: serve must be primary or first",))
        backend = self._parameters.backend
        return (Step("", "serve", backend, Proof.R, arguments, deadline=5.0, required=is_required(before)),)

    async def precheck(self, step: Step, context: Context) -> Check:
        await self._each(lambda where: self._look(where, context.epoch))
        return Check(True)

    async def _look(self, where: str, epoch: int) -> Mapping[str, Server]:
        """The servers of one HAProxy, if we may turn it."""
        await self._fence(where, epoch)
        return await self._servers(where)

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Turn every HAProxy that can be reached; those that cannot carry nothing, or are told of as stale."""
        names = await self._serving(step, context)
        wants = self._wants(step, context, names)
        previous, stale = await self._each(lambda where: self._turn(where, wants, context.epoch))
        return {"serving": names, "stale": stale, "previous": previous}

    async def _each(self, work: Callable[[str], Awaitable[_T]]) -> tuple[dict[str, _T], dict[str, str]]:
        """What *work* returns for each HAProxy, and why it failed for some.

        :raises ActionError: it failed for all of them, or one has been turned by somebody who came after us.
        """
        sockets = self._parameters.sockets
        found = await asyncio.gather(*map(work, sockets), return_exceptions=True)
        pairs = list(zip(sockets, found, strict=True))
        for it in found:
            if isinstance(it, BaseException) and not isinstance(it, OSError | HaproxyError):
                raise it
        done = {where: it for where, it in pairs if not isinstance(it, BaseException)}
        failed = {where: _text(it) for where, it in pairs if isinstance(it, OSError | HaproxyError)}
        if not done:
            text = "; ".join(f"{where}: {text}" for where, text in failed.items())
            raise ActionError(text, retry=any(isinstance(it, OSError) for it in found))
        return done, failed

    async def verify(self, step: Step, context: Context) -> Check:
        names = await self._serving(step, context)
        wants = self._wants(step, context, names)
        found = await asyncio.gather(*(self._differs(where, wants) for where in self._parameters.sockets))
        wrong = [text for text in found if text is not None and text]
        unseen = [where for where, text in zip(self._parameters.sockets, found, strict=True) if text is None]
        if wrong or len(unseen) == len(found):
            return Check(False, "; ".join(wrong) or "no HAProxy answers")
        return Check(True, f"stale: {', '.join(unseen)} does not answer" if unseen else "")

    async def compensate(self, step: Step, context: Context) -> None:
        previous = context.results.get(str(step), {}).get("previous", {})
        problems = []
        for where, servers in previous.items():
            wants = {
                name: Want(it["state"], it["percent"], (it["address"], it["port"])) for name, it in servers.items()
            }
            try:
                await self._turn(where, wants, context.epoch)
            except (OSError, HaproxyError) as error:
                problems.append(f"{where}: {_text(error)}")
        if problems:
            raise ActionError("; ".join(problems), retry=True)

    async def close(self) -> None:
        """It keeps no connections."""

    # What is wanted

    async def _serving(self, step: Step, context: Context) -> list[str]:
        return serving(step, context, await self._now_serving(step, context), self._parameters.failback)

    async def _now_serving(self, step: Step, context: Context) -> list[str]:
        """The members that the first HAProxy to answer sends clients to; asked only where it matters."""
        if step.arguments["serve"] == "primary":
            return []
        for where in self._parameters.sockets:
            try:
                servers = await self._servers(where)
            except (OSError, HaproxyError):
                continue  # the others know too; when none answers, apply says so
            members = [one.target.name for one in context.situation.members]
            return [name for name in members if self._is_served(name, servers, context)]
        return []

    def _is_served(self, member: str, servers: Mapping[str, Server], context: Context) -> bool:
        one = servers.get(self._server(member))
        if one is None or one.state != "ready":
            return False
        return not self._parameters.server or (one.address, one.port) == self._address(member, context)

    def _server(self, member: str) -> str:
        return self._parameters.server or self._parameters.servers.get(member, member)

    def _address(self, member: str, context: Context) -> tuple[str, int]:
        text = address_of(context, member, self._parameters.addresses)
        try:
            host, port = split_address(text)
            ip_address(host)
        except ValueError as error:
            raise ActionError(f"HAProxy wants the address and port of {member}, found {text}: {error}") from None
        return host, port

    def _wants(self, step: Step, context: Context, names: Sequence[str]) -> dict[str, Want]:
        if self._parameters.server:
            return {self._parameters.server: Want("ready", address=self._address(names[0], context))}
        wants = {}
        for one in context.situation.members:
            if one.target.name in step.arguments["unknown"]:
                continue
            state = "ready" if one.target.name in names else self._parameters.remove
            percent = self._percent(one.state) if step.arguments["serve"] == "all" else None
            wants[self._server(one.target.name)] = Want(state, percent if state == "ready" else None)
        return wants

    def _percent(self, state: State) -> int:
        return self._parameters.degraded_weight if state is State.DEGRADED else 100

    # What is done to one HAProxy

    async def _servers(self, where: str) -> Mapping[str, Server]:
        return await servers_of(where, self._parameters.backend, self._parameters.timeout)

    async def _fence(self, where: str, epoch: int) -> None:
        """
        :raises ActionError: this HAProxy has been turned under a higher epoch.
        """
        match = _VALUE.search(await talk(where, f"get var {EPOCH}", self._parameters.timeout))
        if match and epoch and int(match[1]) > epoch:
            raise ActionError(f"{where} was turned under epoch {match[1]}, ours is {epoch}: somebody else leads")

    async def _turn(self, where: str, wants: Mapping[str, Want], epoch: int) -> dict[str, Any]:
        """Make the servers of one HAProxy as wanted; how they were before, in plain values.

        :raises OSError, HaproxyError, ActionError: it was not done.
        """
        servers = await self._servers(where)
        if missing := sorted(set(wants) - set(servers)):
            raise HaproxyError(f"the backend {self._parameters.backend} has no server {', '.join(missing)}")
        await self._fence(where, epoch)
        previous = {name: _plain(servers[name]) for name in wants}
        orders = [*_remember(epoch), *_orders(self._parameters.backend, wants, servers)]
        answers = [await talk(where, "; ".join(some), self._parameters.timeout) for some in _batches(orders)]
        wrong = _unlike(wants, await self._servers(where))
        if wrong:
            raise HaproxyError(f"{'; '.join(wrong)}: {' '.join(' '.join(answers).split())}")
        return previous

    async def _differs(self, where: str, wants: Mapping[str, Want]) -> str | None:
        """What ``show stat`` says that is not as wanted; empty: nothing; None: it says nothing at all."""
        try:
            rows = await statistics(where, self._parameters.timeout)
        except (OSError, HaproxyError):
            return None
        mine = {row["svname"]: row for row in rows if row["pxname"] == self._parameters.backend}
        wrong = [name for name, want in wants.items() if name not in mine or not _shows(mine[name], want)]
        return f"{where}: not as wished yet: {', '.join(wrong)}" if wrong else ""


def _shows(row: Mapping[str, str], want: Want) -> bool:
    """Whether a row of ``show stat`` is that of a server as wanted, as far as it tells."""
    marked = [state for state, begin in _SHOWN.items() if row["status"].startswith(begin)]
    if marked != ([want.state] if want.state != "ready" else []):
        return False
    return want.address is None or row.get("addr") in ("", None, _joined(want.address))


def _joined(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _plain(one: Server) -> dict[str, Any]:
    percent = max(1, min(100, round(100 * one.weight / one.initial_weight))) if one.initial_weight else 100
    return {"state": one.state, "percent": percent, "address": one.address, "port": one.port}


def _remember(epoch: int) -> list[str]:
    return ["experimental-mode on", f"set var {EPOCH} int({epoch})"] if epoch else []


def _batches(orders: Sequence[str]) -> Iterable[Sequence[str]]:
    return (orders[at : at + BATCH] for at in range(0, len(orders), BATCH))


def _orders(backend: str, wants: Mapping[str, Want], servers: Mapping[str, Server]) -> list[str]:
    """What is to be said, those that leave before those that come: at no moment do both get clients."""
    leaving = {name: want for name, want in wants.items() if want.state != "ready"}
    coming = {name: want for name, want in wants.items() if want.state == "ready"}
    return [
        order
        for name, want in (leaving | coming).items()
        for order in _orders_for(f"{backend}/{name}", want, servers[name])
    ]


def _orders_for(where: str, want: Want, now: Server) -> list[str]:
    """The orders for one server. One that gets another address passes through ``maint``, so that whoever dies midway
    leaves a trace and its successor does the whole again."""
    orders, state = [], now.state
    if want.address is not None and want.address != (now.address, now.port):
        host, port = want.address
        orders += [f"set server {where} state maint", f"set server {where} addr {host} port {port}"]
        orders += [f"shutdown sessions server {where}"]
        state = "maint"
    if want.percent is not None and now.initial_weight and _weight(want, now) != now.weight:
        orders.append(f"set server {where} weight {_weight(want, now)}")
    if want.state != state:
        orders.append(f"set server {where} state {want.state}")
    if want.state == "maint":
        orders.append(f"shutdown sessions server {where}")
    return orders


def _weight(want: Want, now: Server) -> int:
    """Never 0 for who serves: that would take it out."""
    return max(1, round(now.initial_weight * (want.percent or 100) / 100))


def _unlike(wants: Mapping[str, Want], servers: Mapping[str, Server]) -> list[str]:
    """The servers that are not as wanted, with how they are."""
    wrong = []
    for name, want in wants.items():
        now = servers[name]
        same_address = want.address is None or want.address == (now.address, now.port)
        same_weight = want.percent is None or not now.initial_weight or _weight(want, now) == now.weight
        if now.state != want.state or not same_address or not same_weight:
            wrong.append(f"{name} is {now.state} at {now.address}:{now.port}, weight {now.weight}")
    return wrong


def _text(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
