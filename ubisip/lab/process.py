# SPDX-License-Identifier: Apache-2.0
"""A real gateway as a child process: started, awaited, killed, started again."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
from collections import deque
from pathlib import Path

READY_WITHIN = 20.0
"""Seconds a gateway may take to tell that it is ready."""
STOP_WITHIN = 3.0
"""Seconds between SIGTERM and SIGKILL."""
KEPT_LINES = 20
"""Last lines of its output, to explain a failure."""
PR_SET_PDEATHSIG = 1
"""See prctl(2)."""

_C = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Runs in the child: no gateway outlives us, even when we get SIGKILL."""
    _C.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class GatewayFailure(Exception):
    """A gateway did not start, or ended by itself; the text has its last words."""


class GatewayProcess:
    """``python -m ubisip.proxy --config FILE --node NAME``."""

    def __init__(self, name: str, config: Path) -> None:
        self.name = name
        self.ready = False
        """It has told that it is ready, and has not ended since."""
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._words: deque[str] = deque(maxlen=KEPT_LINES)
        self._told = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._wanted = False

    @property
    def state(self) -> str:
        """``ready``, ``starting`` or ``killed``."""
        return "ready" if self.ready else "starting" if self._wanted else "killed"

    async def start(self) -> None:
        """Start it and wait until it is ready.

        :raises GatewayFailure: it ends or stays silent instead.
        """
        self._words.clear()
        self._told.clear()
        self._wanted = True
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ubisip.proxy", "--config", str(self._config), "--node", self.name),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C on the terminal is for us; we end it in order
            preexec_fn=_die_with_parent,
        )
        self._reader = asyncio.create_task(self._read(self._process))
        try:
            async with asyncio.timeout(READY_WITHIN):
                await self._told.wait()
        except TimeoutError:
            raise GatewayFailure(self._last_words("is not ready")) from None
        self.check()

    def check(self) -> None:
        """Make sure that it runs, unless it was stopped.

        :raises GatewayFailure: it ended by itself.
        """
        if self._wanted and self._told.is_set() and not self.ready:
            code = self._process.returncode if self._process else None
            raise GatewayFailure(self._last_words(f"ended by itself (exit status {code})"))

    def kill(self) -> None:
        """SIGKILL: it has no chance to say goodbye."""
        self._send(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL when it takes too long; returns once the process is gone."""
        self._send(signal.SIGTERM)
        if self._reader is None:
            return
        done, _ = await asyncio.wait({self._reader}, timeout=STOP_WITHIN)
        if not done:
            self._send(signal.SIGKILL)
        await self._reader

    def _send(self, number: signal.Signals) -> None:
        self._wanted = self.ready = False
        if self._process and self._process.returncode is None:
            self._process.send_signal(number)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Keep its last words and notice that it is ready, until it ends."""
        assert process.stdout
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            self._words.append(text)
            if text.startswith(f"ubisip {self.name} ready"):
                self.ready = True
                self._told.set()
        await process.wait()
        self.ready = False
        self._told.set()

    def _last_words(self, what: str) -> str:
        return "\n  ".join([f"gateway {self.name} {what}", *self._words])
