# SPDX-License-Identifier: Apache-2.0
"""The key ring: made, rolled, and refused when it is not what was made."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ubisip import keys
from ubisip.errors import UsageError

KEY = "00112233445566778899aabbccddeeff"


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.key"
    keys.create(path)
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_new_ring_has_one_key_that_only_its_owner_reads(ring: Path) -> None:
    (key,) = keys.load_keys(ring)
    assert len(key) == keys.KEY_SIZE
    assert stat.S_IMODE(ring.stat().st_mode) == 0o600
    assert os.listdir(ring.parent) == ["cluster.key"]


def test_two_rings_differ(tmp_path: Path) -> None:
    keys.create(tmp_path / "a")
    keys.create(tmp_path / "b")
    assert keys.load_keys(tmp_path / "a") != keys.load_keys(tmp_path / "b")


def test_an_existing_ring_is_not_overwritten(ring: Path) -> None:
    before = ring.read_bytes()
    with pytest.raises(UsageError, match="--add"):
        keys.create(ring)
    assert ring.read_bytes() == before


def test_the_added_key_comes_first_and_the_older_ones_still_verify(ring: Path) -> None:
    before = keys.load_keys(ring)
    keys.add(ring)
    after = keys.load_keys(ring)
    assert after[1:] == before
    assert after[0] not in before
    assert stat.S_IMODE(ring.stat().st_mode) == 0o600


def test_the_oldest_key_goes_when_the_ring_is_full(ring: Path) -> None:
    (oldest,) = keys.load_keys(ring)
    for _ in range(keys.MAX_KEYS - 1):
        keys.add(ring)
    full = keys.load_keys(ring)
    assert full[-1] == oldest
    keys.add(ring)
    assert keys.load_keys(ring)[1:] == full[:-1]


def test_a_key_is_added_although_the_clock_was_set_back(tmp_path: Path) -> None:
    ring = written(tmp_path / "ring", f"2999-01-01T00:00:00Z {KEY}\n")
    keys.add(ring)
    assert keys.load_keys(ring)[1:] == [bytes.fromhex(KEY)]


def test_adding_through_a_link_keeps_the_link(ring: Path) -> None:
    link = ring.parent / "link.key"
    link.symlink_to(ring.name)
    keys.add(link)
    assert link.is_symlink()
    assert len(keys.load_keys(ring)) == 2


def test_a_failed_write_leaves_the_ring_and_no_other_file(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ring.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        keys.add(ring)
    assert ring.read_bytes() == before
    assert os.listdir(ring.parent) == ["cluster.key"]


def test_newest_key_is_the_last_line(tmp_path: Path) -> None:
    newer = KEY[::-1]
    text = f"# comment\n\n2025-01-01T00:00:00Z {KEY}\n2025-02-01T00:00:00Z {newer}\n"
    assert keys.load_keys(written(tmp_path / "ring", text)) == [bytes.fromhex(newer), bytes.fromhex(KEY)]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_ring_that_others_have_access_to_is_refused(ring: Path, mode: int) -> None:
    ring.chmod(mode)
    with pytest.raises(UsageError, match=f"expected mode 0600, found {mode:04o}"):
        keys.load_keys(ring)
    with pytest.raises(UsageError, match="0600"):
        keys.add(ring)


LINE = f"2025-01-01T00:00:00Z {KEY}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is cut"),
        ("# only a comment\n", "expected 1 to 4 keys, found 0"),
        (LINE[:-1], "it is cut"),
        (LINE[:-4], "it is cut"),
        (LINE[:-4] + "\n", ":1: expected a time"),
        (LINE + "nonsense\n", ":2: expected a time"),
        (LINE.replace("T00", "T25"), ":1: expected a time"),
        (LINE.replace("2025-01-01T00:00:00Z ", ""), ":1: expected a time"),
        (LINE.upper().replace("AABB", "ZZBB"), ":1: expected a time"),
        (LINE[:-1] + " more\n", ":1: expected a time"),
        (LINE + LINE, ":2: expected a key newer"),
        (f"2026-01-01T00:00:00Z {KEY[::-1]}\n" + LINE, ":2: expected a key newer"),
        ("".join(f"2025-01-01T00:00:00Z {n:032x}\n" for n in range(5)), "expected 1 to 4 keys, found 5"),
        (LINE + "2025-02-01T00:00:00Z \xff\n", ":2: expected a time"),
    ],
)
def test_what_is_no_ring_is_refused_without_telling_the_secret(tmp_path: Path, text: str, told: str) -> None:
    ring = written(tmp_path / "ring", text)
    with pytest.raises(UsageError) as caught:
        keys.load_keys(ring)
    assert told in str(caught.value)
    assert str(ring) in str(caught.value)
    assert KEY[:16] not in str(caught.value)


def test_a_cut_ring_is_not_rolled(tmp_path: Path) -> None:
    ring = written(tmp_path / "ring", LINE[:-4])
    with pytest.raises(UsageError):
        keys.add(ring)
    assert ring.read_text() == LINE[:-4]


def test_a_missing_ring_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        keys.load_keys(tmp_path / "none")
