# SPDX-License-Identifier: Apache-2.0
"""The registrar's helper in the control thread: credentials that the core asks for, the bindings' life on disk."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Protocol

from ubisip.agents.census import Census, mark_of
from ubisip.agents.credentials import UNKNOWN_LIFETIME, Credentials, Lookups
from ubisip.agents.secret import NO_DIGESTS
from ubisip.agents.source import Change, Listing, Source, open_source
from ubisip.core.engine import Event
from ubisip.core.snapshot import Slots
from ubisip.errors import UsageError
from ubisip.proxy.agent_view import Seen, binding_of, count, find, is_named, mirrored, page
from ubisip.proxy.events import AgentsAtOneSite, Subscribers
from ubisip.proxy.logs import Brake
from ubisip.proxy.node import Node
from ubisip.proxy.other_sites import OtherSites
from ubisip.proxy.sharing import Sharing
from ubisip.proxy.telling import agent_event
from ubisip.sections import Agents
from ubisip.store.bindings import BindingStore, records

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks at a file of credentials, and at whether a new snapshot of the bindings is wanted."""
SNAPSHOT_RETRY = 30.0
"""Seconds after a snapshot that could not be written before it is tried again."""
CENSUS_INTERVAL = 60.0
"""Seconds between two counts of all bindings, each of which is shown until the next."""
NAMED = 20
"""Phones at one site only that an event names."""
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
    def journal_lost(self) -> int: ...
    def bindings(self, after: int, limit: int, home: int = 0) -> tuple[int, list[tuple[Any, ...]]]: ...
    def restore(self, rows: Sequence[tuple[Any, ...]]) -> Any: ...
    def share(self, row: Sequence[Any], home: int, hop: str) -> None: ...
    def end_shared(self, aor: str, contact: str, instance: str, reg_id: int, home: int) -> None: ...
    def statistics(self) -> dict[str, Any]: ...


class Registrations:
    """Lives from ``prepare`` (before the worker starts) to ``close`` (after it has stopped).

    :raises UsageError: credentials cannot be had from where the configuration says, or bindings be shared there.
    """

    def __init__(self, node: Node, slots: Slots, hooks: Sequence[Credentials], subscribers: Subscribers) -> None:
        self.errors: Counter[str] = Counter()
        self.store = BindingStore(node.state_file("bindings"))
        self._sharing = Sharing(node) if node.config.store.soft else None
        self._node = node
        self._slots = slots
        self._hooks = tuple(hooks)
        self._subscribers = subscribers
        self._brake = Brake()
        self._worker: Registrar | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_push: deque[Iterator[Change]] = deque()
        self._change: Change | None = None
        self._snapshot_at = -math.inf
        self._lost = 0
        self._listed = False
        self._census: Census | None = None
        self._others = OtherSites()
        self._only_here: set[bytes] | None = None
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

    def take(self, node: Node, agents: Agents, source: Credentials) -> None:
        """Run by *node* from now on, with what ``check`` gave for it."""
        self._node = node
        old, self._source = self._source, source
        self._listed = False  # until the new list has been read; meanwhile the core asks
        if isinstance(old, Listing) and isinstance(source, Listing):
            source.follow(old)
        self._lookups.take(source, _refresh(agents, source), agents.credentials_cache)
        if old is not source:
            self._spawn(_close(old))
        if self._sharing is not None:
            self._spawn(self._sharing.take(node))

    @property
    def complete(self) -> bool:
        """The core is told every user there is: whom it does not know does not exist."""
        return self._listed and not self._to_push and self._change is None

    # Life

    async def prepare(self, worker: Registrar) -> None:
        """Before the worker starts: put back the bindings, tell it all users where they can be listed.

        :raises UsageError: the file of credentials cannot be read.
        """
        self._worker = worker
        await self._restore(worker)
        if isinstance(self._source, Listing):
            try:
                self._to_push.append(iter(await self._source.changes()))
            except (OSError, ValueError) as error:
                raise UsageError(f"agents.credentials: {error}") from error
            self._listed = True
            self._tell_mistakes(self._source)
            await self._push()

    async def _restore(self, worker: Registrar) -> None:
        refused = 0
        rows = self.store.load(time.time())
        if not rows and self._sharing is not None:
            rows = await self._sharing.own_rows()
        for row in rows:
            try:
                worker.restore([row])
            except (ValueError, OverflowError):
                refused += 1
        if refused:
            log.error("%d bindings are none that the core can hold and are not taken over", refused)

    def start(self) -> None:
        """The worker runs."""
        self._spawn(self._poll())
        self._spawn(self._counting())
        if self._sharing is not None:
            self._sharing.start(self._running())

    async def stop(self) -> None:
        """The worker is about to stop."""
        if self._sharing is not None:
            await self._sharing.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """The worker has stopped: keep what it told last."""
        if self._worker is not None:
            journal = self._worker.take_journal()
            self.store.append(journal, time.monotonic())
            if self._sharing is not None:
                self._sharing.tell(journal)
                await self._sharing.close()
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
        if journal and self._sharing is not None:
            self._sharing.tell(journal)
        if (lost := self._worker.journal_lost()) != self._lost:
            self._lost = lost
            self.store.note_gap("the control thread stood, and records were lost")
            if self._sharing is not None:
                self._sharing.note_gap()
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
            self._to_push.append(iter(changes))
        self._listed = True

    async def _push(self) -> None:
        """Tell the core the users that changed; what its mailbox does not take waits for the next look."""
        assert self._worker is not None
        number = 0
        try:
            while (change := self._change or self._next_change()) is not None:
                self._change = change
                known = change.digests is not None
                digests, lifetime = change.digests or NO_DIGESTS, FOR_EVER if known else UNKNOWN_LIFETIME
                self._worker.credential(change.user, change.realm, *digests, known, lifetime)
                self._change = None
                number += 1
                if number % PUSHED == 0:
                    await asyncio.sleep(0.01)
        except BufferError as error:
            self._failed("mailbox", str(error))

    def _next_change(self) -> Change | None:
        while self._to_push:
            for change in self._to_push[0]:
                return change
            self._to_push.popleft()
        return None

    async def _keep(self) -> None:
        now = time.monotonic()
        if self._worker is None or not self.store.wants_snapshot or now < self._snapshot_at:
            return
        self._snapshot_at = now + SNAPSHOT_RETRY
        try:
            await self.store.snapshot(self._worker)
        except OSError as error:
            self._failed("bindings", f"no snapshot of the bindings: {error}")

    async def _counting(self) -> None:
        while True:
            try:
                await self._count()
            except Exception:
                self.errors["census"] += 1
                if self._brake.passes("census") is not None:
                    log.exception("counting the agents failed; it goes on")
            await asyncio.sleep(CENSUS_INTERVAL)

    async def _count(self) -> None:
        """Count our agents, and find those that no other site reaches."""
        assert self._worker is not None
        self._census = await count(self._worker)
        await self._others.ask(self._node)
        only_here = await asyncio.to_thread(self._others.only_here, self._census)
        before, self._only_here = self._only_here, only_here
        if self._only_here is not None and len(self._only_here) != len(before or ()):
            await self._tell_only_here(len(self._only_here))

    async def _tell_only_here(self, number: int) -> None:
        assert self._worker is not None
        log.warning("%d phones are reached through %s only", number, self._node.gateway.site)
        if self._subscribers:
            _, some = await find(self._worker, 0, NAMED, self._is_only_here) if number else (0, [])
            instances = tuple(row.instance for row in some[:NAMED])
            self._subscribers.publish(AgentsAtOneSite(time.time(), number, instances))

    # What is shown

    async def agents(self, aor: str, after: int, limit: int, only_here: bool) -> dict[str, Any]:
        """The body of ``GET /api/v1/agents``."""
        table = self._running()
        if aor or only_here:
            after, rows = await find(table, after, limit, self._is_only_here if only_here else is_named(aor))
            rows = [row for row in rows if not aor or is_named(aor)(row)]
        else:
            after, rows = page(table, after, limit)
        return {
            "gateway": self._node.gateway.name,
            "site": self._node.gateway.site,
            "bindings": [binding_of(row, self._node, self._slots) for row in rows],
            "after": after,
            "totals": self._totals(),
            "sharing": None if self._sharing is None else self._sharing.status(),
        }

    def marks(self) -> bytes | None:
        """What other sites are told of the phones here; None: not counted yet."""
        return None if self._census is None else self._census.marks()

    def _is_only_here(self, row: Seen) -> bool:
        return bool(row.instance) and mark_of(row.aor, row.instance) in (self._only_here or ())

    def _running(self) -> Registrar:
        if self._worker is None:
            raise UsageError("the gateway does not run")
        return self._worker

    def _totals(self) -> dict[str, int]:
        """What was counted last; ``one_site`` is missing while no other site says whom it reaches."""
        census = self._census or Census()
        totals = {"bindings": census.bindings, "agents": census.agents, "alive": census.alive}
        return totals if self._only_here is None else {**totals, "one_site": len(self._only_here)}

    def _in_step(self) -> dict[str, int]:
        """By name of a server, the bindings that it has as they stand."""
        by_slot = self._census.in_step if self._census else {}
        return {server.name: by_slot.get(self._slots.slot(server.name), 0) for server in mirrored(self._node)}

    # What is told

    def statistics(self) -> dict[str, dict[str, int]]:
        """Counters and sizes, for the metrics."""
        sharing = {} if self._sharing is None else {"sharing": self._sharing.statistics()}
        return {
            **sharing,
            "agents": self._totals(),
            "in_step": self._in_step(),
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
