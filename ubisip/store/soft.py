# SPDX-License-Identifier: Apache-2.0
"""What a soft store is: rows of bindings that the gateways of one site show each other (DESIGN section 9)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

Record = Sequence[Any]
"""A record of the journal of bindings, or a row, see docs/agents.md. It came from outside: nothing is certain."""
UNREADABLE: Record = (None,)
"""What stands for a record that is none."""


class SoftStoreError(Exception):
    """The store cannot be reached, or does not do what is asked."""


class News(Protocol):
    """An open subscription."""

    async def next(self, patience: float) -> tuple[str, Sequence[Record] | None] | None:
        """Whose news, and which: None instead of records says that all its rows were written anew.

        None: nothing came for *patience* seconds.

        :raises SoftStoreError: the subscription is over.
        """


class SoftStore(Protocol):
    """Every method raises SoftStoreError when the store does not answer in time, or answers with an error."""

    async def write(
        self, gateway: str, rows: Mapping[Any, Record], gone: Sequence[Any], news: Sequence[Record], lifetime: float
    ) -> None:
        """Set and delete rows of *gateway* by their keys, and publish *news*: all of it or nothing.

        The rows end *lifetime* seconds after the last call that set any. Without any it is a sign of life.
        """

    async def clear(self, gateway: str) -> None:
        """Delete all rows of *gateway*: they are about to be written anew."""

    async def announce(self, gateway: str) -> None:
        """All rows of *gateway* have been written anew: who follows reads them."""

    def rows(self, gateway: str) -> AsyncIterator[Sequence[Record]]:
        """The rows of *gateway*, page by page."""

    def news(self) -> AbstractAsyncContextManager[News]:
        """What is published from now on."""

    async def close(self) -> None: ...
