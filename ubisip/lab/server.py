# SPDX-License-Identifier: Apache-2.0
"""A telephony server that can fall silent, refuse, be overloaded, die and return."""

from __future__ import annotations

import enum

from ubisip.lab.party import Party
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

    def _busy(self, transaction: ServerTransaction) -> None:
        headers = [f"Retry-After: {self.retry_after}"] if self.retry_after else []
        transaction.respond(503, headers=headers)
