# SPDX-License-Identifier: Apache-2.0
"""What a gateway tells those who embed it: frozen events, and a bounded queue for each who listens."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from dataclasses import dataclass

SUBSCRIPTION_BOUND = 10_000
"""Events that wait for one slow subscriber (some ten seconds at 200 calls/s, a few MB); the newest are dropped."""


@dataclass(frozen=True, slots=True)
class GatewayEvent:
    """Something that happened; *time* is seconds since the epoch."""

    time: float


@dataclass(frozen=True, slots=True)
class CallEvent(GatewayEvent):
    """Something that happened to a call."""

    call_id: str
    destination: str
    """Name of the carrier or server concerned; empty: none."""


@dataclass(frozen=True, slots=True)
class SetUp(CallEvent):
    """A new call was sent to its first destination."""


@dataclass(frozen=True, slots=True)
class Ringing(CallEvent):
    """A provisional response other than 100 went back to the caller."""

    delay: float
    """Seconds since the INVITE came."""


@dataclass(frozen=True, slots=True)
class Answered(CallEvent):
    """A 2xx to the INVITE went back to the caller."""

    delay: float
    """Seconds since the INVITE came."""


@dataclass(frozen=True, slots=True)
class Failed(CallEvent):
    """A final response of 300 or more to the INVITE went back to the caller."""

    status: int
    delay: float
    """Seconds since the INVITE came."""


@dataclass(frozen=True, slots=True)
class FailedOver(CallEvent):
    """The destination tried before did not take the call; now it was sent to this one."""

    delay: float
    """Seconds since the INVITE came."""


@dataclass(frozen=True, slots=True)
class Ended(CallEvent):
    """A BYE ended the call."""


@dataclass(frozen=True, slots=True)
class HealthChanged(GatewayEvent):
    """A destination's measured health took another state (DESIGN section 7)."""

    destination: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class SwitchChanged(GatewayEvent):
    """An operator set the switch of a destination."""

    destination: str
    switch: str
    who: str


@dataclass(frozen=True, slots=True)
class AgentEvent(GatewayEvent):
    """Something that happened to one binding of an agent (RFC 3261 section 10)."""

    aor: str
    """Address of record: ``user@domain``."""
    contact: str
    """The Contact's URI."""
    instance: str
    """The phone's +sip.instance (RFC 5626); empty: it has none."""
    reg_id: int
    """Which of the phone's flows; 0: it does not say."""


@dataclass(frozen=True, slots=True)
class AgentRegistered(AgentEvent):
    """A new binding: the agent can be reached by it."""

    address: str
    """Where the phone is, as seen from here: ``192.0.2.1:5060``."""
    expires: float
    """Seconds since the epoch at which it ends unless it is refreshed."""
    user_agent: str


@dataclass(frozen=True, slots=True)
class AgentRefreshed(AgentRegistered):
    """A binding was registered again before its end, maybe from another address."""


@dataclass(frozen=True, slots=True)
class AgentUnregistered(AgentEvent):
    """The phone took its binding back."""


@dataclass(frozen=True, slots=True)
class AgentReplaced(AgentEvent):
    """Another contact took the place of this one."""


@dataclass(frozen=True, slots=True)
class AgentExpired(AgentEvent):
    """A binding ended because it was not refreshed in time."""


@dataclass(frozen=True, slots=True)
class FlowLost(AgentEvent):
    """The connection that a binding stood on is gone."""


@dataclass(frozen=True, slots=True)
class ServerInStep(GatewayEvent):
    """A server has every binding that it should know."""

    server: str
    after: float
    """Seconds that it was out of step."""


@dataclass(frozen=True, slots=True)
class ServerOutOfStep(GatewayEvent):
    """A server lacks bindings: it returned empty, refused or missed some; they are sent to it again."""

    server: str


@dataclass(frozen=True, slots=True)
class AgentsAtOneSite(GatewayEvent):
    """The number of phones that only one site can reach has changed."""

    count: int
    instances: tuple[str, ...]
    """Some of them, by their +sip.instance."""


@dataclass(frozen=True, slots=True)
class Reloaded(GatewayEvent):
    """Another configuration is in force."""

    digest: str


@dataclass(frozen=True, slots=True)
class Draining(GatewayEvent):
    """The gateway takes no new calls any more."""


class Subscription:
    """An endless asynchronous iterator of events; it ends when it is closed or the gateway stops.

    Who only drops it has closed it as well. *lost* counts the events that found the queue full.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._waiting: deque[GatewayEvent] = deque()
        self._news = asyncio.Event()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End the iteration after the events already waiting."""
        self._closed = True
        self._news.set()

    def put(self, event: GatewayEvent) -> None:
        """Queue *event*, or count it as lost."""
        if len(self._waiting) >= SUBSCRIPTION_BOUND:
            self.lost += 1
            return
        self._waiting.append(event)
        self._news.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> GatewayEvent:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()


class Subscribers:
    """All who listen; *lost* counts, over all of them, the events that found a queue full."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self.lost = 0

    def __bool__(self) -> bool:
        return any(not one.closed for one in self._all)

    def subscribe(self) -> Subscription:
        subscription = Subscription()
        self._all.add(subscription)
        return subscription

    def publish(self, event: GatewayEvent) -> None:
        """Hand *event* to every open subscription."""
        for one in list(self._all):
            if not one.closed:
                before = one.lost
                one.put(event)
                self.lost += one.lost - before

    def close(self) -> None:
        """End every subscription."""
        for one in list(self._all):
            one.close()
