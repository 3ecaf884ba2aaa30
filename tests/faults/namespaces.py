# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: a small Ethernet of its own, invisible to the rest of the machine."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
PREFIX_LENGTH = 24
_C = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def available() -> bool:
    """Whether we may make namespaces, virtual cables and bridges."""
    try:
        network = Ethernet()
        try:
            network.join("probe")
        finally:
            network.close()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def ip(*words: str) -> None:
    """Run ip(8).

    :raises subprocess.CalledProcessError: it refuses.
    """
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Ethernet:
    """A bridge in a namespace of its own, which :meth:`inside` enters, and machines that are cabled to it."""

    def __init__(self) -> None:
        self._name = f"ubisip-{os.getpid()}-{next(_numbers)}"
        self._spaces: list[str] = []
        self._add(self._name)
        ip("-n", self._name, "link", "add", "bridge0", "type", "bridge")
        ip("-n", self._name, "link", "set", "bridge0", "up")

    def _add(self, space: str) -> None:
        ip("netns", "add", space)
        self._spaces.append(space)
        ip("-n", space, "link", "set", "lo", "up")

    def join(self, machine: str) -> None:
        """Cable one more machine to the bridge: its interface is ``eth0``."""
        space, port = self.space(machine), f"port{len(self._spaces)}"
        self._add(space)
        ip("-n", self._name, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("-n", self._name, "link", "set", port, "master", "bridge0", "up")
        ip("-n", space, "link", "set", "eth0", "up")
        with self._entered(space):
            Path("/proc/sys/net/ipv4/ip_nonlocal_bind").write_text("1")

    def space(self, machine: str) -> str:
        """The name of the namespace of a machine."""
        return f"{self._name}-{machine}"

    def prefix(self, machine: str) -> list[str]:
        """What is put before a command to run it there."""
        return ["ip", "netns", "exec", self.space(machine)]

    def give(self, address: str, machine: str = "") -> None:
        """Add an address to a machine, or to the bridge where we are."""
        space, device = (self.space(machine), "eth0") if machine else (self._name, "bridge0")
        ip("-n", space, "address", "add", f"{address}/{PREFIX_LENGTH}", "dev", device)

    def take(self, address: str, machine: str) -> None:
        """Take an address from a machine."""
        ip("-n", self.space(machine), "address", "del", f"{address}/{PREFIX_LENGTH}", "dev", "eth0")

    def forget(self) -> None:
        """Whoever stands at the bridge forgets which machine has which address, as gratuitous ARP would have it."""
        ip("-n", self._name, "neigh", "flush", "all")

    def unplug(self, machine: str) -> None:
        """Cut the cable of a machine."""
        ip("-n", self.space(machine), "link", "set", "eth0", "down")

    @contextmanager
    def inside(self, machine: str = "") -> Iterator[None]:
        """Sockets that are opened meanwhile stand at that machine, or at the bridge."""
        with self._entered(self.space(machine) if machine else self._name):
            yield

    @contextmanager
    def _entered(self, space: str) -> Iterator[None]:
        home, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{space}", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(home)
            os.close(there)

    def close(self) -> None:
        for space in reversed(self._spaces):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def _enter(namespace: int) -> None:
    """setns(2), for this thread alone."""
    if _C.setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
