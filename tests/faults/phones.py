# SPDX-License-Identifier: Apache-2.0
"""Phones on both sides of a gateway that do what a test says, step by step, and calls between them."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from processes import until

from ubisip.core.message import Message
from ubisip.lab.dialog import Dialog
from ubisip.lab.invitation import Invitation
from ubisip.lab.nexthops import NextHops
from ubisip.lab.tally import Tally
from ubisip.lab.transactions import ServerTransaction
from ubisip.lab.udp import Address
from ubisip.lab.useragent import UserAgent

RINGS_FOR = 120.0
"""Seconds that a caller waits: longer than any test."""


class Phone(UserAgent):
    """Leaves every call that comes to the test, and remembers each datagram."""

    def __init__(self, name: str, address: Address, exchange: Exchange) -> None:
        super().__init__(name, address)
        self.heard: list[bytes] = []
        self.without_ack: set[str] = set()
        """Calls whose ACK is lost on its way."""
        self.is_mute = False
        """Whatever it sends is lost."""
        self._exchange = exchange

    def on_invite(self, transaction: ServerTransaction) -> None:
        self._exchange.arrived[transaction.request.call_id].append((self, transaction))

    async def pick_up(self, transaction: ServerTransaction) -> bool:
        """Answer a call that came; whether the ACK came as well."""
        dialog = Dialog.callee(transaction.request, transaction.to_tag)
        self.dialogs[dialog.call_id, dialog.local_tag] = dialog
        return await self.accept(transaction, dialog)

    def receive(self, data: bytes, source: Address) -> None:
        self.heard.append(data)
        super().receive(data, source)

    def send(self, data: bytes, address: Address) -> None:
        if not self.is_mute and not (data.startswith(b"ACK ") and Message(data).call_id in self.without_ack):
            super().send(data, address)


class Exchange:
    """Phones that call each other through *gateway*."""

    def __init__(self, gateway: Address) -> None:
        self.gateway = gateway
        self.tally = Tally()
        self.phones: list[Phone] = []
        self.arrived: dict[str, list[tuple[Phone, ServerTransaction]]] = defaultdict(list)
        """By Call-ID: who got its INVITE."""
        self._numbers = itertools.count(1)

    def phone(self, name: str, address: Address) -> Phone:
        """One more phone, open."""
        phone = Phone(name, address, self)
        phone.open()
        self.phones.append(phone)
        return phone

    def call(self, caller: Phone, number: str = "+33155500001") -> Leg:
        """Begin a call."""
        return Leg(self, caller, f"call-{next(self._numbers)}@{caller.name}", number)

    def twice(self) -> list[str]:
        """Calls whose INVITE reached two phones, or one of them as two calls."""
        return [call_id for call_id, arrivals in self.arrived.items() if len(arrivals) > 1]

    def heard(self, mark: bytes) -> list[bytes]:
        """The datagrams that reached any phone and contain *mark*."""
        return [data for phone in self.phones for data in phone.heard if mark in data]

    def close(self) -> None:
        for phone in self.phones:
            phone.close()
            phone.forget()


@contextmanager
def exchange(gateway: Address) -> Iterator[Exchange]:
    """An exchange whose phones are closed at the end."""
    one = Exchange(gateway)
    try:
        yield one
    finally:
        one.close()


class Leg:
    """One call, held by both its ends."""

    def __init__(self, exchange: Exchange, caller: Phone, call_id: str, number: str) -> None:
        self.call_id = call_id
        self.caller = caller
        self.hops: Sequence[Address] = [exchange.gateway]
        self.acknowledged: asyncio.Task[bool] | None = None
        """Of an answered call: whether the ACK came."""
        self._exchange = exchange
        self._call = exchange.tally.place(call_id)
        self._invitation = Invitation(caller, NextHops(self.hops), exchange.tally, self._call, number)
        self._outcome = asyncio.create_task(self._invitation.run(self.hops, RINGS_FOR))

    # The caller's side

    async def rings(self) -> None:
        """Wait until the caller hears it ring."""
        await until(lambda: self._call.rung, f"{self.call_id} to ring")

    def cancel(self) -> None:
        """The caller hangs up before the answer."""
        self._invitation.give_up()

    async def outcome(self) -> int:
        """The final status that the caller gets; 0 when there is none."""
        outcome = await self._outcome
        return 200 if isinstance(outcome, Dialog) else outcome

    def caller_dialog(self) -> Dialog:
        """Once it is answered."""
        dialog = self._outcome.result()
        assert isinstance(dialog, Dialog), f"{self.call_id} got {dialog}"
        return dialog

    # The callee's side

    async def arrives(self) -> None:
        """Wait until its INVITE reaches a phone."""
        await until(lambda: self._exchange.arrived[self.call_id], f"{self.call_id} to arrive")

    @property
    def callee(self) -> Phone:
        return self._exchange.arrived[self.call_id][0][0]

    @property
    def transaction(self) -> ServerTransaction:
        """Of the INVITE that reached the callee."""
        return self._exchange.arrived[self.call_id][0][1]

    @property
    def invite(self) -> Message:
        """As the callee got it."""
        return self.transaction.request

    def ring(self) -> None:
        self.transaction.respond(180, contact=self.callee.contact)

    def refuse(self, status: int = 486) -> None:
        self.transaction.respond(status)

    def answer(self) -> None:
        self.acknowledged = asyncio.create_task(self.callee.pick_up(self.transaction))

    # Both

    async def set_up(self) -> None:
        """Ring, and be heard."""
        await self.arrives()
        self.ring()
        await self.rings()

    async def establish(self) -> None:
        """Ring, be answered, be acknowledged."""
        await self.set_up()
        self.answer()
        await self.is_established()

    async def is_established(self) -> None:
        """Wait for the answer at the caller and its ACK at the callee."""
        status = await self.outcome()
        assert status == 200, f"{self.call_id} got {status}"
        assert self.acknowledged is not None and await self.acknowledged, f"no ACK came for {self.call_id}"

    def _ends(self, by_caller: bool) -> tuple[Phone, Dialog]:
        if by_caller:
            return self.caller, self.caller_dialog()
        return self.callee, self.callee.dialogs[self.call_id, self.transaction.to_tag]

    async def bye(self, *, by_caller: bool = True) -> None:
        """Hang up; it must be answered with 200, and the other side must know."""
        phone, dialog = self._ends(by_caller)
        _, other = self._ends(not by_caller)
        answer = await phone.bye(dialog, self.hops)
        assert answer and answer.status == 200, f"BYE of {self.call_id} got {answer and answer.status}"
        assert other.ended.done(), f"BYE of {self.call_id} never reached the other side"

    async def reinvite(self, *, by_caller: bool = True) -> None:
        """Refresh the call; it must be answered with 200."""
        phone, dialog = self._ends(by_caller)
        answer = await phone.reinvite(dialog, self.hops)
        assert answer and answer.status == 200, f"re-INVITE of {self.call_id} got {answer and answer.status}"
