# SPDX-License-Identifier: Apache-2.0
"""SIPp as the caller and as the telephony servers, and what it counted."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import processes

SCENARIOS = Path(__file__).resolve().parent / "scenarios"
PORT = 5060
GATEWAY = "127.0.60.1"
CALLER = "127.0.60.2"
QUIET = ["-nostdin", "-buff_size", "4194304", "-deadcall_wait", "1000", "-watchdog_interval", "0"]


@dataclass(frozen=True)
class Load:
    """What the caller does."""

    rate: int = 2000
    """Calls per second."""
    calls: int = 20000
    hold_ms: int = 0
    """Between ACK and BYE."""
    target: str = GATEWAY


@dataclass(frozen=True)
class Outcome:
    """What the caller saw."""

    made: int
    good: int
    failed: int
    retransmissions: int
    seconds: float
    """From the first call to the last count of calls made."""
    delays_ms: list[int] = field(default_factory=list)
    """Post-dial delay (INVITE to 180) of each call, whole milliseconds as SIPp counts."""
    answered: int = 0
    """Calls that got their 200."""

    @property
    def cps(self) -> float:
        """Calls per second that were really made."""
        return self.made / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """The post-dial delay in ms that *share* (0..1) of the calls did not exceed; 0 without calls."""
        ranked = sorted(self.delays_ms)
        return float(ranked[min(len(ranked) - 1, int(share * len(ranked)))]) if ranked else 0.0

    def figures(self) -> dict[str, Any]:
        """As plain values, the delays as p50, p99 and worst."""
        plain = asdict(self)
        del plain["delays_ms"]
        return plain | {
            "cps": self.cps,
            "pdd_p50_ms": self.percentile(0.50),
            "pdd_p99_ms": self.percentile(0.99),
            "pdd_max_ms": self.percentile(1.0),
        }


def server_addresses(count: int) -> list[str]:
    """Where the telephony servers stand, each on port 5060."""
    return [f"127.0.60.{11 + number}" for number in range(count)]


def start_servers(
    addresses: Sequence[str], directory: Path, cpu: int | None, scenario: Path = SCENARIOS / "server.xml"
) -> list[subprocess.Popen[bytes]]:
    """One SIPp for each address; what they log with <log> is in ``server-ADDRESS.calls``."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for address in addresses:
            logs = ["-trace_logs", "-log_file", f"server-{address}.calls"]
            command = ["sipp", "-sf", str(scenario), "-i", address, "-p", str(PORT), *logs, *QUIET]
            log = directory / f"server-{address}.log"
            started.append(processes.start_listener(command, (address, PORT), cpu, log, directory))
    except BaseException:
        for process in started:
            processes.stop(process)
        raise
    return started


def start_caller(load: Load, directory: Path, cpu: int | None) -> subprocess.Popen[bytes]:
    """Begin *load*; :func:`outcome` reads what it counted when it has ended."""
    for old in [*directory.glob("caller_*_rtt.csv"), directory / "caller.csv"]:
        old.unlink(missing_ok=True)
    limit = load.calls / load.rate * 3 + load.hold_ms / 1000 + 60
    command = ["sipp", "-sf", str(SCENARIOS / "caller.xml"), f"{load.target}:{PORT}", "-i", CALLER, "-p", str(PORT)]
    command += ["-key", "gateway", f"{GATEWAY}:{PORT}"]
    command += ["-r", str(load.rate), "-rp", "1000", "-m", str(load.calls), "-l", "15000", "-d", str(load.hold_ms)]
    command += ["-trace_stat", "-stf", "caller.csv", "-fd", "1"]
    command += ["-trace_rtt", "-rtt_freq", str(max(1, load.rate // 200))]
    command += ["-trace_err", "-error_file", "caller.errors", "-timeout", str(int(limit)), *QUIET]
    return processes.start(command, cpu, directory / "caller.log", directory)


def outcome(directory: Path) -> Outcome:
    """What the caller counted in *directory*.

    :raises RuntimeError: it left no count.
    """
    table = directory / "caller.csv"
    rows = _rows(table) if table.exists() else []
    if not rows:
        raise RuntimeError(f"SIPp counted nothing, see {directory / 'caller.log'}")
    last = rows[-1]
    made = int(last["TotalCallCreated"])
    whole = next(row for row in rows if int(row["TotalCallCreated"]) == made)
    return Outcome(
        made=made,
        good=int(last["SuccessfulCall(C)"]),
        failed=int(last["FailedCall(C)"]),
        retransmissions=int(last["Retransmissions(C)"]),
        seconds=float(whole["CurrentTime"].split("\t")[-1]) - float(whole["StartTime"].split("\t")[-1]),
        delays_ms=_times(directory, "pdd"),
        answered=len(_times(directory, "answer")),
    )


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open() as file:
        return [row for row in csv.DictReader(file, delimiter=";") if row.get("TotalCallCreated")]


def _times(directory: Path, timer: str) -> list[int]:
    """What SIPp's response timer *timer* measured, in ms."""
    found = []
    for table in directory.glob("caller_*_rtt.csv"):
        for line in table.read_text().splitlines()[1:]:
            _when, value, name = line.split(";")
            if name == timer:
                found.append(round(float(value)))
    return found
