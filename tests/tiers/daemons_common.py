# SPDX-License-Identifier: Apache-2.0
"""What all daemons of the tests share: a folder, free ports, a start that is awaited, an end for all of them."""

from __future__ import annotations

import glob
import os
import pwd
import random
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from processes import Child, wait_until

_ports = iter(random.Random(os.getpid()).sample(range(12_000, 32_000), 20_000))
AS = "--reuid {0} --regid {0} --clear-groups --pdeathsig TERM"
"""Arguments of setpriv(1): another user, and still the end of it when the tests end, whatever ends them."""
START = 60.0
"""Seconds that a daemon may need to start on a machine that is busy."""


def require(*programs: str) -> None:
    """Skip when a program is not installed."""
    for program in programs:
        if find(program) is None:
            pytest.skip(f"{program} is not installed: run tools/system-packages peers")


def find(program: str) -> str | None:
    """The path of a program; Debian keeps daemons out of a user's PATH."""
    folders = [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *glob.glob("/usr/lib/postgresql/*/bin")]
    return shutil.which(program, path=":".join(folders))


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of *host* that nobody has, nor its UDP twin; each but once, and none that a client may be given."""
    for port in _ports:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram, suppress(OSError):
            stream.bind((host, port))
            datagram.bind((host, port))
            return port
    raise OSError("no port is free")


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as one:
        one.settimeout(0.5)
        return one.connect_ex((host, port)) == 0


class Yard:
    """A folder in which daemons run, *user* being who they run as where we are root; all end with it."""

    def __init__(self, user: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ubisip-tiers-"))
        self._user = user if user and os.getuid() == 0 else ""
        self.directory.chmod(0o755)
        self.own(self.directory)
        self._children: list[Child] = []

    def own(self, path: Path) -> Path:
        """Give *path* to the user whom the daemons run as."""
        if self._user:
            entry = pwd.getpwnam(self._user)
            os.chown(path, entry.pw_uid, entry.pw_gid)
        return path

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a file of the folder."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(mode)
        return self.own(path)

    def folder(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(mode=0o755)
        return self.own(path)

    def command(self, program: str, *arguments: str) -> list[str]:
        """A command as the daemons' user."""
        path = find(program)
        assert path, f"{program} is not installed"
        as_user = ["setpriv", *AS.format(self._user).split()] if self._user else []
        return [*as_user, path, *arguments]

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
        """Start a daemon in the foreground."""
        if environment:
            command = ["env", *(f"{key}={value}" for key, value in environment.items()), *command]
        child = Child(f"{len(self._children)}-{name}", command, self.directory)
        self._children.append(child)
        return child

    def until(self, child: Child, ready: Callable[[], object], timeout: float = START) -> Child:
        """Wait until a daemon is ready; its own words explain when it ends instead."""

        def is_ready() -> object:
            assert child.running, f"{child.name} ended: {child.words()}"
            return ready()

        wait_until(is_ready, f"{child.name} to be ready", timeout)
        return child

    def close(self) -> None:
        for child in reversed(self._children):
            child.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
