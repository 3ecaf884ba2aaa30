# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping

from ubisip.config import Config
from ubisip.platform import DestinationState

MAX_DESTINATIONS: int
"""Carriers and servers in one platform."""

def split_advertise(advertise: str) -> tuple[str, str]:
    """``host:port`` or ``host`` into the two, the port empty when it is not written."""

class Slots:
    """Remembers which slot of the core's tables belongs to which destination name, across reloads."""

    def __init__(self) -> None: ...
    def slot(self, name: str) -> int:
        """The slot of *name*, given out at its first use.

        :raises OverflowError: more than MAX_DESTINATIONS names were ever used.
        """
    def name(self, slot: int) -> str: ...

class Snapshot:
    """All that the core knows of the platform, immutable: listeners, destinations, sources, policy.

    *states* are the destinations' health and switches by name (absent: DestinationState()), *addresses* the
    resolved host names of destinations by name (needed only where the URI holds a host name),
    *draining* refuses new calls with 503, *hook* parks new INVITEs for a decision of the control thread,
    *record* turns on the call events (attempt, answered, ended...). *credentials_complete*: an agent whose digests the
    core was not given does not exist, and nobody is asked for them. *wall*: seconds from the engine's clock to that of
    the wall.
    """

    def __init__(
        self,
        config: Config,
        node: str,
        slots: Slots,
        states: Mapping[str, DestinationState] = ...,
        *,
        addresses: Mapping[str, str] = ...,
        draining: bool = False,
        hook: bool = False,
        record: bool = False,
        credentials_complete: bool = False,
        wall: float = 0.0,
    ) -> None: ...
