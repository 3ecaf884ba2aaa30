# SPDX-License-Identifier: Apache-2.0
"""Real processes for the tests: gateways, SIPp, Kamailio and others; started, awaited, killed, gone at the end."""

from __future__ import annotations

import asyncio
import csv
import ctypes
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wire import entry

from ubisip import keys

Address = tuple[str, int]

SCENARIOS = Path(__file__).resolve().parent / "sipp"
SIP_PORT = 5060
ADMIN_PORT = 8080
PATIENCE = 30.0
"""Seconds that a condition may take before the test has failed; none should need so long."""
POLL = 0.005
PR_SET_PDEATHSIG = 1
_C = ctypes.CDLL(None)
_networks = itertools.count(os.getpid())


def wait_until(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Wait until *condition* is true; *what* says in the failure what never came."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain: {what}"
        time.sleep(POLL)


async def until(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """As :func:`wait_until`, for tests whose own user agents go on meanwhile."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain: {what}"
        await asyncio.sleep(POLL)


def is_bound(address: Address) -> bool:
    """Whether some process of this network namespace has bound the UDP *address*."""
    wanted = f"{int.from_bytes(socket.inet_aton(address[0]), 'little'):08X}:{address[1]:04X}"
    return any(line.split()[1] == wanted for line in Path("/proc/net/udp").read_text().splitlines()[1:])


def _die_with_parent() -> None:
    """Runs in the child: nothing outlives the tests, even when they get SIGKILL."""
    _C.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A process in a group of its own, its output in files of *directory*."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, talks: bool = False) -> None:
        """*talks*: its standard input is a pipe."""
        self.name = name
        self.output = directory / f"{name}.out"
        self.errors = directory / f"{name}.err"
        with self.output.open("wb") as out, self.errors.open("wb") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE if talks else subprocess.DEVNULL, stdout=out, stderr=err, cwd=directory,
                start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group, if it still is there."""
        if self.running:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end: when this returns its sockets are closed."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()

    def words(self) -> str:
        """What it wrote, to explain a failure."""
        return self.output.read_text(errors="replace")[-2000:] + self.errors.read_text(errors="replace")[-4000:]


class Gateway:
    """``python -m ubisip.proxy`` for one node of a place; *prefix* is put before the command."""

    def __init__(self, place: Place, name: str, admin: str, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self.child: Child | None = None
        self.config = place.config
        self._place = place
        self.admin = admin
        self._prefix = list(prefix)

    def launch(self) -> None:
        """Begin to start it; :attr:`ready` tells when it is done."""
        command = [sys.executable, "-m", "ubisip.proxy", "--config", str(self.config), "--node", self.name]
        self.child = self._place.run(self.name, [*self._prefix, *command])

    @property
    def ready(self) -> bool:
        """It has told so.

        :raises AssertionError: it has ended instead.
        """
        child = self._running()
        told = child.output.read_text(errors="replace").startswith(f"ubisip {self.name} ready on ")
        assert told or child.running, f"{self.name} ended: {child.words()}"
        return told

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        wait_until(lambda: self.ready, f"{self.name} to be ready")

    def kill(self) -> None:
        """SIGKILL; when this returns its address is free."""
        self._running().kill()

    def signal(self, number: signal.Signals) -> None:
        self._running().signal(number)

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._running().process.poll()

    def log(self) -> str:
        """What it wrote to standard error since its last start."""
        return self._running().errors.read_text(errors="replace")

    def _running(self) -> Child:
        assert self.child is not None, "not started"
        return self.child

    def get(self, path: str) -> str:
        """The answer to an HTTP GET."""
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name and labels, as written there."""
        lines = (line for line in self.get("/metrics").splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def counter(self, name: str, **labels: str) -> float:
        """One sample of /metrics."""
        inside = ",".join(f'{key.rstrip("_")}="{value}"' for key, value in labels.items())
        return self.metrics()[f"{name}{{{inside}}}" if inside else name]

    def attempts(self) -> dict[str, int]:
        """Calls sent to each destination so far."""
        start = 'ubisip_attempts_total{destination="'
        samples = self.metrics().items()
        return {key[len(start) : -2]: int(value) for key, value in samples if key.startswith(start)}

    def failovers(self) -> int:
        """Attempts that were given up for the next destination."""
        return int(self.counter("ubisip_core_total", counter="failovers"))

    def platform(self) -> dict[str, Any]:
        """What it says of the platform."""
        status: dict[str, Any] = json.loads(self.get("/api/v1/platform"))
        return status

    def states(self) -> dict[str, str]:
        """Health of each destination."""
        return {row["name"]: row["state"] for row in self.platform()["destinations"]}

    def sees(self, state: str, *names: str) -> bool:
        """Whether all these destinations are in this state of health."""
        states = self.states()
        return all(states[name] == state for name in names)


@dataclass(frozen=True)
class Figures:
    """What a SIPp caller counted."""

    made: int
    good: int
    failed: int
    retransmissions: int
    delays: Sequence[tuple[float, float]]
    """Of each call that rang or was answered: the second after the first such one, and the post-dial delay in ms."""
    cut: int
    """Answered calls whose BYE got an error: their server had died."""
    refused: Sequence[str]
    """Of each call refused with 503: its Retry-After, or nothing."""

    @property
    def worst(self) -> float:
        """The worst post-dial delay, in ms."""
        return max((delay for _, delay in self.delays), default=0.0)

    def slower_than(self, limit: float) -> int:
        """Calls with a post-dial delay above *limit* ms."""
        return sum(delay > limit for _, delay in self.delays)


class Callee:
    """A SIPp that answers calls; what it logs tells which it got."""

    def __init__(self, child: Child, log: Path) -> None:
        self.child = child
        self._log = log

    def calls(self) -> list[str]:
        """Call-IDs of the INVITEs that it got, retransmissions aside."""
        return self._logged("invite ")

    def ended(self) -> list[str]:
        """Call-IDs of the calls that ended by a BYE, whoever sent it."""
        return self._logged("ended ")

    def _logged(self, word: str) -> list[str]:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return [line.removeprefix(word) for line in lines if line.startswith(word)]


class Sipp:
    """A SIPp that places calls, and the files it counts in."""

    def __init__(self, place: Place, name: str, command: Sequence[str]) -> None:
        self.directory = place.directory / name
        self.directory.mkdir()
        self.child = Child(name, command, self.directory)

    def wait(self, timeout: float) -> Figures:
        """Wait for its end and read what it counted."""
        wait_until(lambda: not self.child.running, f"{self.child.name} to end", timeout)
        rows = list(csv.DictReader((self.directory / "stat.csv").read_text().splitlines(), delimiter=";"))
        assert rows, f"SIPp counted nothing: {self.child.words()}"
        last, log = rows[-1], self._log()
        return Figures(
            made=int(last["TotalCallCreated"]),
            good=int(last["SuccessfulCall(C)"]),
            failed=int(last["FailedCall(C)"]),
            retransmissions=int(last["Retransmissions(C)"]),
            delays=self._delays(),
            cut=sum(line.startswith("cut ") for line in log),
            refused=[line.partition(" ")[2].strip() for line in log if line.startswith("refused")],
        )

    def _log(self) -> list[str]:
        file = self.directory / "calls.log"
        return file.read_text(errors="replace").splitlines() if file.exists() else []

    def _delays(self) -> list[tuple[float, float]]:
        lines = [line for file in self.directory.glob("*_rtt.csv") for line in file.read_text().splitlines()[1:]]
        found = sorted((float(when) / 1000, float(delay)) for when, delay, _ in (line.split(";") for line in lines))
        return [(when - found[0][0], delay) for when, delay in found]


QUIET = ("-nostdin", "-buff_size", "4194304", "-watchdog_interval", "0", "-deadcall_wait", "2000")


class Place:
    """A network of its own within 127.0.0.0/8 and a folder; whatever runs there is ended with the test.

    Carriers stand on ``.1.N``, gateways on ``.2.N``, servers on ``.3.N``, others on ``.9.N``; N counts from 1.
    """

    def __init__(self, directory: Path, network: str = "") -> None:
        self.directory = directory
        self.config = directory / "platform.toml"
        self.network = network or self._free_network()
        self._children: list[Child] = []

    @staticmethod
    def _free_network() -> str:
        for number in itertools.islice(_networks, 200):
            network = f"127.{number % 200 + 20}"
            if not any(is_bound((f"{network}.{part}.1", SIP_PORT)) for part in (1, 2, 3)):
                return network
        raise OSError("no network in 127.0.0.0/8 is free")

    def carrier(self, number: int = 1) -> Address:
        return f"{self.network}.1.{number}", SIP_PORT

    def gateway(self, number: int = 1) -> Address:
        return f"{self.network}.2.{number}", SIP_PORT

    def server(self, number: int = 1) -> Address:
        return f"{self.network}.3.{number}", SIP_PORT

    def other(self, number: int = 1) -> Address:
        """Somebody who is not in the configuration."""
        return f"{self.network}.9.{number}", SIP_PORT

    def write(
        self,
        servers: int | Sequence[Mapping[str, object]] = 6,
        carriers: int = 4,
        gateways: int = 1,
        health: Mapping[str, object] | None = None,
        limits: Mapping[str, object] | None = None,
        **routing: object,
    ) -> Path:
        """Write the configuration file and its key ring: the first half of each kind in PA2, the other in PA5.

        Names are ``gw1``, ``sbc1``, ``tel1``...; *servers* may be a list of what each has besides the usual.
        """
        extra = [{}] * servers if isinstance(servers, int) else servers
        tables = [
            entry("[platform]", {"name": "test", "key_file": "cluster.key", "state_dir": "state"}),
            "[sites.PA2]\n[sites.PA5]\n",
            *(self._peer("carriers", "sbc", number, carriers, self.carrier) for number in range(1, carriers + 1)),
            *(self._gateway(number) for number in range(1, gateways + 1)),
            *(
                self._peer("servers", "tel", number, len(extra), self.server, more)
                for number, more in enumerate(extra, 1)
            ),
            entry("[routing]", routing),
            entry("[health.sip]", health or {}),
            entry("[limits]", limits or {}),
        ]
        self.config.write_text("\n".join(tables))
        if not (self.directory / "cluster.key").exists():
            keys.create(self.directory / "cluster.key")
        return self.config

    def _peer(
        self,
        table: str,
        name: str,
        number: int,
        count: int,
        address: Callable[[int], Address],
        more: Mapping[str, object] | None = None,
    ) -> str:
        site = "PA2" if number * 2 <= count + 1 else "PA5"
        host, port = address(number)
        values: dict[str, object] = {"name": f"{name}{number}", "site": site, "uri": f"sip:{host}:{port}"}
        if table == "carriers":
            values["centre"] = "montsouris" if site == "PA2" else "aubervilliers"
        return entry(f"[[{table}]]", {**values, **(more or {})})

    def admin(self, number: int = 1) -> str:
        """Where a gateway serves HTTP."""
        return f"{self.gateway(number)[0]}:{ADMIN_PORT}"

    def _gateway(self, number: int) -> str:
        host, port = self.gateway(number)
        values = {"name": f"gw{number}", "site": "PA2", "listen": [f"udp:{host}:{port}"], "admin": self.admin(number)}
        return entry("[[gateways]]", values)

    def run(self, name: str, command: Sequence[str], *, talks: bool = False) -> Child:
        """Start a command that is killed at the end; *talks*: its standard input is a pipe."""
        child = Child(f"{len(self._children)}-{name}", command, self.directory, talks)
        self._children.append(child)
        return child

    def new_gateway(self, number: int = 1, prefix: Sequence[str] = ()) -> Gateway:
        """A gateway of the configuration, not yet started."""
        return Gateway(self, f"gw{number}", self.admin(number), prefix)

    def start_gateway(self, number: int = 1, prefix: Sequence[str] = ()) -> Gateway:
        """A gateway of the configuration, ready."""
        gateway = self.new_gateway(number, prefix)
        gateway.start()
        return gateway

    def answer(self, address: Address, scenario: str = "callee") -> Callee:
        """A SIPp that answers calls at *address*, listening."""
        host, port = address
        log = self.directory / f"{len(self._children)}-{scenario}-{host}.log"
        command = ["sipp", "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", host, "-p", str(port), *QUIET]
        child = self.run(f"{scenario}-{host}", [*command, "-trace_logs", "-log_file", str(log)])
        wait_until(lambda: is_bound(address) or not child.running, f"SIPp at {host}")
        assert child.running, child.words()
        return Callee(child, log)

    def call(
        self,
        address: Address,
        gateway: Address,
        *,
        rate: float = 10,
        calls: int = 1,
        hold: float = 0.0,
        number: str = "+33144556677",
        scenario: str = "caller",
    ) -> Sipp:
        """A SIPp at *address* that places *calls*, *rate* a second, through *gateway*; each is held *hold* seconds."""
        host, port = address
        limit = int(calls / rate + hold + 45)
        command = ["sipp", "-sf", str(SCENARIOS / f"{scenario}.xml"), f"{gateway[0]}:{gateway[1]}"]
        command += ["-i", host, "-p", str(port), "-s", number, "-r", f"{rate:g}", "-m", str(calls), "-l", "20000"]
        command += ["-d", str(int(hold * 1000)), "-timeout", str(limit), "-trace_stat", "-stf", "stat.csv", "-fd", "1"]
        command += ["-trace_rtt", "-rtt_freq", "1", "-trace_logs", "-log_file", "calls.log", *QUIET]
        sipp = Sipp(self, f"{len(self._children)}-caller-{host}", command)
        self._children.append(sipp.child)
        return sipp

    def close(self) -> None:
        """Kill everything that was started here."""
        for child in reversed(self._children):
            child.kill()
