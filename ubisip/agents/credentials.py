# SPDX-License-Identifier: Apache-2.0
"""Looking up an agent's credentials: bounded, under a deadline, with what was known before while the source is down."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from ubisip.agents.breaker import Breaker
from ubisip.agents.secret import NO_DIGESTS, Digests, Secret, digests_of

LOOKUP_LIMIT = 2.0
"""Seconds for one look-up, waiting for its turn included: a phone repeats its REGISTER for 32 s (Timer F)."""
MAX_LOOKUPS = 32
"""Look-ups at a time: more would only queue up in the source."""
MAX_WAITING = 4_096
"""Users whose look-up runs or waits (a task of some 4 kB each); a flood of names fills it, and the newest get 503."""
MAX_REMEMBERED = 100_000
"""Agents whose HA1s are kept for when the source is down (some 450 octets each); those not seen longest go first."""
UNKNOWN_LIFETIME = 10.0
"""Seconds that a user counts as unknown, so that one who was just created can register soon."""
STALE_LIFETIME = 10.0
"""Seconds that what was known before stands before the source is tried again."""

Tell = Callable[[str, str], None]
"""Takes the cause, by which repeats are held back, and the text of a log line."""


class Unavailable(Exception):
    """The source cannot be asked now; the text says why, without secrets."""


@runtime_checkable
class Credentials(Protocol):
    """Where the gateway gets the credentials of agents.

    ``credentials`` returns what *user* in *realm* must know, or None: there is no such user. Whatever it raises, and
    being late, counts as the source being down: known agents stay authenticated for a while, others get 503.
    """

    async def credentials(self, user: str, realm: str) -> Secret | None: ...


class Answer(NamedTuple):
    """What the core is told of a user."""

    digests: Digests
    known: bool
    lifetime: float
    """Seconds after which the core asks again."""


class Lookups:
    """Asks *source*; an answer holds *refresh* seconds, and *cache* seconds longer while the source is down.

    ``results`` counts answers by kind: ``found``, ``unknown``, ``cached`` (the source is down, it was known before),
    ``failed`` (down, and it was not), ``full``.
    """

    def __init__(
        self, source: Credentials, refresh: float, cache: float, tell: Tell, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.results: Counter[str] = Counter(dict.fromkeys(("found", "unknown", "cached", "failed", "full"), 0))
        self._source = source
        self._refresh = refresh
        self._cache = cache
        self._tell = tell
        self._clock = clock
        self._breaker = Breaker()
        self._turn = asyncio.Semaphore(MAX_LOOKUPS)
        self._waiting = 0
        self._remembered: dict[tuple[str, str], tuple[Digests, float]] = {}

    def take(self, source: Credentials, refresh: float, cache: float) -> None:
        """Ask *source* from now on; what was known stays known."""
        self._source, self._refresh, self._cache, self._breaker = source, refresh, cache, Breaker()

    @property
    def is_down(self) -> bool:
        """Whether the source is left alone because it failed several times."""
        return self._breaker.is_open

    async def answer(self, user: str, realm: str) -> Answer | None:
        """What is to be told of *user*; None: nothing is known, and it cannot be found out now."""
        if not _is_text(user):
            return self._looked_up(user, realm, None)
        if self._waiting >= MAX_WAITING:
            self.results["full"] += 1
            return None
        self._waiting += 1
        try:
            secret = await self._asked(user, realm)
        except Unavailable as error:
            self._tell(f"credentials {str(error)[:40]}", f"credentials cannot be looked up: {error}")
            return self._known_before(user, realm)
        finally:
            self._waiting -= 1
        return self._looked_up(user, realm, secret)

    async def _asked(self, user: str, realm: str) -> Secret | None:
        """The source's answer under the deadline.

        :raises Unavailable: it has none.
        """
        try:
            async with asyncio.timeout(LOOKUP_LIMIT), self._turn:
                return await self._ask(user, realm)
        except TimeoutError:
            raise Unavailable(f"no answer within {LOOKUP_LIMIT:g} s") from None

    async def _ask(self, user: str, realm: str) -> Secret | None:
        if not self._breaker.lets_pass(self._clock()):
            raise Unavailable("it failed before and rests")
        try:
            secret = await self._source.credentials(user, realm)
        except asyncio.CancelledError:  # our deadline, or the gateway stops
            self._breaker.failed(self._clock())
            raise
        except Exception as error:
            self._breaker.failed(self._clock())
            if isinstance(error, Unavailable):
                raise
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        self._breaker.succeeded()
        return secret

    def _looked_up(self, user: str, realm: str, secret: Secret | None) -> Answer:
        self._remembered.pop((user, realm), None)
        if secret is None:
            self.results["unknown"] += 1
            return Answer(NO_DIGESTS, False, min(UNKNOWN_LIFETIME, self._refresh))
        self.results["found"] += 1
        digests = digests_of(secret, user, realm)
        self._remember(user, realm, digests)
        return Answer(digests, True, self._refresh)

    def _remember(self, user: str, realm: str, digests: Digests) -> None:
        if not math.isfinite(self._refresh):
            return  # the core keeps it for ever
        self._remembered[user, realm] = (digests, self._clock())
        while len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _known_before(self, user: str, realm: str) -> Answer | None:
        digests, since = self._remembered.get((user, realm), (NO_DIGESTS, -math.inf))
        left = since + self._refresh + self._cache - self._clock()
        if left <= 0:
            self._remembered.pop((user, realm), None)
            self.results["failed"] += 1
            return None
        self.results["cached"] += 1
        return Answer(digests, True, min(STALE_LIFETIME, left))


def _is_text(user: str) -> bool:
    """Whether it is UTF-8 without control characters: sources choke on others, and nobody is called so."""
    return user.isprintable()
