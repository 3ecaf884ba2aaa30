# SPDX-License-Identifier: Apache-2.0
"""The steps that the MariaDB actions are made of; each can be repeated, and undone up to the point of no return.

Who is promoted is known only when the positions are frozen: steps name the member that is expected, and what is then
done goes by what the step ``freeze`` or ``close`` has told: ``candidate``, ``received``, ``followers``, ``ackers``,
``reign``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Protocol

from ubisip.failover import mariadb
from ubisip.failover.action import PRIMARY, ActionError, Check, Context, MemberView, Situation, Step
from ubisip.failover.candidate import Choice, NoChoice, ackers_for, choose
from ubisip.failover.database import fact, own_transactions, primary_of, speaks
from ubisip.failover.mariadb import Source, recalled
from ubisip.health.mariadb import session
from ubisip.health.probe import Target
from ubisip.parameters import read_parameters, read_secret
from ubisip.schema import Between

FINE = Check(True)
ATTACH = 3.0
"""Seconds in which an acknowledging replica attaches itself to its new source."""
REOPENED = 2.0
"""Seconds between looks at a server whose answer to being opened was lost."""


@dataclass(frozen=True, slots=True)
class MariadbParameters:
    """``[actions.mariadb-promote]`` and its sisters."""

    replication_user: str = ""
    """Whom replicas log in as; empty: the tier's own user."""
    replication_password_file: str = ""
    replication_tls: bool = False
    """Whether replicas encrypt what they receive; else as they are set already."""
    replication_ca: str = ""
    """PEM file *on the database servers* of the authorities that must have signed the source's certificate, which must
    name its host; empty: it is not verified."""
    fence: tuple[str, ...] = ()
    """A command that ends the database process of a member by SIGKILL or cuts its power, and exits with 0 when that
    is certain; ``{name}``, ``{host}``, ``{port}`` and ``{site}`` in its words are the member's. A supervisor starts
    the process again. Never a clean stop: that would commit what nobody has acknowledged."""
    fence_timeout: Annotated[float, Between(0, 60, above=True)] = 2.0
    catch_up: Annotated[float, Between(0, 3600, above=True)] = 90.0
    """Seconds that a candidate may take to apply what it has received."""
    close: Annotated[float, Between(1, 60)] = 10.0
    """Seconds that writes which run may take when a primary hands over; else it stays primary."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all steps of one action share."""

    parameters: MariadbParameters
    password: str
    """Of ``replication_user``."""

    def source(self, target: Target) -> Source:
        """Whom replicas of *target* log in as there."""
        it = self.parameters
        if it.replication_user:
            return Source(target, it.replication_user, self.password, it.replication_tls, it.replication_ca)
        return Source(target, target.user, target.password, it.replication_tls, it.replication_ca)


class StepKind(Protocol):
    """One kind of step."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]: ...
    async def verify(self, step: Step, context: Context, setting: Setting) -> Check: ...
    async def compensate(self, step: Step, context: Context, setting: Setting) -> None: ...


class MariadbAction:
    """What the MariaDB actions have in common; each says what it plans and of which steps."""

    KINDS: Mapping[str, StepKind] = MappingProxyType({})
    LEAVES_PRIMARY = False
    """What it does is right only as long as the primary that it was planned for is the primary."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        """:raises ValueError: a parameter that it does not know, or a file that cannot be read."""
        read = read_parameters(MariadbParameters, parameters)
        self.setting = Setting(read, read_secret(read.replication_password_file))
        self._claimed: tuple[str, int] = ("", 0)

    async def precheck(self, step: Step, context: Context) -> Check:
        """Whether our epoch may still act: all members that are reached are claimed for it, once for a plan."""
        if not context.epoch:
            return Check(False, "without the lease nothing is done to a database")
        if self._claimed != (context.plan, context.epoch):
            await mariadb.claim([one.target for one in context.situation.members if speaks(one)], context.epoch)
            self._claimed = (context.plan, context.epoch)
        return await still_primary(str(step.arguments[PRIMARY]), context) if self.LEAVES_PRIMARY else FINE

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        """See :class:`ubisip.failover.action.Action`."""
        return await self.KINDS[step.do].apply(step, context, self.setting)

    async def verify(self, step: Step, context: Context) -> Check:
        """See :class:`ubisip.failover.action.Action`."""
        return await self.KINDS[step.do].verify(step, context, self.setting)

    async def compensate(self, step: Step, context: Context) -> None:
        """See :class:`ubisip.failover.action.Action`."""
        await self.KINDS[step.do].compensate(step, context, self.setting)

    async def close(self) -> None:
        """Connections do not outlive a step."""


async def still_primary(name: str, context: Context) -> Check:
    """Whether *name* is the rightful primary at this moment: a plan is made from facts that may be seconds old, which
    is long just after a promotion."""
    serving = primary_of(await mariadb.look_all([one for one in context.situation.members if speaks(one)], 2.0))
    if serving is not None and serving.target.name == name:
        return FINE
    return Check(False, f"{name} is not primary: {serving.target.name if serving else 'nobody'} is")


def find(situation: Situation, name: str) -> MemberView | None:
    """The member of this name; None: it has none, or the plan is about nobody."""
    return next((one for one in situation.members if one.target.name == name), None)


def lost_of(step: Step, context: Context) -> MemberView | None:
    """The primary that is replaced."""
    return find(context.situation, str(step.arguments.get("lost", "")))


def target_of(name: str, context: Context) -> Target:
    """Where the member of this name is."""
    return context.situation.member(name).target


def by_choice(choice: Choice, members: Sequence[MemberView]) -> dict[str, Any]:
    """A choice as what later steps recall; *members* as they are seen now."""
    return {
        "reign": 1 + max(fact(one, "reign", 0) for one in members),
        "candidate": choice.name,
        "received": choice.received,
        "ackers": choice.ackers,
        "followers": choice.followers,
        "passed_over": dict(choice.passed_over),
    }


@dataclass(frozen=True, slots=True)
class Nothing:
    """What a kind of step has nothing to verify or to undo by."""

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        return FINE

    async def compensate(self, step: Step, context: Context, setting: Setting) -> None:
        """Nothing to undo."""


class Fence(Nothing):
    """Make sure that the lost primary is dead, by the operator's command."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        await fence(target_of(step.target, context), setting.parameters)
        return {"fenced": step.target}


async def fence(target: Target, parameters: MariadbParameters) -> None:
    """Run the fence command for *target*.

    :raises ActionError: it fails, or takes too long.
    """
    host, _, port = target.address.rpartition(":")
    words = {"name": target.name, "host": host, "port": port, "site": target.site}
    command = [word.format_map(words) for word in parameters.fence]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise ActionError(f"the fence command cannot be run: {error}") from error
    try:
        code = await asyncio.wait_for(process.wait(), parameters.fence_timeout)
    except TimeoutError:
        raise ActionError(f"the fence command has not ended within {parameters.fence_timeout:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    if code != 0:
        raise ActionError(f"the fence command failed for {target.name}: exit code {code}")


class Freeze:
    """Stop all replicas from receiving: from now on nobody acknowledges for the lost primary, and positions stand
    still. Then choose."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        lost = lost_of(step, context)
        reached = [one for one in context.situation.members if speaks(one)]
        await asyncio.gather(
            *(mariadb.stop_receiving(one.target, context.epoch) for one in reached), return_exceptions=True
        )
        seen = {one.target.name: one for one in await mariadb.look_all(reached)}
        members = [seen.get(one.target.name, one) for one in context.situation.members]
        running = [
            name for name, one in seen.items() if speaks(one) and one.facts["source"] and one.facts["io"] != "No"
        ]
        if running:
            raise ActionError(f"{' and '.join(running)} cannot be stopped from receiving", retry=True)
        serving = primary_of(members)
        if serving is not None:
            raise ActionError(f"{serving.target.name} is writable and the rightful primary: nobody takes its place")
        choice = choose(members, find_in(members, lost), context.situation.wanted)
        if isinstance(choice, NoChoice):
            raise ActionError("; ".join(choice.reasons))
        return by_choice(choice, members)

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        return FINE  # apply has looked at each of them over a new connection

    async def compensate(self, step: Step, context: Context, setting: Setting) -> None:
        reached = [one for one in context.situation.members if speaks(one)]
        await asyncio.gather(*(mariadb.start_receiving(one.target, context.epoch) for one in reached))


def find_in(members: Sequence[MemberView], one: MemberView | None) -> MemberView | None:
    """The newer view of the same member."""
    return next((it for it in members if one is not None and it.target.name == one.target.name), None)


class CatchUp(Nothing):
    """Wait until the candidate has applied all that it has received: what was acknowledged is in there."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        name = recalled(context, "candidate")
        await mariadb.catch_up(target_of(name, context), recalled(context, "received"), setting.parameters.catch_up)
        return {}


class Promote:
    """The candidate follows nobody any more and waits for acknowledgements; it is still read-only."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        name = recalled(context, "candidate")
        await mariadb.become_source(target_of(name, context), context.epoch)
        return {}

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        facts = await mariadb.facts_of(target_of(recalled(context, "candidate"), context))
        ok = not facts["source"] and facts["semisync_primary"]
        return FINE if ok else Check(False, "it still follows its old source, or does not wait for acknowledgements")

    async def compensate(self, step: Step, context: Context, setting: Setting) -> None:
        await follow_again(recalled(context, "candidate"), context, setting)


class Repoint:
    """The others follow the candidate, and those that are to acknowledge its writes do: before it takes any."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        candidate, ackers = recalled(context, "candidate"), recalled(context, "ackers")
        source = setting.source(target_of(candidate, context))
        names = recalled(context, "followers")
        outcomes = await asyncio.gather(
            *(
                mariadb.follow(target_of(name, context), source, acker=name in ackers, epoch=context.epoch)
                for name in names
            ),
            return_exceptions=True,
        )
        left = {name: str(it) for name, it in zip(names, outcomes, strict=True) if isinstance(it, BaseException)}
        if not ackers or not await self._attached(source.target):
            others = [name for name in names if name not in ackers and name not in left]
            await self._stand_in(source.target, others, context)
        return {"left": left}

    @staticmethod
    async def _attached(source: Target) -> bool:
        """Whether an acknowledging replica is there within a moment."""
        try:
            await mariadb.until(source, lambda facts: facts["ackers"] > 0, "an acknowledging replica", ATTACH)
        except ActionError:
            return False
        return True

    @staticmethod
    async def _stand_in(source: Target, names: Sequence[str], context: Context) -> None:
        """Those that should acknowledge do not come: the others do for now; where there are none, the last one that is
        left acknowledges alone. Else no write would ever be acknowledged."""
        if not names:
            await mariadb.set_waiting(source, waits=False, epoch=context.epoch)
        await asyncio.gather(
            *(mariadb.set_acker(target_of(name, context), acker=True, epoch=context.epoch) for name in names)
        )

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        facts = await mariadb.facts_of(target_of(recalled(context, "candidate"), context))
        ok = facts["ackers"] > 0 or not facts["semisync_primary"]
        return FINE if ok else Check(False, "no acknowledging replica is attached yet")

    async def compensate(self, step: Step, context: Context, setting: Setting) -> None:
        names = recalled(context, "followers")
        await asyncio.gather(*(follow_again(name, context, setting) for name in names))


async def follow_again(name: str, context: Context, setting: Setting) -> None:
    """*name* replicates again from whom it did when the plan was made, or from nobody."""
    one = context.situation.member(name)
    before = str(one.facts["source"])
    if not before:
        await mariadb.become_source(one.target, context.epoch, waits=one.facts["semisync_primary"])
        return
    known = [it.target for it in context.situation.members if it.target.address == before]
    source = known[0] if known else Target(one.target.tier, before, "", before, one.target.user, one.target.password)
    await mariadb.follow(one.target, setting.source(source), acker=one.facts["acker"], epoch=context.epoch)


class Close:
    """The primary that hands over takes no more writes; those that run end first. Then choose."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        await mariadb.close(target_of(step.target, context), context.epoch, setting.parameters.close)
        members = await mariadb.look_all(context.situation.members)
        old = next(one for one in members if one.target.name == step.target)
        if not speaks(old) or not old.facts["read_only"]:
            raise ActionError(f"{step.target} is not read-only")
        others = [one for one in members if one is not old]
        choice = choose(others, None, str(step.arguments["wanted"]))
        if isinstance(choice, NoChoice):
            raise ActionError("; ".join(choice.reasons))
        candidate = next(one for one in others if one.target.name == choice.name)
        followers = [old, *(one for one in others if one.target.name in choice.followers)]
        return {
            **by_choice(choice, members),
            "received": old.facts["binlog_pos"],
            "followers": tuple(one.target.name for one in followers),
            "ackers": ackers_for(candidate, followers),
        }

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        facts = await mariadb.facts_of(target_of(step.target, context))
        return FINE if facts["read_only"] else Check(False, "it is still writable")

    async def compensate(self, step: Step, context: Context, setting: Setting) -> None:
        serving = primary_of(await mariadb.look_all([one for one in context.situation.members if speaks(one)]))
        if serving is not None and serving.target.name != step.target:
            raise ActionError(f"{serving.target.name} is primary by now: {step.target} stays closed")
        await mariadb.open_for_writes(target_of(step.target, context), context.epoch)


class Open(Nothing):
    """The point of no return: the candidate is writable."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        target = target_of(recalled(context, "candidate"), context)
        try:
            await mariadb.open_for_writes(target, context.epoch)
        except ActionError as error:
            await self._settle(target, error)
        return {}

    async def _settle(self, target: Target, error: ActionError) -> None:
        """It was said that it was not done, or nothing was heard: only the server knows; ask it until it tells."""
        while True:
            with contextlib.suppress(ActionError):
                if (await mariadb.facts_of(target))["read_only"]:
                    raise ActionError(str(error)) from error
                return
            await asyncio.sleep(REOPENED)

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        facts = await mariadb.facts_of(target_of(recalled(context, "candidate"), context))
        return Check(False, "it is still read-only") if facts["read_only"] else FINE


class Reign(Nothing):
    """The first write, acknowledged: everybody who gets it knows who is primary."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        name = recalled(context, "candidate")
        await mariadb.write_reign(target_of(name, context), recalled(context, "reign"), context.epoch)
        return {PRIMARY: name}

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        facts = await mariadb.facts_of(target_of(recalled(context, "candidate"), context))
        wanted = recalled(context, "reign")
        return FINE if facts["reign"] == wanted else Check(False, f"its reign is {facts['reign']}, not {wanted}")


class Quiet(Nothing):
    """A former primary that is back takes no writes, and has nothing that the present primary lacks."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        target = target_of(step.target, context)
        facts = await mariadb.facts_of(target)
        if not facts["read_only"] or facts["waiting"]:
            await self._silence(target, context, setting)
        primary = context.situation.member(str(step.arguments["primary"]))
        errant = await self._errant(step, context, primary)
        if errant:
            raise ActionError(f"{step.target} has transactions of its own, {errant}: rebuild it from a replica")
        return {}

    async def _silence(self, target: Target, context: Context, setting: Setting) -> None:
        """End it by SIGKILL where we can: then what nobody acknowledged is cut off when it starts again. Else end its
        clients, which hear no acknowledgement, and close it."""
        if setting.parameters.fence:
            await fence(target, setting.parameters)
            await mariadb.until(target, _is_quiet, "its restart", setting.parameters.catch_up)
            return
        await mariadb.kill_clients(target, context.epoch)
        await mariadb.close(target, context.epoch, mariadb.PATIENCE)

    @staticmethod
    async def _errant(step: Step, context: Context, primary: MemberView) -> str:
        members = await mariadb.look_all([context.situation.member(step.target), primary])
        if not all(map(speaks, members)):
            raise ActionError(f"{step.target} or {primary.target.name} is not reached", retry=True)
        return own_transactions(members[0], [members[1]])


def _is_quiet(facts: Mapping[str, Any]) -> bool:
    return bool(facts["read_only"]) and not facts["waiting"]


class Join(Nothing):
    """A member follows the primary."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        source = setting.source(target_of(str(step.arguments["primary"]), context))
        acker = bool(step.arguments["acker"])
        await mariadb.follow(target_of(step.target, context), source, acker=acker, epoch=context.epoch)
        return {}

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        facts = await mariadb.facts_of(target_of(step.target, context))
        ok = facts["io"] == "Yes" and facts["sql"] == "Yes"
        return FINE if ok else Check(False, facts["io_error"] or facts["sql_error"] or "it does not follow yet")


class Acker(Nothing):
    """A replica acknowledges its source's writes from now on, or no longer."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        acker = bool(step.arguments["acker"])
        await mariadb.set_acker(target_of(step.target, context), acker=acker, epoch=context.epoch)
        return {}

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        facts = await mariadb.facts_of(target_of(step.target, context))
        acker, attached = bool(step.arguments["acker"]), bool(step.arguments.get("attached", False))
        ok = facts["acker"] == acker and (not attached or facts["io"] == "Yes")
        return FINE if ok else Check(False, "it is not attached yet")


class Release(Nothing):
    """Writes that no acknowledgement can reach any more end, so that those after them can be acknowledged."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        await mariadb.release(target_of(step.target, context), context.epoch)
        return {}

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        target = target_of(step.target, context)
        async with mariadb.told(target), session(target, mariadb.PATIENCE) as opened:
            left = await mariadb.stuck(opened)
        if not left:
            return FINE
        await mariadb.release(target, context.epoch)
        return Check(False, f"{len(left)} writes still wait")


class Waiting(Nothing):
    """A primary acknowledges writes only once a replica has, or alone for as long as it is the only one."""

    async def apply(self, step: Step, context: Context, setting: Setting) -> Mapping[str, Any]:
        waits = bool(step.arguments["waits"])
        await mariadb.set_waiting(target_of(step.target, context), waits=waits, epoch=context.epoch)
        return {}

    async def verify(self, step: Step, context: Context, setting: Setting) -> Check:
        facts = await mariadb.facts_of(target_of(step.target, context))
        return FINE if facts["semisync_primary"] == step.arguments["waits"] else Check(False, "it is not so yet")
