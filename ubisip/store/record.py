# SPDX-License-Identifier: Apache-2.0
"""One small value in one msgpack file, replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it has no stubs


def read_record(path: Path) -> Any | None:
    """The value kept in *path*; None when there is no such file.

    :raises ValueError: the file is not one complete msgpack value.
    :raises OSError: it cannot be read.
    """
    try:
        return msgpack.unpackb(path.read_bytes())
    except FileNotFoundError:
        return None
    except msgpack.exceptions.UnpackException as error:
        raise ValueError(f"{path} is not a whole record: {error}") from error


def write_record(path: Path, value: Any) -> None:
    """Keep *value* (maps, lists, strings, numbers) in *path*: a crash leaves the old value or the new one.

    :raises OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    with fresh.open("wb") as file:
        file.write(msgpack.packb(value))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
