# SPDX-License-Identifier: Apache-2.0
"""The key ring that all gateways share: the newest key signs, all verify, so it can be rolled (DESIGN section 5).

A text file of mode 0600: a creation time (UTC) and 32 hex digits a line, the newest last, comments after ``#``.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime

from ubisip.errors import UsageError

KEY_SIZE = 16
"""Octets of a key: what SipHash takes."""
MAX_KEYS = 4
"""Keys in a ring. Each makes every forged token dearer to refuse; the oldest goes first."""

_HEADER = """\
# ubisip key ring: secret, and the same on every gateway.
# One key a line, the newest last: the newest signs, all verify. Roll it with `ubisip key FILE --add`.
"""
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LINE = re.compile(rf"(\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ) ([0-9a-f]{{{2 * KEY_SIZE}}})", re.ASCII)

_Key = tuple[datetime, bytes]


def create(path: str | os.PathLike[str]) -> None:
    """Make a new ring of one key.

    :raises UsageError: *path* exists: its keys may be in use.
    :raises OSError: the file cannot be written.
    """
    if os.path.lexists(path):
        raise UsageError(f"{os.fspath(path)}: exists; `ubisip key FILE --add` adds a key to it")
    _write(os.fspath(path), [_new_key(datetime.min.replace(tzinfo=UTC))], None)


def add(path: str | os.PathLike[str]) -> None:
    """Roll the ring: a new key signs from now on, the older ones still verify, of more than MAX_KEYS the oldest goes.

    :raises UsageError: the file is no key ring, see load_keys().
    :raises OSError: the file cannot be read or written.
    """
    real = os.path.realpath(path)
    ring = _read(real)
    _write(real, [*ring, _new_key(ring[-1][0])][-MAX_KEYS:], os.stat(real))


def load_keys(path: str | os.PathLike[str]) -> list[bytes]:
    """The keys of a ring, the newest first, KEY_SIZE octets each.

    :raises UsageError: others than its owner have access to the file, it is cut short, or a line is not a key's.
    :raises OSError: the file cannot be read.
    """
    return [key for _, key in reversed(_read(os.fspath(path)))]


def _new_key(after: datetime) -> _Key:
    """A key of now; a clock that was set back makes none older than the one before it."""
    return max(datetime.now(UTC).replace(microsecond=0), after), secrets.token_bytes(KEY_SIZE)


def _read(path: str) -> list[_Key]:
    with open(path, encoding="ascii", errors="replace") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise UsageError(f"{path}: expected mode 0600, found {mode:04o}: others have access to the keys")
        text = file.read()
    return _ring(path, text)


def _ring(path: str, text: str) -> list[_Key]:
    """The keys of a ring's text, the newest last."""
    if not text.endswith("\n"):
        raise UsageError(f"{path}: expected a line end after the last key, found the end of the file: it is cut")
    ring: list[_Key] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            ring.append(_key(f"{path}:{number}", line, ring))
    if not 1 <= len(ring) <= MAX_KEYS:
        raise UsageError(f"{path}: expected 1 to {MAX_KEYS} keys, found {len(ring)}")
    return ring


def _key(place: str, line: str, before: Sequence[_Key]) -> _Key:
    """The key on a line; the line is not repeated in the error: it may be most of a secret."""
    match = _LINE.fullmatch(line.strip())
    try:
        time = datetime.strptime(match[1], _TIME).replace(tzinfo=UTC) if match else None
    except ValueError:
        time = None
    if match is None or time is None:
        raise UsageError(f'{place}: expected a time such as "2025-01-31T12:00:00Z" and {2 * KEY_SIZE} hex digits')
    key = bytes.fromhex(match[2])
    if before and (time < before[-1][0] or key in (known for _, known in before)):
        raise UsageError(f"{place}: expected a key newer than and other than those above it")
    return time, key


def _write(path: str, ring: Sequence[_Key], owner: os.stat_result | None) -> None:
    """Put the ring in place whole or not at all; *owner* is whose file it stays."""
    lines = [f"{time.strftime(_TIME)} {key.hex()}\n" for time, key in ring]
    folder = os.path.dirname(path) or "."
    descriptor, temporary = tempfile.mkstemp(prefix=".key-", dir=folder)  # mode 0600
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            if owner is not None and (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(_HEADER + "".join(lines))
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
