# SPDX-License-Identifier: Apache-2.0
"""One outgoing call in set-up: the attempts of its INVITE and what comes back (RFC 3261 section 13.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ubisip.core.message import Message
from ubisip.lab.dialog import Dialog
from ubisip.lab.nexthops import NextHops
from ubisip.lab.tally import Call, Tally
from ubisip.lab.transactions import ClientTransaction
from ubisip.lab.udp import Address
from ubisip.lab.useragent import UserAgent, within
from ubisip.lab.wire import SDP, Request, new_tag

T = TypeVar("T")

Ways = Mapping[Address, tuple[str, tuple[str, ...]]]
"""By next hop: Request-URI and Route values."""

ELSEWHERE = frozenset({430, 503})
"""After these, or silence, another gateway may take the call (RFC 3263 section 4.3, RFC 5626 section 11)."""
MERGED = 482
"""The callee has the call already (RFC 3261 section 8.2.2.2), by the hop that fell silent: that one's answer counts."""
NO_ANSWER = 0
"""Outcome of a call that got no final response at all."""


class Invitation:
    """Sends the INVITE of *call* through one next hop after the other, each with a new branch, until one takes it."""

    def __init__(
        self, ua: UserAgent, hops: NextHops, tally: Tally, call: Call, number: str, ways: Ways | None = None
    ) -> None:
        """*ways* says for each next hop what its INVITE has in Request-URI and Route; None: the number, at that hop."""
        self.given_up = False
        """The caller has hung up before the answer."""
        self._ua = ua
        self._hops = hops
        self._number = number
        self._ways = ways
        self._tally = tally
        self._call = call
        self._tag = new_tag()
        host = ua.sent_by.partition(":")[0]
        caller, called = f"<sip:{ua.name}@{host}>;tag={self._tag}", f"<sip:{number}@{host}>"
        self._request = Request("INVITE", "", call.call_id, caller, called, 1, contact=ua.contact, body=SDP)
        self._active: ClientTransaction | None = None
        self._silent: ClientTransaction | None = None
        """The attempt before, when nothing was heard of it."""
        self._cancelled: set[str] = set()
        self._dialogs: dict[str, Dialog] = {}
        self._reset()

    def _reset(self) -> None:
        loop = asyncio.get_running_loop()
        self._heard: asyncio.Future[None] = loop.create_future()
        self._outcome: asyncio.Future[Dialog | int] = loop.create_future()

    async def run(self, hops: Sequence[Address], patience: float, last: float | None = None) -> Dialog | int:
        """Try *hops* in turn, hang up when nobody answers within *patience* seconds.

        The last of *hops* may be without any response for *last* seconds, until timer B when there is nobody else.
        Returns the dialog of the answered call, or the status of the failure (NO_ANSWER: there was none).
        """
        outcome: Dialog | int = NO_ANSWER
        try:
            for hop in hops:
                silent = (last or self._ua.timers.timeout) if hop == hops[-1] else self._ua.patience
                outcome = await self._try(hop, patience, silent)
                if self.given_up or (self._heard.done() and outcome not in ELSEWHERE):
                    break
        finally:
            if self._active:
                self._active.stop()
                self._active = None
            _settle(self._outcome, NO_ANSWER)  # whoever answers from now on is hung up on
        return outcome

    def give_up(self) -> None:
        """The caller hangs up before the answer."""
        self.given_up = True
        if self._active:
            self._cancel(self._active)

    async def _try(self, hop: Address, patience: float, silent: float) -> Dialog | int:
        """One next hop, for *silent* seconds without any response."""
        self._attempt(hop)
        if not await within(silent, self._heard):
            self._hops.silent(hop, asyncio.get_running_loop().time())
            return NO_ANSWER
        self._hops.heard(hop)
        if not await within(patience, self._outcome):
            self.give_up()
            await within(self._ua.timers.timeout, self._outcome)
        return self._outcome.result() if self._outcome.done() else NO_ANSWER

    def _attempt(self, hop: Address) -> None:
        if self._active:
            self._active.stop()
            self._silent = None if self._active.status else self._active
        self._reset()
        self._tally.attempt(self._call, hop)
        uri, routes = self._ways[hop] if self._ways else (f"sip:{self._number}@{hop[0]}:{hop[1]}", ())
        request = replace(self._request, uri=uri, routes=routes)
        self._active = self._ua.attempt(request, hop, self._receive)

    def _receive(self, attempt: ClientTransaction, response: Message | None) -> None:
        if response is None:
            return  # timer B: the way through this hop is silent
        status = response.status
        if status > 100 and status != 503:
            self._tally.ring(self._call)
        if 200 <= status < 300:
            self._answered(attempt, response)
        elif attempt is not self._active:
            self._cancel(attempt)
        elif status < 200:
            _settle(self._heard, None)
            if self.given_up:
                self._cancel(attempt)
        elif status == MERGED and self._silent:
            self._active, self._silent = self._silent, None
            _settle(self._heard, None)
        else:
            _settle(self._outcome, status)
            _settle(self._heard, None)

    def _answered(self, attempt: ClientTransaction, response: Message) -> None:
        """The first 2xx makes the call; a repeated one is acknowledged again; one more callee is hung up on."""
        dialog = self._dialogs.get(response.to_tag)
        if dialog:
            self._ua.acknowledge_again(dialog, attempt.request.cseq)
            return
        dialog = Dialog.caller(attempt.request, response, self._tag)
        another = bool(self._dialogs)
        self._dialogs[response.to_tag] = dialog
        self._ua.dialogs[dialog.call_id, dialog.local_tag] = dialog
        self._ua.acknowledge(dialog)
        if another or self._outcome.done():
            self._ua.spawn(self._ua.bye(dialog, [dialog.hop]))
            return
        self._outcome.set_result(dialog)
        _settle(self._heard, None)
        if self._active and self._active is not attempt:
            self._cancel(self._active)

    def _cancel(self, attempt: ClientTransaction) -> None:
        """CANCEL has the branch of its INVITE and takes the same way (section 9.1); 487 is what counts."""
        if attempt.provisional and not attempt.status and attempt.branch not in self._cancelled:
            self._cancelled.add(attempt.branch)
            request = replace(attempt.request, method="CANCEL", contact="", body=b"")
            self._ua.attempt(request, attempt.hop, lambda _attempt, _response: None, branch=attempt.branch)


def _settle(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)
