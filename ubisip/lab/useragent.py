# SPDX-License-Identifier: Apache-2.0
"""A SIP user agent on one UDP socket: matches datagrams to transactions and dialogs (RFC 3261 sections 8, 12, 17)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from ubisip.core.message import Message, ParseError
from ubisip.lab.dialog import Dialog
from ubisip.lab.transactions import ClientTransaction, ServerTransaction, Timers
from ubisip.lab.udp import Address, UdpSocket
from ubisip.lab.wire import ALLOW, SDP, Request, TopVia, new_branch, top_via

OnResponse = Callable[[ClientTransaction, Message | None], None]

PATIENCE = 2.0
"""Seconds without any response after which the carrier's SBCs try another gateway."""


async def within(seconds: float, future: asyncio.Future[Any]) -> bool:
    """Wait for *future* at most so long; whether it is done."""
    await asyncio.wait({future}, timeout=seconds)
    return future.done()


class UserAgent:
    """Answers OPTIONS, CANCEL and requests in dialogs by itself; a subclass says what to do with a new INVITE.

    *advertise* is the address it writes into Via and Contact, where a link or a NAT stands before it;
    *patience* is how long one next hop may stay without any response, in seconds.
    """

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        advertise: Address | None = None,
        timers: Timers | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.name = name
        self.address = address
        self.timers = timers or Timers()
        self.patience = patience
        host, port = advertise or address
        self.sent_by = f"{host}:{port}"
        self.contact = f"<sip:{name}@{host}:{port}>"
        self.dialogs: dict[tuple[str, str], Dialog] = {}
        """By Call-ID and local tag; an ended dialog stays for a while, to answer what comes late."""
        self.malformed = 0
        """Datagrams that were no SIP message."""
        self._clients: dict[tuple[str, str], ClientTransaction] = {}
        self._servers: dict[tuple[str, str, str], ServerTransaction] = {}
        self._unacknowledged: dict[tuple[str, str, int], ServerTransaction] = {}
        self._invites: dict[tuple[str, str, int], ServerTransaction] = {}
        self._retired: deque[tuple[float, ClientTransaction | ServerTransaction | Dialog]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._socket: UdpSocket | None = None

    @property
    def is_open(self) -> bool:
        """Whether its socket is bound."""
        return self._socket is not None and not self._socket.closed

    def open(self) -> None:
        """Bind the socket.

        :raises OSError: the address is in use.
        """
        self._socket = UdpSocket(self.address, self.receive)

    def close(self) -> None:
        """Close the socket; what the user agent knows stays, so that it may be opened again."""
        if self._socket:
            self._socket.close()

    def forget(self) -> None:
        """Lose all memory of calls, as a process that dies does."""
        for client in list(self._clients.values()):
            client.stop()
        for server in self._servers.values():
            server.stop()
        for task in self._tasks:
            task.cancel()
        self._clients.clear()
        self._servers.clear()
        self._unacknowledged.clear()
        self._invites.clear()
        self.dialogs.clear()
        self._retired.clear()

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run *work* until it ends or the user agent forgets all."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            raise error  # reaches the loop's exception handler: a mistake of the lab itself

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram; a closed socket sends nothing."""
        if self._socket:
            self._socket.send(data, address)

    def retire(self, transaction: ClientTransaction | ServerTransaction | Dialog) -> None:
        """Forget a transaction or an ended dialog once its last retransmission must have come."""
        now = asyncio.get_running_loop().time()
        self._retired.append((now + self.timers.timeout, transaction))
        while self._retired[0][0] <= now:
            _, old = self._retired.popleft()
            if isinstance(old, ClientTransaction):
                self._clients.pop(old.key, None)
            elif isinstance(old, ServerTransaction):
                self._servers.pop(old.key, None)
                if self._invites.get(identity := _identity(old.request)) is old:
                    del self._invites[identity]
            else:
                self.dialogs.pop((old.call_id, old.local_tag), None)

    # ---- what comes in

    def receive(self, data: bytes, source: Address) -> None:
        """Take one datagram."""
        try:
            message = Message(data)
            via = top_via(message, source) if message.is_request else None
        except (ParseError, ValueError):
            self.malformed += 1
            return
        if via:
            self._request(message, via)
        else:
            self._response(message)

    def _response(self, response: Message) -> None:
        transaction = self._clients.get((response.branch, response.method))
        if transaction:
            transaction.receive(response)

    def _request(self, request: Message, via: TopVia) -> None:
        method = request.method
        known = self._servers.get((request.branch, via.sent_by, "INVITE" if method == "ACK" else method))
        if method == "ACK":
            self._ack(request, known)
        elif known:
            known.repeat()
        else:
            transaction = ServerTransaction(self, request, via)
            self._servers[transaction.key] = transaction
            self._new_request(transaction)

    def _ack(self, ack: Message, known: ServerTransaction | None) -> None:
        """ACK of a failure matches by branch, ACK of a 2xx by dialog and CSeq number (section 13.3.1.4)."""
        answered = known or self._unacknowledged.pop((ack.call_id, ack.to_tag, ack.cseq), None)
        if answered:
            answered.acknowledge()

    def _new_request(self, transaction: ServerTransaction) -> None:
        request = transaction.request
        if request.method == "CANCEL":
            self._cancel(transaction)
        elif request.to_tag:
            self._in_dialog(transaction)
        elif request.method == "INVITE":
            self._first_invite(transaction)
        elif request.method == "OPTIONS":
            self.on_options(transaction)
        elif request.method == "REGISTER":
            self.on_register(transaction)
        else:
            transaction.respond(405, headers=[ALLOW])

    def _first_invite(self, transaction: ServerTransaction) -> None:
        """A new call, unless it came before by another way (section 8.2.2.2)."""
        if self._invites.setdefault(_identity(transaction.request), transaction) is not transaction:
            transaction.respond(482)
        else:
            self.on_invite(transaction)

    def _cancel(self, transaction: ServerTransaction) -> None:
        branch, sent_by, _ = transaction.key
        invite = self._servers.get((branch, sent_by, "INVITE"))
        if invite is None:
            transaction.respond(481)
            return
        transaction.to_tag = invite.to_tag
        transaction.respond(200)
        if not invite.status:
            invite.cancelled.set_result(None)
            invite.respond(487)

    def _in_dialog(self, transaction: ServerTransaction) -> None:
        request = transaction.request
        dialog = self.dialogs.get((request.call_id, request.to_tag))
        if dialog is None or (dialog.ended.done() and request.method != "BYE"):
            transaction.respond(481)
        elif request.method == "INVITE":
            dialog.refresh(request)
            self.spawn(self.accept(transaction, dialog))
        else:
            transaction.respond(200)
            if request.method == "BYE" and dialog.end():
                self.retire(dialog)

    def on_invite(self, transaction: ServerTransaction) -> None:
        """A new call."""
        transaction.respond(486)

    def on_options(self, transaction: ServerTransaction) -> None:
        """Somebody asks whether we live."""
        transaction.respond(200, headers=[ALLOW])

    def on_register(self, transaction: ServerTransaction) -> None:
        """Somebody registers."""
        transaction.respond(405, headers=[ALLOW])

    async def accept(self, transaction: ServerTransaction, dialog: Dialog) -> bool:
        """Answer an INVITE with 200 and wait for its ACK; False: it never came (section 13.3.1.4)."""
        key = (dialog.call_id, dialog.local_tag, transaction.request.cseq)
        self._unacknowledged[key] = transaction
        transaction.respond(200, contact=self.contact, body=SDP)
        acknowledged = await transaction.acknowledged
        self._unacknowledged.pop(key, None)
        return acknowledged

    # ---- what goes out

    def attempt(self, request: Request, hop: Address, on_response: OnResponse, branch: str = "") -> ClientTransaction:
        """Send a request to one next hop as a new client transaction."""
        transaction = ClientTransaction(self, request, self.sent_by, hop, on_response, branch)
        self._clients[transaction.key] = transaction
        return transaction

    async def exchange(
        self, request: Request, hops: Iterable[Address], repeated: Callable[[], None] = lambda: None
    ) -> Message | None:
        """Send a request and return its final response, None when none comes in 64 T1.

        While no response at all comes, each *patience* seconds the next of *hops* is tried as well: they all know
        the way from the Route header. The earlier ones go on retransmitting: their hop may come back.
        *repeated* is called for each repetition of a 2xx to an INVITE.
        """
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[None] = loop.create_future()
        answer: asyncio.Future[Message | None] = loop.create_future()

        def on_response(_: ClientTransaction, response: Message | None) -> None:
            if not heard.done():
                heard.set_result(None)
            if answer.done():
                if response and 200 <= response.status < 300:
                    repeated()
            elif response is None or response.status >= 200:
                answer.set_result(response)

        attempts = []
        try:
            for hop in hops:
                attempts.append(self.attempt(request, hop, on_response))
                if await within(self.patience, heard):
                    break
            return await answer
        finally:
            for attempt in attempts:
                attempt.stop()

    async def bye(self, dialog: Dialog, hops: Iterable[Address]) -> Message | None:
        """End a dialog (section 15.1.1); the final response as from :meth:`exchange`."""
        if dialog.end():
            self.retire(dialog)
        return await self.exchange(dialog.request("BYE"), hops)

    async def reinvite(self, dialog: Dialog, hops: Iterable[Address]) -> Message | None:
        """Refresh a dialog by a re-INVITE (section 14.1); the final response as from :meth:`exchange`."""
        request = dialog.request("INVITE", contact=self.contact, body=SDP)
        answer = await self.exchange(request, hops, lambda: self.acknowledge_again(dialog, request.cseq))
        if answer and answer.status < 300:
            dialog.refresh(answer)
            self.acknowledge(dialog)
        return answer

    def acknowledge(self, dialog: Dialog) -> None:
        """ACK of a 2xx: a request of its own along the route set (section 13.2.2.4)."""
        ack = dialog.request("ACK")
        dialog.acks[ack.cseq] = ack.encode(self.sent_by, new_branch())
        self.acknowledge_again(dialog, ack.cseq)

    def acknowledge_again(self, dialog: Dialog, cseq: int) -> None:
        """The 2xx to the INVITE of this number came once more: its ACK was lost."""
        if ack := dialog.acks.get(cseq):
            self.send(ack, dialog.hop)


def _identity(invite: Message) -> tuple[str, str, int]:
    """What two INVITEs of one call have in common, whatever way they took."""
    return invite.call_id, invite.from_tag, invite.cseq
