# SPDX-License-Identifier: Apache-2.0
"""The registrar's helper in the control thread: credentials that the core asks for, the bindings' life on disk."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from ubisip.agents.credentials import UNKNOWN_LIFETIME, Credentials, Lookups
from ubisip.agents.secret import NO_DIGESTS
from ubisip.agents.source import Change, Listing, Source, open_source
from ubisip.core.engine import Event
from ubisip.errors import UsageError
from ubisip.proxy.events import Subscribers
from ubisip.proxy.logs import Brake
from ubisip.proxy.node import Node
from ubisip.proxy.telling import agent_event
from ubisip.sections import Agents
from ubisip.store.bindings import BindingStore, records

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks at a file of credentials, and at whether a new snapshot of the bindings is wanted."""
SNAPSHOT_RETRY = 30.0
"""Seconds after a snapshot that could not be written before it is tried again."""
PUSHED = 500
"""Users told to the core in one turn: well below its mailbox, and some 2 ms."""
MAX_MISTAKES = 10
"""Mistakes of a credentials file that are named in the log; the rest is counted."""
FOR_EVER = math.inf


class Registrar(Protocol):
    """The worker as the registrar's helper uses it: see ``ubisip.core.worker.Worker``."""

    def credential(
        self, user: str, realm: str, md5: bytes, sha256: bytes, sha512_256: bytes, known: bool, lifetime: float
    ) -> None: ...
    def credential_failed(self, user: str, realm: str) -> None: ...
    def take_journal(self) -> bytes: ...
    def bindings(self, after: int, limit: int) -> tuple[int, list[tuple[Any, ...]]]: ...
    def restore(self, rows: Sequence[tuple[Any, ...]]) -> Any: ...


class Registrations:
    """Lives from ``prepare`` (before the worker starts) to ``close`` (after it has stopped).

    :raises UsageError: credentials cannot be had from where the configuration says.
    """

    def __init__(self, node: Node, hooks: Sequence[Credentials], subscribers: Subscribers) -> None:
        self.errors: Counter[str] = Counter()
        self.store = BindingStore(node.state_file("bindings"))
        self._hooks = tuple(hooks)
        self._subscribers = subscribers
        self._brake = Brake()
        self._worker: Registrar | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_push: deque[Change] = deque()
        self._snapshot_at = -math.inf
        agents, self._source = self.check(node)
        refresh = _refresh(agents, self._source)
        self._lookups = Lookups(self._source, refresh, agents.credentials_cache, self._tell)

    # Configuration

    def check(self, node: Node) -> tuple[Agents, Credentials]:
        """The credentials that *node* wants.

        :raises UsageError: they cannot be had.
        """
        agents = node.config.agents
        if agents is None:
            raise UsageError("[agents] went: this needs a restart")
        if agents.credentials:
            return agents, open_source(agents)
        if not self._hooks:
            raise UsageError("[agents] has no credentials, and no hook with a method `credentials` was given")
        return agents, self._hooks[0]

    def take(self, agents: Agents, source: Credentials) -> None:
        """Use what ``check`` gave from now on."""
        old, self._source = self._source, source
        if isinstance(old, Listing) and isinstance(source, Listing):
            source.follow(old)
        self._lookups.take(source, _refresh(agents, source), agents.credentials_cache)
        if old is not source:
            self._spawn(_close(old))

    @property
    def complete(self) -> bool:
        """The core is told every user there is: whom it does not know does not exist."""
        return isinstance(self._source, Listing)

    # Life

    async def prepare(self, worker: Registrar) -> None:
        """Before the worker starts: put back the bindings, tell it all users where they can be listed.

        :raises UsageError: the file of credentials cannot be read.
        """
        self._worker = worker
        self._restore(worker)
        if isinstance(self._source, Listing):
            try:
                self._to_push.extend(await self._source.changes())
            except (OSError, ValueError) as error:
                raise UsageError(f"agents.credentials: {error}") from error
            self._tell_mistakes(self._source)
            await self._push()

    def _restore(self, worker: Registrar) -> None:
        refused = 0
        for row in self.store.load(time.time()):
            try:
                worker.restore([row])
            except (ValueError, OverflowError):
                refused += 1
        if refused:
            log.error("%d bindings are none that the core can hold and are not taken over", refused)

    def start(self) -> None:
        """The worker runs."""
        self._spawn(self._poll())

    async def stop(self) -> None:
        """The worker is about to stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """The worker has stopped: keep what it told last."""
        if self._worker is not None:
            self.store.append(self._worker.take_journal(), time.monotonic())
        self._worker = None
        await self.store.close()
        await _close(self._source)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What the core tells

    def tick(self, now: float) -> None:
        """Keep what has changed since the last tick, and tell who listens; *now* is monotonic."""
        if self._worker is None:
            return
        journal = self._worker.take_journal()
        self.store.append(journal, now)
        if journal and self._subscribers:
            moment = time.time()
            for record in records(journal):
                told = agent_event(record, moment)
                if told is not None:
                    self._subscribers.publish(told)

    def ask(self, event: Event) -> None:
        """The core wants to know a user: an event ``credentials``."""
        user, _, realm = event.data.decode("utf-8", "surrogateescape").partition("\0")
        self._spawn(self._look_up(user, realm))

    async def _look_up(self, user: str, realm: str) -> None:
        answer = await self._lookups.answer(user, realm)
        if self._worker is None:
            return
        try:
            if answer is None:
                self._worker.credential_failed(user, realm)
            else:
                self._worker.credential(user, realm, *answer.digests, answer.known, answer.lifetime)
        except BufferError as error:  # the phone tries again
            self._failed("mailbox", str(error))

    # What is looked at from time to time

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            try:
                await self._look_at_file()
                await self._push()
                await self._keep()
            except Exception:
                self.errors["registrations"] += 1
                if self._brake.passes("poll") is not None:
                    log.exception("a look at credentials and bindings failed; it goes on")

    async def _look_at_file(self) -> None:
        if not isinstance(self._source, Listing):
            return
        try:
            changes = await self._source.changes()
        except (OSError, ValueError) as error:
            self._failed("credentials", f"credentials stay as they were: {error}")
            return
        if changes:
            log.info("credentials: %d users changed", len(changes))
            self._tell_mistakes(self._source)
        self._to_push.extend(changes)

    async def _push(self) -> None:
        """Tell the core the users that changed; what its mailbox does not take waits for the next look."""
        assert self._worker is not None
        number = 0
        try:
            while self._to_push:
                change = self._to_push[0]
                known = change.digests is not None
                digests, lifetime = change.digests or NO_DIGESTS, FOR_EVER if known else UNKNOWN_LIFETIME
                self._worker.credential(change.user, change.realm, *digests, known, lifetime)
                self._to_push.popleft()
                number += 1
                if number % PUSHED == 0:
                    await asyncio.sleep(0.01)
        except BufferError as error:
            self._failed("mailbox", str(error))

    async def _keep(self) -> None:
        now = time.monotonic()
        if self._worker is None or not self.store.wants_snapshot or now < self._snapshot_at:
            return
        self._snapshot_at = now + SNAPSHOT_RETRY
        try:
            await self.store.snapshot(self._worker)
        except OSError as error:
            self._failed("bindings", f"no snapshot of the bindings: {error}")

    # What is told

    def statistics(self) -> dict[str, dict[str, int]]:
        """Counters and sizes, for the metrics."""
        return {
            "credentials": dict(self._lookups.results),
            "bindings_kept": {
                "journal": self.store.journal_size,
                "snapshot": self.store.snapshot_size,
                "errors": self.store.errors,
            },
        }

    def _tell(self, cause: str, text: str) -> None:
        held = self._brake.passes(cause)
        if held is not None:
            log.error("%s%s", text, f" ({held} more since the last such line)" if held else "")

    def _failed(self, place: str, text: str) -> None:
        self.errors[place] += 1
        self._tell(place, text)

    def _tell_mistakes(self, source: Listing) -> None:
        for mistake in source.mistakes[:MAX_MISTAKES]:
            log.error("%s", mistake)
        if len(source.mistakes) > MAX_MISTAKES:
            log.error("and %d more such mistakes", len(source.mistakes) - MAX_MISTAKES)


def _refresh(agents: Agents, source: Credentials) -> float:
    return FOR_EVER if isinstance(source, Listing) else agents.credentials_refresh


async def _close(source: Credentials | Source) -> None:
    """A hook has nothing to close, unless it wants to."""
    close = getattr(source, "close", None)
    if close is not None:
        await close()
