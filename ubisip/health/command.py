# SPDX-License-Identifier: Apache-2.0
"""Foreign programs: each in a process group of its own, killed whole when its time is up, its output bounded."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

MAX_OUTPUT = 65_536
"""Octets of each output that are kept; the rest is read and dropped, so that the program does not stand still."""
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
"""What a program gets of our own environment: secrets of the service are not among it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    code: int
    """Its exit code; minus the number of the signal that ended it."""
    output: str
    errors: str


async def run(command: Sequence[str], environment: Mapping[str, str], given: bytes, timeout: float) -> Outcome:
    """Run *command*, *given* on its standard input, and wait for its end.

    :raises OSError: it cannot be started; TimeoutError when it did not end in time: it and its children were killed.
    """
    inherited = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *command, env={**inherited, **environment}, start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout):
            output, errors, _ = await asyncio.gather(
                _read(process.stdout), _read(process.stderr), _give(process.stdin, given)
            )
            code = await process.wait()
    finally:
        _kill(process)
    return Outcome(code, output, errors)


def _kill(process: asyncio.subprocess.Process) -> None:
    """End what is left of the group: the program itself, or children that it left behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _read(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    kept = bytearray()
    while more := await stream.read(MAX_OUTPUT):
        kept += more[: MAX_OUTPUT - len(kept)]
    return kept.decode(errors="replace")


async def _give(stream: asyncio.StreamWriter | None, given: bytes) -> None:
    """Write *given*; a program need not read it."""
    assert stream is not None
    with suppress(ConnectionError):
        stream.write(given)
        await stream.drain()
    stream.close()
