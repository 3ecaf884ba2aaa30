# SPDX-License-Identifier: Apache-2.0
"""What became of every call of the lab, and the sentence that sums it up."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from ubisip.lab.udp import Address

SEEN = 200_000
"""Call-IDs remembered to find calls that reach two servers; the oldest goes first."""


@dataclass(slots=True)
class Call:
    """One call in progress; both its sides write here."""

    call_id: str
    placed: float
    hop: Address | None = None
    """The gateway it entered through, the last one tried."""
    attempts: int = 0
    """Gateways tried."""
    unlucky: bool = False
    """One of these gateways was dead."""
    rung: bool = False
    answered: bool = False


@dataclass
class Tally:
    """Counts of all calls since the start, shared by every user agent of one lab.

    A call is *lost* when one side never gets the answer that is due to it: INVITE, the ACK of its 2xx, BYE. It has
    *failed* when the caller got a final response other than 2xx. It was *cut* when the user agent that
    carried it died: nobody in between can save that, so it counts apart.
    """

    placed: int = 0
    answered: int = 0
    ended: int = 0
    failures: Counter[int] = field(default_factory=Counter)
    """Failed calls by status."""
    delays: list[float] = field(default_factory=list)
    """Post-dial delays since take_delays(), in seconds: INVITE to the first response above 100 (RFC 6076, 4.3.1)."""
    worst_delay: float = 0.0
    """Worst post-dial delay of the calls whose first gateway answered, in seconds."""
    worst_retried: float = 0.0
    """Worst post-dial delay of those that were first sent to a dead one."""
    dead: set[Address] = field(default_factory=set)
    """Gateways that are dead now."""
    calls: dict[str, Call] = field(default_factory=dict)
    """In progress, by Call-ID."""
    faults: dict[str, list[str]] = field(default_factory=dict)
    """What went wrong, by Call-ID."""
    cut: set[str] = field(default_factory=set)
    """Calls that were carried by a user agent when it died."""
    twice: dict[str, list[str]] = field(default_factory=dict)
    """Names of the servers that saw an INVITE of the same call, by Call-ID, where there are several."""
    tried: Counter[Address] = field(default_factory=Counter)
    """First INVITEs sent to each gateway."""
    _seen: OrderedDict[str, str] = field(default_factory=OrderedDict)

    @property
    def failed(self) -> int:
        """Calls refused with a final response."""
        return self.failures.total()

    @property
    def lost(self) -> dict[str, list[str]]:
        """The calls lost, by Call-ID, each with its faults."""
        return {call_id: faults for call_id, faults in self.faults.items() if call_id not in self.cut}

    def place(self, call_id: str) -> Call:
        """A new call leaves its caller."""
        self.placed += 1
        call = self.calls[call_id] = Call(call_id, time.monotonic())
        return call

    def attempt(self, call: Call, hop: Address) -> None:
        """The call is sent through a gateway."""
        call.hop = hop
        call.attempts += 1
        call.unlucky |= hop in self.dead or call.attempts > 1
        self.tried[hop] += 1

    def ring(self, call: Call) -> None:
        """The caller hears something; only the first time counts."""
        if call.rung:
            return
        call.rung = True
        delay = time.monotonic() - call.placed
        self.delays.append(delay)
        if call.unlucky:
            self.worst_retried = max(self.worst_retried, delay)
        else:
            self.worst_delay = max(self.worst_delay, delay)

    def answer(self, call: Call) -> None:
        """The call is answered."""
        self.answered += 1
        call.answered = True

    def end(self, call: Call, status: int = 200) -> None:
        """The caller is done with it; *status* is that of the INVITE, 0 when none came."""
        self.calls.pop(call.call_id, None)
        if call.call_id in self.cut:
            return
        if not status:
            self.fault(call.call_id, "INVITE never answered")
        elif status >= 300:
            self.failures[status] += 1
        elif call.call_id not in self.faults:
            self.ended += 1

    def fault(self, call_id: str, what: str) -> None:
        """Something due never came."""
        self.faults.setdefault(call_id, []).append(what)

    def died(self, call_ids: set[str]) -> None:
        """A user agent died while it carried these calls."""
        self.cut |= call_ids

    def seen(self, call_id: str, server: str) -> None:
        """*server* got a first INVITE of a call."""
        before = self._seen.setdefault(call_id, server)
        if before != server:
            self.twice.setdefault(call_id, [before]).append(server)
        elif len(self._seen) > SEEN:
            self._seen.popitem(last=False)

    def take_delays(self) -> list[float]:
        """The post-dial delays since the last call of this method, sorted."""
        delays, self.delays = sorted(self.delays), []
        return delays

    def close(self) -> None:
        """The lab ends: what is still in progress never got its end."""
        for call in list(self.calls.values()):
            self.calls.pop(call.call_id)
            self.fault(call.call_id, "never ended" if call.answered else "INVITE never answered")
