# SPDX-License-Identifier: Apache-2.0
"""Instructions of a proxy's own code for each call, kernel excluded: valgrind counts them while SIPp makes calls.

Only what happens inside the named entry functions is counted (the reception of a message, the firing of timers), so
neither start-up nor waiting is. The count does not depend on what else the machine does.

    python -m bench.callgrind kamailio ubisip
    python -m bench.callgrind replay             ubisip's engine alone in virtual time: the same, in three seconds
    python -m bench.callgrind register           registrations instead of calls: REGISTER, 401, REGISTER, 200
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench import processes, sipp
from bench.candidates import CANDIDATES, Place, platform_file

REPOSITORY = Path(__file__).resolve().parent.parent
LOAD = sipp.Load(rate=10, calls=50)
WORKER = ["*_engine_read", "*_engine_handle", "*_engine_advance"]
STEPS = ["*_parse_message", "*_server_key", "*_receive_request", "*_receive_response"]
"""What the first two of WORKER do: the compiler makes them part of Engine.receive(), which replays call."""
ENTRIES = {"kamailio": ["receive_msg"], "ubisip": WORKER, "replay": [*STEPS, WORKER[2]], "register": STEPS}
"""The functions whose inclusive cost is counted; a * stands for any characters."""

REPLAYS = {"replay": "bench.replay", "register": "bench.registrations"}
"""What runs in virtual time, without peers."""

REPLAYED = 500
"""Calls of ``replay``, registrations of ``register``."""

START_UP = 120.0
"""Seconds that a program may need under valgrind before it listens."""


def command(name: str, place: Place) -> list[str]:
    """The candidate as one process, and for ubisip without probes of the servers: only calls are counted."""
    words = CANDIDATES[name](place)
    if name == "ubisip":
        platform_file(place, "\n[health.sip]\ninterval = 3600.0\n")
    return ["-D" if word == "-DD" else word for word in words]


def instructions(name: str, entries: Sequence[str], directory: Path) -> float:
    """Instructions for each call of candidate *name* within *entries*.

    :raises RuntimeError: a call failed, or one of *entries* was never called.
    """
    return sum(within(name, entry, directory) for entry in entries)


def within(name: str, entry: str, directory: Path) -> float:
    """As :func:`instructions`; one entry a run, since valgrind miscounts when one entry jumps into another."""
    counts = f"{name}.{entry.strip('*_')}"
    output = directory / f"{counts}.%p"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", f"--toggle-collect={entry}"]
    if name in REPLAYS:
        replay = [sys.executable, "-m", REPLAYS[name], str(REPLAYED)]
        subprocess.run([*valgrind, *replay], check=True, capture_output=True, cwd=REPOSITORY)
        calls = REPLAYED
    else:
        under_sipp(name, valgrind, directory)
        calls = LOAD.calls
    total = sum(_total(file) for file in directory.glob(f"{counts}.*"))
    if total == 0:
        raise RuntimeError(f"{name}: {entry} was never called; were the symbols stripped?")
    return total / calls


def under_sipp(name: str, valgrind: Sequence[str], directory: Path) -> None:
    """Run the gateway *name* under *valgrind* while SIPp makes calls.

    :raises RuntimeError: not all of them were good.
    """
    place, log, at = Place(directory), directory / f"{name}.log", (sipp.GATEWAY, sipp.PORT)
    proxy = processes.start_listener([*valgrind, *command(name, place)], at, None, log, directory, START_UP)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        servers = sipp.start_servers(sipp.server_addresses(len(place.servers)), directory, None)
        sipp.start_caller(LOAD, directory, None).wait()
        seen = sipp.outcome(directory)
    finally:
        processes.stop(proxy, signal.SIGTERM, patience=60.0)
        for server in servers:
            processes.stop(server)
    if seen.good != LOAD.calls:
        raise RuntimeError(f"{name}: {seen.good} of {LOAD.calls} calls were good")


def _total(file: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", file.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", help=f"of {', '.join(ENTRIES)}; default: kamailio ubisip")
    parser.add_argument("--entry", action="append", help="count within this function instead; may be repeated")
    parser.add_argument("--keep", type=Path, help="directory for valgrind's files, to look at with callgrind_annotate")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args(words)
    if not set(args.candidates) <= set(ENTRIES):
        parser.error(f"candidates are {', '.join(ENTRIES)}")
    console, figures = Console(), {}
    with tempfile.TemporaryDirectory(prefix="callgrind-") as work:
        directory = args.keep or Path(work)
        for name in args.candidates or ["kamailio", "ubisip"]:
            with console.status(f"{name}: {LOAD.calls} calls under valgrind"):
                figures[name] = instructions(name, args.entry or ENTRIES[name], directory)
            console.print(f"{name}: {figures[name]:,.0f} instructions a call", highlight=False)
    if args.json:
        result = {"machine": processes.versions(), "instructions_per_call": figures}
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
