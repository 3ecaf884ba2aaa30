# SPDX-License-Identifier: Apache-2.0
"""What the HTTP side needs of a gateway, so that it stands below the one that composes both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ubisip.errors import UsageError
from ubisip.platform import Switch

NODE_HEADER = "Ubisip-Node"
"""Names the gateway that answers, to another one that asks."""


class NoRegistrar(UsageError):
    """The gateway's configuration has no section [agents]."""

    def __init__(self) -> None:
        super().__init__("this gateway is no registrar: its configuration has no [agents]")


class UnknownDestination(UsageError):
    """No carrier or server has this name; *names* are those that exist."""

    def __init__(self, name: str, names: list[str]) -> None:
        super().__init__(f"no destination is named {name!r}; there are: " + ", ".join(names))
        self.names = names


class GatewayFace(Protocol):
    """A gateway as its admin side sees it."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""

    def silent_for(self) -> float:
        """Seconds since the worker's last turn."""

    def ready(self) -> str:
        """Empty when new calls are taken, else why not, in one or two words."""

    def status(self) -> dict[str, Any]:
        """The body of ``GET /api/v1/platform``: see docs/operations.md."""

    def statistics(self) -> Mapping[str, Any]:
        """The worker's counters: see ``ubisip.core.engine.Engine.statistics``."""

    def own_statistics(self) -> Mapping[str, Mapping[str, int]]:
        """Counters of the control thread: ``hook_failures``, ``hook_answers``, ``events_lost``, ``control_errors``.

        Where there are stream listeners, also ``connections`` (open now, by side) and ``streams`` (by event); where
        there is a registrar, ``credentials`` (by result), ``bindings_kept`` (octets on disk, errors), ``agents``
        (counted once a minute) and ``in_step`` (bindings that a server has, by its name).
        """

    async def agents(self, aor: str, after: int, limit: int, only_here: bool) -> dict[str, Any]:
        """Bindings after number *after*: some *limit* of them, of *aor* unless it is empty; see docs/agents.md.

        :raises NoRegistrar: there are none.
        """

    def agent_marks(self) -> bytes | None:
        """What stands for each phone that is reached from here, for other sites; None: not counted yet.

        :raises NoRegistrar: there are none.
        """

    def switch(self, name: str, state: Switch, who: str) -> None:
        """Set the switch of a destination.

        :raises UnknownDestination: there is none of this name.
        """

    async def reload(self, *, who: str) -> str:
        """Take the configuration file again, all of it or nothing; returns its digest.

        :raises UsageError: it has mistakes, one a line of the error's text; the old one stays in force.
        """
