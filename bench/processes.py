# SPDX-License-Identifier: Apache-2.0
"""What a process and its descendants use: CPU time by the scheduler's own account, memory by proportional set size."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil


def family(pid: int) -> list[psutil.Process]:
    """The process *pid* and all its descendants that still live."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_ns(pid: int) -> int:
    """CPU time of every thread of the family of *pid*, in nanoseconds (/proc/PID/task/TID/schedstat, field 1)."""
    total = 0
    for process in family(pid):
        for task in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0])
    return total


def memory_mib(pid: int) -> float:
    """Proportional set size of the family of *pid*, in MiB: shared pages are counted once."""
    return float(sum(process.memory_full_info().pss for process in family(pid))) / 2**20


def is_bound(host: str, port: int) -> bool:
    """Whether a UDP socket of this machine is bound to *host*:*port*."""
    octets = bytes(int(part) for part in host.split("."))
    wanted = f"{int.from_bytes(octets, 'little'):08X}:{port:04X}"
    return any(line.split()[1] == wanted for line in Path("/proc/net/udp").read_text().splitlines()[1:])


def start(command: Sequence[str], cpu: int | None, log: Path, directory: Path) -> subprocess.Popen[bytes]:
    """Start *command* in a process group of its own, on processor *cpu* alone (None: anywhere), its output in *log*."""
    pinned = list(command) if cpu is None else ["taskset", "-c", str(cpu), *command]
    with log.open("ab") as output:
        return subprocess.Popen(
            pinned, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory, start_new_session=True
        )


def start_listener(
    command: Sequence[str], at: tuple[str, int], cpu: int | None, log: Path, directory: Path, timeout: float = 30.0
) -> subprocess.Popen[bytes]:
    """As :func:`start`, and wait until the command listens at *at*.

    :raises RuntimeError: another process listens there already, or the command ended or does not within *timeout*.
    """
    host, port = at
    if is_bound(host, port):
        raise RuntimeError(f"another process listens on {host}:{port}")
    process = start(command, cpu, log, directory)
    deadline = time.monotonic() + timeout
    while not is_bound(host, port):
        if process.poll() is not None or time.monotonic() > deadline:
            stop(process, signal.SIGKILL)
            raise RuntimeError(f"{command[0]} does not listen on {host}:{port}, see {log}")
        time.sleep(0.02)
    return process


def stop(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM, patience: float = 10.0) -> None:
    """Stop the process group of *process*: *how* first, SIGKILL for what is left after *patience* seconds."""
    for number in (how, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            process.wait()
        except subprocess.TimeoutExpired:
            continue


def versions() -> dict[str, str]:
    """The machine and the peers, as they name themselves."""
    return {
        "cpu": _first(["sed", "-n", "s/^model name.*: //p", "/proc/cpuinfo"]),
        "processors": str(os.cpu_count()),
        "kernel": os.uname().release,
        "system": _first(["sh", "-c", ". /etc/os-release; echo $PRETTY_NAME"]),
        "kamailio": _first(["kamailio", "-v"]),
        "sipp": _first(["sipp", "-v"]),
        "compiler": _first(["cc", "--version"]),
    }


def _first(command: Sequence[str]) -> str:
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return next((line.strip() for line in output.splitlines() if line.strip()), "unknown")
