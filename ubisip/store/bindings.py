# SPDX-License-Identifier: Apache-2.0
"""The bindings on disk: a snapshot of all, and a journal of what changed since; both outlive the process.

Files, in ``state_dir``: ``NODE.bindings`` (the snapshot), ``NODE.bindings.journal``, and while a new snapshot is made
``NODE.bindings.before`` (the journal up to its beginning). Read in the order snapshot, before, journal they give the
last state whenever a crash came: a record says all of its binding, so that old ones may be read again. The snapshot
names the ``before`` that it has in it; that one, left by a crash right behind it, is not read: what the journal has
missed is in the snapshot alone, and an older record would undo it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BufferedWriter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgpack  # type: ignore[import-untyped]  # it has no stubs

from ubisip.store.blocks import Damage, block, read_blocks

log = logging.getLogger(__name__)

SLICE = 250
"""Bindings of one turn while a snapshot is made: some 2 ms."""
PAUSE = 0.002
"""Seconds between two such turns, for calls and probes."""
SYNC_INTERVAL = 1.0
"""Seconds: what was written before is on the disk, not only with the operating system, after so long at most."""
SMALLEST_JOURNAL = 4 * 1024 * 1024
"""Octets of the journal below which no new snapshot is made; above, when it outgrows the snapshot."""
UNWRITTEN = 64 * 1024 * 1024
"""Octets that wait for a disk that stands; beyond, they are dropped, and a new snapshot is made once it is back."""
GONE, MADE, REFRESHED, INCLUDES = 0, 1, 2, 3
"""The first field of a record: a binding ended, or was set as the rest says; or, in a snapshot, which ``before`` it has
in it, by its size and CRC-32."""


class Row(NamedTuple):
    """A binding as the core's journal and ``worker.bindings`` give it; texts are UTF-8, with surrogate escapes."""

    aor: str
    contact: str
    instance: str
    reg_id: int
    q1000: int
    path: str
    call_id: str
    cseq: int
    expires_at: float
    registered_at: float
    ip: str
    port: int
    listener: int
    stream: int
    user_agent: str
    flags: int
    """The core's own: see BindingFlag in ext/ubisip/core/bindings.pxd."""


class Bindings(Protocol):
    """The core's table, as a snapshot is made from it."""

    def bindings(self, after: int, limit: int) -> tuple[int, list[tuple[Any, ...]]]: ...


def records(journal: bytes) -> Iterator[list[Any]]:
    """The records of a journal's octets; what is not msgpack ends them."""
    unpacker = msgpack.Unpacker(unicode_errors="surrogateescape", max_buffer_size=0)
    unpacker.feed(journal)
    try:
        for record in unpacker:
            yield record if isinstance(record, list) and record else [None]
    except (msgpack.exceptions.UnpackException, ValueError):
        yield [None]


def packed(rows: list[tuple[Any, ...]]) -> bytes:
    """Rows of the core's table as records of the journal."""
    packer = msgpack.Packer(unicode_errors="surrogateescape", autoreset=False)
    for row in rows:
        packer.pack((MADE, *row[: len(_ROW)]))
    data: bytes = packer.bytes()
    return data


class BindingStore:
    """Keeps the bindings in *path* and beside it; ``load`` first, then ``append`` for each change.

    ``errors`` counts what could not be written. All methods are called from the loop's thread; a thread of its own
    writes, so that a slow disk holds up nothing else.
    """

    def __init__(self, path: Path) -> None:
        self.errors = 0
        self.journal_size = 0
        self.snapshot_size = 0
        self._path = path
        self._journal = path.with_name(f"{path.name}.journal")
        self._before = path.with_name(f"{path.name}.before")
        self._writer = ThreadPoolExecutor(1, "ubisip-bindings")
        self._file: BufferedWriter | None = None
        self._unwritten = 0
        self._unsynced = False
        self._gaps = False
        self._synced_at = 0.0

    # Reading

    def load(self, now: float) -> list[Row]:
        """The bindings that were kept and have not expired at *now* (unix time); damage is named in the log."""
        found: dict[tuple[Any, ...], Row] = {}
        included: list[int] = []
        for path in (self._path, self._before, self._journal):
            self._replay(path, found, included)
        kept = [row for row in found.values() if row.expires_at > now]
        if found:
            log.info("%d bindings taken over, %d had expired", len(kept), len(found) - len(kept))
        return kept

    def _replay(self, path: Path, found: dict[tuple[Any, ...], Row], included: list[int]) -> None:
        try:
            data = path.read_bytes()
            if path == self._before and _identity(data) == included:
                path.unlink()
                return
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("the bindings in %s are not taken over: %s", path, error)
            return
        strange = 0
        for part in read_blocks(data):
            if isinstance(part, Damage):
                self._gaps = True  # a new snapshot soon: it has none
                log.error("%s: %d octets from %d on are damaged and passed over", path, part.length, part.at)
            else:
                strange += _apply(part, found, included)
        if strange:
            log.error("%s: %d records are of no known form and passed over", path, strange)
        if path == self._path:
            self.snapshot_size = len(data)
        else:
            self.journal_size += len(data)

    # Writing

    def append(self, records: bytes, now: float) -> None:
        """Write what changed; *now* is monotonic. Returns at once: a thread writes."""
        if records:
            if self._unwritten + len(records) > UNWRITTEN:
                self.note_gap("the disk does not keep up")
                return
            self._unwritten += len(records)
            self._unsynced = True
            self._writer.submit(self._write, records)
        if self._unsynced and now - self._synced_at >= SYNC_INTERVAL:
            self._synced_at, self._unsynced = now, False
            self._writer.submit(self._sync)

    def note_gap(self, reason: str) -> None:
        """The journal lacks something: a new snapshot makes it good."""
        self.errors += 1
        if not self._gaps:
            log.error("bindings may not survive a restart: %s: %s", self._journal, reason)
        self._gaps = True

    @property
    def wants_snapshot(self) -> bool:
        """Whether the journal has outgrown the snapshot, or lacks something."""
        return self._gaps or self.journal_size > max(SMALLEST_JOURNAL, self.snapshot_size)

    async def snapshot(self, table: Bindings) -> None:
        """Write all of *table* anew, in slices; meanwhile ``append`` goes on.

        :raises OSError: it cannot be written; the old one and its journal stand.
        """
        self._gaps = False
        try:
            included = await self._in_writer(self._rotate)
            await self._write_snapshot(table, included)
        except OSError:
            self._gaps = True
            raise

    async def _write_snapshot(self, table: Bindings, included: list[int]) -> None:
        fresh = self._path.with_name(f"{self._path.name}.new")
        file = await self._in_writer(lambda: fresh.open("wb"))
        try:
            size = await self._write_rows(file, table, block(msgpack.packb([INCLUDES, *included])))
            await self._in_writer(lambda: _finish(file, fresh, self._path))
        finally:
            await self._in_writer(file.close)
        self.snapshot_size = size
        await self._in_writer(lambda: self._before.unlink(missing_ok=True))

    async def _write_rows(self, file: BufferedWriter, table: Bindings, data: bytes) -> int:
        """*data*, then all of *table* as blocks; returns their octets."""
        size = after = 0
        while True:
            after, rows = table.bindings(after, SLICE)
            data += block(packed(rows)) if rows else b""
            size += len(data)
            await self._in_writer(partial(file.write, data))
            data = b""
            if not after:
                return size
            await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        """Write what still waits, to the disk."""
        await self._in_writer(self._end)
        self._writer.shutdown(wait=False)

    async def _in_writer(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    # In the writer's thread

    def _write(self, records: bytes) -> None:
        self._unwritten -= len(records)
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._journal.open("ab")
            data = block(records)
            self._file.write(data)
            self._file.flush()  # to the operating system: a killed process loses nothing of it
            self.journal_size += len(data)
        except OSError as error:
            self._shut()
            self.note_gap(str(error))

    def _sync(self) -> None:
        try:
            if self._file is not None:
                os.fdatasync(self._file.fileno())
        except OSError as error:
            self.note_gap(str(error))

    def _rotate(self) -> list[int]:
        """The journal so far becomes ``before``, behind what an interrupted snapshot left; returns its identity."""
        self._end()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._journal.exists():
            if self._before.exists():
                with self._before.open("ab") as file:
                    file.write(self._journal.read_bytes())
                    file.flush()
                    os.fsync(file.fileno())
                self._journal.unlink()
            else:
                self._journal.rename(self._before)
            self.journal_size = 0
        return _identity(self._before.read_bytes()) if self._before.exists() else []

    def _end(self) -> None:
        self._sync()
        self._shut()

    def _shut(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:  # what it could not write; told below, where it matters
                log.debug("%s: %s", self._journal, error)


def _identity(data: bytes) -> list[int]:
    return [len(data), zlib.crc32(data)]


def _apply(payload: bytes, found: dict[tuple[Any, ...], Row], included: list[int]) -> int:
    """Take the records of one block into *found* and *included*; returns how many are of no known form."""
    strange = 0
    for record in records(payload):
        fields = record[1:]
        if record[0] in (MADE, REFRESHED) and are_row(fields):
            row = Row(*fields)
            found[key_of(row.aor, row.contact, row.instance, row.reg_id)] = row
        elif record[0] == GONE and are_end(fields):
            aor, contact, instance, reg_id = fields[:4]
            key = key_of(aor, contact, instance, reg_id)
            if key in found and found[key].contact == contact:  # else another contact has taken its place
                del found[key]
        elif record[0] == INCLUDES:
            included[:] = fields
        else:
            strange += 1
    return strange


_NUMBER = (int, float)
_ROW: tuple[Any, ...] = (
    str, str, str, int, int, str, str, int, _NUMBER, _NUMBER, str, int, int, int, str, int,
)  # fmt: skip
"""The kinds of a row's fields."""


def are_row(fields: Sequence[Any]) -> bool:
    """Whether they have the kinds of a :class:`Row`."""
    return _are(fields, _ROW)


def are_end(fields: Sequence[Any]) -> bool:
    """Whether they say, after GONE, which binding ended: address of record, Contact, instance, reg-id, reason."""
    return _are(fields[:4], _ROW[:4])


def _are(fields: Sequence[Any], kinds: Sequence[Any]) -> bool:
    return len(fields) == len(kinds) and all(map(isinstance, fields, kinds))


def key_of(aor: str, contact: str, instance: str, reg_id: int) -> tuple[Any, ...]:
    """What tells bindings apart: the flow of an instance (RFC 5626 section 6), else the contact."""
    return (aor, instance, reg_id) if instance and reg_id else (aor, contact)


def _finish(file: BufferedWriter, fresh: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    fresh.replace(path)
