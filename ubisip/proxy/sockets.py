# SPDX-License-Identifier: Apache-2.0
"""The UDP sockets of a gateway's listeners, bound and with room for a burst."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence

from ubisip.errors import UsageError
from ubisip.platform import Endpoint

BUFFER = 8 * 1024 * 1024
"""Octets of socket buffer asked for: some 10,000 datagrams, a second of a site's whole traffic."""
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33


class ListenError(UsageError):
    """A listener's address cannot be used; the message names it and says why."""


def open_listeners(listen: Sequence[Endpoint]) -> list[socket.socket | None]:
    """One bound, non-blocking UDP socket for each listener of transport ``udp``, None for any other, in their order.

    :raises ListenError: an address cannot be bound; the sockets already open are closed.
    """
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(_open(one)) if one.transport == "udp" else None for one in listen]
        opened.pop_all()
    return sockets


def _open(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _widen(listener, SO_RCVBUFFORCE, socket.SO_RCVBUF)
        _widen(listener, SO_SNDBUFFORCE, socket.SO_SNDBUF)
        listener.bind((endpoint.host, endpoint.port))
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ListenError(f"cannot listen on {endpoint}: {reason}") from error
    return listener


def _widen(listener: socket.socket, forced: int, plain: int) -> None:
    """Ask for BUFFER octets: beyond the system's limit if we may, else as much as it gives."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
    except PermissionError:
        listener.setsockopt(socket.SOL_SOCKET, plain, BUFFER)
