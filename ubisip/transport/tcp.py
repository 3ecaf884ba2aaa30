# SPDX-License-Identifier: Apache-2.0
"""Streams (RFC 3261 section 18): listeners, connections both ways, and which of them a message goes out on.

TCP, TLS, WebSocket and WebSocket over TLS differ in how a :class:`Connection` reads its octets: numbers, reuse and
bounds serve them all. WebSockets are opened by clients only.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import resource
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Protocol

from ubisip.core.message import Message, ParseError
from ubisip.platform import Endpoint
from ubisip.transport.connection import Address, Connection, is_request
from ubisip.transport.framing import Framer
from ubisip.transport.tls import CertificateError, Certificates, TlsStream, stamps_of
from ubisip.transport.websocket import WebSocketFramer

log = logging.getLogger(__name__)

CONNECTIONS = 20_000
"""Connections in all, both ways: thousands of agents and what a storm of reconnections adds. At the bound new ones are
refused, as those that exist carry calls; idle and silent ones go by themselves."""
PER_SOURCE = 1_000
"""Connections accepted from one address: a call centre behind one NAT, but no stranger who would take them all."""
BACKLOG = 4_096
"""Connections that may wait to be accepted: a site's phones that reconnect at once."""
RESERVE = 256
"""Open files of the process that are no connections."""
BUFFERED = 64 * 1024 * 1024
"""Octets of incomplete messages in all: 1,000 of the largest. Beyond, whoever sends more of one is cut off."""
UNSENT_IN_ALL = 64 * 1024 * 1024
"""Octets that wait to be sent in all. Beyond, the connections with most of them are cut off: nobody reads them."""
CONNECT_LIMIT = 3.0
"""Seconds to establish a connection: a lost SYN is sent again after one; the core has tried elsewhere by then."""
SWEEP = 1.0
"""Seconds between looks for connections that are overdue."""
LOOK = 10.0
"""Seconds between looks at the files of certificates, so that a renewed one is in use without anybody's doing."""
CLOSE_LIMIT = 1.0
"""Seconds that the last messages get to leave at the stop."""
CLOSE_TURN = 0.01
NUMBERS = 2**31 - 1
"""Connection numbers are from 1 to below it, each given out once: at a hundred a second they last for eight months, and
then the oldest come again."""
SECURE = ("tls", "wss")
WEB = ("ws", "wss")
_ALIAS = re.compile(
    r"SIP/2\.0/TLS\s+(?:\[[^\]]*\]|[^\s:;,]+)(?::(\d{1,5}))?\s*(?:;[^,]*)?;\s*alias\s*(?:[;,]|$)", re.IGNORECASE
)
"""A top Via that offers its connection for requests the other way (RFC 5923 section 5.1); the group is its port."""

Place = tuple[str, str, int]
"""Transport, host and port that a connection leads to."""

Letter = tuple[bytes, Address, int, int]
"""A message to send, where to, by which listener, and on which connection (0: any): a ``StreamMessage`` of the core."""


class Core(Protocol):
    """The core as streams use it (``ubisip.core.worker.Worker``); all raise BufferError when its mailbox is full."""

    def receive_stream(self, data: bytes, stream: int, peer: Address, listener: int) -> None: ...
    def stream_failed(self, data: bytes, address: Address) -> None: ...
    def stream_closed(self, stream: int) -> None: ...


class Streams:
    """All stream connections of a gateway.

    *listen* are its listeners, *sockets* the listening sockets of those that are streams, by their number there;
    *certificates* are needed as soon as one of them is of TLS, *name_of* gives the host name that a peer at an address
    is known by. ``counters`` are kept since the start, see :meth:`statistics`.
    """

    def __init__(
        self,
        listen: Sequence[Endpoint],
        sockets: Mapping[int, socket.socket],
        *,
        certificates: Certificates | None = None,
        name_of: Callable[[Address], str] = lambda address: address[0],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.certificates = certificates
        """For connections from now on; those that stand keep theirs."""
        self._listen = listen
        self._sockets = sockets
        self._name_of = name_of
        self._core: Core | None = None
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._connections: dict[int, Connection] = {}
        self._by_place: dict[Place, Connection] = {}
        self._accepted: Counter[str] = Counter()
        self._ended: deque[int] = deque()
        """Numbers of which the core could not be told yet that they have ended."""
        self._looked = 0.0
        self._complained: Mapping[str, tuple[int, int]] = {}
        self._buffered = 0
        self._room = CONNECTIONS

    # Life

    async def start(self, core: Core) -> None:
        """Accept connections from now on and hand to *core* what comes."""
        self._core = core
        self._room = _room()
        loop = asyncio.get_running_loop()
        for listener, listening in self._sockets.items():
            self._servers.append(await loop.create_server(self._factory(listener), sock=listening, backlog=BACKLOG))
        self._spawn(self._sweep())

    def stop_listening(self) -> None:
        """Accept no more; connections stay."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def close(self) -> None:
        """Send what waits, for CLOSE_LIMIT seconds at most, and close every connection."""
        self.stop_listening()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._core = None
        until = time.monotonic() + CLOSE_LIMIT
        leaving = list(self._connections.values())
        for one in leaving:
            one.close()
        while any(one.unsent for one in leaving) and time.monotonic() < until:
            await asyncio.sleep(CLOSE_TURN)
        for one in leaving:
            one.abort()

    def statistics(self) -> Mapping[str, Mapping[str, int]]:
        """``connections``: those open now, by who opened them; ``streams``: what happened since the start."""
        opened = sum(one.opened for one in self._connections.values())
        accepted = len(self._connections) - opened
        return {"connections": {"accepted": accepted, "opened": opened}, "streams": dict(self.counters)}

    # Sending

    def send(self, letters: Iterable[Letter]) -> None:
        """Send messages of the core, in their order."""
        for data, address, listener, stream in letters:
            self._send(data, _plain(address), listener, stream)

    def _send(self, data: bytes, address: Address, listener: int, stream: int) -> None:
        # With a number: where its request came from (section 18.2.2), or a phone's flow (RFC 5626); no other will do.
        connection = self._connections.get(stream) if stream else self._connection_to(address, listener)
        if connection is not None and connection.usable:
            connection.send(data)
        elif is_request(data):
            self._tell_failed(data, address)
        else:
            self.counters["responses_without_connection"] += 1

    def _connection_to(self, address: Address, listener: int) -> Connection | None:
        """An open one to *address* whoever opened it, else a new one; None: there may be none."""
        number = self._listener_for(address, listener)
        if number is None:
            return None
        transport = self._listen[number].transport
        for kind in WEB if transport in WEB else (transport,):
            connection = self._by_place.get((kind, *address))
            if connection is not None and connection.usable:
                return connection
        if transport in WEB:  # a browser cannot be connected to
            return None
        if len(self._connections) >= self._room:
            self.counters["refused_full"] += 1
            return None
        tls = None
        if transport in SECURE:
            assert self.certificates is not None
            tls = TlsStream(self.certificates.client, server_side=False, name=self._name_of(address))
        connection = Connection(self, self._number(), number, address, tls=tls)
        self._connections[connection.number] = self._by_place[transport, *address] = connection
        self._spawn(self._connect(connection))
        return connection

    def _listener_for(self, address: Address, listener: int) -> int | None:
        """The listener that a connection to *address* belongs to: the given one, else the first of the family."""
        if listener in self._sockets:
            return listener
        six = ":" in address[0]
        return next((number for number in self._sockets if (":" in self._listen[number].host) == six), None)

    async def _connect(self, connection: Connection) -> None:
        host = self._listen[connection.listener].host
        local = None if ip_address(host).is_unspecified else (host, 0)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await loop.create_connection(lambda: connection, *connection.peer, local_addr=local)
        except (OSError, TimeoutError) as error:
            self.counters["connect_failed"] += 1
            log.debug("no connection to %s: %s", connection.peer, error or "no answer")
            connection.abort()

    def _number(self) -> int:
        """A number that no other connection has."""
        while (number := next(self._numbers) % NUMBERS) in self._connections or not number:
            pass
        return number

    # What connections ask for

    def enter(self, connection: Connection) -> bool:
        if connection.opened:
            self.counters["opened"] += 1
            return True
        host = connection.peer[0]
        if len(self._connections) >= self._room:
            self.counters["refused_full"] += 1
            return False
        if self._accepted[host] >= PER_SOURCE:
            self.counters["refused_source"] += 1
            return False
        self.counters["accepted"] += 1
        self._accepted[host] += 1
        self._connections[connection.number] = self._by_place[self._place(connection)] = connection
        return True

    def leave(self, connection: Connection) -> None:
        if self._connections.pop(connection.number, None) is None:
            return
        for address in filter(None, (connection.peer, connection.alias)):
            if self._by_place.get(self._place(connection, address)) is connection:
                del self._by_place[self._place(connection, address)]
        self._ended.append(connection.number)
        self._tell_ended()
        if not connection.opened:
            self._accepted[connection.peer[0]] -= 1
            if not self._accepted[connection.peer[0]]:
                del self._accepted[connection.peer[0]]

    def hold(self, octets: int) -> bool:
        self._buffered += octets
        return octets <= 0 or self._buffered <= BUFFERED

    def receive(self, message: bytes, connection: Connection) -> bool:
        assert self._core is not None
        try:
            self._core.receive_stream(message, connection.number, connection.peer, connection.listener)
        except BufferError:
            self.counters["mailbox_full"] += 1
            return False
        self.counters["messages_received"] += 1
        if not connection.heard and not connection.opened and connection.verified:
            self._take_alias(message, connection)
        return True

    def _take_alias(self, message: bytes, connection: Connection) -> None:
        """RFC 5923: who shows a certificate that holds may be sent requests over the connection that it opened."""
        try:
            via = Message(message).get("Via", "") if is_request(message) else ""
        except ParseError:
            return
        if found := _ALIAS.match(via or ""):
            alias = connection.peer[0], int(found[1] or 5061)
            if self._by_place.setdefault(self._place(connection, alias), connection) is connection:
                connection.alias = alias
                self.counters["aliases"] += 1

    def failed(self, request: bytes, connection: Connection) -> None:
        self._tell_failed(request, connection.peer)

    def tls_failed(self, error: ssl.SSLError, connection: Connection) -> None:
        log.log(
            logging.WARNING if connection.opened else logging.DEBUG,
            "TLS with %s failed: %s",
            connection.peer,
            getattr(error, "verify_message", "") or error.reason or error,
        )

    def _tell_ended(self) -> None:
        """Whatever leads over these connections is gone; the core is told for certain, if not at once."""
        while self._ended and self._core is not None:
            try:
                self._core.stream_closed(self._ended[0])
            except BufferError:
                self.counters["mailbox_full"] += 1
                return
            self._ended.popleft()

    def _place(self, connection: Connection, address: Address | None = None) -> Place:
        return self._listen[connection.listener].transport, *(address or connection.peer)

    def _tell_failed(self, request: bytes, address: Address) -> None:
        if self._core is None:
            return
        try:
            self._core.stream_failed(request, address)
        except BufferError:  # its timers find out
            self.counters["mailbox_full"] += 1

    # Bounds

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            self.sweep(time.monotonic())
            self._look_at_certificates(time.monotonic())

    def sweep(self, now: float) -> None:
        """Close what is overdue at *now*, and who lets too much wait."""
        self._tell_ended()
        for connection in list(self._connections.values()):
            if cause := connection.overdue(now):
                connection.abort(cause)
        waiting = sum(one.unsent for one in self._connections.values())
        for connection in sorted(self._connections.values(), key=lambda one: one.unsent, reverse=True):
            if waiting <= UNSENT_IN_ALL:
                break
            waiting -= connection.unsent
            connection.abort("unsent")

    def _look_at_certificates(self, now: float) -> None:
        """Take renewed certificates into use; those that cannot be used are told about once, the old ones stay."""
        old = self.certificates
        if old is None or now - self._looked < LOOK:
            return
        self._looked = now
        if not old.changed():
            return
        try:
            self.certificates = Certificates.read(old.config)
        except CertificateError as error:  # perhaps half of the files are written
            stamps = stamps_of(old.config)
            if stamps != self._complained:
                log.error("renewed certificates are not taken over yet: %s", error)
            self._complained = stamps
            return
        self.counters["certificates_renewed"] += 1
        log.info("the renewed certificates are in use for new connections")

    def _factory(self, listener: int) -> Callable[[], Connection]:
        transport = self._listen[listener].transport
        return lambda: self._accepting(listener, transport)

    def _accepting(self, listener: int, transport: str) -> Connection:
        tls = None
        if transport in SECURE:
            assert self.certificates is not None
            tls = TlsStream(self.certificates.server, server_side=True)
        framer = WebSocketFramer() if transport in WEB else Framer()
        return Connection(self, self._number(), listener, tls=tls, framer=framer)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _room() -> int:
    """How many connections this process may have."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return CONNECTIONS if files == resource.RLIM_INFINITY else min(CONNECTIONS, max(files - RESERVE, files // 2))


def _plain(address: Address) -> Address:
    """An IPv6 address in the one spelling that the system uses too."""
    host, port = address
    return (str(ip_address(host)), port) if ":" in host else address
