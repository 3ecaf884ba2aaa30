# SPDX-License-Identifier: Apache-2.0
"""sd_notify(3): tell systemd that we are ready, reloading or stopping."""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger(__name__)


def notify(state: str) -> bool:
    """Send *state*, such as ``READY=1``, to systemd; False when it does not listen (``NOTIFY_SOCKET`` is not set)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(state.encode(), address)
    except OSError as error:
        log.warning("systemd did not take %s: %s", state, error)
        return False
    return True


def notify_reloading() -> bool:
    """Tell that a reload begins; ``READY=1`` ends it (``Type=notify-reload`` wants the moment as well)."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
