# SPDX-License-Identifier: Apache-2.0
"""A gateway as a service: signals, systemd, the readiness line, exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys

import uvloop

from ubisip.config import Config
from ubisip.errors import ConfigError, UsageError
from ubisip.proxy.gateway import Gateway
from ubisip.proxy.notify import notify, notify_reloading
from ubisip.proxy.sockets import allow_connections

log = logging.getLogger(__name__)

STOPPED = 0
FAILED = 1
MISTAKES = 2


def run(path: str, name: str) -> int:
    """Run the gateway *name* of the configuration file *path* until SIGTERM or SIGINT; returns the exit code.

    0: stopped when asked; 1: it could not start; 2: the configuration has mistakes, all of them told on standard error.
    """
    try:
        config = Config.load(path)
        config.gateway(name)
        gateway = Gateway(config, node=name)
    except UsageError as error:
        print(error, file=sys.stderr)
        return MISTAKES
    allow_connections()
    try:
        uvloop.run(serve(gateway))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return MISTAKES
    except UsageError as error:
        print(error, file=sys.stderr)
        return FAILED
    return STOPPED


async def serve(gateway: Gateway) -> None:
    """Run *gateway* until SIGTERM or SIGINT, then drain it; a second such signal cuts the draining short.

    :raises UsageError: it cannot start.
    """
    loop, signals = asyncio.get_running_loop(), asyncio.Queue[signal.Signals]()
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(one, signals.put_nowait, one)
    async with gateway:
        print(f"ubisip {gateway.name} ready on {', '.join(map(str, gateway.listeners))}", flush=True)
        notify("READY=1")
        while (received := await signals.get()) == signal.SIGHUP:
            await _reload(gateway)
        notify("STOPPING=1")
        log.info("%s: no new calls from now on", received.name)
        await _drain(gateway, signals)


async def _reload(gateway: Gateway) -> None:
    notify_reloading()
    with contextlib.suppress(UsageError):  # reload() has logged it; the old configuration stays in force
        await gateway.reload(who="SIGHUP")
    notify("READY=1")


async def _drain(gateway: Gateway, signals: asyncio.Queue[signal.Signals]) -> None:
    async def impatience() -> None:
        while await signals.get() == signal.SIGHUP:
            log.info("SIGHUP: not reloaded, the gateway stops")

    tasks = {asyncio.create_task(gateway.drain()), asyncio.create_task(impatience())}
    _, unfinished = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)
