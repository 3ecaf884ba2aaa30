# SPDX-License-Identifier: Apache-2.0
"""The bindings on disk: what was told last is there after any restart, whatever has become of parts of the files."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_parts import Table, row

from ubisip.store import bindings
from ubisip.store.bindings import BindingStore, Row, packed
from ubisip.store.blocks import MARK, Damage, block, read_blocks

NOW = 1_800_000_000.0


def ended(one: Row, why: int = 1) -> bytes:
    return bytes(bindings.msgpack.packb([0, one.aor, one.contact, one.instance, one.reg_id, why]))


def loaded(path: Path, now: float = NOW) -> dict[str, Row]:
    store = BindingStore(path)
    rows = {one.aor: one for one in store.load(now)}
    asyncio.run(store.close())
    return rows


async def written(path: Path, *journals: bytes, table: Table | None = None) -> None:
    store = BindingStore(path)
    store.load(NOW)
    for number, journal in enumerate(journals):
        store.append(journal, float(number))
    if table is not None:
        await store.snapshot(table)
    await store.close()


async def test_what_was_told_last_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "gw.bindings"
    alice, bob, carol = row("alice"), row("bob"), row("carol")
    moved = alice._replace(contact="sip:alice@192.0.2.9", cseq=2)
    await written(path, packed([alice, bob, carol]), packed([moved]), ended(bob))
    assert await asyncio.to_thread(loaded, path) == {"alice": moved, "carol": carol}


async def test_a_binding_whose_contact_was_replaced_stays_when_the_old_one_is_told_to_have_ended(
    tmp_path: Path,
) -> None:
    alice = row("alice")
    moved = alice._replace(contact="sip:alice@192.0.2.9")
    await written(tmp_path / "b", packed([alice]), packed([moved]) + ended(alice, 4))
    assert await asyncio.to_thread(loaded, tmp_path / "b") == {"alice": moved}


async def test_two_flows_of_an_instance_and_two_contacts_without_one_are_bindings_each(tmp_path: Path) -> None:
    rows = [row("a"), row("a", reg_id=2), row("b", instance=""), row("b", instance="", contact="sip:other@192.0.2.2")]
    await written(tmp_path / "b", packed(rows))
    store = BindingStore(tmp_path / "b")
    assert sorted(store.load(NOW)) == sorted(rows)
    await store.close()


async def test_expired_bindings_are_dropped(tmp_path: Path) -> None:
    await written(tmp_path / "b", packed([row("gone", expires_at=NOW - 1), row("here", expires_at=NOW + 1)]))
    assert list(await asyncio.to_thread(loaded, tmp_path / "b")) == ["here"]


async def test_texts_that_are_no_utf8_come_back_as_they_were(tmp_path: Path) -> None:
    strange = row("a")._replace(user_agent=b"Phone\xff\x00".decode("utf-8", "surrogateescape"))
    await written(tmp_path / "b", packed([strange]))
    assert (await asyncio.to_thread(loaded, tmp_path / "b"))["a"].user_agent == strange.user_agent


async def test_a_snapshot_takes_the_place_of_the_journal(tmp_path: Path) -> None:
    table = Table([row(f"agent{number}") for number in range(1_000)])
    await written(tmp_path / "b", packed([row("old")]), ended(row("old")), table=table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    assert len(await asyncio.to_thread(loaded, tmp_path / "b")) == 1_000
    assert max(table.asked) <= bindings.SLICE


async def test_what_changes_while_a_snapshot_is_made_is_kept(tmp_path: Path) -> None:
    store = BindingStore(tmp_path / "b")
    first = [row(f"agent{number}") for number in range(1_000)]
    table = Table(first)
    late, gone = row("late"), first[0]
    table.between = lambda turn: store.append(packed([late]) + ended(gone), 0.0) if turn == 2 else None
    await store.snapshot(table)
    await store.close()
    names = set(await asyncio.to_thread(loaded, tmp_path / "b"))
    assert names == {one.aor for one in first[1:]} | {"late"}


@pytest.mark.parametrize("turn", [1, 2, 3])
async def test_a_snapshot_that_a_crash_interrupts_loses_nothing(tmp_path: Path, turn: int) -> None:
    """The process ends in the middle; twice, as the second start finds what the first left."""
    rows = [row(f"agent{number}") for number in range(1_000)]
    path = tmp_path / "b"
    await written(path, packed(rows[:500]))
    for more in (rows[500:700], rows[700:]):
        store = BindingStore(path)
        known = store.load(NOW)
        store.append(packed(more), 0.0)
        table = Table([*known, *more])
        table.between = crash_at(turn)
        with pytest.raises(Crash):
            await store.snapshot(table)
        await store.close()
    assert await asyncio.to_thread(loaded, path) == {one.aor: one for one in rows}


async def test_a_crash_right_behind_a_snapshot_undoes_nothing_of_it(tmp_path: Path) -> None:
    """What the journal missed is in the snapshot only; the journal before it, not yet removed, holds older records."""
    path, before = tmp_path / "b", tmp_path / "b.before"
    old, later = row("alice"), row("bob")
    new = old._replace(cseq=2, expires_at=NOW + 9_000)
    store = BindingStore(path)
    store.append(packed([old]), 0.0)
    store.note_gap("its refresh was lost")
    table = Table([new])
    left: list[bytes] = []
    table.between = lambda _turn: left.append(before.read_bytes())
    await store.snapshot(table)
    store.append(packed([later]), 0.0)
    await store.close()
    before.write_bytes(left[0])
    assert await asyncio.to_thread(loaded, path) == {"alice": new, "bob": later}
    assert not before.exists()  # else it would be read behind the next one
    before.write_bytes(left[0] + left[0])
    assert (await asyncio.to_thread(loaded, path))["alice"] == old  # that of a snapshot which was never finished


class Crash(BaseException):
    """The process is no more."""


def crash_at(turn: int) -> Callable[[int], None]:
    def between(number: int) -> None:
        if number == turn:
            raise Crash

    return between


@pytest.mark.parametrize("cut", [1, 10, 100, 5_000])
async def test_a_file_cut_short_gives_what_is_whole(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    path, rows = tmp_path / "b", [row(f"agent{number}") for number in range(1_000)]
    await written(path, table=Table(rows))
    os.truncate(path, path.stat().st_size - cut)
    found = await asyncio.to_thread(loaded, path)
    assert found == {one.aor: one for one in rows[: 3 * bindings.SLICE]}
    assert "damaged and passed over" in caplog.text and str(path) in caplog.text


async def test_an_altered_octet_costs_its_block_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, rows = tmp_path / "b", [row(f"agent{number}") for number in range(1_000)]
    await written(path, table=Table(rows))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 - 20] ^= 1
    path.write_bytes(data)
    found = await asyncio.to_thread(loaded, path)
    assert len(found) == 1_000 - bindings.SLICE
    assert all(found[name] in rows for name in found)
    assert caplog.text.count("damaged and passed over") == 1


@pytest.mark.parametrize("content", [b"", b"not ours", MARK, MARK * 100, os.urandom(9_999), block(b"\xc1"), block(b"")])
def test_no_file_stops_the_start(tmp_path: Path, content: bytes) -> None:
    for name in ("b", "b.journal", "b.before"):
        (tmp_path / name).write_bytes(content)
    assert loaded(tmp_path / "b") == {}


def test_a_record_of_another_version_is_named_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    strange: list[Any] = [[7, "a"], [1, "short"], [1, *row("a")._replace(cseq="x")], "text", [], {}]  # type: ignore[arg-type]
    records = b"".join(bindings.msgpack.packb(one) for one in strange) + packed([row("good")])
    (tmp_path / "b.journal").write_bytes(block(records))
    assert list(loaded(tmp_path / "b")) == ["good"]
    assert f"{len(strange)} records are of no known form" in caplog.text


@pytest.mark.parametrize("lost", range(0, 40, 3))
def test_blocks_are_found_again_behind_any_damage(lost: int) -> None:
    whole = [block(b"first"), block(b"second" * 3), block(b"third")]
    data = whole[0] + whole[1][:lost] + whole[2]
    parts = list(read_blocks(data))
    sound = [part for part in parts if isinstance(part, bytes)]
    expected = [b"first", b"second" * 3, b"third"] if lost >= len(whole[1]) else [b"first", b"third"]
    assert sound == expected
    assert sum(part.length for part in parts if isinstance(part, Damage)) + sum(map(len, map(block, sound))) == len(
        data
    )


async def test_a_disk_that_takes_nothing_is_told_and_made_good_by_a_snapshot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("in the way")
    store = BindingStore(tmp_path / "state" / "b")
    store.append(packed([row("a")]), 0.0)
    with pytest.raises(OSError):
        await store.snapshot(Table([row("a")]))
    assert store.errors and store.wants_snapshot
    assert "may not survive a restart" in caplog.text
    (tmp_path / "state").unlink()
    await store.snapshot(Table([row("a")]))
    assert not store.wants_snapshot
    await store.close()
    assert list(await asyncio.to_thread(loaded, tmp_path / "state" / "b")) == ["a"]


async def test_a_disk_that_stands_holds_a_bounded_number_of_octets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bindings, "UNWRITTEN", 1_000)
    store = BindingStore(tmp_path / "b")
    record = packed([row("a")])
    for _ in range(1_000):
        store.append(record, 0.0)  # faster than any disk: the loop's thread is not left between them
    await store.close()
    assert store.errors or store.journal_size == 1_000 * len(block(record))
    assert store.wants_snapshot == bool(store.errors)


async def test_a_journal_that_outgrows_the_snapshot_asks_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bindings, "SMALLEST_JOURNAL", 10_000)
    store = BindingStore(tmp_path / "b")
    table = Table([row("a")])
    await store.snapshot(table)
    assert not store.wants_snapshot
    for _ in range(100):
        store.append(packed([row("a")]), 0.0)
    await store.snapshot(table)  # behind what was appended
    assert (tmp_path / "b").stat().st_size < 1_000
    assert not store.wants_snapshot
    await store.close()


def test_a_hundred_thousand_bindings_load_quickly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the order of a second; the bound leaves room for a busy machine."""
    rows = [row(f"agent{number}") for number in range(100_000)]
    slices = [rows[at : at + bindings.SLICE] for at in range(0, len(rows), bindings.SLICE)]
    (tmp_path / "b").write_bytes(b"".join(block(packed(list(one))) for one in slices))
    caplog.set_level(logging.INFO)
    before = time.process_time()
    assert len(loaded(tmp_path / "b")) == 100_000
    assert time.process_time() - before < 5
    assert "100000 bindings taken over" in caplog.text
