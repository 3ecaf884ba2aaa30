# SPDX-License-Identifier: Apache-2.0
"""What calls notice when something breaks: a server, datagrams, the gateway itself; ubisip beside Kamailio.

    python -m bench.faults server-killed ubisip kamailio
    python -m bench.faults                                      every fault, both candidates

Faults: server-killed, loss, sigterm, restart. Each runs once for each candidate, with SIPp as caller and servers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import processes, sipp
from bench.candidates import CANDIDATES, Place, platform_file
from bench.lossy import LossyNetwork

SETTLE = 3.0
"""Seconds between the start of a gateway and the first call: it has looked at its servers."""
SLOW_DELAY_MS = 100
PATIENCE = 45.0
"""Seconds that calls may need to end after the last one began: a lost BYE is given up after 32."""

Figures = dict[str, float]


@dataclass
class Gateway:
    """A candidate that can be ended and started again."""

    name: str
    place: Place
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = gateway_command(self.name, self.place)
        log = self.place.directory / f"{self.name}.log"
        host, port = self.place.listen.split(":")
        self.process = processes.start_listener(command, (host, int(port)), None, log, self.place.directory)

    def end(self, how: signal.Signals) -> None:
        """End it by the signal *how*; SIGKILL follows after PATIENCE."""
        if self.process is not None:
            processes.stop(self.process, how, PATIENCE)


def gateway_command(name: str, place: Place) -> list[str]:
    """As when its speed is measured, but ubisip with a key ring, as a platform of several gateways has one."""
    command = CANDIDATES[name](place)
    if name == "ubisip":
        ring = place.directory / "cluster.key"
        if not ring.exists():
            ubisip = Path(sys.executable).with_name("ubisip")
            subprocess.run([ubisip, "key", str(ring)], check=True, capture_output=True)
        config = platform_file(place)
        config.write_text(config.read_text().replace("[platform]\n", f'[platform]\nkey_file = "{ring}"\n', 1))
    return command


Scene = tuple[Gateway, list[subprocess.Popen[bytes]]]
"""A gateway and its servers."""


@contextmanager
def scene(name: str, place: Place, servers: Sequence[str], ring_ms: int = 0) -> Iterator[Scene]:
    """A running gateway with servers that ring for *ring_ms* (0: they answer at once); all is stopped at the end."""
    gateway = Gateway(name, place)
    scenario = sipp.SCENARIOS / "server.xml"
    if ring_ms:
        text = (sipp.SCENARIOS / "ringing.xml").read_text().replace('"RING_MS"', f'"{ring_ms}"')
        scenario = place.directory / "ringing.xml"
        scenario.write_text(text)
    with ExitStack() as stack:
        stack.callback(lambda: gateway.end(signal.SIGKILL))
        gateway.start()
        started = sipp.start_servers(servers, place.directory, None, scenario)
        for process in started:
            stack.callback(processes.stop, process)
        time.sleep(SETTLE)
        yield gateway, started


def finish(caller: subprocess.Popen[bytes], patience: float, directory: Path) -> sipp.Outcome:
    """Wait for the caller, at most *patience* seconds, and read what it counted."""
    try:
        caller.wait(patience)
    except subprocess.TimeoutExpired:
        processes.stop(caller, signal.SIGUSR1)  # SIPp's own way to stop at once and still write its counts
    return sipp.outcome(directory)


def server_killed(name: str, directory: Path) -> Figures:
    """200 calls/s; after 4 of 10 seconds one of six servers is gone."""
    place, load = Place(directory), sipp.Load(rate=200, calls=2000)
    with scene(name, place, sipp.server_addresses(6)) as (_gateway, servers):
        caller = sipp.start_caller(load, directory, None)
        time.sleep(4.0)
        servers[0].kill()
        seen = finish(caller, 10.0 + PATIENCE, directory)
    slow = sum(delay > SLOW_DELAY_MS for delay in seen.delays_ms)
    return {"calls": seen.made, "lost": seen.made - seen.answered, "worst_pdd_ms": max(seen.delays_ms), "slow": slow}


def loss(name: str, directory: Path) -> Figures:
    """100 calls/s that ring for 2 s; 5 % of the datagrams are lost on each side, in each direction."""
    fronts, servers = sipp.server_addresses(6), [f"127.0.61.{11 + number}" for number in range(6)]
    gateway, caller, entrance = (sipp.GATEWAY, 5060), (sipp.CALLER, 5060), ("127.0.60.3", 5060)
    wires = [((front, 5060), gateway, (server, 5060)) for front, server in zip(fronts, servers, strict=True)]
    place = Place(directory, caller=f"{entrance[0]}:{entrance[1]}")
    load = sipp.Load(rate=100, calls=2000, target=entrance[0])
    with (
        LossyNetwork([(entrance, caller, gateway), *wires], loss=0.05),
        scene(name, place, servers, ring_ms=2000),
    ):
        seen = finish(sipp.start_caller(load, directory, None), 20.0 + PATIENCE, directory)
    invited, cancelled = calls_of(directory, "invite"), calls_of(directory, "cancel")
    twice = set().union(*(first & second for first, second in itertools.combinations(invited, 2)))
    called_off = set().union(*cancelled)
    return {
        "calls": seen.made,
        "lost": seen.made - seen.answered,
        "twice": len(twice),
        "twice_and_not_cancelled": len(twice - called_off),
    }


def calls_of(directory: Path, word: str) -> list[set[str]]:
    """For each server the Call-IDs that it logged with *word*."""
    found = []
    for log in sorted(directory.glob("server-*.calls")):
        lines = (line.split() for line in log.read_text(errors="replace").splitlines())
        found.append({parts[-1] for parts in lines if len(parts) > 1 and parts[-2] == word})
    return found


def sigterm(name: str, directory: Path) -> Figures:
    """100 calls/s that ring for 3 s; the gateway gets SIGTERM when the last of 500 has begun."""
    place, load = Place(directory), sipp.Load(rate=100, calls=500)
    with scene(name, place, sipp.server_addresses(6), ring_ms=3000) as (gateway, _servers):
        caller = sipp.start_caller(load, directory, None)
        time.sleep(load.calls / load.rate + 0.2)
        begin = time.monotonic()
        gateway.end(signal.SIGTERM)
        gone = time.monotonic() - begin
        seen = finish(caller, 8.0, directory)
        assert gateway.process is not None
        status = gateway.process.returncode
    return {"calls": seen.made, "lost": seen.made - seen.answered, "seconds_to_exit": gone, "exit_status": status}


def restart(name: str, directory: Path) -> Figures:
    """50 calls/s that ring for 2 s and are held for 4 s; the gateway is killed at 6 s and started again 0.5 s later.

    Before that, 20 responses with an invented branch are sent to it: how many does it relay?
    """
    place, load = Place(directory), sipp.Load(rate=50, calls=500, hold_ms=4000)
    with scene(name, place, sipp.server_addresses(6), ring_ms=2000) as (gateway, _servers):
        relayed = forged_responses_relayed(20)
        caller = sipp.start_caller(load, directory, None)
        time.sleep(6.0)
        gateway.end(signal.SIGKILL)
        time.sleep(0.5)
        gateway.start()
        seen = finish(caller, 20.0 + PATIENCE, directory)
    invited = calls_of(directory, "invite")
    twice = sum(map(len, invited)) - len(set().union(*invited))
    return {"calls": seen.made, "lost": seen.made - seen.good, "twice": twice, "forged_relayed": relayed}


def forged_responses_relayed(count: int) -> int:
    """How many of *count* responses that answer nothing the gateway passes on to where they say."""
    chance = random.Random(1)
    with socket.socket(type=socket.SOCK_DGRAM) as victim, socket.socket(type=socket.SOCK_DGRAM) as forger:
        victim.bind(("127.0.60.9", 5060))
        victim.settimeout(0.5)
        forger.bind(("127.0.60.8", 5060))
        for number in range(count):
            branch = f"z9hG4bK{chance.randrange(16**16):016x}"
            forger.sendto(FORGED.format(branch=branch, number=number).encode(), (sipp.GATEWAY, sipp.PORT))
        relayed = 0
        try:
            while True:
                victim.recv(65535)
                relayed += 1
        except TimeoutError:
            return relayed


FORGED = "\r\n".join(
    [
        "SIP/2.0 180 Ringing",
        "Via: SIP/2.0/UDP 127.0.60.1:5060;branch={branch}",
        "Via: SIP/2.0/UDP 127.0.60.9:5060;branch=z9hG4bK-victim",
        "From: <sip:a@127.0.60.9>;tag=1",
        "To: <sip:b@127.0.60.1>;tag=2",
        "Call-ID: forged-{number}",
        "CSeq: 1 INVITE",
        "Content-Length: 0",
        "",
        "",
    ]
)

FAULTS: dict[str, Callable[[str, Path], Figures]] = {
    "server-killed": server_killed,
    "loss": loss,
    "sigterm": sigterm,
    "restart": restart,
}


def table(results: dict[str, dict[str, Figures]]) -> Table:
    """Faults and their figures in rows, candidates in columns."""
    names = list(dict.fromkeys(name for figures in results.values() for name in figures))
    made = Table("fault", "figure", *names)
    for fault, figures in results.items():
        for key in dict.fromkeys(key for one in figures.values() for key in one):
            cells = [f"{figures[name][key]:.4g}" if name in figures else "" for name in names]
            made.add_row(fault, key, *cells)
    return made


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="faults and candidates; none of a kind: all of it")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args(words)
    unknown = set(args.words) - set(FAULTS) - set(CANDIDATES)
    if unknown:
        parser.error(f"neither a fault nor a candidate: {', '.join(sorted(unknown))}")
    names = [word for word in args.words if word in CANDIDATES] or ["kamailio", "ubisip"]
    console = Console()
    results: dict[str, dict[str, Figures]] = {}
    for fault in [word for word in args.words if word in FAULTS] or list(FAULTS):
        results[fault] = {}
        for name in names:
            with console.status(f"{fault}: {name}"), tempfile.TemporaryDirectory(prefix="faults-") as work:
                results[fault][name] = figures = FAULTS[fault](name, Path(work))
            console.print(fault, name, figures, highlight=False)
    console.print(table(results))
    if args.json:
        args.json.write_text(json.dumps({"machine": processes.versions(), "faults": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
