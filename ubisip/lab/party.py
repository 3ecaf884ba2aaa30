# SPDX-License-Identifier: Apache-2.0
"""A user agent that places and answers calls as told, and judges each of them."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ubisip.lab.dialog import Dialog
from ubisip.lab.invitation import NO_ANSWER, Invitation
from ubisip.lab.nexthops import NextHops
from ubisip.lab.tally import Call, Tally
from ubisip.lab.transactions import ServerTransaction, Timers
from ubisip.lab.udp import Address
from ubisip.lab.useragent import PATIENCE, UserAgent, within

Range = tuple[float, float]
"""Shortest and longest, in seconds."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the people behind a user agent use their phones."""

    ring: Range = (0.2, 0.8)
    """How long a callee lets it ring."""
    hold: Range = (2.0, 4.0)
    """How long a caller talks."""
    status: int = 200
    """How a callee answers."""
    hangs_up: float = 0.3
    """Share of the answered calls that the callee ends, before the caller would."""
    reinvites: float = 0.1
    """Share of the calls that the caller refreshes by a re-INVITE half way."""
    patience: float = 30.0
    """How long a caller lets it ring, in seconds."""


class Party(UserAgent):
    """Both user agent client and server; *hops* are the gateways its calls go through, *seed* makes it repeatable."""

    def __init__(
        self,
        name: str,
        address: Address,
        tally: Tally,
        hops: NextHops | None = None,
        *,
        behaviour: Behaviour | None = None,
        seed: int | str = 0,
        advertise: Address | None = None,
        timers: Timers | None = None,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__(name, address, advertise=advertise, timers=timers, patience=patience)
        self.tally = tally
        self.hops = hops or NextHops([])
        self.behaviour = behaviour or Behaviour()
        self.carried: dict[str, str] = {}
        """The calls it takes part in now: ``out`` or ``in`` by Call-ID."""
        self.new = 0
        """Calls placed and calls that came in, since the start."""
        self._random = random.Random(f"{seed} {name}")
        self._invitations: dict[str, Invitation] = {}
        self._placing: asyncio.Task[None] | None = None

    # ---- calls that it places

    def start_calls(self, rate: float, numbers: Sequence[str]) -> None:
        """Place *rate* calls a second, to *numbers* in turn, until stop_calls()."""
        self.stop_calls()
        self._placing = asyncio.get_running_loop().create_task(self._place_calls(rate, numbers))

    def stop_calls(self) -> None:
        """Place no more calls; those in progress go on."""
        if self._placing:
            self._placing.cancel()
            self._placing = None

    async def _place_calls(self, rate: float, numbers: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        start, placed = loop.time() + self._random.random() / rate, 0
        while True:
            await asyncio.sleep(start + placed / rate - loop.time())
            self.spawn(self.place(numbers[placed % len(numbers)]))
            placed += 1

    async def place(self, number: str) -> None:
        """One call from its INVITE to its end."""
        call = self.tally.place(f"{secrets.token_hex(10)}@{self.name}")
        self.carried[call.call_id] = "out"
        self.new += 1
        invitation = Invitation(self, self.hops, self.tally, call, number)
        self._invitations[call.call_id] = invitation
        hops = self.hops.order(asyncio.get_running_loop().time())
        outcome = await invitation.run(hops, self.behaviour.patience)
        del self._invitations[call.call_id]
        if isinstance(outcome, Dialog):
            self.tally.answer(call)
            await self._talk(outcome, 0.0 if invitation.given_up else self._random.uniform(*self.behaviour.hold))
        self._end(call, 200 if isinstance(outcome, Dialog) else outcome)

    def forget(self) -> None:
        super().forget()
        self.stop_calls()
        self._invitations.clear()
        self.carried.clear()

    def hang_up(self) -> None:
        """Give up every call that still rings; they end by CANCEL."""
        for invitation in list(self._invitations.values()):
            invitation.give_up()

    def _end(self, call: Call, status: int) -> None:
        del self.carried[call.call_id]
        self.tally.end(call, status)

    async def _talk(self, dialog: Dialog, hold: float) -> None:
        """Talk, refresh the dialog half way, hang up unless the other side does."""
        if self._random.random() < self.behaviour.reinvites:
            hold /= 2
            if not await within(hold, dialog.ended):
                await self._refresh(dialog)
        if not await within(hold, dialog.ended):
            await self._bye(dialog)

    async def _refresh(self, dialog: Dialog) -> None:
        answer = await self.reinvite(dialog, self._ways(dialog))
        status = answer.status if answer else NO_ANSWER
        if not (dialog.ended.done() or 200 <= status < 300 or status == 481):  # 481: a BYE is on its way to us
            self._fault(dialog, "re-INVITE", status)

    async def _bye(self, dialog: Dialog) -> None:
        answer = await self.bye(dialog, self._ways(dialog))
        if answer is None or answer.status >= 300:
            self._fault(dialog, "BYE", answer.status if answer else NO_ANSWER)

    def _fault(self, dialog: Dialog, method: str, status: int) -> None:
        self.tally.fault(dialog.call_id, f"{method} answered {status}" if status else f"{method} never answered")

    def _ways(self, dialog: Dialog) -> list[Address]:
        """The way its Route names, then every other gateway: any of them can continue any call."""
        return self.hops.others(dialog.hop, asyncio.get_running_loop().time())

    # ---- calls that come to it

    def on_invite(self, transaction: ServerTransaction) -> None:
        self.new += 1
        self.spawn(self._answer(transaction))

    async def _answer(self, transaction: ServerTransaction) -> None:
        """One call that came in, to its end."""
        call_id, behaviour = transaction.request.call_id, self.behaviour
        self.carried[call_id] = "in"
        transaction.respond(180, contact=self.contact)
        if not await within(self._random.uniform(*behaviour.ring), transaction.cancelled):
            if behaviour.status < 300:
                await self._accept_call(transaction)
            else:
                transaction.respond(behaviour.status)
        self.carried.pop(call_id, None)

    async def _accept_call(self, transaction: ServerTransaction) -> None:
        dialog = Dialog.callee(transaction.request, transaction.to_tag)
        self.dialogs[dialog.call_id, dialog.local_tag] = dialog
        if not await self.accept(transaction, dialog):
            self.tally.fault(dialog.call_id, "200 never acknowledged")
            await self._bye(dialog)
        elif self._random.random() < self.behaviour.hangs_up:
            shortest = self.behaviour.hold[0]
            if not await within(self._random.uniform(0, shortest), dialog.ended):
                await self._bye(dialog)
        else:
            await dialog.ended
