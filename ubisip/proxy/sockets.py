# SPDX-License-Identifier: Apache-2.0
"""The sockets of a gateway's listeners: bound, with room for a burst of datagrams or connections."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Sequence

from ubisip.errors import UsageError
from ubisip.platform import Endpoint
from ubisip.transport.tcp import BACKLOG

BUFFER = 2 * 1024 * 1024
"""Octets of socket buffer asked for: some 1,700 datagrams. What would wait longer is sent again anyway."""
FILES = 65_536
"""Open files asked for: every connection is one."""
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


def open_stream_listeners(listen: Sequence[Endpoint]) -> dict[int, socket.socket]:
    """A listening, non-blocking socket for each listener of any transport but ``udp``, by its index in *listen*.

    :raises ListenError: an address cannot be bound; the sockets already open are closed.
    """
    with contextlib.ExitStack() as opened:
        sockets = {at: opened.enter_context(_open(one)) for at, one in enumerate(listen) if one.transport != "udp"}
        opened.pop_all()
    return sockets


def allow_connections() -> None:
    """Raise the limit of open files of this process, within what it may: the usual 1,024 are soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    kind = socket.SOCK_DGRAM if endpoint.transport == "udp" else socket.SOCK_STREAM
    listener = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            _widen(listener, SO_RCVBUFFORCE, socket.SO_RCVBUF)
            _widen(listener, SO_SNDBUFFORCE, socket.SO_SNDBUF)
            listener.bind((endpoint.host, endpoint.port))
        else:  # connections of the process before us may still be in TIME_WAIT
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((endpoint.host, endpoint.port))
            listener.listen(BACKLOG)
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
