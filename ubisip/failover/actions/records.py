# SPDX-License-Identifier: Apache-2.0
"""What the actions on DNS share: which values a name is to have, and that a set of records is never left empty."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Annotated, Any

from ubisip.address import split_address
from ubisip.failover.action import ActionError, Context, Proof, Refusal, Situation, Step
from ubisip.failover.actions.serving import Serve, arguments_for, is_required, serving
from ubisip.parameters import nothing
from ubisip.schema import AT_LEAST_ONE, REQUIRED, Between

ADDRESSES = {"A": 4, "AAAA": 6}
"""Types whose values are addresses, with their version."""
_EPOCH = re.compile(r"\bubisip epoch=(\d+)\b")


@dataclass(frozen=True, slots=True)
class RecordParameters:
    """Which records, and what they say for each member."""

    names: Annotated[tuple[str, ...], AT_LEAST_ONE, REQUIRED] = ()
    """The names, whole, such as ``db.example.net``."""
    type: str = "A"
    """The type of their records."""
    ttl: Annotated[int, Between(1, 86_400)] = 30
    """Seconds that others may keep them."""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=nothing)
    """The values for each member, such as ``{ "provider-1" = ["192.0.2.1"] }``; default: the host of its address."""
    serve: Serve = "auto"
    """Who gets clients: `primary`, `first` (that can, in the order of the tier), `all` (that can), or by the kind."""
    failback: bool = False
    """With `first`: whether an earlier member takes over again when it can, instead of the one that serves staying."""


def plan_records(
    situation: Situation, before: Sequence[Step], parameters: RecordParameters, deadline: float
) -> Sequence[Step] | Refusal:
    """A step for each name."""
    arguments = arguments_for(situation, before, parameters.serve)
    if isinstance(arguments, Refusal):
        return arguments
    named = [arguments["primary"]] if arguments["primary"] else arguments["able"]
    if bare := [name for name in named if not values_of(situation, name, parameters)]:
        return Refusal((f"no values of type {parameters.type} are known for {', '.join(bare)}",))
    required = is_required(before)
    return [
        Step("", "set", name, Proof.G, arguments, deadline=deadline, required=required) for name in parameters.names
    ]


def values_of(situation: Situation, member: str, parameters: RecordParameters) -> tuple[str, ...]:
    """The values that say *member*; none when it has no address of this type."""
    if member in parameters.values:
        return tuple(parameters.values[member])
    address = next((one.target.address for one in situation.members if one.target.name == member), "")
    try:
        host = split_address(address.partition("://")[2].partition("/")[0] or address, 0)[0]
        return (host,) if ip_address(host).version == ADDRESSES.get(parameters.type) else ()
    except ValueError:
        return ()


def wanted_values(step: Step, context: Context, parameters: RecordParameters, now: Collection[str]) -> list[str]:
    """The values that the name is to have, never none; *now* are those that it has.

    :raises ActionError: it is not known who serves, or there are no values for them.
    """
    known = {
        one.target.name: values_of(context.situation, one.target.name, parameters) for one in context.situation.members
    }
    serving_now = [name for name, values in known.items() if values and set(values) <= set(now)]
    names = serving(step, context, serving_now, parameters.failback)
    values = sorted({value for name in names for value in known.get(name, ())})
    if not values:
        raise ActionError(f"no values of type {parameters.type} for {', '.join(names)}: nothing is changed")
    return values


def epoch_text(context: Context) -> str:
    """What is written beside the records: the epoch fences, the key tells which step it was."""
    return f"ubisip epoch={context.epoch} key={context.key}"


def epoch_of(text: str) -> int:
    """The epoch that :func:`epoch_text` wrote; 0 when it did not."""
    match = _EPOCH.search(text)
    return int(match[1]) if match else 0


def refuse_if_overtaken(name: str, texts: Collection[str], context: Context) -> None:
    """
    :raises ActionError: the records were written under a higher epoch.
    """
    seen = max(map(epoch_of, texts), default=0)
    if seen > context.epoch:
        raise ActionError(f"{name} was set under epoch {seen}, ours is {context.epoch}: somebody else leads")


def previous_values(step: Step, context: Context) -> tuple[str, ...]:
    """What the name had before the step was done; nothing when it was not done, or changed nothing."""
    result: Mapping[str, Any] = context.results.get(str(step), {})
    return tuple(result.get("previous", ())) if result.get("changed") else ()
