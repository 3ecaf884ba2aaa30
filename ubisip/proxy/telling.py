# SPDX-License-Identifier: Apache-2.0
"""The core's events and records as the events that embedders get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ubisip.core.engine import Event
from ubisip.proxy.events import (
    AgentEvent,
    AgentExpired,
    AgentRefreshed,
    AgentRegistered,
    AgentReplaced,
    AgentUnregistered,
    Answered,
    CallEvent,
    Ended,
    Failed,
    FailedOver,
    FlowLost,
    GatewayEvent,
    Ringing,
    ServerInStep,
    ServerOutOfStep,
    SetUp,
)
from ubisip.store.bindings import GONE, MADE, REFRESHED, Row

_MADE: Mapping[str, Callable[[float, str, str, Event], CallEvent]] = {
    "setup": lambda time, call_id, destination, event: SetUp(time, call_id, destination),
    "ringing": lambda time, call_id, destination, event: Ringing(time, call_id, destination, event.value),
    "answered": lambda time, call_id, destination, event: Answered(time, call_id, destination, event.value),
    "failed": lambda time, call_id, destination, event: Failed(time, call_id, destination, event.status, event.value),
    "failover": lambda time, call_id, destination, event: FailedOver(time, call_id, destination, event.value),
    "ended": lambda time, call_id, destination, event: Ended(time, call_id, destination),
}


def call_event(event: Event, destination: str, moment: float) -> CallEvent | None:
    """The typed event for one of the core, at *moment* seconds since the epoch; None: not about a call."""
    made = _MADE.get(event.kind)
    return None if made is None else made(moment, event.data.decode("utf-8", "replace"), destination, event)


_ENDED: Mapping[int, Callable[..., AgentEvent]] = {
    1: AgentUnregistered,
    2: AgentExpired,
    3: FlowLost,
    4: AgentReplaced,
}
"""By the reason in the core's record: see EndReason in ext/ubisip/core/bindings.pxd."""

_MADE_BINDINGS: Mapping[int, type[AgentRegistered]] = {MADE: AgentRegistered, REFRESHED: AgentRefreshed}


def agent_event(record: Sequence[Any], moment: float) -> AgentEvent | None:
    """The typed event for a record of the journal of bindings; None: for none that we know."""
    kind, *fields = record
    if kind == GONE:
        *binding, why = fields
        ended = _ENDED.get(why)
        return None if ended is None else ended(moment, *binding)
    made = _MADE_BINDINGS.get(kind)
    if made is None:
        return None
    row = Row(*fields)
    address = f"[{row.ip}]:{row.port}" if ":" in row.ip else f"{row.ip}:{row.port}"
    return made(
        moment, row.aor, row.contact, row.instance, row.reg_id, address, float(row.expires_at), row.user_agent
    )  # fmt: skip


def step_event(event: Event, server: str, moment: float) -> GatewayEvent | None:
    """The typed event for a server that came into step or fell out of it; None: about something else."""
    if event.kind == "in_step":
        return ServerInStep(moment, server, event.value)
    return ServerOutOfStep(moment, server) if event.kind == "out_of_step" else None
