# SPDX-License-Identifier: Apache-2.0
"""A dialog as one of its two user agents sees it (RFC 3261 section 12)."""

from __future__ import annotations

import asyncio

from ubisip.core.message import Message
from ubisip.lab.udp import Address
from ubisip.lab.wire import Request, routes, uri_address


class Dialog:
    """The state of section 12.1: identifiers, sequence numbers, route set, remote target."""

    def __init__(
        self, call_id: str, local: str, remote: str, local_tag: str, remote_tag: str, message: Message, cseq: int
    ) -> None:
        self.call_id = call_id
        self.local_tag = local_tag
        self.remote_tag = remote_tag
        self.route_set: tuple[str, ...] = ()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once either side has sent BYE."""
        self.acks: dict[int, bytes] = {}
        """The ACK of each 2xx we got, by CSeq number, to be sent again with each repetition of that 2xx."""
        self._local = local
        self._remote = remote
        self._target = message.get("Contact") or ""
        self._cseq = cseq

    @classmethod
    def caller(cls, request: Request, answer: Message, tag: str) -> Dialog:
        """The UAC's dialog, from its INVITE (whose From has *tag*) and a 2xx (section 12.1.2)."""
        called = answer.get("To") or ""
        dialog = cls(request.call_id, request.caller, called, tag, answer.to_tag, answer, request.cseq)
        dialog.route_set = tuple(reversed(routes(answer, "Record-Route")))
        return dialog

    @classmethod
    def callee(cls, invite: Message, tag: str) -> Dialog:
        """The UAS's dialog, from an INVITE that it answers with *tag* in To (section 12.1.1)."""
        local = f"{invite.get('To')};tag={tag}"
        dialog = cls(invite.call_id, local, invite.get("From") or "", tag, invite.from_tag, invite, 0)
        dialog.route_set = tuple(routes(invite, "Record-Route"))
        return dialog

    @property
    def hop(self) -> Address:
        """Where its requests go first: the topmost Route, else the remote target."""
        return uri_address(self.route_set[0] if self.route_set else self._target)

    def request(self, method: str, *, contact: str = "", body: bytes = b"") -> Request:
        """A new request inside the dialog; an ACK has the number of the INVITE before it (section 13.2.2.4)."""
        if method != "ACK":
            self._cseq += 1
        uri = self._target.partition("<")[2].partition(">")[0] or self._target
        return Request(method, uri, self.call_id, self._local, self._remote, self._cseq, self.route_set, contact, body)

    def refresh(self, message: Message) -> None:
        """A re-INVITE or its 2xx may move the remote target (section 12.2)."""
        self._target = message.get("Contact") or self._target

    def end(self) -> bool:
        """Mark it as ended; False when it was already."""
        if self.ended.done():
            return False
        self.ended.set_result(None)
        return True
