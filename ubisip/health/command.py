# SPDX-License-Identifier: Apache-2.0
"""Foreign programs: each in a process group of its own, killed whole when its time is up, its output bounded."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

MAX_OUTPUT = 65_536
"""Octets of each output that are kept; the rest is read and dropped, so that the program does not stand still."""
LINGER = 0.1
"""Seconds for the last of its output after its end; then what it left behind is killed."""
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
    with _input(given) as stdin:
        process = await asyncio.create_subprocess_exec(
            *command, env={**inherited, **environment}, start_new_session=True,
            stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    told = asyncio.gather(_read(process.stdout), _read(process.stderr), process.wait())
    try:
        async with asyncio.timeout(timeout):
            await _end_of(process.pid)
            await asyncio.wait({told}, timeout=LINGER)
            _kill(process)
            output, errors, code = await told
    finally:
        _kill(process)
        told.cancel()
    return Outcome(code, output, errors)


async def _end_of(number: int) -> None:
    """Wait for the end of a process alone: what it left behind may hold its outputs open for long."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        watched = os.pidfd_open(number)
    except ProcessLookupError:
        return
    loop.add_reader(watched, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)


@contextmanager
def _input(given: bytes) -> Iterator[int]:
    """*given* as a file of its own: unlike a pipe it need not be read, and nobody waits for its end."""
    file = os.memfd_create("given")
    try:
        os.write(file, given)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


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
