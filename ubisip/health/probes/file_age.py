# SPDX-License-Identifier: Apache-2.0
"""Probe ``file-age``: how old the newest file is that a pattern finds, as backups and batch jobs leave them."""

from __future__ import annotations

import asyncio
import glob
import itertools
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from ubisip.health.asking import ask, failed, of_age, unclear
from ubisip.health.probe import Finding, Target
from ubisip.parameters import read_parameters
from ubisip.schema import REQUIRED, Between

MAX_FILES = 100_000
"""Files that a pattern may find; a careless one must not keep a thread busy for ever."""
YEARS = 10 * 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class FileAgeParameters:
    """How old is too old."""

    fail_after: Annotated[float, Between(0, YEARS), REQUIRED] = 0.0
    """Seconds; when the newest file is older, the backup has failed."""
    warn_after: Annotated[float, Between(0, YEARS)] = 0.0
    """Seconds from which it is a warning; 0: none before it has failed."""
    min_size: Annotated[int, Between(0, 2**60)] = 1
    """Octets; smaller files do not count: a backup that failed often leaves an empty one."""


class FileAgeProbe:
    """The member's address is a path on this machine, in which ``*``, ``?``, ``[...]`` and ``**`` may stand."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(FileAgeParameters, parameters)
        self._looking: set[str] = set()
        """Patterns that a thread is still busy with: a file system that hangs must not take all threads there are."""

    async def check(self, target: Target, timeout: float) -> Finding:
        if target.address in self._looking:
            return unclear("file.hangs", "the file system has not answered the last question yet")
        self._looking.add(target.address)
        return await ask(asyncio.to_thread(self._looked, target.address), timeout)

    def _looked(self, pattern: str) -> Finding:
        try:
            return self._look(pattern)
        finally:
            self._looking.discard(pattern)

    def _look(self, pattern: str) -> Finding:
        found = list(itertools.islice(_files(pattern), MAX_FILES + 1))
        if len(found) > MAX_FILES:
            return unclear("file.many", f"{pattern} finds more than {MAX_FILES} files")
        fit = [one for one in found if one[2] >= self._parameters.min_size]
        if not fit:
            return failed("file.missing", {"files": len(found)}, f"no file of size {self._parameters.min_size} or more")
        at, path, size = max(fit)
        age = max(0.0, time.time() - at)
        facts = {"age": round(age, 1), "file": path, "size": size, "files": len(found)}
        return of_age(age, self._parameters.fail_after, self._parameters.warn_after, facts)

    async def close(self) -> None:
        """It keeps nothing open."""


def _files(pattern: str) -> Iterator[tuple[float, str, int]]:
    """Time of the last change, path and size of each regular file.

    :raises PermissionError: one cannot be looked at.
    """
    for path in glob.iglob(pattern, recursive=True):
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue  # gone since: rotated away
        if stat.S_ISREG(found.st_mode):
            yield found.st_mtime, path, found.st_size
