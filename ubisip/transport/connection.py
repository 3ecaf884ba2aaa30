# SPDX-License-Identifier: Apache-2.0
"""One connection of a stream transport: octets become messages, messages octets; who misuses it is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import Counter, deque
from typing import Protocol, cast

from ubisip.transport.framing import Framer, FramingError
from ubisip.transport.tls import TlsStream
from ubisip.transport.websocket import WebSocketFramer

Address = tuple[str, int]

PATIENCE = 30.0
"""Seconds to the first message after an accept, to the end of a message once it began, and that octets of ours may wait
for a peer that does not read: whoever holds connections without using them gives way to those who do."""
HANDSHAKE = 10.0
"""Seconds to the end of the handshakes of TLS and WebSocket: some round trips of a phone far away, and lost packets."""
IDLE = 3600.0
"""Seconds without an octet either way, after which a connection has no use: phones register anew within an hour."""
UNSENT = 1024 * 1024
"""Octets that may wait to be sent on one connection: some 1,000 messages. More is a peer that does not read."""
UNANSWERED = 256
"""Requests remembered, the newest of them, in case that the connection breaks: the core has answers to the others."""
QUOTED = 1_500
"""Octets of such a request that are kept: its top Via, which says which attempt it was, is among the first."""
RETRY = 0.01
"""Seconds until a message that found the core's mailbox full is handed over again; meanwhile nothing is read."""
LINGER = 5.0
"""Seconds that the last octets of a connection have to leave once we close it; it is counted no more meanwhile."""
PROBES = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""A peer whose machine is gone is noticed on an idle connection after 90 s."""
ACKNOWLEDGED = 10_000
"""Milliseconds within which a peer acknowledges what we sent, else the connection is broken: by itself the system would
try for a quarter of an hour, and a machine that was started again would get nothing until then."""


class Table(Protocol):
    """Where a connection belongs: it is numbered, found again and counted there."""

    counters: Counter[str]

    def enter(self, connection: Connection) -> bool:
        """Admit a connection that is established; False: it has no room."""

    def leave(self, connection: Connection) -> None:
        """Give out a connection no more; told once at least when it ends."""

    def hold(self, octets: int) -> bool:
        """Octets more (or less) wait for the rest of their messages; False: it is too much in all."""

    def receive(self, message: bytes, connection: Connection) -> bool:
        """Hand a message to the core; False: there is no room, try again."""

    def failed(self, request: bytes, connection: Connection) -> None:
        """Tell the core that a request, of which at least the beginning is given, may not have arrived."""

    def tls_failed(self, error: ssl.SSLError, connection: Connection) -> None:
        """Log why TLS ended."""


class Connection(asyncio.Protocol):
    """Number *number*, of listener number *listener*; *peer* is its other end if we open it, else learnt at the accept.

    *tls* and *framer* are what its octets mean, from the network up. What is sent before it is established waits.
    """

    __slots__ = (
        "_began", "_closed", "_counted", "_framer", "_heard", "_held", "_last", "_ready", "_stalled", "_table", "_tls",
        "_transport", "_unanswered", "_waiting", "alias", "listener", "number", "opened", "peer",
    )  # fmt: skip

    def __init__(
        self,
        table: Table,
        number: int,
        listener: int,
        peer: Address | None = None,
        *,
        tls: TlsStream | None = None,
        framer: Framer | WebSocketFramer | None = None,
    ) -> None:
        self.number = number
        self.listener = listener
        self.opened = peer is not None
        """We opened it ourselves."""
        self.peer: Address = peer or ("", 0)
        self.alias: Address | None = None
        """Where else it leads to (RFC 5923)."""
        self._table = table
        self._transport: asyncio.Transport | None = None
        self._tls = tls
        self._framer = Framer() if framer is None else framer
        self._ready = False
        self._waiting: list[bytes] | None = None
        self._unanswered: deque[bytes] | None = None
        self._held: bytes | None = None
        self._counted = 0
        self._closed = False
        self._began = self._last = time.monotonic()
        self._heard = self.opened
        self._stalled: float | None = None

    @property
    def usable(self) -> bool:
        """Messages can be given to it."""
        return not self._closed and (self._transport is None or not self._transport.is_closing())

    @property
    def unsent(self) -> int:
        """Octets given to it that the system has not taken yet."""
        written = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return written + sum(map(len, self._waiting or ()))

    @property
    def _incomplete(self) -> int:
        """Octets that came and wait for more."""
        return len(self._framer) + (0 if self._tls is None else len(self._tls))

    @property
    def heard(self) -> bool:
        """A message has come over it, or we opened it."""
        return self._heard

    @property
    def verified(self) -> bool:
        """The peer has shown a certificate that holds."""
        return self._tls is not None and self._tls.verified

    # The event loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # by what it can do: uvloop's is no subclass
        peer = transport.get_extra_info("peername")
        if peer is None or self._closed:  # it went as soon as it came, or we stop
            self._transport.abort()
            return
        if not self.opened:
            self.peer = (peer[0], peer[1])
        if not self._table.enter(self):
            self.abort()
            return
        _tune(transport.get_extra_info("socket"))
        self._began = time.monotonic()
        if self._tls is not None:
            self._decrypt(b"")  # whoever opens it speaks first
        self._begin()

    def data_received(self, data: bytes) -> None:
        self._last = time.monotonic()
        if self._closed:
            return
        if self._heard and self._ready and not self._incomplete:
            self._began = self._last
        self._framer.feed(data if self._tls is None else self._decrypt(data))
        self._begin()
        self._deliver()
        if self._framer.ended or (self._tls is not None and self._tls.ended):
            self.close()

    def pause_writing(self) -> None:
        """The peer does not read: neither do we, so that it cannot make us keep answers to all it sends."""
        self._stalled = time.monotonic()
        self._pace()

    def resume_writing(self) -> None:
        self._stalled, self._began = None, time.monotonic()
        self._pace()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()

    # The table's side

    def send(self, data: bytes) -> None:
        """Send one message, at once or when the connection is established."""
        if self._ready:
            self._write(data)
        else:
            self._waiting = self._waiting or []
            self._waiting.append(data)
        if self.unsent > UNSENT:
            self.abort("unsent")

    def overdue(self, now: float) -> str:
        """Why the connection must be closed at *now*; empty: it may stay."""
        if self._stalled is not None and now - self._stalled > PATIENCE:
            return "unsent"
        if not self._ready and self._transport is not None and now - self._began > HANDSHAKE:
            return "handshake"
        if self._held is None and self._incomplete and now - self._began > PATIENCE:
            return "incomplete"
        if not self._heard and now - self._began > PATIENCE:
            return "silent"
        return "idle" if now - self._last > IDLE else ""

    def abort(self, cause: str = "") -> None:
        """Close it now; a *cause* is counted."""
        self._count(cause)
        if self._transport is not None:
            self._transport.abort()
        self.end()

    def close(self, cause: str = "") -> None:
        """Close it once all that waits has left, telling the peer in its own terms; a *cause* is counted."""
        self._count(cause)
        if self._transport is not None and not self._transport.is_closing():
            self._transmit(self._framer.answer() + self._framer.close())
            if self._tls is not None:
                self._tls.close()
                self._transmit(b"")
            self._transport.close()
            if self._transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(LINGER, self._transport.abort)
        self.end()

    def end(self) -> None:
        """It is over: requests that are on their way perhaps will not arrive."""
        if self._closed:
            return
        self._closed = True
        self._table.leave(self)
        self._table.hold(-self._counted)
        for data in (*(self._unanswered or ()), *(self._waiting or ())):
            if is_request(data):
                self._table.failed(data, self)

    # Between both

    def _count(self, cause: str) -> None:
        if cause and not self._closed:
            self._table.counters[f"closed_{cause}"] += 1

    def _decrypt(self, data: bytes) -> bytes:
        """The plain text in *data*; what TLS itself has to say in return is sent."""
        assert self._tls is not None
        try:
            plain = self._tls.feed(data)
        except ssl.SSLError as error:
            self._table.tls_failed(error, self)
            self._transmit(b"")
            self.close("tls" if self._tls.established else "handshake")
            return b""
        self._transmit(b"")
        return plain

    def _begin(self) -> None:
        """Once all handshakes are done, send what waits."""
        if self._ready or self._closed or (self._tls is not None and not self._tls.established):
            return
        if not self._framer.established:
            return
        self._ready = True
        waiting, self._waiting = self._waiting or (), None
        for data in waiting:
            self._write(data)

    def _transmit(self, data: bytes) -> None:
        """Write *data*, encrypted where it must be, and what TLS has to say besides."""
        assert self._transport is not None
        if self._tls is not None:
            if data:
                self._tls.write(data)
            data = self._tls.output()
        if data:
            self._transport.write(data)

    def _write(self, data: bytes) -> None:
        self._last = time.monotonic()
        if is_request(data):
            if self._unanswered is None:
                self._unanswered = deque(maxlen=UNANSWERED)
            self._unanswered.append(data[:QUOTED])
        self._table.counters["messages_sent"] += 1
        self._transmit(self._framer.frame(data))

    def _deliver(self) -> None:
        """Hand over what is whole, in order, and answer keep-alives (RFC 5626 section 4.4.1)."""
        try:
            while not self._closed and (message := self._held or self._framer.take()) is not None:
                self._held = None if self._table.receive(message, self) else message
                if self._held is not None:
                    asyncio.get_running_loop().call_later(RETRY, self._retry)
                    break
                self._heard, self._began = True, time.monotonic()
        except FramingError as error:
            self.close(error.fault.value)
            return
        self._answer()
        self._account()
        self._pace()

    def _retry(self) -> None:
        if not self._closed:
            self._deliver()

    def _answer(self) -> None:
        pings, self._framer.pings = self._framer.pings, 0
        if pings:
            self._table.counters["keep_alives"] += pings
        answer = self._framer.answer() + b"".join(self._framer.frame(b"\r\n") for _ in range(pings))
        if answer and self._transport is not None and not self._closed:
            self._transmit(answer)

    def _account(self) -> None:
        """Tell the table how much this connection holds now."""
        change = 0 if self._closed else self._incomplete - self._counted
        self._counted += change
        if change and not self._table.hold(change):
            self.abort("memory")

    def _pace(self) -> None:
        """Read only while what was read finds its way."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._held is None and self._stalled is None:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()


def is_request(data: bytes) -> bool:
    """Whether the message *data* is a request."""
    return not data.startswith(b"SIP/2.0 ")


def _tune(connection: socket.socket) -> None:
    """No delay for small messages, and notice peers that are gone."""
    with contextlib.suppress(OSError):  # it may be gone already: the loop will tell
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in PROBES:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ACKNOWLEDGED)
