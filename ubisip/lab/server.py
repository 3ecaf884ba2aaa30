# SPDX-License-Identifier: Apache-2.0
"""A telephony server that can fall silent, refuse, be overloaded, die and return; with a queue, its agents answer."""

from __future__ import annotations

import asyncio
import enum
import secrets

from ubisip.lab.dialog import Dialog
from ubisip.lab.invitation import Invitation
from ubisip.lab.party import Party
from ubisip.lab.queue import Locations, Queue
from ubisip.lab.tally import Tally
from ubisip.lab.transactions import ServerTransaction
from ubisip.lab.udp import Address


class Mode(enum.Enum):
    """How a server treats what comes."""

    OK = "ok"
    SILENT = "silent"
    """Its socket is open but nothing is read from it: a process that hangs."""
    BUSY = "503"
    """New calls and OPTIONS get 503; calls in progress go on."""
    REFUSE = "refuse"
    """Its socket is closed: the kernel answers with ICMP."""


class Server(Party):
    """Answers and places calls according to its behaviour; *retry_after* goes with each 503 (seconds; 0: not told)."""

    mode = Mode.OK
    retry_after = 0
    queue: Queue | None = None
    """The agents that take its calls; None: it answers them itself."""
    legs: Tally
    """Of its calls to agents."""
    locations: Locations

    def serve(self, queue: Queue, legs: Tally) -> None:
        """Let agents answer; they register here."""
        self.queue, self.legs, self.locations = queue, legs, Locations()
        self._taken: dict[str, str] = {}

    def set_mode(self, mode: Mode) -> None:
        """Change its ways; it keeps its calls.

        :raises OSError: it opens its socket again and the address is in use.
        """
        was_closed, self.mode = self.mode is Mode.REFUSE, mode
        if mode is Mode.REFUSE:
            self.close()
        elif was_closed:
            self.open()

    def kill(self) -> None:
        """Die as a process does: the socket is closed, every call it carried is gone."""
        self.set_mode(Mode.REFUSE)
        self.tally.died(set(self.carried))
        for call_id, direction in self.carried.items():
            if direction == "out":
                self.tally.calls.pop(call_id, None)
        if self.queue is not None:
            self._lose_agents(self.queue)
        self.forget()

    def start(self) -> None:
        """Return, empty, at the same address.

        :raises OSError: the address is in use.
        """
        self.set_mode(Mode.OK)

    def receive(self, data: bytes, source: Address) -> None:
        if self.mode is not Mode.SILENT:
            super().receive(data, source)

    def on_invite(self, transaction: ServerTransaction) -> None:
        self.tally.seen(transaction.request.call_id, self.name)
        if self.mode is Mode.BUSY:
            self._busy(transaction)
        else:
            super().on_invite(transaction)

    def on_options(self, transaction: ServerTransaction) -> None:
        if self.mode is Mode.BUSY:
            self._busy(transaction)
        else:
            super().on_options(transaction)

    def on_register(self, transaction: ServerTransaction) -> None:
        if self.queue is None:
            super().on_register(transaction)
        elif self.mode is Mode.BUSY:
            self._busy(transaction)
        else:
            contacts = self.locations.take(transaction.request, asyncio.get_running_loop().time())
            transaction.respond(200, headers=contacts)

    async def _answer(self, transaction: ServerTransaction) -> None:
        """One call that came in: an agent takes it, else the server itself."""
        call_id = transaction.request.call_id
        asked: set[str] = set()
        while (agent := self._free_agent(asked)) is not None:
            if not asked:
                self.carried[call_id] = "in"
                transaction.respond(180, contact=self.contact)
            asked.add(agent)
            if await self._offer(transaction, agent):
                self.carried.pop(call_id, None)
                return
        await super()._answer(transaction)

    def _free_agent(self, asked: set[str]) -> str | None:
        """The next of the queue whom this server knows a way to, but those who were *asked* already."""
        if self.queue is None:
            return None
        known = self.locations.agents(asyncio.get_running_loop().time())
        return self.queue.take(agent for agent in known if agent not in asked)

    async def _offer(self, transaction: ServerTransaction, agent: str) -> bool:
        """Whether the call is over: this agent took it, or the caller has hung up; else it is another's turn."""
        assert self.queue is not None
        call_id = transaction.request.call_id
        self._taken[call_id] = agent
        leg = await self._call_agent(agent, transaction)
        if leg is not None and transaction.cancelled.done():
            await self._bye(leg)
        elif leg is not None:
            await self._connect(transaction, leg)
        self.queue.give_back(self._taken.pop(call_id))
        return leg is not None or transaction.cancelled.done()

    async def _connect(self, transaction: ServerTransaction, leg: Dialog) -> None:
        """The agent has answered: so is the caller, and either side ends both."""
        dialog = Dialog.callee(transaction.request, transaction.to_tag)
        self.dialogs[dialog.call_id, dialog.local_tag] = dialog
        if not await self.accept(transaction, dialog):
            self.tally.fault(dialog.call_id, "200 never acknowledged")
        await asyncio.wait({dialog.ended, leg.ended}, return_when=asyncio.FIRST_COMPLETED)
        for one in (dialog, leg):
            if not one.ended.done():
                await self._bye(one)

    async def _call_agent(self, agent: str, transaction: ServerTransaction) -> Dialog | None:
        """The call to an agent by the gateways that have his flows, of those that answer; None: he did not take it.

        A gateway that is silent costs the caller no more than the patience of this server: another agent is as good.
        """
        now = asyncio.get_running_loop().time()
        ways = {way.hop: (way.contact, (way.path,)) for way in self.locations.of(agent, now)}
        hops = [hop for hop in self.hops.order(now) if hop in ways]
        call = self.legs.place(f"{secrets.token_hex(10)}@{self.name}")
        invitation = Invitation(self, self.hops, self.legs, call, agent, ways)
        transaction.cancelled.add_done_callback(lambda _: invitation.give_up())
        outcome = await invitation.run(hops, self.behaviour.patience, last=self.patience)
        if isinstance(outcome, Dialog):
            self.legs.answer(call)
            self.legs.end(call)
            return outcome
        self.legs.calls.pop(call.call_id, None)  # whether the call is lost is for its caller to say
        return None

    def _lose_agents(self, queue: Queue) -> None:
        """The calls to agents die with the server; the agents are free once they notice."""
        self.legs.died({call_id for call_id, _ in self.dialogs} | set(self.legs.calls))
        for agent in self._taken.values():
            queue.give_back(agent)
        self._taken.clear()
        self.locations.clear()

    def _busy(self, transaction: ServerTransaction) -> None:
        headers = [f"Retry-After: {self.retry_after}"] if self.retry_after else []
        transaction.respond(503, headers=headers)
