# SPDX-License-Identifier: Apache-2.0
"""An agent's phone: registered with both sites all the time (RFC 5626), it takes the calls of the queue."""

from __future__ import annotations

import asyncio
import re
import secrets
import uuid
from collections.abc import Sequence

from ubisip.core.message import Message
from ubisip.lab.dialog import Dialog
from ubisip.lab.digest import answer
from ubisip.lab.party import Party
from ubisip.lab.platform import DOMAIN, PASSWORD
from ubisip.lab.transactions import ServerTransaction
from ubisip.lab.udp import Address
from ubisip.lab.useragent import within
from ubisip.lab.wire import Request, new_tag

EXPIRES = 60
"""Seconds a registration is asked for; it is refreshed when half of them are over."""
REGISTER_WITHIN = 2.0
"""Seconds without an answer after which another gateway of the site is tried."""
AGAIN = 0.5
"""Seconds after a registration that failed before the next is tried."""
LONGEST = 10.0
"""Seconds after which an agent hangs up by himself: nobody talks on with a server that died."""

_EXPIRES = re.compile(r";\s*expires\s*=\s*(\d+)", re.IGNORECASE)


class Phone(Party):
    """Registers as ``name@DOMAIN`` over one flow at each site (reg-id 1, 2...), through any gateway there that answers."""

    flows: dict[int, bool]
    """By reg-id: whether it is registered now."""

    def register(self, sites: Sequence[Sequence[Address]]) -> None:
        """Keep registered with each of *sites*, each given by its gateways."""
        self.flows = dict.fromkeys(range(1, len(sites) + 1), False)
        self._instance = uuid.UUID(int=self._random.getrandbits(128), version=4)
        for reg_id, gateways in enumerate(sites, 1):
            self.spawn(self._keep_registered(reg_id, self._random.sample(list(gateways), len(gateways))))

    @property
    def sites(self) -> int:
        """How many sites it is registered with."""
        return sum(self.flows.values())

    async def _keep_registered(self, reg_id: int, gateways: Sequence[Address]) -> None:
        request = Request(
            "REGISTER",
            f"sip:{DOMAIN}",
            f"{secrets.token_hex(10)}@{self.name}",
            f"<sip:{self.name}@{DOMAIN}>;tag={new_tag()}",
            f"<sip:{self.name}@{DOMAIN}>",
            0,
            contact=f'{self.contact};reg-id={reg_id};+sip.instance="<urn:uuid:{self._instance}>";expires={EXPIRES}',
        )
        turn = 0
        await asyncio.sleep(self._random.random())  # not all at once
        while True:
            granted = await self._register_once(request, gateways[turn % len(gateways)])
            self.flows[reg_id] = granted > 0
            turn += not granted
            await asyncio.sleep(granted / 2 * self._random.uniform(0.8, 1.0) if granted else AGAIN)

    async def _register_once(self, request: Request, gateway: Address) -> int:
        """One registration, the challenge answered; returns the seconds granted, 0 when it failed."""
        headers: tuple[str, ...] = ("Supported: path, outbound",)
        for _ in range(3):  # the challenge, and perhaps one more for a stale nonce
            request.cseq, request.headers = request.cseq + 1, headers
            response = await self._asked(request, gateway)
            if response is None or response.status != 401:
                return _granted(response, self.contact)
            credentials = answer(response.get_all("WWW-Authenticate"), self.name, PASSWORD, "REGISTER", request.uri)
            headers = ("Supported: path, outbound", f"Authorization: {credentials}")
        return 0

    async def _asked(self, request: Request, gateway: Address) -> Message | None:
        """The final response, None when none came in time."""
        told: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()

        def on_response(_: object, response: Message | None) -> None:
            if not told.done() and (response is None or response.status >= 200):
                told.set_result(response)

        attempt = self.attempt(request, gateway, on_response)
        await within(REGISTER_WITHIN, told)
        attempt.stop()
        return told.result() if told.done() else None

    async def _accept_call(self, transaction: ServerTransaction) -> None:
        dialog = Dialog.callee(transaction.request, transaction.to_tag)
        self.dialogs[dialog.call_id, dialog.local_tag] = dialog
        if not await self.accept(transaction, dialog):
            self.tally.fault(dialog.call_id, "200 never acknowledged")
            await self._bye(dialog)
            return
        early = self._random.random() < self.behaviour.hangs_up
        hold = self._random.uniform(0, self.behaviour.hold[0]) if early else LONGEST
        if not await within(hold, dialog.ended):
            await self._bye(dialog)


def _granted(response: Message | None, contact: str) -> int:
    """Seconds that a 200 grants to *contact*."""
    if response is None or not 200 <= response.status < 300:
        return 0
    own = [value for value in response.get_all("Contact") if value.startswith(contact)]
    found = _EXPIRES.search(own[0]) if own else None
    return int(found[1]) if found else 0
