# SPDX-License-Identifier: Apache-2.0
"""The core's call events as those that embedders get."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ubisip.core.engine import Event
from ubisip.proxy.events import Answered, CallEvent, Ended, Failed, FailedOver, Ringing, SetUp

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
