# SPDX-License-Identifier: Apache-2.0
"""Client and server transactions of a user agent over UDP (RFC 3261 section 17, RFC 6026)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from ubisip.core.message import Message
from ubisip.lab.udp import Address
from ubisip.lab.wire import Request, TopVia, encode_response, new_branch, new_tag


@dataclass(frozen=True, slots=True)
class Timers:
    """RFC 3261 section 17.1.1.1, in seconds."""

    t1: float = 0.5
    t2: float = 4.0

    @property
    def timeout(self) -> float:
        """Timers B, F, H, J, L and M: how long one end waits for the other."""
        return 64 * self.t1


class Owner(Protocol):
    """What transactions need of their user agent."""

    timers: Timers

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram."""

    def retire(self, transaction: ClientTransaction | ServerTransaction) -> None:
        """The transaction is complete; forget it once no retransmission can come any more."""


class Retransmission:
    """Sends a datagram again and again, at growing intervals, until stopped or out of time."""

    __slots__ = ("_data", "_deadline", "_destination", "_expired", "_interval", "_limit", "_loop", "_owner", "_timer")

    def __init__(
        self, owner: Owner, data: bytes, destination: Address, limit: float, expired: Callable[[], None]
    ) -> None:
        self._owner = owner
        self._data = data
        self._destination = destination
        self._limit = limit
        self._expired: Callable[[], None] = expired
        self._loop = asyncio.get_running_loop()
        self._interval = owner.timers.t1
        now = self._loop.time()
        self._deadline = now + owner.timers.timeout
        self._timer = self._loop.call_at(now + self._interval, self._fire)
        owner.send(data, destination)

    def stop(self) -> None:
        """No more retransmissions, and no expiry."""
        self._timer.cancel()
        self._expired = _nothing  # else it and its transaction would hold each other in memory

    def slow_down(self) -> None:
        """A provisional response came to a request other than INVITE: go on every T2 (section 17.1.2.2)."""
        self._interval = self._limit

    def _fire(self) -> None:
        now = self._loop.time()
        if now >= self._deadline:
            expired, self._expired = self._expired, _nothing
            expired()
            return
        self._interval = min(2 * self._interval, self._limit)
        self._timer = self._loop.call_at(min(now + self._interval, self._deadline), self._fire)
        self._owner.send(self._data, self._destination)


def _nothing() -> None:
    pass


class ClientTransaction:
    """One attempt of a request towards one next hop; *on_response* gets each response to pass up, None at timeout."""

    def __init__(
        self,
        owner: Owner,
        request: Request,
        sent_by: str,
        hop: Address,
        on_response: Callable[[ClientTransaction, Message | None], None],
        branch: str = "",
    ) -> None:
        self.request = request
        self.branch = branch or new_branch()
        self.key = (self.branch, request.method)
        self.hop = hop
        self.provisional = False
        """A provisional response came: only then may CANCEL go (section 9.1)."""
        self.status = 0
        """Of the final response; 0: none yet."""
        self._owner = owner
        self._sent_by = sent_by
        self._on_response = on_response
        limit = owner.timers.timeout if request.method == "INVITE" else owner.timers.t2
        data = request.encode(sent_by, self.branch)
        self._retransmission = Retransmission(owner, data, hop, limit, self._expired)

    def receive(self, response: Message) -> None:
        """Take a response that matches by branch and method (section 17.1.3)."""
        status = response.status
        if self.status:
            self._receive_again(response)
        elif status < 200:
            self.provisional = True
            if self.request.method == "INVITE":
                self._retransmission.stop()
            else:
                self._retransmission.slow_down()
            self._on_response(self, response)
        else:
            self.status = status
            self.stop()
            self._acknowledge(response)
            self._on_response(self, response)

    def stop(self) -> None:
        """Send no more; responses are still taken until the user agent forgets the transaction."""
        self._retransmission.stop()
        self._owner.retire(self)

    def _receive_again(self, response: Message) -> None:
        if response.status >= 300:
            self._acknowledge(response)
        elif response.status >= 200 and self.request.method == "INVITE":
            self._on_response(self, response)

    def _acknowledge(self, response: Message) -> None:
        """ACK of a failure belongs to the transaction: same branch, same hop (section 17.1.1.3)."""
        if self.request.method == "INVITE" and response.status >= 300:
            ack = replace(self.request, method="ACK", called=response.get("To") or "", contact="", body=b"")
            self._owner.send(ack.encode(self._sent_by, self.branch), self.hop)

    def _expired(self) -> None:
        self.stop()
        self._on_response(self, None)


class ServerTransaction:
    """One request received and the responses to it; the final response to an INVITE is repeated until its ACK.

    RFC 3261 leaves the repetition of a 2xx to the user agent core (section 13.3.1.4); its timing is the same.
    """

    def __init__(self, owner: Owner, request: Message, via: TopVia) -> None:
        self.request = request
        self.key = (request.branch, via.sent_by, request.method)
        self.to_tag = request.to_tag or new_tag()
        """The same in every response to one request (section 8.2.6.2)."""
        self.status = 0
        """Of the final response; 0: none yet."""
        loop = asyncio.get_running_loop()
        self.acknowledged: asyncio.Future[bool] = loop.create_future()
        """Of an INVITE with a final response: True when ACK came, False when it never did."""
        self.cancelled: asyncio.Future[None] = loop.create_future()
        """Of an INVITE: done once CANCEL came."""
        self._owner = owner
        self._via = via
        self._last = b""
        self._retransmission: Retransmission | None = None

    def respond(self, status: int, *, contact: str = "", headers: Iterable[str] = (), body: bytes = b"") -> None:
        """Send a response; after a final one nothing more is sent."""
        if self.status:
            return
        self._last = encode_response(
            self.request, self._via.vias, status, to_tag=self.to_tag, contact=contact, headers=headers, body=body
        )
        if status < 200:
            self._owner.send(self._last, self._via.reply_to)
            return
        self.status = status
        self._owner.retire(self)
        if self.request.method != "INVITE":
            self._owner.send(self._last, self._via.reply_to)
            return
        self._retransmission = Retransmission(
            self._owner, self._last, self._via.reply_to, self._owner.timers.t2, self._expired
        )

    def repeat(self) -> None:
        """The request came again: so does the response, but a 2xx to INVITE repeats by itself (RFC 6026)."""
        if self._last and not (self._retransmission and self.status < 300):
            self._owner.send(self._last, self._via.reply_to)

    def acknowledge(self) -> None:
        """ACK came for the final response."""
        self.stop()
        if not self.acknowledged.done():
            self.acknowledged.set_result(True)

    def stop(self) -> None:
        """Send no more by itself."""
        if self._retransmission:
            self._retransmission.stop()

    def _expired(self) -> None:
        if not self.acknowledged.done():
            self.acknowledged.set_result(False)
